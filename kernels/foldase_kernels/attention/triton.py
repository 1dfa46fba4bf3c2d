"""Attention on a GPU by Triton: scores only ever exist as tiles, every sum has a fixed order.

The forward pass is FlashAttention-2 (Dao 2023, algorithm 1) with biases read where they lie. The backward
pass recomputes tiles from the log-sum-exp in one kernel for k and v, one for q, and one for each bias that
is trained; none of them adds to what another program writes, so there are no atomics and results are the
same in every run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import torch

from foldase_kernels.attention.problem import Backend, Gradients, Problem
from foldase_kernels.attention.triton_layout import (
    BiasPlan,
    Blocks,
    Operand,
    choose_blocks,
    form,
    operands,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether the environment asks Triton to interpret kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def is_available() -> bool:
    """Whether Triton is installed and has something to run on: a GPU, or its interpreter."""
    return find_spec("triton") is not None and (interpreted() or torch.cuda.is_available())


NARROW = 64
"""Head width up to which a small GPU has room for two steps of four tiles."""


def check_runs_here(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse tensors that Triton cannot work on.

    Raises:
        ValueError: Triton is missing, the tensors are neither on a GPU nor interpreted, or q is float64.
    """
    if find_spec("triton") is None:
        raise ValueError("backend 'triton' needs the package triton; install foldase[gpu]")
    if dtype not in DTYPES:
        raise ValueError(f"q is {dtype}; backend 'triton' takes float32, bfloat16 and float16")
    if device.type != "cuda" and not interpreted():
        raise ValueError(
            f"backend 'triton' was asked for tensors on {device}; expected cuda, "
            "or TRITON_INTERPRET=1 in the environment before triton is imported"
        )


def _kernels(q: torch.Tensor) -> ModuleType:
    """The forward and most backward kernels; Triton is imported here and not before."""
    kernels = import_module("foldase_kernels.attention.triton_kernels")
    if q.device.type != "cuda" and type(kernels.forward).__name__ == "JITFunction":
        raise ValueError("TRITON_INTERPRET was set after triton had been imported; set it at the start")
    return kernels


class _Call:
    """What the launches of one call share: views ``[batch..., position, width]`` and plain numbers."""

    def __init__(self, problem: Problem) -> None:
        q, k, v, mask = problem.q, problem.k, problem.v, problem.mask
        self.kernels = _kernels(q)
        self.q = q
        self.batch = (*q.shape[:-3], q.shape[-2])
        self.full = problem.full
        self.matrices = [tensor.transpose(-3, -2) for tensor in (q, k, v)]
        self.gate = None if problem.gate is None else problem.gate.transpose(-3, -2)
        self.terms = [bias.expand(self.full) for bias in problem.biases]
        # Booleans are read as bytes: Triton has no pointer to single bits.
        self.mask = None if mask is None else mask.view(torch.uint8).expand(self.full)
        self.slopes = None if problem.slopes is None else problem.slopes.expand(self.batch)
        self.numbers = (float(problem.scale), q.shape[-3], k.shape[-3], q.shape[-1])
        self.causal = problem.causal
        masks = [] if self.mask is None else [self.mask]
        self.forms = tuple(form(term, len(self.batch)) for term in (*self.terms, *masks))
        self.widen = interpreted() and q.dtype == torch.bfloat16

    def launch(
        self,
        kernel: Any,
        blocks: Blocks,
        grid: tuple[int, ...],
        views: Sequence[torch.Tensor | None],
        *extra: int,
        order: Sequence[int] | None = None,
        bias_grad: tuple[torch.Tensor, int] | None = None,
    ) -> None:
        """Run a kernel on q, k, v, all terms and ``views``; the last may be a bias gradient and its step."""
        count = len(self.terms)
        inputs = [*self.matrices, *self.terms, self.mask, self.slopes, *views]
        if bias_grad is not None:
            inputs.append(bias_grad[0])
        sizes, found = operands(self.batch, inputs, order)
        others: list[Operand | None] = found[count + 5 :]
        constants = {"FORMS": self.forms, "CAUSAL": self.causal, "WIDEN": self.widen}
        if bias_grad is not None:
            last = found[-1]
            assert last is not None
            others[-1] = (*last, bias_grad[1])
            constants["FORM"] = form(bias_grad[0], len(self.batch))
        kernel[grid](
            *found[:3],
            tuple(found[3 : 3 + count]),
            *found[3 + count : 5 + count],
            *others,
            sizes,
            *self.numbers,
            *extra,
            **constants,
            QUERIES=blocks.queries,
            KEYS=blocks.keys,
            WIDTH=blocks.width,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,
        )

    def tiles(self, positions: int, block: int) -> int:
        """Programs that each own one tile of positions of one batch index."""
        indices: int = prod(self.batch)
        return indices * ((positions + block - 1) // block)


def _forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Beyond inputs and results nothing is allocated."""
    q = problem.q
    check_runs_here(q.device, q.dtype)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        call = _Call(problem)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty((*call.batch, q.shape[-3]), dtype=torch.float32, device=q.device)
        blocks = choose_blocks(q.shape[-1], q.dtype, backward=False)
        grid = (call.tiles(q.shape[-3], blocks.queries),)
        call.launch(call.kernels.forward, blocks, grid, [call.gate, out.transpose(-3, -2), lse])
    return out, lse


def _backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """Tiles are computed anew from the log-sum-exp.

    Beyond inputs and gradients, memory is one float32 number per query, and for the gradient of a bias of few
    elements partial sums of at most :data:`foldase_kernels.attention.triton_layout.ENOUGH_PROGRAMS` tiles.
    """
    q, k, v, gate = problem.q, problem.k, problem.v, problem.gate
    if grad_out is None:
        grad_out = out.new_zeros(()).expand(out.shape)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        call = _Call(problem)
        blocks = choose_blocks(q.shape[-1], q.dtype, backward=True)
        grads = [torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v)]
        of_q, of_k, of_v = (grad.transpose(-3, -2) for grad in grads)
        of_gate = None if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        # The gradient before the gate lies in that of q, whose programs read their own part before they
        # write it; so they come last.
        incoming = grad_out.transpose(-3, -2) if of_gate is None else of_q
        delta = _prepare(call, blocks, (out, grad_out), (lse, grad_lse), of_q, of_gate)
        sums = [lse, delta, incoming]
        grid = (call.tiles(k.shape[-3], blocks.keys),)
        call.launch(call.kernels.backward_keys, blocks, grid, [*sums, of_k, of_v])
        of_biases = [
            _bias_gradient(call, blocks, bias, sums) if needed else None
            for bias, needed in zip(problem.biases, wanted, strict=True)
        ]
        grid = (call.tiles(q.shape[-3], blocks.queries),)
        call.launch(call.kernels.backward_queries, blocks, grid, [*sums, of_q])
    return Gradients(grads[0], grads[1], grads[2], of_gate, of_biases)


TRITON = Backend(_forward, _backward)


def _prepare(
    call: _Call,
    blocks: Blocks,
    results: tuple[torch.Tensor, torch.Tensor],
    lses: tuple[torch.Tensor, torch.Tensor | None],
    ungated: torch.Tensor,
    of_gate: torch.Tensor | None,
) -> torch.Tensor:
    """``sum(grad_out * out) - grad_lse`` per query, float32, shaped like the log-sum-exp.

    ``results`` and ``lses`` are each with their gradient. With a gate its gradient is written into
    ``of_gate``, and that of the result before the gate into ``ungated``.
    """
    delta = torch.empty_like(lses[0])
    swapped = [tensor.transpose(-3, -2) for tensor in results]
    gated = [None, None] if of_gate is None else [ungated, of_gate.transpose(-3, -2)]
    sizes, found = operands(call.batch, [*swapped, *lses, call.gate, delta, *gated])
    _, queries, _, width = call.numbers
    call.kernels.prepare[(call.tiles(queries, blocks.queries),)](
        *found,
        sizes,
        queries,
        width,
        QUERIES=blocks.queries,
        WIDTH=blocks.width,
        num_warps=blocks.warps,
        enable_fp_fusion=True,
    )
    return delta


def _bias_gradient(
    call: _Call, blocks: Blocks, bias: torch.Tensor, sums: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The gradient of one bias in its shape and dtype; partial sums are added in fixed order."""
    kernel = import_module("foldase_kernels.attention.triton_bias").backward_bias
    shape = (*(1,) * (len(call.full) - bias.dim()), *bias.shape)
    plan = BiasPlan.make(shape, call.full, blocks)
    if plan.groups == 1:
        grad, step = torch.empty_like(bias), 0
        view = grad.view(shape)
    else:
        grad = torch.empty((plan.groups, *bias.shape), dtype=torch.float32, device=bias.device)
        step = grad.stride(0)
        view = grad[0].view(shape)
    # Batch dimensions are expanded with stride 0; behind them a size of 1 says what is summed.
    view = view.expand(*call.batch, *shape[-2:])
    if blocks.width > NARROW:
        blocks = replace(blocks, stages=1)
    counts = (plan.repeats, plan.query_tiles, plan.key_tiles, plan.query_steps, plan.key_steps)
    grid = (plan.programs, plan.groups)
    call.launch(
        kernel,
        blocks,
        grid,
        sums,
        *counts,
        plan.group_steps,
        order=plan.order,
        bias_grad=(view, step),
    )
    return grad if plan.groups == 1 else grad.sum(0).to(bias.dtype)
