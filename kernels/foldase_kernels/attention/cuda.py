"""Attention on a GPU by the compiled library of ``csrc/attention``: no compiling, no waiting, no atomics.

Tensors are handed over by address and strides; results and workspace are allocated by torch, on the stream
that is current, so that its allocator knows their lifetimes and CUDA graphs can capture a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import torch

from foldase_kernels.attention.arguments import DTYPE_CODES, launch_forward
from foldase_kernels.attention.backward_arguments import WantedGradients, launch_backward
from foldase_kernels.attention.cuda_biases import Term, as_terms, split_gradients
from foldase_kernels.attention.problem import Backend, Gradients, Problem
from foldase_kernels.errors import KernelError
from foldase_kernels.loader import load_for, not_available

DTYPES = tuple(DTYPE_CODES)


class Machine(Protocol):
    """Where the kernels of a device come from and how they are started there."""

    def library(self, device: torch.device) -> ctypes.CDLL:
        """The library for a device; raises KernelError where there is none."""
        ...

    def stream(self, device: torch.device) -> int:
        """The handle of the stream that is current on a device."""
        ...

    def guard(self, device: torch.device) -> AbstractContextManager[object]:
        """Makes a device the current one."""
        ...


class Gpu:
    """The GPUs that torch sees, with libraries built beforehand."""

    def library(self, device: torch.device) -> ctypes.CDLL:
        """Found, compared with its record and loaded once a process."""
        return load_for("attention", device)

    def stream(self, device: torch.device) -> int:
        """Torch's current stream."""
        return int(torch.cuda.current_stream(device).cuda_stream)

    def guard(self, device: torch.device) -> AbstractContextManager[object]:
        """Torch's own guard."""
        return torch.cuda.device(device)


machine: Machine = Gpu()


def check_runs_here(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse tensors that the compiled library cannot work on.

    Raises:
        ValueError: q is float64, the device is no GPU, or there is no library for it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"q is {dtype}; backend 'cuda' takes float32, bfloat16 and float16")
    try:
        machine.library(device)
    except KernelError as error:
        raise not_available("cuda", error) from error


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Why the backend cannot take tensors like these, or an empty text."""
    try:
        check_runs_here(device, dtype)
    except ValueError as error:
        return str(error)
    return ""


def is_available() -> bool:
    """Whether there is a GPU with a library built for it."""
    return not why_not(torch.device("cuda"), torch.float32)


def _forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Beyond inputs and results nothing is allocated but copies of biases that are no kernel's dtype."""
    q = problem.q
    library = machine.library(q.device)
    with machine.guard(q.device):
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(problem.full[:-1], dtype=torch.float32, device=q.device)
        launch_forward(
            library,
            q,
            problem.k,
            problem.v,
            [term.values for term in as_terms(problem.biases)],
            problem.mask,
            problem.scale,
            problem.causal,
            problem.slopes,
            out,
            gate=problem.gate,
            lse=lse,
            stream=machine.stream(q.device),
        )
    return out, lse


def _backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """Beyond inputs and gradients: the workspace, two float32 numbers a query, with a gate a tensor like q.

    For gradients of biases come up to 16 MiB, and one in float32 for each term that is not a single bias or
    is summed over several launches.
    """
    q = problem.q
    library = machine.library(q.device)
    with machine.guard(q.device):
        terms = as_terms(problem.biases)
        of_q, of_k, of_v = _like(q), _like(problem.k), _like(problem.v)
        of_gate = None if problem.gate is None else _like(problem.gate)
        of_terms = [
            _sum_of(term, problem) if any(wanted[number] for number in term.members) else None
            for term in terms
        ]
        launch_backward(
            library,
            replace(problem, biases=[term.values for term in terms]),
            out,
            lse,
            out.new_zeros(()).expand(out.shape) if grad_out is None else grad_out,
            None if grad_lse is None else grad_lse.contiguous(),
            WantedGradients(of_q, of_k, of_v, of_gate, of_terms),
            stream=machine.stream(q.device),
        )
        of_biases = split_gradients(terms, of_terms, problem.biases, wanted)
    return Gradients(of_q, of_k, of_v, of_gate, of_biases)


CUDA = Backend(_forward, _backward)


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous memory for the gradient of a tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _sum_of(term: Term, problem: Problem) -> torch.Tensor:
    """Memory for the gradient of a term: in its own dtype where one launch writes it whole."""
    leading = problem.q.dim() - 4
    shape = (*(1,) * (len(problem.full) - term.values.dim()), *term.values.shape)
    if leading > 1 and any(own < size for own, size in zip(shape[:leading], problem.full, strict=False)):
        return torch.zeros(term.values.shape, dtype=torch.float32, device=term.values.device)
    return _like(term.values)
