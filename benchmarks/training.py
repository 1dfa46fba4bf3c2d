"""ZeRO and offload on the CPU: bytes, losses, checkpoints, capacity, and steps beside DDP and FSDP2.

    python benchmarks/training.py [--parts bytes losses checkpoints capacity pipeline branches peers]
        [--seconds 2400] [--deepspeed PYTHON] [--json FILE] [--markdown FILE]

Counts are exact and goals; times are ratios within one run of paired rounds, on gloo over loopback, one
thread a rank. Prints what it has as it goes on. Ends with 1 when a count or a ratio misses its goal, a part
fails or there is no time left for it.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import training_cases as cases
from figures import Part, Row, arguments, measure
from rank_processes import Gang
from training_capacity import branches, capacity
from training_cases import Size
from training_peers import peers
from training_pipeline import pipeline

from foldase_models.training import (
    CheckpointConfig,
    LimitsConfig,
    OffloadConfig,
    ScheduleConfig,
    TrainingConfig,
)

STAGES = (0, 1, 2, 3)
LARGE = Size(width=256, blocks=10)
"""5.3 million parameters."""
SMALL = Size(width=48, blocks=3)
BUCKET = 1 << 20
PADDING = 64 * 4
"""Bytes a bucket and rank."""
STATE_TOLERANCE, TRAFFIC_TOLERANCE = 0.01, 0.01
LOSS_TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-5, 0.01
MOST_STAGE_THREE = 1.5


def state_formula(parameters: int, stage: int, ranks: int) -> float:
    """Bytes a rank, all float32 (Rajbhandari et al. 2020, section 5, with 4 + 4 + 8 bytes a parameter)."""
    whole, shared = {0: (16, 0), 1: (8, 8), 2: (4, 12), 3: (0, 16)}[stage]
    return parameters * (whole + shared / ranks)


def config_of(steps: int, **changes: Any) -> TrainingConfig:
    """What the cases have in common."""
    start: dict[str, Any] = {
        "steps": steps,
        "micro_batches": 4,
        "average_decay": 0.0,
        "schedule": ScheduleConfig(warmup_steps=5),
        "limits": LimitsConfig(bucket_bytes=BUCKET, collective_seconds=60.0),
        "checkpoint": CheckpointConfig(seconds=1e9),
    }
    return TrainingConfig(**(start | changes))


def bytes_and_traffic() -> Iterator[Row]:
    """Number 1: what a rank holds and sends."""
    for ranks in (2, 3, 4):
        sent: dict[int, float] = {}
        with Gang(ranks, deadline=60.0) as gang:
            for stage in STAGES:
                config = config_of(2, stage=stage, micro_batches=ranks)
                found = gang.run(cases.train, LARGE, config, timeout=300)
                held = max(sum(one["complete"].get(owner, 0) for owner in cases.MOVED) for one in found)
                buckets = math.ceil(4 * LARGE.parameters / BUCKET) + 2
                wanted = state_formula(LARGE.parameters, stage, ranks)
                off = abs(held - wanted) - 4 * buckets * ranks * PADDING
                yield Row(
                    "bytes",
                    f"stage {stage}, {ranks} ranks: state off its formula, beyond padding",
                    max(0.0, off) / wanted,
                    at_most=STATE_TOLERANCE,
                )
                sent[stage] = max(one["traffic"][-1] for one in found)
        plain = 2 * (ranks - 1) / ranks * 4 * LARGE.parameters
        what = f"stage 0, {ranks} ranks: sent, off its formula"
        yield Row("bytes", what, abs(sent[0] / plain - 1), at_most=TRAFFIC_TOLERANCE)
        for stage in (1, 2):
            off = abs(sent[stage] / sent[0] - 1)
            yield Row(
                "bytes", f"stage {stage}, {ranks} ranks: sent, off stage 0's", off, at_most=TRAFFIC_TOLERANCE
            )
        yield Row(
            "bytes",
            f"stage 3, {ranks} ranks: sent, of stage 0's",
            sent[3] / sent[0],
            at_most=MOST_STAGE_THREE * 1.01,
        )


def trajectories() -> Iterator[Row]:
    """Number 2: 50 steps beside one process with torch's AdamW."""
    wanted = cases.plain_losses(SMALL, config_of(50))
    with tempfile.TemporaryDirectory() as folder, Gang(2, deadline=60.0) as gang:
        for stage in STAGES:
            for place in ("none", "cpu", "nvme"):
                for parameters in {"none", place} if stage == 3 else {"none"}:
                    offload = OffloadConfig(optimizer=place, parameters=parameters, folder=Path(folder))  # type: ignore[arg-type]
                    for precision in ("float32", "bfloat16"):
                        config = config_of(50, stage=stage, offload=offload, precision=precision)
                        losses = gang.run(cases.train, SMALL, config, timeout=300)[0]["losses"]
                        what = f"stage {stage}, optimizer {place}, parameters {parameters}, {precision}"
                        yield _compared(what, losses, wanted, exact=precision == "float32")


def _compared(what: str, losses: list[float], wanted: list[float], *, exact: bool) -> Row:
    if exact:
        off = cases.farthest(losses, wanted)
        return Row("losses", f"{what}: largest difference", off, at_most=LOSS_TOLERANCE)
    off = abs(sum(losses[-5:]) / sum(wanted[-5:]) - 1)
    return Row("losses", f"{what}: last ones off", off, at_most=LOW_PRECISION_TOLERANCE)


def checkpoints() -> Iterator[Row]:
    """Number 3: saved by 4 ranks at one stage, loaded by fewer at another."""
    config = config_of(30)
    wanted = cases.plain_losses(SMALL, config)
    for saved in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            with Gang(4, deadline=60.0) as gang:
                gang.run(cases.train, SMALL, replace(config, stage=saved), folder, 20, timeout=300)
            loaded = (saved + 1) % 4
            ranks = 1 + saved % 3
            with Gang(ranks, deadline=60.0) as gang:
                found = gang.run(cases.train, SMALL, replace(config, stage=loaded), folder, timeout=300)[0]
            assert found["first"] == 21, found["first"]
            off = cases.farthest(found["losses"], wanted[20:])
            yield Row(
                "checkpoints",
                f"4 ranks, stage {saved} to {ranks} ranks, stage {loaded}: next 10 losses",
                off,
                at_most=LOSS_TOLERANCE,
            )


PARTS: dict[str, Part] = {
    "bytes": bytes_and_traffic,
    "losses": trajectories,
    "checkpoints": checkpoints,
    "capacity": capacity,
    "pipeline": pipeline,
    "branches": branches,
    "peers": peers,
}


def main() -> int:
    """Run the parts that were asked for; 1 where a goal is missed."""
    parser = arguments(__doc__, PARTS, seconds=2400.0)
    parser.add_argument("--deepspeed", metavar="PYTHON", help="one that has it, for the part peers")
    given = parser.parse_args()
    own = {} if given.deepspeed is None else {"peers": partial(peers, given.deepspeed)}
    return measure(PARTS | own, given)


if __name__ == "__main__":
    sys.exit(main())
