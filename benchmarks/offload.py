"""The optimizer's pipeline through the disk beside what the disk and the processor can do alone.

    python benchmarks/offload.py [--folder FOLDER] [--parameters 24000000] [--rounds 15] [--threads N]
        [--json FILE]

A round measures, one after the other: the disk, reading and writing at once with the transfers of a training
("mixed"); the same AdamW steps on what lies in memory ("compute"); the pipeline, which reads, steps and
writes ("step"); and the disk again, because disks change their minds. The time that the disk would need for
what the step moved comes from the mean of the two. Ratios are taken within a round, the median over rounds
counts. Ends with 1 when a step takes more than 1.15 times the longer of disk and compute, or where the disk
is the longer one, moves less than 80 % of what the disk did alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from kernels_cpu import machine
from torch import nn

from foldase_models.training import LimitsConfig, OffloadConfig, Ranks, ScheduleConfig, TrainingConfig
from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.on_disk import DiskStepper
from foldase_models.training.offload.probe import PROBE_BYTES, probe
from foldase_models.training.optim import adamw
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, lay_out

MOST_OF_LONGER = 1.15
LEAST_OF_DISK = 0.8
MATRICES = 12
PROBE_SECONDS = 0.6
BUCKET_BYTES = 32 << 20
PARTS = ((torch.float32, "float32"), (torch.bfloat16, "bfloat16"))


@dataclass(frozen=True)
class Round:
    """Seconds of one round.

    Attributes:
        disk: for the bytes of a step, alone.
        compute: alone.
        step: of the pipeline.
        moved: bytes, read and written.
    """

    disk: float
    compute: float
    step: float
    moved: int

    @property
    def of_longer(self) -> float:
        """The pipeline's time over that of the slower one of its parts."""
        return self.step / max(self.disk, self.compute)

    @property
    def of_disk(self) -> float:
        """The pipeline's bandwidth over that of the disk alone."""
        return self.disk / self.step


@dataclass(frozen=True)
class Row:
    """One precision: medians over rounds."""

    precision: str
    parameters: int
    moved: int
    disk: float
    compute: float
    step: float
    of_longer: float
    of_disk: float

    @property
    def misses(self) -> list[str]:
        """Goals that were not reached."""
        found = []
        if self.of_longer > MOST_OF_LONGER:
            found.append(f"{self.precision}: {self.of_longer:.2f} > {MOST_OF_LONGER} of the longer part")
        if self.disk > self.compute and self.of_disk < LEAST_OF_DISK:
            found.append(f"{self.precision}: {self.of_disk:.0%} < {LEAST_OF_DISK:.0%} of the disk alone")
        return found

    def told(self) -> str:
        """A line of the table."""
        speed = self.moved / self.step / 1e6
        return (
            f"| {self.precision} | {self.parameters / 1e6:.1f} | {self.moved / 1e6:.0f} "
            f"| {self.disk:.3f} | {self.compute:.3f} | {self.step:.3f} "
            f"| {self.of_longer:.2f} | {speed:.0f} | {self.of_disk:.0%} |"
        )


HEAD = (
    "| state | million parameters | MB moved | disk alone s | compute alone s | step s "
    "| of the longer | MB/s | of the disk |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def stepper_of(folder: Path, parameters: int, dtype: torch.dtype) -> DiskStepper:
    """A stepper of so many parameters, whose weights nobody has published."""
    side = round((parameters / MATRICES) ** 0.5)
    model = {f"matrix {n}": nn.Parameter(torch.empty(side, side, dtype=dtype)) for n in range(MATRICES)}
    config = TrainingConfig(
        steps=1,
        stage=3,
        average_decay=0.0,
        schedule=ScheduleConfig(warmup_steps=0),
        offload=OffloadConfig(optimizer="nvme", parameters="nvme", folder=folder),
        limits=LimitsConfig(bucket_bytes=BUCKET_BYTES),
    )
    clock = Clock()
    around = Surroundings(config, Collectives(Ranks(), clock), Ledger(torch.device("cpu")), clock)
    buckets = lay_out(model, 1, BUCKET_BYTES)
    return DiskStepper(buckets, 0, (torch.randn(b.share).to(b.dtype) for b in buckets), around)


def take_all(stepper: DiskStepper, buckets: Sequence[Bucket]) -> None:
    """A gradient for every bucket, on the disk when this returns."""
    for bucket in buckets:
        stepper.take(bucket.index, torch.randn(bucket.share).to(bucket.dtype)).wait()
    stepper.square_sum()


def compute_alone(stepper: DiskStepper, number: int) -> float:
    """Seconds of the same steps on three buffers in memory, in turn."""
    groups = stepper.groups
    longest = max(group.length for group in groups)
    sets = [[torch.randn(longest).abs() for _ in range(3)] for _ in range(3)]
    gradients = [torch.randn(longest).to(groups[0].dtype) for _ in range(3)]
    optimizer = TrainingConfig(steps=1).optimizer
    began = time.monotonic()
    for turn, group in enumerate(groups):
        vectors = Vectors(*(vector[: group.length] for vector in sets[turn % 3]), average=None)
        gradient = gradients[turn % 3][: group.length]
        out = gradient if gradient.dtype == torch.bfloat16 else None
        adamw.step(vectors, gradient, Update(number, 1e-3, 0.9, None), optimizer, decays=True, out=out)
    return time.monotonic() - began


def one_round(stepper: DiskStepper, folder: Path, number: int) -> Round:
    """Everything once."""
    take_all(stepper, stepper.buckets)
    before = probe(folder, size=4 * PROBE_BYTES, seconds=PROBE_SECONDS).mixed
    compute = compute_alone(stepper, number)
    file = stepper.file
    moved = file.read_bytes + file.written_bytes
    began = time.monotonic()
    stepper.step(Update(number, 1e-3, 0.9, None), None)
    step = time.monotonic() - began
    moved = file.read_bytes + file.written_bytes - moved
    after = probe(folder, size=4 * PROBE_BYTES, seconds=PROBE_SECONDS).mixed
    return Round(moved / ((before + after) / 2), compute, step, moved)


def row_of(folder: Path, parameters: int, dtype: torch.dtype, name: str, rounds: int) -> Row:
    """Rounds of one precision; the first one, which meets blocks that were never written, does not count."""
    stepper = stepper_of(folder, parameters, dtype)
    found = [one_round(stepper, folder, number) for number in range(1, rounds + 2)][1:]
    count = sum(bucket.numel for bucket in stepper.buckets)
    stepper.close()
    median = {
        field: statistics.median(getattr(one, field) for one in found)
        for field in ("disk", "compute", "step", "of_longer", "of_disk")
    }
    return Row(name, count, found[0].moved, **median)


def main() -> int:
    """Measure, print, and say whether the goals were reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="on the disk; default: a temporary one")
    parser.add_argument("--parameters", type=int, default=24_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        print(", ".join(f"{key} {value}" for key, value in machine(given.threads).items()))
        print(probe(folder).explain().replace(made, "disk"))
        print(HEAD)
        for dtype, name in PARTS:
            rows.append(row_of(folder, given.parameters, dtype, name, given.rounds))
            print(rows[-1].told(), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    misses = [miss for row in rows for miss in row.misses]
    for miss in misses:
        print(f"missed: {miss}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
