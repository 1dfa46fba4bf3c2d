"""The CUDA attention source built for this machine's processor, and cases to run through it.

``python -m attention_on_host LIBRARY`` runs a few cases: the sanitizers need a process of their own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from foldase_kernels.attention.arguments import launch_forward
from foldase_kernels.attention.reference import attention_reference
from foldase_kernels.operations import source_folder

FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fno-strict-aliasing",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
)
SANITIZERS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BUILD_SECONDS, RUN_SECONDS = 300, 500

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of the output, relative to its largest value; for 16 bits twice the rounding of weights and result."""
LSE_TOLERANCE = 1e-5
"""Of the log-sum-exp, relative to 1 or its largest value: products of 16-bit values are exact in float32."""


def compiler() -> str:
    """The C++ compiler; without one the test is skipped, in CI it fails."""
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        message = "no C++ compiler (g++): the CUDA sources cannot be run on this machine"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def sources() -> Path:
    folder = source_folder()
    assert folder is not None
    return folder


def build(folder: Path, target: Path, *flags: str) -> Path:
    """Compile the attention forward of a copy of the sources."""
    source = folder / "attention" / "forward.cu"
    command = [compiler(), *FLAGS, *flags, "-x", "c++", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr[:4000]
    return target


def one_instance(folder: Path) -> Path:
    """A copy of the sources with one of the nine kernels, which compiles in a fraction of the time."""
    shutil.copytree(sources(), folder)
    path = folder / "attention" / "forward.cu"
    text = path.read_text()
    for was, becomes in (
        ("launch_forward<T, 64>", "launch_forward<T, 32>"),
        ("launch_forward<T, 128>", "launch_forward<T, 32>"),
        ("launch_forward_width<float>", "launch_forward_width<foldase::BFloat16>"),
        ("launch_forward_width<foldase::Float16>", "launch_forward_width<foldase::BFloat16>"),
    ):
        assert text.count(was) == 1
        text = text.replace(was, becomes)
    path.write_text(text)
    return folder


def load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@dataclass
class Case:
    """Tensors of one call; `out` is written in place and starts as NaN."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    biases: list[torch.Tensor] = field(default_factory=list)
    mask: torch.Tensor | None = None
    gate: torch.Tensor | None = None
    scale: float = 0.3
    causal: bool = False
    slopes: torch.Tensor | None = None
    out: torch.Tensor | None = None


def run_sanitized(libraries: dict[str, Path]) -> None:
    """Run the cases of each module on its library that was built with the sanitizers."""
    asan = subprocess.run(
        [compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": asan.stdout.strip(),
        # The interpreter leaks by design, and fibers that an error abandoned are never unwound.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    calls = [f"__import__({module!r}).check_all({str(path)!r})" for module, path in libraries.items()]
    command = [sys.executable, "-c", "\n".join([*calls, "print('all right')"])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "all right" in done.stdout


def make(
    leading=(), rows=2, queries=17, keys=None, heads=2, width=32, dtype=torch.bfloat16, gate=False, seed=0
):
    keys = queries if keys is None else keys
    generator = torch.Generator().manual_seed(seed)

    def draw(positions):
        return torch.randn(*leading, rows, positions, heads, width, generator=generator).to(dtype)

    case = Case(draw(queries), draw(keys), draw(keys))
    if gate:
        case.gate = draw(queries)
    return case


def draw_bias(case: Case, *shape: int, dtype=torch.float32, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_mask(*shape: int, seed=2):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > 0.3


def run(library: ctypes.CDLL, case: Case, order: int = 0, block_limit: int = 0):
    """Output and log-sum-exp, computed with threads in the order that a seed gives."""
    out = torch.full_like(case.q, torch.nan) if case.out is None else case.out
    lse = torch.full((*case.q.shape[:-3], case.q.shape[-2], case.q.shape[-3]), torch.nan)
    library.foldase_emulation_seed(ctypes.c_uint64(order))
    launch_forward(
        library,
        case.q,
        case.k,
        case.v,
        case.biases,
        case.mask,
        case.scale,
        case.causal,
        case.slopes,
        out,
        gate=case.gate,
        lse=lse,
        block_limit=block_limit,
    )
    return out, lse


def expected(case: Case):
    """The same in float64."""
    wide = [tensor.double() for tensor in (case.q, case.k, case.v)]
    out, lse = attention_reference(*wide, case.biases, case.mask, case.scale, case.causal, case.slopes)
    return (out if case.gate is None else out * torch.sigmoid(case.gate.double())), lse


def check(library: ctypes.CDLL, case: Case, order: int = 0, block_limit: int = 0) -> None:
    """Run a case and compare it with the reference; NaN, which all of the output held before, is an error."""
    out, lse = run(library, case, order, block_limit)
    wanted, wanted_lse = expected(case)
    error = (out.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)
    assert error <= TOLERANCES[case.q.dtype], f"output is off by {error:.2g}"
    dead = wanted_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, dead), "log-sum-exp is off: -inf at other queries than expected"
    assert not out.transpose(-3, -2)[dead].any(), "a query without keys must give zeros"
    scale = wanted_lse[~dead].abs().max().clamp(min=1) if (~dead).any() else 1
    error = (lse[~dead] - wanted_lse[~dead]).abs().max() / scale if (~dead).any() else torch.zeros(())
    assert error <= LSE_TOLERANCE, f"log-sum-exp is off by {error:.2g}"


def telling_case(queries: int = 65, keys: int = 147) -> Case:
    """Two tiles of queries, three of keys, odd tails, a bias, a mask with a dead row, a gate."""
    case = make(rows=2, queries=queries, keys=keys, heads=1, gate=True)
    case.biases = [draw_bias(case, 1, 1, queries, keys)]
    case.mask = draw_mask(2, 1, 1, keys)
    case.mask[1] = False
    return case


ROWS_TOGETHER, ROWS_ALONE = 1, 0
"""Limits of blocks: with one the library takes rows together that share a bias, however few there are."""


def rows_case(rows: int = 3, queries: int = 65, keys: int = 147) -> Case:
    """Rows that share a bias, one of them left over; a mask that hides other tiles from other rows."""
    case = make(rows=rows, queries=queries, keys=keys, heads=1, gate=True)
    case.biases = [
        draw_bias(case, 1, 1, queries, keys),
        draw_bias(case, rows, 1, 1, keys, dtype=torch.float16),
    ]
    case.mask = draw_mask(rows, 1, 1, keys)
    case.mask[0, ..., 64:128] = False
    case.mask[-1, ..., :64] = False
    return case


def blind_case() -> Case:
    """Whole tiles of queries that see no key: the least that happens between two pieces of work."""
    case = make(rows=2, queries=130, keys=3, heads=1)
    case.causal = True
    return case


def check_all(library: str) -> None:
    """What runs under the sanitizers."""
    checked = load(Path(library))
    check(checked, telling_case(), order=2)
    check(checked, telling_case(), order=3, block_limit=1)
    check(checked, rows_case(queries=17), order=3, block_limit=ROWS_TOGETHER)
    narrow = make(queries=5, keys=3, width=20)
    narrow.q, narrow.causal = narrow.q.transpose(0, 1).contiguous().transpose(0, 1), True
    check(checked, narrow, order=1)
