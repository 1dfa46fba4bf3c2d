"""Training on a GPU with what does not fit beside it: parity, bytes a parameter, transfers, overlap.

    python benchmarks/training_gpu.py [--out FOLDER] [--seconds 450] [--rehearse]

A stage of ``benchmarks/gpu.sh``. Each item runs in a process of its own and is kept in ``training.json``,
so that a run that was stopped goes on where it stood (exit status 75: more is left). ``--rehearse`` goes
through the items on the CPU with tiny sizes; its figures mean nothing, and its table says so.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_cases import Problem, Size, plain_losses

from foldase_models.training import LimitsConfig, OffloadConfig, Trainer, TrainingConfig

MORE_IS_LEFT, FAILED, NO_GPU = 75, 1, 2
MIB = 2**20
PARITY_TOLERANCE = 1e-4
"""Of losses over 20 float32 steps, on the GPU beside the CPU."""
LARGE = Size(width=4096, blocks=48, rows=64)
"""6.4e9 parameters."""
FEWEST_PARAMETERS, MOST_DEVICE_BYTES = 6e9, 3.0
MIDDLE = Size(width=4096, blocks=6, rows=16384)
"""0.8e9 parameters; rows enough for the GPU to compute as long as the CPU steps."""
LINK_SHARE, OVERLAP = 0.8, 0.8
UNCLIPPED = 1e9
"""Largest norm, where no step is to be taken back."""
REHEARSED = {"large": Size(64, 4, 4), "middle": Size(64, 4, 32)}


def config_of(steps: int, **changes: Any) -> TrainingConfig:
    """What the items have in common."""
    start: dict[str, Any] = {
        "steps": steps,
        "average_decay": 0.0,
        "limits": LimitsConfig(bucket_bytes=64 * MIB),
    }
    return TrainingConfig(**(start | changes))


def parity(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """Every stage and offload beside torch's AdamW on the CPU."""
    size = Size(32, 2) if rehearse else Size(64, 4)
    wanted = plain_losses(size, config_of(20, micro_batches=2))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in (0, 1, 2, 3):
            for place in ("none", "cpu", "nvme"):
                offload = OffloadConfig(
                    optimizer=place, parameters=place if stage == 3 else "none", folder=Path(folder)
                )
                config = config_of(20, micro_batches=2, stage=stage, offload=offload)
                losses = [one.loss for one in _train(size, config, device, torch.float32)[0]]
                off = max(abs(a - b) for a, b in zip(losses, wanted, strict=True))
                rows.append(
                    _row(f"stage {stage}, offload {place}: losses off", off, at_most=PARITY_TOLERANCE)
                )
    return rows


def large(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """(a) The optimizer in main memory: parameters, and bytes on the device for each."""
    size = REHEARSED["large"] if rehearse else LARGE
    config = config_of(3, stage=2, precision="bfloat16", offload=OffloadConfig(optimizer="cpu"))
    reports, trainer = _train(size, config, device, torch.bfloat16)
    on_device = trainer.ledger.peaks()["device"]
    if device != "cpu":
        on_device = torch.cuda.max_memory_allocated()
    in_memory = trainer.ledger.peaks()["host"] / size.parameters
    each = on_device / size.parameters
    return [
        _row("bf16, optimizer in main memory: parameters", size.parameters, at_least=FEWEST_PARAMETERS),
        _row("device bytes a parameter, activations included", each, at_most=MOST_DEVICE_BYTES),
        _row("main memory, bytes a parameter", in_memory),
        _row("seconds a step", statistics.median(one.seconds for one in reports[1:])),
    ]


def link(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """(b) Bytes that gradients and weights move a second, of what a plain copy of pinned memory moves."""
    size = REHEARSED["middle"] if rehearse else MIDDLE
    fastest = {way: _copies(device, way, 8 if rehearse else 256) for way in ("down", "up")}
    config = config_of(6, stage=2, precision="bfloat16", offload=OffloadConfig(optimizer="cpu"))
    reports, _ = _train(size, config, device, torch.bfloat16)
    seconds = statistics.median(one.times.get("transfer_seconds", 0.0) for one in reports[1:])
    moved = 4 * size.parameters / max(seconds, 1e-9)
    mean = 2 / (1 / fastest["down"] + 1 / fastest["up"])
    return [
        _row("pinned copy to main memory, GB/s", fastest["down"] / 1e9),
        _row("pinned copy to the device, GB/s", fastest["up"] / 1e9),
        _row("gradients and weights, of that", moved / mean, at_least=LINK_SHARE),
    ]


def overlap(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """(c) How much of a step the GPU does not wait, where the update is delayed by one step."""
    size = REHEARSED["middle"] if rehearse else MIDDLE
    rows = []
    for delayed in (False, True):
        config = config_of(
            8, stage=2, precision="bfloat16", offload=OffloadConfig(optimizer="cpu", delayed=delayed)
        )
        reports, _ = _train(size, config, device, torch.bfloat16)
        shares = [1 - one.times["exposed_seconds"] / one.seconds for one in reports[2:]]
        name = "delayed by one step" if delayed else "exact"
        goal = {"at_least": OVERLAP} if delayed else {}
        rows.append(_row(f"{name}: share of a step not spent waiting", statistics.median(shares), **goal))
    return rows


def tail(device: str, rehearse: bool) -> list[dict[str, Any]]:
    """(d) What the GPU waits for in exact mode: as it is, with steps ahead, with the last buckets on it."""
    size = REHEARSED["middle"] if rehearse else MIDDLE
    rows = []
    for ahead, count in ((False, 0), (False, 2), (True, 0), (True, 2)):
        offload = OffloadConfig(optimizer="cpu", ahead=ahead, device_buckets=count)
        config = config_of(8, stage=2, precision="bfloat16", clip_norm=UNCLIPPED, offload=offload)
        reports, _ = _train(size, config, device, torch.bfloat16)
        name = f"{'ahead' if ahead else 'exact'}, {count} buckets on the device"
        for kind, key in (("for the optimizer", "exposed_optimizer_seconds"), ("in all", "exposed_seconds")):
            waits = [one.times.get(key, 0.0) for one in reports[2:]]
            rows.append(_row(f"{name}: seconds waited {kind}", statistics.median(waits)))
        rows.append(_row(f"{name}: seconds a step", statistics.median(one.seconds for one in reports[2:])))
        if ahead:
            rows.append(_row(f"{name}: steps taken back", float(reports[-1].steps_taken_back)))
    return rows


ITEMS: dict[str, Callable[[str, bool], list[dict[str, Any]]]] = {
    "parity": parity,
    "link": link,
    "overlap": overlap,
    "tail": tail,
    "large": large,
}


def _train(size: Size, config: TrainingConfig, device: str, dtype: torch.dtype) -> tuple[list[Any], Any]:
    problem = Problem(size, device, dtype)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(problem.model, problem.loss, problem.batch, config)
    reports: list[Any] = []
    trainer.run(reports.append)
    trainer.close()
    return reports, trainer


def _copies(device: str, way: str, mebibytes: int) -> float:
    """Bytes a second of the best of five copies."""
    there = torch.empty(mebibytes * MIB, dtype=torch.uint8, device=device)
    here = torch.empty(mebibytes * MIB, dtype=torch.uint8, pin_memory=device != "cpu")
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (here.copy_(there) if way == "down" else there.copy_(here, non_blocking=True))
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, here.numel() / (time.perf_counter() - began))
    return best


def _row(what: str, figure: float, **goal: float) -> dict[str, Any]:
    return {"what": what, "figure": figure, **goal}


def _told(row: dict[str, Any]) -> str:
    goal, verdict = "", ""
    if "at_most" in row:
        goal, verdict = f"<= {row['at_most']:g}", "met" if row["figure"] <= row["at_most"] else "**missed**"
    if "at_least" in row:
        goal, verdict = f">= {row['at_least']:g}", "met" if row["figure"] >= row["at_least"] else "**missed**"
    return f"| {row['item']} | {row['what']} | {row['figure']:.4g} | {goal} | {verdict} |"


def main() -> int:
    """Run the items that are not done yet, each in a process of its own."""
    given = _arguments()
    device = "cpu" if given.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU", file=sys.stderr)
        return NO_GPU
    if given.item:
        print(json.dumps(ITEMS[given.item](device, given.rehearse)))
        return 0
    until = time.monotonic() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / ("training-rehearsal.json" if given.rehearse else "training.json")
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    failed = False
    for item in ITEMS:
        if item in done or time.monotonic() > until:
            continue
        command = [sys.executable, __file__, "--item", item, *(["--rehearse"] if given.rehearse else [])]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            failed = True
            print(f"{item} failed:\n{run.stderr[-3000:]}", file=sys.stderr)
            continue
        done[item] = json.loads(run.stdout.strip().splitlines()[-1])
        kept.write_text(json.dumps(done, indent=1))
    table = _table(done)
    name = "the rehearsal, figures mean nothing" if given.rehearse else torch.cuda.get_device_name()
    head = f"# Training, {name}, torch {torch.__version__}, {dt.date.today().isoformat()}\n"
    kept.with_suffix(".md").write_text("\n".join([head, *table]) + "\n")
    print("\n".join(table))
    if failed or (any("missed" in line for line in table) and not given.rehearse):
        return FAILED
    return 0 if len(done) == len(ITEMS) else MORE_IS_LEFT


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--systems", default="", help="not used by this stage")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--item", choices=list(ITEMS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(done: dict[str, Any]) -> list[str]:
    rows = [{"item": item, **row} for item, found in done.items() for row in found]
    return ["| item | what | figure | goal | |", "|---|---|---:|---:|---|", *map(_told, rows)]


if __name__ == "__main__":
    sys.exit(main())
