"""The CUDA attention backward built for this machine's processor, and cases to run through it.

``python -m attention_backward_on_host LIBRARY`` runs a few cases: the sanitizers need a process of their own.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from attention_on_host import BUILD_SECONDS, FLAGS, Case, compiler, draw_bias, draw_mask, load, make, sources

from foldase_kernels.attention.backward_arguments import (
    WantedGradients,
    fill_backward_arguments,
    launch_backward,
)
from foldase_kernels.attention.problem import Problem
from foldase_kernels.attention.reference import attention_reference

UNITS = ("backward", "backward_bfloat16", "backward_float16", "backward_float32")

TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Of every gradient, relative to its largest value; for 16 bits a few roundings of weights and output."""
SMALLEST = {torch.float32: 1e-3, torch.float16: 1.0, torch.bfloat16: 1.0}
"""Smaller largest values count as this: with few keys gradients cancel but for the rounding of the output."""
HEADS = ("q", "k", "v", "gate")


def build_backward(folder: Path, target: Path, *flags: str, units: Sequence[str] = UNITS) -> Path:
    """Compile the units of a copy of the sources side by side, and link them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    objects = [target.with_name(f"{target.stem}-{unit}.o") for unit in units]

    def call(*arguments: str) -> None:
        command = [compiler(), *FLAGS, *flags, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert done.returncode == 0, done.stderr[:4000]

    def compile_one(unit: str, to: Path) -> None:
        call("-c", "-x", "c++", str(folder / "attention" / f"{unit}.cu"), "-o", str(to))

    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_one, units, objects))
    call(*map(str, objects), "-o", str(target))
    return target


def one_backward(folder: Path, dtypes: Sequence[str] = ("bfloat16",)) -> tuple[Path, tuple[str, ...]]:
    """A copy of the sources for some dtypes and the smallest width, and its only unit: quick to compile."""
    shutil.copytree(sources(), folder)
    names = {"float32": "float", "bfloat16": "foldase::BFloat16", "float16": "foldase::Float16"}
    edits = {
        "backward_kernels.cuh": [(f"<T, {width}>", "<T, 32>") for width in (64, 128)],
        "backward.cu": [
            (f"Backward<{names[other]}>::", f"Backward<{names[dtypes[0]]}>::")
            for other in names
            if other not in dtypes
        ],
    }
    for file, changes in edits.items():
        path = folder / "attention" / file
        text = path.read_text()
        for was, becomes in changes:
            assert was in text
            text = text.replace(was, becomes)
        path.write_text(text)
    units = ("backward", *(f"backward_{dtype}" for dtype in dtypes))
    (folder / "attention" / "together.cu").write_text("".join(f'#include "{unit}.cu"\n' for unit in units))
    return folder, ("together",)


@dataclass
class Incoming:
    """Gradients of the output and of the log-sum-exp."""

    out: torch.Tensor
    lse: torch.Tensor | None


def draw_incoming(case: Case, with_lse: bool = False, seed: int = 5) -> Incoming:
    generator = torch.Generator().manual_seed(seed)
    q = case.q
    of_lse = torch.randn(*q.shape[:-3], q.shape[-2], q.shape[-3], generator=generator) if with_lse else None
    return Incoming(torch.randn(q.shape, generator=generator).to(q.dtype), of_lse)


def problem_of(case: Case) -> Problem:
    return Problem(
        case.q, case.k, case.v, case.biases, case.mask, case.gate, case.slopes, case.scale, case.causal
    )


def expected(case: Case, incoming: Incoming):
    """Output and log-sum-exp, then the gradients of q, k, v, the gate and the biases, in float64."""
    wide = [tensor.double().requires_grad_() for tensor in (case.q, case.k, case.v)]
    gate = None if case.gate is None else case.gate.double().requires_grad_()
    biases = [bias.double().requires_grad_() for bias in case.biases]
    out, lse = attention_reference(*wide, biases, case.mask, case.scale, case.causal, case.slopes)
    if gate is not None:
        out = out * torch.sigmoid(gate)
    total = (out * incoming.out.double()).sum()
    if incoming.lse is not None:
        total = total + (lse.masked_fill(lse == -torch.inf, 0) * incoming.lse.double()).sum()
    owners = [*wide, *([] if gate is None else [gate]), *biases]
    grads = torch.autograd.grad(total, owners)
    return out.detach(), lse.detach(), list(grads)


def run(
    library,
    case: Case,
    incoming: Incoming,
    out,
    lse,
    order: int = 0,
    block_limit: int = 0,
    skip: Sequence[str] = (),
):
    """The gradients by their names, in memory that was NaN before, with threads in a seed's order."""
    owners = {name: getattr(case, name) for name in HEADS if getattr(case, name) is not None}
    owners |= {f"bias {number}": bias for number, bias in enumerate(case.biases)}
    grads = {
        name: None if name in skip else torch.full(owner.shape, torch.nan, dtype=owner.dtype)
        for name, owner in owners.items()
    }
    problem = problem_of(case)
    wanted = WantedGradients(
        *(grads.get(name) for name in HEADS), [grads[f"bias {number}"] for number in range(len(case.biases))]
    )
    forward = out.to(case.q.dtype), lse.float().contiguous(), incoming.out, incoming.lse
    for arguments in fill_backward_arguments(problem, *forward, wanted):
        for number, view in enumerate(arguments.grad_biases):
            if view.added:
                grads[f"bias {number}"].zero_()
    library.foldase_emulation_seed(ctypes.c_uint64(order))
    launch_backward(library, problem, *forward, wanted, block_limit=block_limit)
    return {name: grad for name, grad in grads.items() if grad is not None}


def check(
    library, case: Case, incoming: Incoming | None = None, order: int = 0, block_limit: int = 0, skip=()
):
    """Run a case and compare it with the reference; NaN, which all memory held before, is an error."""
    incoming = draw_incoming(case) if incoming is None else incoming
    out, lse, wanted = expected(case, incoming)
    found = run(library, case, incoming, out, lse, order, block_limit, skip)
    names = [name for name in HEADS if getattr(case, name) is not None]
    names += [f"bias {number}" for number in range(len(case.biases))]
    for name, truth in zip(names, wanted, strict=True):
        if name not in skip:
            compare(name, found[name], truth, case.q.dtype)
    return found


def compare(name: str, found: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    assert not found.isnan().any(), f"the gradient of {name} is off: NaN"
    tolerance = max(TOLERANCES[dtype], TOLERANCES[found.dtype])
    error = (found.double() - truth).abs().max() / truth.abs().max().clamp(min=SMALLEST[dtype])
    assert error <= tolerance, f"the gradient of {name} is off by {error:.2g}"


def telling_case(queries: int = 65, keys: int = 70) -> Case:
    """Tiles with odd tails, a bias of all rows, one of all queries, a mask with a dead row, a gate."""
    case = make(rows=3, queries=queries, keys=keys, heads=1, gate=True)
    case.biases = [draw_bias(case, 1, 1, queries, keys), draw_bias(case, 3, 1, 1, keys)]
    case.mask = draw_mask(3, 1, 1, keys)
    case.mask[1] = False
    return case


def causal_case() -> Case:
    """A block of queries that sees no key, and one that sees some."""
    case = make(rows=2, queries=130, keys=67, heads=1)
    case.causal = True
    case.biases = [draw_bias(case, 130, 67)]
    return case


def check_all(library: str) -> None:
    """What runs under the sanitizers."""
    checked = load(Path(library))
    telling = telling_case()
    check(checked, telling, draw_incoming(telling, with_lse=True), order=2)
    check(checked, telling, order=3, block_limit=1)
    narrow = make(queries=5, keys=3, width=20)
    narrow.q, narrow.causal = narrow.q.transpose(0, 1).contiguous().transpose(0, 1), True
    narrow.biases = [draw_bias(narrow, 5, 1), draw_bias(narrow, 1)]
    check(checked, narrow, draw_incoming(narrow, with_lse=True), order=1)
