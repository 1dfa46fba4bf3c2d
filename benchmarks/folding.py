"""ESMFold: time and peak memory of ours beside Hugging Face's, same random weights, on the CPU.

    python benchmarks/folding.py [--sizes 128 256 384 512 768] [--rounds 5] [--json FILE] [--markdown FILE]

Real width: c_s 1024 (32 heads), c_z 128 (4 heads), structure module 384 and 128 with its eight blocks; two
trunk blocks, one pass, and a small language model, so that the trunk is what is measured. "peer" is Hugging
Face's ``EsmForProteinFolding``, "chunked" the same with ``trunk.set_chunk_size(64)``, "injected" the same
with our modules in it (``foldase_models.inject``), "ours" our model with its expected errors and contacts.

Times are of one process: a round runs all systems one after the other, each round in another order; a ratio
is taken within a round and its median counts. Memory is counted twice, above weights and inputs, with
results: by a tracker of tensors, and as the growth of the resident memory of a fresh process. Systems that
disagree at a small size are not measured; the peer is left out where it would not fit. A run that was stopped
goes on from its JSON file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from evoformer_memory import resident
from kernels_cpu import machine
from transformers import EsmConfig, EsmForProteinFolding
from transformers.utils import logging

import foldase_models
from foldase_models.folding.esmfold import EsmFold, EsmFoldConfig
from foldase_models.folding.esmfold.heads import contact_probability, pair_confidence

SYSTEMS = ("peer", "chunked", "injected", "ours")
KINDS = ("counted", "resident")
CHUNK = 64
WARM = 24
"""Residues of the call that loads libraries and starts threads, and of the check whether all agree."""
AGREEMENT = 1e-4
"""Largest difference of pair representations, as a share of the largest value."""
PAIR_WIDTH = 128
PEER_BYTES = {"peer": 10, "chunked": 0}
"""Bytes a score of all heads and rows that the peer holds at once, for the guess whether it fits."""
GOAL_SIZE, SLOWER = 512, 1.05
GOALS = {"peer": 5.0, "chunked": 2.5}
"""Times our counted memory, at least, at that size; ours takes at most ``SLOWER`` of their time."""
MIB = 2**20


@dataclass
class Figure:
    """One system at one size; bytes above weights and inputs, seconds of each round."""

    size: int
    system: str
    counted: int
    resident: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def build(blocks: int) -> tuple[EsmForProteinFolding, EsmFold]:
    """The peer and ours on the very same parameters, all of them random: fresh ones end branches in zeros."""
    torch.manual_seed(0)
    logging.set_verbosity_error()
    config = EsmConfig(
        vocab_size=33,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        token_dropout=True,
        is_folding_model=True,
        esmfold_config={"fp16_esm": False, "trunk": {"num_blocks": blocks, "chunk_size": None}},
    )
    peer = EsmForProteinFolding(config).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if name.startswith("trunk."):
                parameter.add_(0.02 * torch.randn_like(parameter))
    ours = EsmFold(EsmFoldConfig.from_json(config.to_dict())).eval()
    ours.load_state_dict(peer.state_dict(keep_vars=True), strict=True, assign=True)
    return peer, ours


@contextmanager
def prepared(
    system: str, peer: EsmForProteinFolding, ours: EsmFold
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """The call to measure, which gives the pair representation; all else it predicts is made too."""
    if system == "ours":

        def fold(aatype: torch.Tensor) -> torch.Tensor:
            out = ours(aatype, recycles=0)
            pair_confidence(out.z, ours.ptm_head, torch.ones_like(aatype, dtype=torch.bool))
            contact_probability(out.z, ours.distogram_head)
            return out.z

        yield fold
        return
    peer.trunk.set_chunk_size(CHUNK if system == "chunked" else None)
    report = foldase_models.inject(peer) if system == "injected" else None
    yield lambda aatype: peer(aatype, num_recycles=0).s_z
    if report is not None:
        report.revert()


def sequence(size: int) -> torch.Tensor:
    """Residue types, ``[1, N]``."""
    return torch.randint(0, 20, (1, size), generator=torch.Generator().manual_seed(size))


def fits(system: str, size: int) -> bool:
    """Whether a system has room; says so where it does not."""
    needed = PEER_BYTES.get(system, 0) * 4 * size**3
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * available:
        print(f"{system}, N={size}: needs about {needed / 2**30:.0f} GiB; left out", file=sys.stderr)
    return needed <= 0.8 * available


def check_agreement(peer: EsmForProteinFolding, ours: EsmFold) -> None:
    """Stop unless all systems predict the same."""
    wanted: torch.Tensor | None = None
    for system in SYSTEMS:
        with prepared(system, peer, ours) as fold:
            found = fold(sequence(WARM))
        wanted = found if wanted is None else wanted
        error = ((found - wanted).abs().max() / wanted.abs().max()).item()
        if not error < AGREEMENT:
            raise SystemExit(f"{system} differs from the peer by {error:.1e}: nothing is measured")


def measure_memory_here(system: str, size: int, blocks: int, counted: bool) -> int:
    """Bytes of one call in this process, which must be fresh."""
    with prepared(system, *build(blocks)) as fold:
        fold(sequence(WARM))
        aatype = sequence(size)
        if counted:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
            from counted_memory import peak_of

            peak: int = peak_of(lambda: fold(aatype))
            return peak
        # What was freed goes back to the system, and the high-water mark to what is resident now: without
        # it, building the models could hide a growth.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        fold(aatype)
        return resident("VmHWM") - before


def measure_memory(system: str, size: int, options: argparse.Namespace, kind: str) -> int:
    """The same in a fresh process."""
    shared = ["--threads", str(options.threads), "--blocks", str(options.blocks)]
    command = [sys.executable, __file__, *shared, "--child", system, str(size), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system}, N={size} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return int(done.stdout)


def measure_times(
    size: int, systems: Sequence[str], rounds: int, models: tuple[EsmForProteinFolding, EsmFold]
) -> dict[str, Figure]:
    """Seconds of every round, memory still to come."""
    figures = {system: Figure(size, system, 0, 0) for system in systems}
    aatype = sequence(size)
    for number in range(rounds):
        turn = number % len(systems)
        for system in [*systems[turn:], *systems[:turn]]:
            print(f"\rN={size}, round {number + 1}/{rounds}: {system:9}", end="", file=sys.stderr)
            with prepared(system, *models) as fold:
                cpu, began = time.process_time(), time.perf_counter()
                fold(aatype)
                figures[system].seconds.append(time.perf_counter() - began)
                figures[system].cpu_seconds.append(time.process_time() - cpu)
    print("\r" + " " * 50, end="\r", file=sys.stderr)
    return figures


def compare(
    size: int,
    options: argparse.Namespace,
    models: tuple[EsmForProteinFolding, EsmFold],
    figures: list[Figure],
    keep: Callable[[], None],
) -> None:
    """Add to the figures what is not known yet of all systems at one size; keep each as soon as it is."""
    systems = [system for system in options.systems if fits(system, size)]
    known = {one.system: one for one in figures if one.size == size}
    if not known.keys() >= set(systems):
        # Times are compared within rounds, so those of one size are taken together or not at all.
        figures[:] = [one for one in figures if one.size != size]
        known = measure_times(size, systems, options.rounds, models)
        figures += known.values()
        keep()
    for system in systems:
        for kind in options.memory:
            if not getattr(known[system], kind):
                setattr(known[system], kind, measure_memory(system, size, options, kind))
                keep()


def earlier(options: argparse.Namespace) -> list[Figure]:
    """What a stopped run with the same blocks and threads left in the JSON file."""
    if options.json is None or not options.json.exists():
        return []
    record = json.loads(options.json.read_text())
    if record["blocks"] != options.blocks or record["machine"]["threads"] != options.threads:
        return []
    print(f"going on from {options.json}")
    return [Figure(**one) for one in record["figures"]]


def paired(own: Sequence[float], other: Sequence[float]) -> float:
    """Median over rounds of our time as a part of another's."""
    return statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=True))


def table(figures: Sequence[Figure]) -> str:
    """In Markdown, for a results file; ratios are of each system to ours."""
    heads = (
        "N",
        "system",
        "s",
        "CPU s",
        "counted MiB",
        "U",
        "resident MiB",
        "time of ours",
        "CPU time of ours",
    )
    lines = ["| " + " | ".join((*heads, "times our memory")) + " |", "|---:|---|" + "---:|" * 8]
    for one in figures:
        ours = next((f for f in figures if (f.size, f.system) == (one.size, "ours")), None)
        unit = 4 * PAIR_WIDTH * one.size**2
        ratios = ("-", "-", "-")
        if ours is not None and one is not ours:
            times = (paired(ours.seconds, one.seconds), paired(ours.cpu_seconds, one.cpu_seconds))
            less = f"{one.counted / ours.counted:.1f}" if ours.counted else "-"
            ratios = (f"{times[0]:.2f}", f"{times[1]:.2f}", less)
        medians = (statistics.median(one.seconds), statistics.median(one.cpu_seconds))
        lines.append(
            f"| {one.size} | {one.system} | {medians[0]:.2f} | {medians[1]:.2f} | {one.counted / MIB:.0f} "
            f"| {one.counted / unit:.1f} | {one.resident / MIB:.0f} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def verdicts(figures: Sequence[Figure]) -> list[str]:
    """Ratios that have goals, and whether they are met at the size the goals are for."""
    at = {(one.size, one.system): one for one in figures}
    lines = []
    for size in sorted({one.size for one in figures}):
        for system, goal in GOALS.items():
            other, ours = at.get((size, system)), at.get((size, "ours"))
            if other is None or ours is None:
                continue
            slower = paired(ours.seconds, other.seconds)
            if not (other.counted and ours.counted):
                lines.append(f"N={size}, {system}: ours in {slower:.2f} of its time; memory was not counted")
                continue
            less = other.counted / ours.counted
            met = "met" if less >= goal and slower <= SLOWER else "missed"
            wanted = f"; goals {goal} and {SLOWER}: {met}" if size == GOAL_SIZE else ""
            lines.append(
                f"N={size}, {system}: {less:.1f} times our memory, ours in {slower:.2f} of its time{wanted}"
            )
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 384, 512, 768], help="residues N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs="*", choices=KINDS, default=list(KINDS), help="which of the two")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--blocks", type=int, default=2, help="of the trunk")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write all samples to this file")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        system, size, kind = options.child
        print(measure_memory_here(system, int(size), options.blocks, kind == "counted"))
        return
    models = build(options.blocks)
    check_agreement(*models)
    where: dict[str, Any] = machine(options.threads)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if where["load"] > 0.5:
        print(f"the machine is busy (load {where['load']}): ratios hold better than times, neither well")
    figures = earlier(options)

    def keep() -> None:
        if options.json:
            record = {"machine": where, "blocks": options.blocks, "figures": [asdict(one) for one in figures]}
            options.json.write_text(json.dumps(record, indent=1) + "\n")

    for size in options.sizes:
        compare(size, options, models, figures, keep)
        shown = "\n".join([table(figures), "", *(f"- {line}" for line in verdicts(figures))])
        print(shown, flush=True)
        if options.markdown:
            options.markdown.write_text(shown + "\n")


if __name__ == "__main__":
    main()
