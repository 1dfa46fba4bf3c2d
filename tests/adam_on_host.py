"""The C++ AdamW built for this machine, and what must hold of it at every level of vector instructions."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import torch
from attention_on_host import BUILD_SECONDS, compiler

from foldase_kernels.adam.cpp import LEVELS, launch_square_sum, launch_step
from foldase_kernels.adam.problem import Problem, constants
from foldase_kernels.adam.reference import REFERENCE
from foldase_kernels.compiling.recipes import COMMON_FLAGS, HOST_FLAGS
from foldase_kernels.errors import LaunchError

SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 63, 65, 1003)
FLOAT32_TOLERANCE = 3e-7
"""Of a result after one step, relative to 1 or its own size: a few roundings of float32."""
CONSTANTS = constants(3, 3e-3, (0.9, 0.99), 1e-8, 0.1, 0.3, 0.97)
NO_CHANGE = constants(1, 0.0, (0.9, 0.99), 1e-8, 0.0, 1.0, None)
VECTORS = ("weights", "exp_avg", "exp_avg_sq", "average")


def build(folder: Path, target: Path, *flags: str) -> Path:
    """Compile the sources of a folder as the build command does, and as strictly as the compiler can."""
    command = [compiler(), *COMMON_FLAGS, *HOST_FLAGS, "-Wall", "-Wextra", "-Werror", *flags, "-shared"]
    command += [f"-I{folder}", str(folder / "adam" / "adam.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr[:4000]
    return target


def levels_here(library: ctypes.CDLL) -> list[str]:
    """The levels that this processor has."""

    def runs(name: str) -> bool:
        try:
            launch_square_sum(library, torch.zeros(1), LEVELS[name])
        except LaunchError:
            return False
        return True

    return [name for name in LEVELS if name != "best" and runs(name)]


def draw(count, *, gradient_dtype=torch.bfloat16, seed=0, offset=0, known=CONSTANTS, out=True) -> Problem:
    """A step in the middle of a training; vectors begin ``offset`` elements into their memory."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(offset + count, generator=generator)[offset:]

    return Problem(
        weights=normal(),
        exp_avg=normal(),
        exp_avg_sq=normal().square_(),
        gradient=torch.randn(offset + count, generator=generator).to(gradient_dtype)[offset:],
        average=normal(),
        out=torch.zeros(offset + count, dtype=torch.bfloat16)[offset:] if out else None,
        constants=known,
    )


def wide(problem: Problem) -> Problem:
    """A copy in float64."""
    vectors = {name: getattr(problem, name).double() for name in (*VECTORS, "gradient")}
    return Problem(**vectors, out=None, constants=problem.constants)


def check_against_definition(library: ctypes.CDLL, level: str) -> None:
    """Every size, both dtypes, aligned or not, against float64."""
    for count in SIZES:
        for gradient_dtype in (torch.float32, torch.bfloat16):
            for offset in (0, 1):
                problem = draw(count, gradient_dtype=gradient_dtype, offset=offset)
                exact, before = wide(problem), problem.gradient.clone()
                REFERENCE.step(exact)
                launch_step(library, problem, LEVELS[level])
                for name in VECTORS:
                    found, expected = getattr(problem, name).double(), getattr(exact, name)
                    error = ((found - expected).abs() / expected.abs().clamp(min=1.0)).sum()
                    assert float(error) <= count * FLOAT32_TOLERANCE, f"{name} of {count} elements"
                assert torch.equal(problem.out, problem.weights.bfloat16()), f"out of {count} elements"
                assert torch.equal(problem.gradient, before)


def check_sums(library: ctypes.CDLL, level: str) -> None:
    """Sums of squares of every size and both dtypes against float64."""
    for count in SIZES:
        values = torch.randn(count + 1, generator=torch.Generator().manual_seed(count))[1:]
        for vector in (values, values.bfloat16()):
            expected = float(vector.double().square().sum())
            found = launch_square_sum(library, vector, LEVELS[level])
            assert abs(found - expected) <= 1e-14 * expected, f"sum of {count} elements"


def check_threads(library: ctypes.CDLL, level: str) -> None:
    """Parts of several threads join without a gap, and give the bits of one."""
    count, before = 5 * 2**16 + 77, torch.get_num_threads()
    steps, sums = [], []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            problem = draw(count)
            launch_step(library, problem, LEVELS[level])
            steps.append(problem)
            sums.append(launch_square_sum(library, problem.weights, LEVELS[level]))
    finally:
        torch.set_num_threads(before)
    for problem in steps[1:]:
        for name in (*VECTORS, "out"):
            assert torch.equal(getattr(problem, name), getattr(steps[0], name)), f"{name} in threads"
    assert len(set(sums)) == 1


def check_rounding(library: ctypes.CDLL, level: str) -> None:
    """To bfloat16, to nearest with ties to even: all upper halves, with lower ones that tell."""
    upper = torch.arange(2**16, dtype=torch.int64).repeat_interleave(4) << 16
    unsigned = upper + torch.tensor([0, 0x7FFF, 0x8000, 0x8001]).repeat(2**16)
    weights = torch.where(unsigned >= 2**31, unsigned - 2**32, unsigned).int().view(torch.float32)
    weights = weights[weights.isfinite()]
    problem = draw(weights.numel(), known=NO_CHANGE)
    problem.gradient.zero_()
    problem.exp_avg.zero_()
    problem.weights.copy_(weights)
    launch_step(library, problem, LEVELS[level])
    rounded = weights.bfloat16()
    assert torch.equal(problem.out.view(torch.int16), rounded.view(torch.int16)), "rounding to bfloat16"


CHECKS = (check_against_definition, check_sums, check_threads, check_rounding)


def check_all(library: str) -> None:
    """Every check at every level, of a library by its path."""
    loaded = ctypes.CDLL(library)
    for level in levels_here(loaded):
        for check in CHECKS:
            check(loaded, level)
