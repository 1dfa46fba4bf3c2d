"""What is computed row by row, in groups of rows, so that nothing between is held for more than one group.

Shapes: R rows, N positions of a row, c channels; the rows of ``[..., R, N, c]`` are along dimension -3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from foldase_kernels.scratch import scaled, scratch_scale

SMALL = 4 * 2**20
"""Bytes of a representation up to which all rows are one group and autograd keeps what lies between."""

GROUP = 2**20
"""Bytes of the representation in a group beyond that. A group of attention holds about 10 times as much
forward and 30 times backward, and the scratch of its kernel."""

Compute = Callable[..., torch.Tensor]
"""``compute(part, rows, *tensors)``: some rows ``[..., rows, N, c]`` to ``[..., rows, N, d]``."""


@contextmanager
def working_set(group_bytes: int) -> Iterator[None]:
    """How much layers and kernels hold at a time, within the block and in this thread or task only.

    :data:`GROUP` becomes ``group_bytes``; :data:`SMALL` and every size that kernels on the CPU choose
    (:mod:`foldase_kernels.scratch`) change in proportion. Results change by rounding only. A model puts it
    around its whole forward pass::

        with working_set(options.group_bytes):
            s, z = self.trunk(s, z, mask)

    and training around the backward pass too, which takes what holds while it runs. A loop of a layer's own
    asks :func:`rows_at_once` how many rows to take.

    Raises:
        ValueError: ``group_bytes`` is not above 0.
    """
    if group_bytes <= 0:
        raise ValueError(f"group_bytes is {group_bytes}; expected a number above 0")
    with scratch_scale(group_bytes / GROUP):
        yield


def rows_at_once(rows: int, row_bytes: int) -> int:
    """How many of ``rows`` rows a loop takes where each holds ``row_bytes`` of its largest tensor.

    All of them up to :data:`SMALL` bytes, beyond that as many as take :data:`GROUP` bytes, at least one.
    """
    if rows * row_bytes <= scaled(SMALL):
        return max(1, rows)
    return max(1, scaled(GROUP) // row_bytes)


def check_in_place(name: str, x: torch.Tensor, parameters: Iterator[torch.Tensor] | None = None) -> None:
    """Refuse to overwrite what a gradient needs, or elements that share memory.

    Raises:
        ValueError: naming the argument, and what was expected.
    """
    tensors = (x, *(() if parameters is None else parameters))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError(
            f"inplace is True where {name} or a parameter requires a gradient; expected torch.no_grad(), or "
            "inplace=False"
        )
    if any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True)):
        raise ValueError(
            f"inplace is True and {name} {list(x.shape)} is an expanded view; expected elements of its own"
        )


def rows_of(tensor: torch.Tensor, rows: slice, dim: int = -3) -> torch.Tensor:
    """The part of a tensor that belongs to some rows; all of it where it has one row for all."""
    if tensor.shape[dim] == 1:
        return tensor
    return tensor.narrow(dim, rows.start, rows.stop - rows.start)


def by_rows(
    compute: Compute, x: torch.Tensor, tensors: Sequence[torch.Tensor], *, channels_first: bool = False
) -> torch.Tensor:
    """``compute`` on all rows of ``x``, a group at a time; the backward pass computes each group anew.

    Memory beyond the result, and backward the gradients: what a group takes. Between the passes nothing is
    kept but the arguments. Representations of at most :data:`SMALL` bytes are one group, and plain autograd.

    Args:
        compute: the rows of the result from those of ``x``; it must not draw random numbers, nor reach
            what needs a gradient but through its arguments.
        x: ``[..., R, N, c]``, any strides.
        tensors: handed to ``compute`` whole, behind ``x`` and the rows; weights and biases.
        channels_first: lay the result out as ``[..., d, R, N]``.

    Returns:
        ``[..., R, N, d]``, of the layout of ``x`` where its shape is that of ``x``.
    """
    if _one_group(x):
        return compute(x, slice(0, x.shape[-3]), *tensors)
    plan = _Plan(compute, _rows_per_group(x), channels_first, _AutocastState.of(x.device))
    result: torch.Tensor = _Grouped.apply(plan, x, *tensors)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def by_rows_in_place(compute: Compute, x: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """As :func:`by_rows`, the rows of the result written over those of ``x``; returns ``x``."""
    for rows in _spans(x.shape[-3], x.shape[-3] if _one_group(x) else _rows_per_group(x)):
        part = rows_of(x, rows)
        part.copy_(compute(part, rows, *tensors))
    return x


def _one_group(x: torch.Tensor) -> bool:
    return x.numel() * x.element_size() <= scaled(SMALL)


def _rows_per_group(x: torch.Tensor) -> int:
    return max(1, scaled(GROUP) * x.shape[-3] // (x.numel() * x.element_size()))


def _spans(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


@dataclass(frozen=True, slots=True)
class _AutocastState:
    """The autocast region of a forward pass, which its recomputation must see again."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def of(cls, device: torch.device) -> _AutocastState | None:
        kind = device.type
        if not torch.amp.is_autocast_available(kind):
            return None
        return cls(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def region(self) -> AbstractContextManager[object]:
        # Without the cache: casts of weights made here have no gradient, and others would find them there.
        return torch.autocast(self.device, self.dtype, self.enabled, cache_enabled=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    compute: Compute
    step: int
    channels_first: bool
    autocast: _AutocastState | None

    def region(self) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else self.autocast.region()

    def room(self, x: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Memory for the result, from the first part of it."""
        shape = (*x.shape[:-1], part.shape[-1])
        if self.channels_first:
            return part.new_empty(*shape[:-3], shape[-1], *shape[-3:-1]).movedim(-3, -1)
        return torch.empty_like(x, dtype=part.dtype) if shape == x.shape else part.new_empty(shape)


class _Grouped(torch.autograd.Function):
    """Keeps the arguments; the gradient of each group is that of computing it anew."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *tensors)
        ctx.plan = plan
        result: torch.Tensor | None = None
        with plan.region():
            for rows in _spans(x.shape[-3], plan.step):
                part = plan.compute(rows_of(x, rows), rows, *tensors)
                if result is None:
                    result = plan.room(x, part)
                rows_of(result, rows).copy_(part)
        assert result is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        plan, needs = ctx.plan, ctx.needs_input_grad[1:]
        leaves = [own.detach().requires_grad_(need) for own, need in zip(tensors, needs[1:], strict=True)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        sums = [torch.zeros_like(leaf) for leaf in wanted]
        grad_x = torch.empty_like(x) if needs[0] else None
        for rows in _spans(x.shape[-3], plan.step):
            part = rows_of(x, rows).detach().requires_grad_(needs[0])
            inputs = [part, *wanted] if needs[0] else wanted
            with torch.enable_grad(), plan.region():
                result = plan.compute(part, rows, *leaves)
            shares = list(torch.autograd.grad(result, inputs, rows_of(grad, rows)))
            if grad_x is not None:
                rows_of(grad_x, rows).copy_(shares.pop(0))
            for total, share in zip(sums, shares, strict=True):
                total.add_(share)
        found = iter(sums)
        return None, grad_x, *(next(found) if leaf.requires_grad else None for leaf in leaves)
