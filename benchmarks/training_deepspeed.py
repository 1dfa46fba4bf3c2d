"""A ZeRO stage of DeepSpeed on the CPU, in rounds with DDP: what one of two ranks does.

The part ``peers`` of ``benchmarks/training.py`` starts it under the Python that ``--deepspeed`` names:

    pip install torch==2.13.0 numpy setuptools wheel ninja
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip install --no-build-isolation deepspeed

DeepSpeed is no dependency of the project: it compiles at first use. Here it compiles nothing. Its collectives
through shared memory, for which a compiler runs for minutes inside ``init_distributed``, are left out, so
that it takes gloo like the others; and its optimizer is torch's fused AdamW, like theirs. Its buckets, 2 GB
of buffer by default, have the size of ours; all else is as it comes. Tried with 0.19.8: stages 0 to 3, and
stage 2 with the optimizer offloaded. Offload to NVMe needs headers of libaio and was not tried.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training_cases import groups_of, middle
from training_systems import CONFIG, ROUNDS, SIZE, System, ddp, run, turns

from foldase_models.training import Ranks, TrainingConfig

STAGES: dict[str, dict[str, Any]] = {
    "deepspeed stage 0": {"stage": 0},
    "deepspeed stage 1": {"stage": 1},
    "deepspeed stage 2": {"stage": 2},
    "deepspeed stage 2, optimizer offloaded": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "deepspeed stage 3": {"stage": 3},
}


def deepspeed_zero(zero: dict[str, Any], _: Ranks, model: nn.Module, config: TrainingConfig) -> System:
    """An engine of DeepSpeed with such a ``zero_optimization``; one micro batch a rank."""
    import deepspeed

    elements = config.limits.bucket_bytes // 4
    sizes = ["reduce_bucket_size", "allgather_bucket_size"]
    if zero["stage"] == 3:
        sizes = ["reduce_bucket_size", "stage3_prefetch_bucket_size"]
    adamw = torch.optim.AdamW(
        groups_of(model, config), betas=config.optimizer.betas, eps=config.optimizer.epsilon, fused=True
    )
    options = {
        "train_batch_size": config.micro_batches,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": zero | dict.fromkeys(sizes, elements),
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=options)
    return System(engine, engine.optimizer.param_groups, engine.backward, engine.step)


def main() -> None:
    """Write what ``training_peers`` asks for: counts of a stage by its name, and its seconds beside DDP's."""
    name, written = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    import deepspeed

    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    systems = {"ddp": ddp, name: partial(deepspeed_zero, STAGES[name])}
    with Ranks.from_environment(deadline_seconds=60.0) as ranks:
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
        found = run(ranks, SIZE, CONFIG, systems[name], True)
        seconds: dict[str, list[float]] = {one: [] for one in systems}
        for one in turns(list(systems), ROUNDS):
            seconds[one].append(middle(run(ranks, SIZE, CONFIG, systems[one], False)["seconds"]))
        if ranks.rank == 0:
            written.write_text(
                json.dumps(found | {"version": deepspeed.__version__, "seconds": seconds}), encoding="utf-8"
            )


if __name__ == "__main__":
    main()
