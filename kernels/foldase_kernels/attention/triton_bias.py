"""The Triton kernel for the gradient of one bias: each program owns a tile of the bias's own shape."""

from __future__ import annotations

import triton
import triton.language as tl

from foldase_kernels.attention.triton_kernels import (
    LOG2E,
    _load_column,
    _load_lse,
    _load_matrix,
    _place,
    _product,
    _with_terms,
)


@triton.jit
def _store_bias(
    grad: tl.tuple,
    FORM: tl.constexpr,
    sums: tl.tensor,
    start: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
) -> None:
    """Reduce a tile over what the bias does not differ in, and write it."""
    out_type = grad[0].dtype.element_ty
    if FORM == 0:
        tl.store(start, tl.sum(tl.sum(sums, 1), 0).to(out_type))
    elif FORM == 1:
        at = start + rows.to(tl.int64) * grad[2]
        tl.store(at, tl.sum(sums, 1).to(out_type), mask=rows < queries)
    elif FORM == 2:
        at = start + cols.to(tl.int64) * grad[3]
        tl.store(at, tl.sum(sums, 0).to(out_type), mask=cols < keys)
    else:
        at = start + rows.to(tl.int64)[:, None] * grad[2] + cols.to(tl.int64)[None, :] * grad[3]
        inside = (rows < queries)[:, None] & (cols < keys)[None, :]
        tl.store(at, sums.to(out_type), mask=inside)


@triton.jit
def backward_bias(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    biases: tl.tuple,
    mask: tl.tuple,
    slopes: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    grad_out: tl.tuple,
    grad: tl.tuple,
    sizes: tl.tuple,
    scale: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    width: tl.tensor,
    repeats: tl.tensor,
    query_tiles: tl.tensor,
    key_tiles: tl.tensor,
    query_steps: tl.tensor,
    key_steps: tl.tensor,
    group_steps: tl.tensor,
    FORM: tl.constexpr,
    FORMS: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One program: one tile of the bias, over everything it is broadcast over, in fixed order.

    The ``repeats`` batch indices that share the bias come innermost in ``sizes``. Of ``query_tiles`` and
    ``query_steps`` one is 1: a bias that differs between queries is owned by tile, another is summed over
    all of them (keys alike). The second grid dimension cuts the sum into groups of ``group_steps`` with a
    result each, along the last stride of ``grad``, whose ``FORM`` is like those of ``FORMS``.
    """
    tile = tl.program_id(0) % (query_tiles * key_tiles)
    own = tl.program_id(0) // (query_tiles * key_tiles) * repeats
    group = tl.program_id(1)
    channels = tl.arange(0, WIDTH)
    sums = tl.zeros([QUERIES, KEYS], tl.float32)
    begin = group * group_steps
    end = tl.minimum(begin + group_steps, repeats * query_steps * key_steps)
    for step in range(begin, end):
        batch = own + step // (query_steps * key_steps)
        rows = (tile // key_tiles + step // key_steps % query_steps) * QUERIES + tl.arange(0, QUERIES)
        cols = (tile % key_tiles + step % key_steps) * KEYS + tl.arange(0, KEYS)
        q_tile = _load_matrix(q, batch, sizes, rows, channels, queries, width)
        k_tile = _load_matrix(k, batch, sizes, cols, channels, keys, width)
        v_tile = _load_matrix(v, batch, sizes, cols, channels, keys, width)
        out_tile = _load_matrix(grad_out, batch, sizes, rows, channels, queries, width)
        scores = _product(q_tile, tl.trans(k_tile), WIDEN) * scale
        scores = _with_terms(
            scores,
            batch,
            sizes,
            biases,
            mask,
            slopes,
            rows[:, None],
            cols[None, :],
            queries,
            keys,
            FORMS,
            CAUSAL,
        )
        of_rows = _load_lse(lse, batch, sizes, rows, queries)
        taken = _load_column(delta, batch, sizes, rows, queries, 0.0)
        weights = tl.exp2((scores - of_rows[:, None]) * LOG2E)
        grads = _product(out_tile, tl.trans(v_tile), WIDEN)
        sums += weights * (grads - taken[:, None])
    start = grad[0] + _place(own, sizes, grad[1]) + group.to(tl.int64) * grad[4]
    rows = tile // key_tiles * QUERIES + tl.arange(0, QUERIES)
    cols = tile % key_tiles * KEYS + tl.arange(0, KEYS)
    _store_bias(grad, FORM, sums, start, rows, cols, queries, keys)
