"""Attention on the CPU in tiles of rows and queries, for problems whose scores should not lie in memory.

Forward: torch's fused CPU kernel on groups of rows. It takes one additive matrix, so key masks and
key biases ride in an extra column of q and k, and everything else is summed one tile at a time.

Backward: scores are recomputed a tile at a time. Three sums are had for nothing from extra columns: with
``q' = [scale q, 1, -lse]`` and ``k' = [k, column, 1]`` the product is the logarithm of the weights, with
``o' = [grad_out, -delta]`` and ``v' = [v, 1]`` it is the gradient of the weights less
``delta = sum(grad_out * out) - grad_lse``, and the column of ``grad_scores^T q'`` that belongs to the 1 is
the gradient of a key bias. Buffers are allocated once; sums run in a fixed order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from foldase_kernels.attention.problem import Gradients, Problem
from foldase_kernels.attention.reference import score_dtype
from foldase_kernels.attention.terms import NEVER, Terms
from foldase_kernels.scratch import scaled

TILE = 4 * 2**20
"""Bytes one scratch tile may take; several of them are alive at once."""

QUERIES = 128
"""Queries of a tile in the backward pass and wherever the terms must be summed."""


def _indices(leading: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in leading))


def _heads_first(tensor: torch.Tensor) -> torch.Tensor:
    """``[rows, positions, heads, width]`` seen as ``[rows, heads, positions, width]``."""
    return tensor.transpose(1, 2)


def _terms(index: tuple[int, ...], problem: Problem) -> Terms:
    full = problem.full
    return Terms.sort(
        [bias.expand(full)[index] for bias in problem.biases],
        None if problem.mask is None else problem.mask.expand(full)[index],
        problem.causal,
        problem.slopes,
        full[-1] - full[-2],
    )


def _blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _rows_per_group(rows: int, bytes_per_row: int) -> int:
    groups = max(1, math.ceil(rows * bytes_per_row / max(1, scaled(TILE))))
    return max(1, math.ceil(rows / groups))


def tiled_forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Output like q and the log-sum-exp ``[..., rows, heads, queries]``."""
    q, gate, full = problem.q, problem.gate, problem.full
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(full[:-1], dtype=score_dtype(q.dtype), device=q.device)
    for index in _indices(full[:-4]):
        views = [_heads_first(tensor[index]) for tensor in (q, problem.k, problem.v)]
        opens = None if gate is None else _heads_first(gate[index])
        results = _heads_first(out[index]), lse[index]
        _forward_rows(views, opens, results, _terms(index, problem), problem.scale)
    return out, lse


def _forward_rows(
    inputs: list[torch.Tensor],
    gate: torch.Tensor | None,
    results: tuple[torch.Tensor, torch.Tensor],
    terms: Terms,
    scale: float,
) -> None:
    """One leading index: ``inputs`` are q, k and v ``[rows, heads, positions, width]``."""
    (q, k, v), (out, lse) = inputs, results
    rows, heads, queries, width = q.shape
    wide = lse.dtype
    plain = not terms.has_column and q.dtype == wide and q.stride(3) == k.stride(3) == v.stride(3) == 1
    positions = max(queries, k.shape[2])
    group = _rows_per_group(rows, heads * positions * (width + 1) * wide.itemsize)
    direct = terms.direct(wide)
    tile_heads = heads if terms.tile_by_head else 1
    step = queries
    tile = None
    if terms.has_tile and direct is None:
        step = min(queries, QUERIES)
        if terms.tile_by_row:
            group = min(group, _rows_per_group(rows, tile_heads * step * k.shape[2] * wide.itemsize))
        shape = (group if terms.tile_by_row else 1, tile_heads, step, k.shape[2])
        tile = torch.empty(shape, dtype=wide, device=q.device)
    scratch = None if plain else _ColumnScratch(group, q, k, wide, terms.has_column)
    for block in _blocks(rows, group):
        q_part, k_part, v_part, factor = q[block], k[block], v[block], scale
        if scratch is not None:
            q_part, k_part, v_part = scratch.fill(q_part, k_part, v_part, terms, block, scale)
            factor = 1.0
        for span in _blocks(queries, step):
            seen = terms.keys_seen(span.stop, k.shape[2])
            if seen == 0:
                out[block, :, span] = 0
                lse[block, :, span] = -torch.inf
                continue
            added = None if direct is None else direct[block, :, span]
            if tile is not None:
                added = tile[: block.stop - block.start, :, : span.stop - span.start, :seen]
                terms.fill_tile(added, block, span)
            _fused(
                q_part[:, :, span],
                k_part[:, :, :seen],
                v_part[:, :, :seen],
                added,
                factor,
                None if gate is None else gate[block, :, span],
                out[block, :, span],
                lse[block, :, span],
            )


class _ColumnScratch:
    """Copies of some rows of q, k and v in the dtype of the scores, with the extra column where needed."""

    def __init__(self, rows: int, q: torch.Tensor, k: torch.Tensor, dtype: torch.dtype, column: bool) -> None:
        self.width = q.shape[3]
        self.column = column
        shape_q = (rows, q.shape[1], q.shape[2], self.width + column)
        shape_k = (rows, k.shape[1], k.shape[2], self.width + column)
        self.q = torch.ones(shape_q, dtype=dtype, device=q.device)
        self.k = torch.empty(shape_k, dtype=dtype, device=q.device)
        self.v = torch.zeros(shape_k, dtype=dtype, device=q.device)

    def fill(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, terms: Terms, rows: slice, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Copy; q comes back multiplied by ``scale``."""
        count = q.shape[0]
        to_q, to_k, to_v = self.q[:count], self.k[:count], self.v[:count]
        to_q[..., : self.width].copy_(q).mul_(scale)
        to_k[..., : self.width] = k
        to_v[..., : self.width] = v
        if self.column:
            terms.fill_column(to_k[..., self.width], rows)
        return to_q, to_k, to_v


def _fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    added: torch.Tensor | None,
    scale: float,
    gate: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> None:
    """Torch's fused kernel on one tile, then the gate; queries that see nothing get 0 and -inf."""
    if added is not None:
        added = added.expand(q.shape[0], q.shape[1], *added.shape[2:])
    part, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=added, scale=scale
    )
    dead = total < NEVER / 2
    if bool(dead.any()):
        part.masked_fill_(dead.unsqueeze(-1), 0.0)
        total = total.masked_fill(dead, -torch.inf)
    # The kernel reports 0 where a bias of -inf forbade every key; an honest 0 is possible too.
    unclear = (total == 0).nonzero() if added is not None else total.new_empty(0, 3)
    for row, head, query in unclear.tolist():
        assert added is not None
        if bool((added[row, head, query] == -torch.inf).all()):
            total[row, head, query] = -torch.inf
    part = part[..., : out.shape[3]]
    if gate is not None:
        part.mul_(torch.sigmoid(gate.to(part.dtype)))
    out.copy_(part)
    lse.copy_(total)


def tiled_backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """Gradients of q, k, v, the gate, and of those biases that are ``wanted``."""
    q, k, v, gate, full = problem.q, problem.k, problem.v, problem.gate, problem.full
    owners = (q, k, v) if gate is None else (q, k, v, gate)
    grads = [torch.empty(owner.shape, dtype=q.dtype, device=q.device) for owner in owners]
    sums = [
        torch.zeros(bias.shape, dtype=lse.dtype, device=q.device) if needed else None
        for bias, needed in zip(problem.biases, wanted, strict=True)
    ]
    for index in _indices(full[:-4]):
        inputs = [_heads_first(tensor[index]) for tensor in (q, k, v, out, grad_out)]
        if gate is not None:
            inputs.append(_heads_first(gate[index]))
        outputs = [_heads_first(tensor[index]) for tensor in grads]
        of_lse = None if grad_lse is None else grad_lse[index]
        parts = [None if total is None else _own(total, index, len(full)) for total in sums]
        _backward_rows(inputs, lse[index], of_lse, outputs, parts, _terms(index, problem), problem.scale)
    of_biases = [
        None if total is None else total.to(bias.dtype)
        for total, bias in zip(sums, problem.biases, strict=True)
    ]
    return Gradients(grads[0], grads[1], grads[2], None if gate is None else grads[3], of_biases)


def _own(total: torch.Tensor, index: tuple[int, ...], dims: int) -> torch.Tensor:
    """The part of a bias gradient that one leading index adds to: ``[rows, heads, queries, keys]`` or 1s."""
    padded = total.view((1,) * (dims - total.dim()) + tuple(total.shape))
    return padded[tuple(min(i, size - 1) for i, size in zip(index, padded.shape, strict=False))]


class _BackwardScratch:
    """Buffers of the backward pass for one group of rows, allocated once."""

    def __init__(self, rows: int, step: int, q: torch.Tensor, k: torch.Tensor, dtype: torch.dtype) -> None:
        heads, queries, keys, width = q.shape[1], q.shape[2], k.shape[2], q.shape[3]

        def buffer(*shape: int) -> torch.Tensor:
            return torch.ones(rows, heads, *shape, dtype=dtype, device=q.device)

        self.q, self.k = buffer(queries, width + 2), buffer(keys, width + 2)
        self.o, self.v = buffer(queries, width + 1), buffer(keys, width + 1)
        self.grad_q, self.grad_k = buffer(step, width + 2), buffer(keys, width + 2)
        self.grad_v = buffer(keys, width + 1)
        self.weights = torch.empty(rows * heads * step * keys, dtype=dtype, device=q.device)
        self.scores = torch.empty_like(self.weights)

    def fill(
        self,
        parts: Sequence[torch.Tensor],
        lse: torch.Tensor,
        of_lse: torch.Tensor | None,
        terms: Terms,
        rows: slice,
        scale: float,
        grad_gate: torch.Tensor | None,
    ) -> None:
        """Copy one group of rows of q, k, v, out, grad_out and the gate, and set the extra columns.

        The gradient of the gate is complete then, and written.
        """
        q, k, v, out, grad_out, *gates = parts
        count, width = q.shape[0], q.shape[3]
        to_q, to_k, to_v, to_o = self.q[:count], self.k[:count], self.v[:count], self.o[:count]
        to_q[..., :width].copy_(q).mul_(scale)
        to_q[..., width + 1] = torch.where(lse == -torch.inf, NEVER, -lse)
        to_k[..., :width] = k
        terms.fill_column(to_k[..., width], rows)
        to_v[..., :width] = v
        to_o[..., :width] = grad_out
        # -delta, summed in the dtype of the scores without a product of full width.
        delta = torch.einsum("rhqc,rhqc->rhq", to_o[..., :width], out.to(to_o.dtype))
        to_o[..., width] = (of_lse - delta) if of_lse is not None else -delta
        if grad_gate is not None:
            opened = torch.sigmoid(gates[0].to(to_o.dtype))
            closed = torch.rsub(opened, 1).mul_(out).mul_(to_o[..., :width])
            grad_gate.copy_(closed)
            to_o[..., :width].mul_(opened)
        self.grad_k.zero_()
        self.grad_v.zero_()


def _backward_rows(
    inputs: list[torch.Tensor],
    lse: torch.Tensor,
    of_lse: torch.Tensor | None,
    outputs: list[torch.Tensor],
    sums: list[torch.Tensor | None],
    terms: Terms,
    scale: float,
) -> None:
    """One leading index: ``inputs`` are q, k, v, out, grad_out and the gate if there is one.

    ``outputs`` are the gradients of q, k, v and the gate.
    """
    q, k = inputs[:2]
    rows, heads, queries, width = q.shape
    step = min(queries, QUERIES)
    group = _rows_per_group(rows, heads * step * k.shape[2] * lse.dtype.itemsize)
    scratch = _BackwardScratch(group, step, q, k, lse.dtype)
    tile = None
    if terms.has_tile:
        shape = (group if terms.tile_by_row else 1, heads if terms.tile_by_head else 1, step, k.shape[2])
        tile = torch.empty(shape, dtype=lse.dtype, device=q.device)
    for block in _blocks(rows, group):
        count = block.stop - block.start
        part_lse = None if of_lse is None else of_lse[block]
        of_gate = outputs[3][block] if len(outputs) > 3 else None
        parts = [tensor[block] for tensor in inputs]
        scratch.fill(parts, lse[block], part_lse, terms, block, scale, of_gate)
        for span in _blocks(queries, step):
            seen = terms.keys_seen(span.stop, k.shape[2])
            if seen == 0:
                outputs[0][block, :, span] = 0
                continue
            added = None
            if tile is not None:
                added = tile[:count, :, : span.stop - span.start, :seen]
                terms.fill_tile(added, block, span)
            grad_scores = _tile_backward(scratch, count, span, seen, added)
            outputs[0][block, :, span] = scratch.grad_q[:count, :, : span.stop - span.start, :width]
            for total in sums:
                if total is not None:
                    _add_reduced(total, grad_scores, block, span, slice(0, seen))
        outputs[1][block] = scratch.grad_k[:count, ..., :width]
        outputs[2][block] = scratch.grad_v[:count, ..., :width]
    outputs[0].mul_(scale)


def _tile_backward(
    scratch: _BackwardScratch, count: int, span: slice, seen: int, added: torch.Tensor | None
) -> torch.Tensor:
    """Recompute one tile and add its share to the gradients; returns that of the scores."""
    heads, step = scratch.q.shape[1], span.stop - span.start
    shape = (count * heads, step, seen)
    size = count * heads * step * seen

    def flat(tensor: torch.Tensor, positions: slice) -> torch.Tensor:
        return tensor[:count].flatten(0, 1)[:, positions]

    keys = slice(0, seen)
    weights, scores = scratch.weights[:size].view(shape), scratch.scores[:size].view(shape)
    q, k, v, o = flat(scratch.q, span), flat(scratch.k, keys), flat(scratch.v, keys), flat(scratch.o, span)
    if added is None:
        torch.bmm(q, k.mT, out=weights)
    else:
        weights.view(count, heads, step, seen).copy_(added.expand(count, heads, step, seen))
        weights.baddbmm_(q, k.mT)
    weights.exp_()
    flat(scratch.grad_v, keys).baddbmm_(weights.mT, o)
    torch.bmm(o, v.mT, out=scores)
    scores.mul_(weights)
    torch.bmm(scores, k, out=flat(scratch.grad_q, slice(0, step)))
    flat(scratch.grad_k, keys).baddbmm_(scores.mT, q)
    return scores.view(count, heads, step, seen)


def _add_reduced(
    total: torch.Tensor, grad_scores: torch.Tensor, rows: slice, queries: slice, keys: slice
) -> None:
    """Add the gradient of some scores to that of a bias, summed over the dimensions the bias lacks."""
    spans = (rows, slice(None), queries, keys)
    places = zip(spans, total.shape, strict=True)
    own = total[tuple(span if size > 1 else slice(None) for span, size in places)]
    own += grad_scores.sum_to_size(own.shape)
