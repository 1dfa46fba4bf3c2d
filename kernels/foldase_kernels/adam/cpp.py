"""AdamW by the compiled library of ``csrc/adam``, which is built beforehand and never here."""

from __future__ import annotations

import ctypes
import math
import os

import torch

from foldase_kernels.adam.problem import Backend, Problem
from foldase_kernels.errors import BUILD_HINT, KernelError, LaunchError
from foldase_kernels.loader import load_for_host, not_available

LEVEL_VARIABLE = "FOLDASE_ADAM_INSTRUCTIONS"
LEVELS = {"best": 0, "plain": 1, "avx2": 2, "avx512": 3}
"""Vector instructions, as the library numbers them; ``best`` is what the processor has."""
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
SUM_BLOCK = 2**16
"""Elements whose squares are summed on their own; the sums of blocks are added in their order."""


class AdamStep(ctypes.Structure):
    """One step. Mirrors ``csrc/adam/interface.h``."""

    _fields_ = [
        ("size", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("exp_avg", ctypes.c_void_p),
        ("exp_avg_sq", ctypes.c_void_p),
        ("average", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("gradient_dtype", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("level", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("first_share", ctypes.c_float),
        ("second_kept", ctypes.c_float),
        ("second_share", ctypes.c_float),
        ("root_factor", ctypes.c_float),
        ("epsilon", ctypes.c_float),
        ("step_size", ctypes.c_float),
        ("decay", ctypes.c_float),
        ("average_share", ctypes.c_float),
    ]


def check_runs_here() -> None:
    """Refuse where no library was built.

    Raises:
        ValueError: says why, and where help is.
    """
    try:
        load_for_host("adam")
    except KernelError as error:
        raise not_available("cpp", error) from error


def why_not() -> str:
    """Why the backend cannot run here, or an empty text."""
    try:
        check_runs_here()
    except ValueError as error:
        return str(error)
    return ""


def wanted_level() -> int:
    """The vector instructions to use: those that FOLDASE_ADAM_INSTRUCTIONS names, else the best there are.

    Raises:
        ValueError: the variable holds no such name.
    """
    name = os.environ.get(LEVEL_VARIABLE) or "best"
    if name not in LEVELS:
        raise ValueError(f"{LEVEL_VARIABLE} is {name!r}; expected one of {', '.join(LEVELS)}")
    return LEVELS[name]


def launch_step(library: ctypes.CDLL, problem: Problem, level: int) -> None:
    """Run one step with one of :data:`LEVELS`.

    Raises:
        LaunchError: the library refuses, for example instructions that the processor lacks.
    """
    known = problem.constants
    step = AdamStep(
        size=ctypes.sizeof(AdamStep),
        count=problem.weights.numel(),
        weights=problem.weights.data_ptr(),
        exp_avg=problem.exp_avg.data_ptr(),
        exp_avg_sq=problem.exp_avg_sq.data_ptr(),
        average=None if problem.average is None else problem.average.data_ptr(),
        gradient=problem.gradient.data_ptr(),
        out=None if problem.out is None else problem.out.data_ptr(),
        gradient_dtype=DTYPE_CODES[problem.gradient.dtype],
        threads=torch.get_num_threads(),
        level=level,
        scale=known.scale,
        first_share=1.0 - known.betas[0],
        second_kept=known.betas[1],
        second_share=1.0 - known.betas[1],
        root_factor=1.0 / known.root_correction,
        epsilon=known.epsilon,
        step_size=known.step_size,
        decay=known.decay,
        average_share=1.0 - known.average_decay,
    )
    _check(library, library.foldase_adam_step(ctypes.byref(step)))


def launch_square_sum(library: ctypes.CDLL, vector: torch.Tensor, level: int) -> float:
    """Sum squares, as :func:`launch_step`."""
    count = vector.numel()
    sums = torch.zeros(max(1, -(-count // SUM_BLOCK)), dtype=torch.float64)
    status = library.foldase_adam_square_sum(
        ctypes.c_void_p(vector.data_ptr()),
        ctypes.c_int64(count),
        ctypes.c_int32(DTYPE_CODES[vector.dtype]),
        ctypes.c_int64(SUM_BLOCK),
        ctypes.c_void_p(sums.data_ptr()),
        ctypes.c_int32(torch.get_num_threads()),
        ctypes.c_int32(level),
    )
    _check(library, status)
    return math.fsum(sums.tolist())


def _check(library: ctypes.CDLL, status: int) -> None:
    if status == 0:
        return
    library.foldase_adam_message.restype = ctypes.c_char_p
    message = library.foldase_adam_message(ctypes.c_int(status))
    raise LaunchError("refused_arguments", message.decode(), f"{BUILD_HINT} anew if its sources changed")


def _step(problem: Problem) -> None:
    launch_step(load_for_host("adam"), problem, wanted_level())


def _square_sum(vector: torch.Tensor) -> float:
    return launch_square_sum(load_for_host("adam"), vector, wanted_level())


CPP = Backend(_step, _square_sum)
