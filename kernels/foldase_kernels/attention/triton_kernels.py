"""Triton kernels of biased attention: forward, and a backward pass whose programs never share an output.

An operand is a tuple: pointer, strides of the batch dimensions (rows, heads and all before them, innermost
first), then the strides of its own dimensions. So nothing is expanded, copied or transposed in memory, and a
tuple of such tuples holds any number of biases. ``FORMS`` says of each bias, and last of the mask, in what
it differs: 1 for queries, 2 for keys, 3 for both. Offsets are 64 bits wide.

Scores are kept in natural units and shifted before they are scaled to base 2: the difference is small where
it matters, so ``exp2`` costs no accuracy. A query without keys has the log-sum-exp -inf, which the backward
kernels read as +inf: every weight of such a row is then exactly 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
SCANNED: tl.constexpr = tl.constexpr(1024)


@triton.jit
def _place(batch: tl.tensor, sizes: tl.tuple, strides: tl.tuple) -> tl.tensor:
    """The offset of one flat batch index."""
    rest = batch
    offset = (batch * 0).to(tl.int64)
    for dim in tl.static_range(len(sizes)):
        offset += (rest % sizes[dim]).to(tl.int64) * strides[dim]
        rest = rest // sizes[dim]
    return offset


@triton.jit
def _product(left: tl.tensor, right: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """A matrix product summed in float32; ``WIDEN`` for the interpreter, which cannot multiply bfloat16."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _load_matrix(
    operand: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    cols: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """A tile ``[rows, cols]`` of q, k, v or a gradient; zeros outside."""
    start = operand[0] + _place(batch, sizes, operand[1])
    inside = (rows < height)[:, None] & (cols < width)[None, :]
    at = rows.to(tl.int64)[:, None] * operand[2] + cols.to(tl.int64)[None, :] * operand[3]
    return tl.load(start + at, mask=inside, other=0.0)


@triton.jit
def _store_matrix(
    operand: tl.tuple,
    value: tl.tensor,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    cols: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> None:
    start = operand[0] + _place(batch, sizes, operand[1])
    inside = (rows < height)[:, None] & (cols < width)[None, :]
    at = rows.to(tl.int64)[:, None] * operand[2] + cols.to(tl.int64)[None, :] * operand[3]
    tl.store(start + at, value.to(operand[0].dtype.element_ty), mask=inside)


@triton.jit
def _opened(
    gate: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    cols: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """The sigmoid of a tile of the gate, float32."""
    return tl.sigmoid(_load_matrix(gate, batch, sizes, rows, cols, height, width).to(tl.float32))


@triton.jit
def _load_column(
    operand: tl.tuple, batch: tl.tensor, sizes: tl.tuple, rows: tl.tensor, height: tl.tensor, other: tl.tensor
) -> tl.tensor:
    """One number per query: a log-sum-exp or delta."""
    start = operand[0] + _place(batch, sizes, operand[1])
    return tl.load(start + rows.to(tl.int64) * operand[2], mask=rows < height, other=other)


@triton.jit
def _load_term(
    operand: tl.tuple,
    FORM: tl.constexpr,
    batch: tl.tensor,
    sizes: tl.tuple,
    query: tl.tensor,
    key: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    other: tl.tensor,
) -> tl.tensor:
    """A bias or mask at ``query`` x ``key``, which broadcast to the tile; as small as it can be."""
    start = operand[0] + _place(batch, sizes, operand[1])
    if FORM == 0:
        value = tl.load(start)
    elif FORM == 1:
        value = tl.load(start + query.to(tl.int64) * operand[2], mask=query < queries, other=other)
    elif FORM == 2:
        value = tl.load(start + key.to(tl.int64) * operand[3], mask=key < keys, other=other)
    else:
        at = query.to(tl.int64) * operand[2] + key.to(tl.int64) * operand[3]
        value = tl.load(start + at, mask=(query < queries) & (key < keys), other=other)
    return value


@triton.jit
def _with_terms(
    scores: tl.tensor,
    batch: tl.tensor,
    sizes: tl.tuple,
    biases: tl.tuple,
    mask: tl.tuple,
    slopes: tl.tuple,
    query: tl.tensor,
    key: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    FORMS: tl.constexpr,
    CAUSAL: tl.constexpr,
) -> tl.tensor:
    """Add biases and ALiBi to a tile; -inf where a key is absent or forbidden.

    ``query`` and ``key`` are index tiles of size 1 in the other's dimension, so either may lie along rows.
    """
    for number in tl.static_range(len(biases)):
        bias = _load_term(biases[number], FORMS[number], batch, sizes, query, key, queries, keys, 0.0)
        scores += bias.to(tl.float32)
    ahead = key - (query + (keys - queries))
    if slopes is not None:
        slope = tl.load(slopes[0] + _place(batch, sizes, slopes[1])).to(tl.float32)
        scores -= slope * tl.abs(ahead).to(tl.float32)
    if CAUSAL:
        scores = tl.where(ahead > 0, float("-inf"), scores)
    if mask is not None:
        allowed = _load_term(mask, FORMS[len(biases)], batch, sizes, query, key, queries, keys, 0)
        scores = tl.where(allowed != 0, scores, float("-inf"))
    return tl.where(key < keys, scores, float("-inf"))


@triton.jit
def _key_range(
    mask: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    first: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    FORM: tl.constexpr,
    CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
) -> tl.tuple:
    """Where the tiles of keys begin and end that any of a tile of queries may see.

    ``FORM`` is that of the mask. If it differs between keys alone, as that of padding does, tiles before the
    first and behind the last key that it allows are left out; what they add is exactly 0.
    """
    begin = batch * 0
    stop = begin + keys
    if CAUSAL:
        stop = tl.minimum(stop, first + QUERIES + (keys - queries))
    if FORM == 2:
        start = mask[0] + _place(batch, sizes, mask[1])
        lowest = begin + keys
        highest = begin
        for chunk in range(0, keys, SCANNED):
            cols = chunk + tl.arange(0, SCANNED)
            allowed = tl.load(start + cols.to(tl.int64) * mask[3], mask=cols < keys, other=0) != 0
            lowest = tl.minimum(lowest, tl.min(tl.where(allowed, cols, keys), 0))
            highest = tl.maximum(highest, tl.max(tl.where(allowed, cols + 1, 0), 0))
        begin = lowest // KEYS * KEYS
        stop = tl.minimum(stop, highest)
    return begin, stop


@triton.jit
def forward(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    biases: tl.tuple,
    mask: tl.tuple,
    slopes: tl.tuple,
    gate: tl.tuple,
    out: tl.tuple,
    lse: tl.tuple,
    sizes: tl.tuple,
    scale: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    width: tl.tensor,
    FORMS: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One program: one tile of queries of one batch index, over all keys (FlashAttention-2, algorithm 1)."""
    tiles = tl.cdiv(queries, QUERIES)
    batch = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * QUERIES
    rows = first + tl.arange(0, QUERIES)
    channels = tl.arange(0, WIDTH)
    q_tile = _load_matrix(q, batch, sizes, rows, channels, queries, width)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, WIDTH], tl.float32)
    form: tl.constexpr = FORMS[len(biases)] if mask is not None else 0
    begin, stop = _key_range(mask, batch, sizes, first, queries, keys, form, CAUSAL, QUERIES, KEYS)
    for start in range(begin, stop, KEYS):
        cols = start + tl.arange(0, KEYS)
        k_tile = _load_matrix(k, batch, sizes, cols, channels, keys, width)
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
        higher = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        shrink = tl.exp2((top - shift) * LOG2E)
        weights = tl.exp2((scores - shift[:, None]) * LOG2E)
        total = total * shrink + tl.sum(weights, 1)
        v_tile = _load_matrix(v, batch, sizes, cols, channels, keys, width)
        sums = sums * shrink[:, None] + _product(weights.to(v_tile.dtype), v_tile, WIDEN)
        top = higher
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    result = sums / total[:, None]
    if gate is not None:
        result *= _opened(gate, batch, sizes, rows, channels, queries, width)
    _store_matrix(out, result, batch, sizes, rows, channels, queries, width)
    of_rows = tl.where(empty, float("-inf"), top + tl.log(total))
    place = lse[0] + _place(batch, sizes, lse[1])
    tl.store(place + rows.to(tl.int64) * lse[2], of_rows, mask=rows < queries)


@triton.jit
def prepare(
    out: tl.tuple,
    grad_out: tl.tuple,
    lse: tl.tuple,
    grad_lse: tl.tuple,
    gate: tl.tuple,
    delta: tl.tuple,
    ungated: tl.tuple,
    grad_gate: tl.tuple,
    sizes: tl.tuple,
    queries: tl.tensor,
    width: tl.tensor,
    QUERIES: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Delta: what is taken from each gradient of a weight, ``sum(grad_out * out) - grad_lse``.

    With a gate also its gradient and, in ``ungated``, that of the result before it.
    """
    tiles = tl.cdiv(queries, QUERIES)
    batch = tl.program_id(0) // tiles
    rows = (tl.program_id(0) % tiles) * QUERIES + tl.arange(0, QUERIES)
    channels = tl.arange(0, WIDTH)
    out_tile = _load_matrix(out, batch, sizes, rows, channels, queries, width).to(tl.float32)
    grad_tile = _load_matrix(grad_out, batch, sizes, rows, channels, queries, width).to(tl.float32)
    product = out_tile * grad_tile
    if gate is not None:
        opened = _opened(gate, batch, sizes, rows, channels, queries, width)
        _store_matrix(ungated, grad_tile * opened, batch, sizes, rows, channels, queries, width)
        of_gate = product * (1.0 - opened)
        _store_matrix(grad_gate, of_gate, batch, sizes, rows, channels, queries, width)
    value = tl.sum(product, 1)
    if grad_lse is not None:
        value -= _load_column(grad_lse, batch, sizes, rows, queries, 0.0).to(tl.float32)
    of_rows = _load_column(lse, batch, sizes, rows, queries, float("-inf"))
    value = tl.where(of_rows == float("-inf"), 0.0, value)
    place = delta[0] + _place(batch, sizes, delta[1])
    tl.store(place + rows.to(tl.int64) * delta[2], value, mask=rows < queries)


@triton.jit
def _load_lse(
    lse: tl.tuple, batch: tl.tensor, sizes: tl.tuple, rows: tl.tensor, queries: tl.tensor
) -> tl.tensor:
    """The log-sum-exp, +inf for queries that are absent or see no key."""
    of_rows = _load_column(lse, batch, sizes, rows, queries, float("-inf"))
    return tl.where(of_rows == float("-inf"), float("inf"), of_rows)


@triton.jit
def backward_keys(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    biases: tl.tuple,
    mask: tl.tuple,
    slopes: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    grad_out: tl.tuple,
    grad_k: tl.tuple,
    grad_v: tl.tuple,
    sizes: tl.tuple,
    scale: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    width: tl.tensor,
    FORMS: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One program: the gradients of one tile of keys and values, over all queries; either may be None.

    Tiles are ``[keys, queries]`` here, so that they enter the second products as they come out of the first.
    """
    tiles = tl.cdiv(keys, KEYS)
    batch = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * KEYS
    cols = first + tl.arange(0, KEYS)
    channels = tl.arange(0, WIDTH)
    k_tile = _load_matrix(k, batch, sizes, cols, channels, keys, width)
    v_tile = _load_matrix(v, batch, sizes, cols, channels, keys, width)
    sum_k = tl.zeros([KEYS, WIDTH], tl.float32)
    sum_v = tl.zeros([KEYS, WIDTH], tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.maximum(first - (keys - queries), 0) // QUERIES * QUERIES
    form: tl.constexpr = FORMS[len(biases)] if mask is not None else 0
    if form == 2:
        allowed = _load_term(mask, form, batch, sizes, cols, cols, queries, keys, 0)
        begin = tl.where(tl.max(allowed, 0) != 0, begin, queries)
    for start in range(begin, queries, QUERIES):
        rows = start + tl.arange(0, QUERIES)
        q_tile = _load_matrix(q, batch, sizes, rows, channels, queries, width)
        out_tile = _load_matrix(grad_out, batch, sizes, rows, channels, queries, width)
        scores = _product(k_tile, tl.trans(q_tile), WIDEN) * scale
        scores = _with_terms(
            scores,
            batch,
            sizes,
            biases,
            mask,
            slopes,
            rows[None, :],
            cols[:, None],
            queries,
            keys,
            FORMS,
            CAUSAL,
        )
        of_rows = _load_lse(lse, batch, sizes, rows, queries)
        weights = tl.exp2((scores - of_rows[None, :]) * LOG2E)
        if grad_v is not None:
            sum_v += _product(weights.to(out_tile.dtype), out_tile, WIDEN)
        if grad_k is not None:
            taken = _load_column(delta, batch, sizes, rows, queries, 0.0)
            grads = _product(v_tile, tl.trans(out_tile), WIDEN)
            grads = weights * (grads - taken[None, :])
            sum_k += _product(grads.to(q_tile.dtype), q_tile, WIDEN)
    if grad_k is not None:
        _store_matrix(grad_k, sum_k * scale, batch, sizes, cols, channels, keys, width)
    if grad_v is not None:
        _store_matrix(grad_v, sum_v, batch, sizes, cols, channels, keys, width)


@triton.jit
def backward_queries(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    biases: tl.tuple,
    mask: tl.tuple,
    slopes: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    grad_out: tl.tuple,
    grad_q: tl.tuple,
    sizes: tl.tuple,
    scale: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    width: tl.tensor,
    FORMS: tl.constexpr,
    CAUSAL: tl.constexpr,
    WIDEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One program: the gradient of one tile of queries, over all keys."""
    tiles = tl.cdiv(queries, QUERIES)
    batch = tl.program_id(0) // tiles
    first = (tl.program_id(0) % tiles) * QUERIES
    rows = first + tl.arange(0, QUERIES)
    channels = tl.arange(0, WIDTH)
    q_tile = _load_matrix(q, batch, sizes, rows, channels, queries, width)
    out_tile = _load_matrix(grad_out, batch, sizes, rows, channels, queries, width)
    of_rows = _load_lse(lse, batch, sizes, rows, queries)
    taken = _load_column(delta, batch, sizes, rows, queries, 0.0)
    sums = tl.zeros([QUERIES, WIDTH], tl.float32)
    form: tl.constexpr = FORMS[len(biases)] if mask is not None else 0
    begin, stop = _key_range(mask, batch, sizes, first, queries, keys, form, CAUSAL, QUERIES, KEYS)
    for start in range(begin, stop, KEYS):
        cols = start + tl.arange(0, KEYS)
        k_tile = _load_matrix(k, batch, sizes, cols, channels, keys, width)
        v_tile = _load_matrix(v, batch, sizes, cols, channels, keys, width)
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
        weights = tl.exp2((scores - of_rows[:, None]) * LOG2E)
        grads = _product(out_tile, tl.trans(v_tile), WIDEN)
        grads = weights * (grads - taken[:, None])
        sums += _product(grads.to(k_tile.dtype), k_tile, WIDEN)
    _store_matrix(grad_q, sums * scale, batch, sizes, rows, channels, queries, width)
