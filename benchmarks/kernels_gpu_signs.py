"""Packing vectors into signs on a GPU and back: checks, then times beside a copy of as many bytes.

Nothing is computed that takes longer than reading and writing, so a copy on the device, measured in the same
run, is the yardstick: half its bytes are read, half written.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from kernels_gpu_items import Item

from foldase_kernels.sign_pack import block_count, decode_, encode_, pack_mask_

MODES = ("pack", "unpack", "unpack and add")
AT_LEAST = 0.7
"""Of the bytes a second that a copy moves: the goal of the Triton kernels in every mode."""

ALPHA = 0.5
"""A power of two: whether a product is rounded before it is added to cannot turn a sign."""

TOLERANCE = 1e-6
"""Of scales and errors, relative to the largest error."""

WARM_UPS, CALLS, GROUPS = 3, 10, 7
"""Calls between two readings of the clock, so that starting one is hidden behind the one before."""

SEED = 13


@dataclass(frozen=True)
class Signs:
    """A vector of ``count`` coordinates; with a mask about half of them travel."""

    name: str
    count: int
    masked: bool = False
    block: int = 4096

    def moved(self, mode: str) -> int:
        """Bytes that are read and written at least."""
        packed = self.count // 8 * (2 if self.masked else 1) + 4 * block_count(self.count, self.block)
        return packed + 4 * self.count * {"pack": 3, "unpack": 1, "unpack and add": 2}[mode]


@dataclass
class Vectors:
    """What a case works on."""

    values: torch.Tensor
    error: torch.Tensor
    bits: torch.Tensor
    scales: torch.Tensor
    mask: torch.Tensor | None


def make(case: Signs, device: torch.device, dtype: torch.dtype = torch.float32) -> Vectors:
    """The same numbers for every backend and run."""
    generator = torch.Generator(device).manual_seed(SEED + case.count % 1000)

    def normal() -> torch.Tensor:
        return torch.randn(case.count, generator=generator, device=device).to(dtype)

    values, error = normal(), normal()
    bits, mask = (torch.zeros(case.count // 8, dtype=torch.uint8, device=device) for _ in range(2))
    pack_mask_(normal().float().clamp_(min=0.0), mask, backend="torch")
    scales = torch.zeros(block_count(case.count, case.block), dtype=dtype, device=device)
    return Vectors(values, error, bits, scales, mask if case.masked else None)


def run(case: Signs, vectors: Vectors, mode: str, backend: str) -> None:
    """One call; unpacking writes into ``values``."""
    options = {"mask": vectors.mask, "block": case.block, "backend": backend}
    bits, scales = vectors.bits, vectors.scales
    if mode == "pack":
        encode_(vectors.values, vectors.error, bits, scales, alpha=ALPHA, **options)
    else:
        decode_(bits, scales, vectors.values, add=mode != "unpack", weight=1 / 3, **options)


def complaints(case: Signs, backend: str, device: torch.device, *, beside: str = "reference") -> list[str]:
    """What is wrong with a backend's answer beside the definition's in float64, or another backend's."""
    truth = make(case, device, torch.float64 if beside == "reference" else torch.float32)
    found = make(case, device)
    run(case, truth, "pack", beside)
    run(case, found, "pack", backend)
    wrong = [] if torch.equal(found.bits, truth.bits) else [f"{case.name}: bits differ"]
    allowed = TOLERANCE * float(truth.error.abs().max())
    for name in ("scales", "error"):
        off = float((getattr(found, name) - getattr(truth, name)).abs().max())
        if not off <= allowed:
            wrong.append(f"{case.name}: {name} are off by {off:.2e}, allowed {allowed:.2e}")
    for mode in MODES[1:]:
        ours, theirs = (replace(found, values=found.values.clone()) for _ in range(2))
        run(case, ours, mode, backend)
        run(case, theirs, mode, beside)
        if not torch.equal(ours.values, theirs.values):
            wrong.append(f"{case.name}: {mode} gives other numbers")
    return wrong


def changes(case: Signs, backend: str, device: torch.device, repeats: int) -> list[str]:
    """Which results differ in any bit between repeats of one call."""
    first = make(case, device)
    run(case, first, "pack", backend)
    different: set[str] = set()
    for _ in range(repeats):
        again = make(case, device)
        run(case, again, "pack", backend)
        names = ("bits", "scales", "error")
        different |= {name for name in names if not torch.equal(getattr(first, name), getattr(again, name))}
    return [f"{case.name}: {name} change between runs" for name in sorted(different)]


def measure(case: Signs, item: Item, device: torch.device) -> Item:
    """Times of a backend and of a copy of as many bytes; no figures where its answer is wrong."""
    backend = item.system.split()[-1]
    wrong = complaints(case, backend, device, beside="torch")
    if wrong:
        return replace(item, problem="; ".join(wrong))
    vectors = make(case, device)
    run(case, vectors, "pack", backend)
    times = _times(device, lambda: run(case, vectors, item.mode, backend))
    half = torch.zeros(case.moved(item.mode) // 2, dtype=torch.uint8, device=device)
    other = torch.empty_like(half)
    copied = statistics.median(_times(device, lambda: other.copy_(half)))
    return replace(item, ms=statistics.median(times), all_ms=tuple(times), copy_ms=copied)


def _times(device: torch.device, work: Callable[[], object]) -> list[float]:
    """Milliseconds of a call, one figure a group of calls."""
    for _ in range(WARM_UPS):
        work()
    return [_time_of(device, work) / CALLS for _ in range(GROUPS)]


def _time_of(device: torch.device, work: Callable[[], object]) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(CALLS):
            work()
        return 1e3 * (time.perf_counter() - began)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(CALLS):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def table(items: Iterable[Item], shapes: Iterable[Signs], machine: str) -> str:
    """The figures as Markdown, with the goal and whether it was reached; reasons where there are none."""
    every = list(items)
    lines = [f"Machine: {machine}. Medians; share = time of a copy of as many bytes / time.", ""]
    lines += ["| vector | mode | system | GB | ms | copy ms | share | goal | |"]
    lines += ["|---|---|---|---:|---:|---:|---:|---:|---|"]
    problems = []
    for shape, mode in itertools.product(shapes, MODES):
        for item in every:
            if (item.shape, item.mode) == (shape.name, mode):
                lines.append(_row(item, shape.moved(mode)))
                if item.problem:
                    problems.append(f"- {item.system}, {item.shape}, {mode}: {item.problem}")
    if problems:
        lines += ["", "## without figures", "", *problems]
    return "\n".join(lines) + "\n"


def _row(item: Item, moved: int) -> str:
    goal = f">= {100 * AT_LEAST:.0f} %" if item.system == HAS_A_GOAL else ""
    begin = f"| {item.shape} | {item.mode} | {item.system} | {moved / 1e9:.3f}"
    if item.ms is None or item.copy_ms is None:
        return f"{begin} | - | - | - | {goal} | |"
    share = item.copy_ms / item.ms
    verdict = ("met" if share >= AT_LEAST else "**missed**") if goal else ""
    return f"{begin} | {item.ms:.3f} | {item.copy_ms:.3f} | {100 * share:.0f} % | {goal} | {verdict} |"


HAS_A_GOAL = "foldase triton"
SYSTEMS = (HAS_A_GOAL, "foldase torch")
REHEARSED = ("foldase torch",)
CASES = tuple(
    Signs(f"{count}{' masked' * masked} signs in {block}", count, masked, block)
    for count, block, masked in itertools.product(
        (8, 248, 520, 5000, 2**20 + 8), (256, 4096, 16384), (False, True)
    )
)
FEW_CASES = (Signs("520 signs", 520, block=256), Signs("5000 masked signs", 5000, masked=True))
SHAPES = tuple(
    Signs(f"{mebi} Mi{' masked' * masked} signs", mebi * 2**20, masked)
    for mebi, masked in itertools.product((16, 64, 256), (False, True))
)
REHEARSAL = FEW_CASES
