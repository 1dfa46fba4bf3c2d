"""Attention with a pair bias and a key mask on the CPU: time and growth of memory beside two other ways.

    python benchmarks/kernels_cpu.py [--sizes 256 512 1024] [--ways forward both] [--rounds 5] [--json FILE]

Four heads of width 32, a quarter as many rows as positions, float32. "naive" holds all scores, as the usual
implementation does; "sdpa" is torch's fused kernel with the key mask folded into an extra column of q and
k, as well as it can be called by hand; "ours" is ``evoformer_attention``. "both" is forward and backward
with a gradient for q, k, v and the bias.

Every measurement is one call in a fresh process, after one on a tiny problem that loads libraries and starts
threads. A round measures all systems one after the other, each round in another order; a ratio is taken
within a round, and the median over rounds counts. Memory is how far the peak of resident memory rises above
what the inputs left, so results count. What matters are the ratios: the times belong to one machine and hour.
Systems that disagree at a small size are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foldase_kernels import evoformer_attention

HEADS, WIDTH = 4, 32
SYSTEMS = ("naive", "sdpa", "ours")
WAYS = ("forward", "both")
TINY, CHECKED = 160, 160
"""Positions of the first call and of the agreement check: enough for the tiled way that smaller ones skip."""
AGREEMENT = 1e-4
"""Largest difference between systems, relative to the largest value, float32."""
NAIVE_COPIES = {"forward": 3, "both": 5}
"""Matrices of all scores that the naive way holds at once, for the guess whether it fits."""
MIB = 2**20
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """One call in one process; bytes are the growth of the peak."""

    seconds: float
    cpu_seconds: float
    growth: int


@dataclass(frozen=True)
class Figure:
    """One system at one size and way. ``times_less`` are ratios of naive to this system, None without it."""

    size: int
    rows: int
    way: str
    system: str
    seconds: float
    cpu_seconds: float
    growth: int
    beyond_results: int
    times_less_time: float | None
    times_less_memory: float | None
    samples: tuple[Sample, ...]


def make(size: int, rows: int, way: str) -> Tensors:
    """Inputs of a problem; gradients are wanted where the way goes back."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys("qkv", (rows, size, HEADS, WIDTH)) | {"bias": (1, HEADS, size, size)}
    tensors = {
        name: torch.randn(shape, generator=generator).requires_grad_(way == "both")
        for name, shape in shapes.items()
    }
    mask = torch.rand(rows, 1, 1, size, generator=generator) > 0.2
    return tensors | {"mask": mask, "grad": torch.randn(shapes["q"], generator=generator)}


def naive(inputs: Tensors) -> torch.Tensor:
    """All scores in memory."""
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    scores = (q * WIDTH**-0.5) @ k.mT + inputs["bias"]
    weights = scores.masked_fill(~inputs["mask"], -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2)


def sdpa(inputs: Tensors) -> torch.Tensor:
    """Torch's fused kernel; the bias is its one matrix, the mask rides in an extra column."""
    q, k, v = (inputs[name].transpose(1, 2) for name in "qkv")
    column = torch.zeros(inputs["mask"].shape).masked_fill(~inputs["mask"], -1e30)
    column = column.mT.expand(*k.shape[:-1], 1)
    wide_q = torch.cat([q * WIDTH**-0.5, q.new_ones(*q.shape[:-1], 1)], -1)
    wide_k, wide_v = torch.cat([k, column], -1), torch.nn.functional.pad(v, (0, 1))
    bias = inputs["bias"].expand(q.shape[0], -1, -1, -1)
    out = torch.nn.functional.scaled_dot_product_attention(wide_q, wide_k, wide_v, attn_mask=bias, scale=1.0)
    return out[..., :WIDTH].transpose(1, 2)


def ours(inputs: Tensors) -> torch.Tensor:
    """What this benchmark is about."""
    return evoformer_attention(
        inputs["q"], inputs["k"], inputs["v"], [inputs["bias"]], mask=inputs["mask"], backend="cpu"
    )


RUN: dict[str, Callable[[Tensors], torch.Tensor]] = {"naive": naive, "sdpa": sdpa, "ours": ours}


def results_of(system: str, way: str, inputs: Tensors) -> list[torch.Tensor]:
    """The output and, going back, the gradients of q, k, v and the bias."""
    out = RUN[system](inputs)
    if way == "forward":
        return [out]
    leaves = [inputs[name] for name in ("q", "k", "v", "bias")]
    return [out.detach(), *torch.autograd.grad(out, leaves, inputs["grad"])]


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux")


def measure_here(system: str, way: str, size: int, rows: int) -> Sample:
    """One call in this process, which must be fresh."""
    results_of(system, way, make(TINY, TINY // 4, way))
    inputs = make(size, rows, way)
    # Sets the high-water mark back to what is resident now; without it imports could hide a growth.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    cpu, began = time.process_time(), time.perf_counter()
    results = results_of(system, way, inputs)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    assert all(tensor.isfinite().all() for tensor in results)
    return Sample(seconds, used, resident("VmHWM") - before)


def measure(system: str, way: str, size: int, rows: int, threads: int) -> Sample:
    """One call in a fresh process."""
    command = [sys.executable, __file__, "--child", system, way, str(size), str(rows), "--threads"]
    done = subprocess.run([*command, str(threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system}, {way}, N={size} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Sample(**json.loads(done.stdout))


def check_agreement() -> None:
    """Stop unless all systems compute the same."""
    inputs = make(CHECKED, CHECKED // 4, "both")
    wanted = results_of("naive", "both", inputs)
    for system in SYSTEMS[1:]:
        for found, expected in zip(results_of(system, "both", inputs), wanted, strict=True):
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            if not error < AGREEMENT:
                raise SystemExit(f"{system} differs from naive by {error:.1e}: nothing is timed")


def fits(size: int, rows: int, way: str) -> bool:
    """Whether the naive way has room; says so where it does not."""
    needed = NAIVE_COPIES[way] * rows * HEADS * size * size * 4
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * available:
        print(
            f"naive, {way}, N={size}: needs about {needed / 2**30:.0f} GiB, "
            f"{available / 2**30:.0f} GiB are free; left out",
            file=sys.stderr,
        )
    return needed <= 0.8 * available


def compare(size: int, rows: int, way: str, rounds: int, threads: int) -> list[Figure]:
    """All systems at one size, interleaved."""
    systems = [system for system in SYSTEMS if system != "naive" or fits(size, rows, way)]
    samples: dict[str, list[Sample]] = {system: [] for system in systems}
    for number in range(rounds):
        turn = number % len(systems)
        for system in systems[turn:] + systems[:turn]:
            print(f"\rN={size} {way}, round {number + 1}/{rounds}: {system:6}", end="", file=sys.stderr)
            samples[system].append(measure(system, way, size, rows, threads))
    print("\r" + " " * 60, end="\r", file=sys.stderr)
    output, bias = rows * size * HEADS * WIDTH, HEADS * size * size
    results = 4 * (output if way == "forward" else 4 * output + bias)
    return [
        figure(size, rows, way, system, found, samples.get("naive"), results)
        for system, found in samples.items()
    ]


def figure(
    size: int,
    rows: int,
    way: str,
    system: str,
    samples: Sequence[Sample],
    against: Sequence[Sample] | None,
    results: int,
) -> Figure:
    """Medians; ratios within a round."""
    growth = int(statistics.median(sample.growth for sample in samples))
    time_ratio = memory_ratio = None
    if against is not None:
        pairs = list(zip(against, samples, strict=True))
        time_ratio = statistics.median(first.seconds / own.seconds for first, own in pairs)
        memory_ratio = statistics.median(first.growth / max(own.growth, 1) for first, own in pairs)
    return Figure(
        size,
        rows,
        way,
        system,
        statistics.median(sample.seconds for sample in samples),
        statistics.median(sample.cpu_seconds for sample in samples),
        growth,
        growth - results,
        time_ratio,
        memory_ratio,
        tuple(samples),
    )


def share_of_sdpa(figures: Sequence[Figure], own: Figure) -> float:
    """Our time as a part of that of SDPA, paired as the other ratios are."""
    (other,) = (f for f in figures if (f.size, f.way, f.system) == (own.size, own.way, "sdpa"))
    pairs = zip(own.samples, other.samples, strict=True)
    return statistics.median(mine.seconds / theirs.seconds for mine, theirs in pairs)


def table(figures: Sequence[Figure]) -> str:
    """In Markdown, for a results file."""
    heads = ("N", "rows", "way", "system", "s", "CPU s", "growth MiB", "beyond results MiB")
    heads += ("times less time", "times less memory")
    lines = ["| " + " | ".join(heads) + " |", "|---:|---:|---|---|" + "---:|" * 6]
    for one in figures:
        ratios = (one.times_less_time, one.times_less_memory)
        shown = " | ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"| {one.size} | {one.rows} | {one.way} | {one.system} | {one.seconds:.3f} "
            f"| {one.cpu_seconds:.3f} | {one.growth / MIB:.0f} | {one.beyond_results / MIB:.0f} | {shown} |"
        )
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    """Where and with what this ran."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="positions N")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write all samples to this file")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        system, way, size, rows = options.child
        print(json.dumps(asdict(measure_here(system, way, int(size), int(rows)))))
        return
    check_agreement()
    where = machine(options.threads)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if where["load"] > 0.5:
        print(f"the machine is busy (load {where['load']}): ratios hold better than times, neither well")
    figures: list[Figure] = []
    for size in options.sizes:
        for way in options.ways:
            figures += compare(size, max(1, size // 4), way, options.rounds, options.threads)
    print(table(figures))
    for one in figures:
        if one.system == "ours":
            share = share_of_sdpa(figures, one)
            print(f"N={one.size}, {one.way}: ours takes {share:.2f} of the time of sdpa")
    if options.json:
        record = {"machine": where, "figures": [asdict(one) for one in figures]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
