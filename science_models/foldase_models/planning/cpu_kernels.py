"""What the kernels of the CPU hold beyond their arguments, after ``foldase_kernels/*/cpu*.py``.

Shapes: R rows, Q queries, K keys, H heads, C channels of a head or hidden ones, N residues, S sequences.
Constants have the names and values of the kernels' own; a test holds them together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foldase_models.planning.forms import WIDE, Forms, ceil_div
from foldase_models.planning.ledger import Ledger

SMALL_SCORES = 8 * 2**20
ATTENTION_TILE = 4 * 2**20
ATTENTION_QUERIES = 128
SMALL_HIDDEN = 4 * 2**20
TRANSITION_TILE = 2**20
TRIANGLE_SHARE = 4
TRIANGLE_SMALL = 4 * 2**20
TRIANGLE_PAIRS = 1024
TRIANGLE_BLOCKS = 4
SMALL_PRODUCTS_OUTER = 4 * 2**20
OUTER_TILE = 2 * 2**20

Bias = Literal["none", "direct", "summed"]
"""Of the terms that depend on query and key: none, one that is read where it lies, or a sum in tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One call: ``[rows, queries, heads, width]``, summed over leading dimensions as rows.

    ``mask`` is of keys, one for each row; ``ready`` says that heads need no copy to lie as matrices.
    """

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    gate: bool = True
    mask: bool = True
    bias: Bias = "direct"

    @property
    def out(self) -> int:
        """Numbers of the result."""
        return self.rows * self.queries * self.heads * self.width

    @property
    def scores(self) -> int:
        """Numbers of the scores."""
        return self.rows * self.heads * self.queries * self.keys


def attention(ledger: Ledger, forms: Forms, call: Attention) -> None:
    """``foldase_kernels.attention.cpu``; its result is the caller's to make."""
    if call.scores * WIDE <= forms.scaled(SMALL_SCORES):
        _attention_at_once(ledger, forms, call)
    else:
        _attention_in_tiles(ledger, forms, call)


def _attention_at_once(ledger: Ledger, forms: Forms, call: Attention) -> None:
    each = WIDE * call.rows * call.heads
    with ledger.frame():
        if (call.heads > 1 and call.rows > 1) or forms.item != WIDE:
            ledger.make(each * (call.queries + 2 * call.keys) * call.width)
        ledger.make(each * call.queries * call.keys)
        if call.mask:
            ledger.flash(call.rows * call.keys, WIDE * call.rows * call.keys)
        ledger.make(3 * each * call.queries)
        ledger.make(WIDE * call.out)
        if call.gate:
            ledger.flash(WIDE * call.out, 0 if forms.item == WIDE else WIDE * call.out)
        ledger.flash(forms.item * call.out)


def _attention_in_tiles(ledger: Ledger, forms: Forms, call: Attention) -> None:
    tile = max(1, forms.scaled(ATTENTION_TILE))
    row = call.heads * max(call.queries, call.keys) * (call.width + 1) * WIDE
    group = max(1, ceil_div(call.rows, max(1, ceil_div(call.rows * row, tile))))
    step = call.queries
    with ledger.frame():
        ledger.make(forms.item * call.out + WIDE * call.rows * call.heads * call.queries)
        if call.bias == "summed":
            step = min(call.queries, ATTENTION_QUERIES)
            ledger.make(WIDE * call.heads * step * call.keys)
        each = WIDE * group * call.heads
        if call.mask or forms.item != WIDE:
            ledger.make(each * (call.queries + 2 * call.keys) * (call.width + call.mask))
        ledger.make(each * step * (call.width + call.mask) + 2 * each * step)
        if call.gate:
            ledger.flash(each * step * call.width, 0 if forms.item == WIDE else each * step * call.width)


def transition(
    ledger: Ledger, forms: Forms, *, positions: int, width: int, hidden: int, gated: bool = False
) -> None:
    """``foldase_kernels.transition.cpu``, in place; the new x of the other form is the caller's to make."""
    with ledger.frame():
        if positions * max(hidden, width) * WIDE <= forms.scaled(SMALL_HIDDEN):
            _transition_at_once(ledger, forms, positions, width, hidden, gated)
            return
        rows = min(positions, max(1, forms.scaled(TRANSITION_TILE) // (max(hidden, width) * WIDE)))
        ledger.make(WIDE * rows * (2 * width + hidden * (4 if gated else 1)))
        ledger.make(WIDE * rows * (width + 2))
        if forms.item != WIDE:
            ledger.make(WIDE * width * hidden * (3 if gated else 2))


def _transition_at_once(
    ledger: Ledger, forms: Forms, positions: int, width: int, hidden: int, gated: bool
) -> None:
    x = WIDE * positions * width
    if forms.item != WIDE:
        ledger.make(WIDE * width * hidden * (3 if gated else 2))
    ledger.make(x)
    ledger.make(WIDE * positions * hidden)
    if gated:
        ledger.flash(2 * WIDE * positions * hidden)
    ledger.make(x)
    ledger.flash(x + WIDE * positions)


def _triangle_buffers(forms: Forms) -> int:
    return 2 if forms.item == WIDE else 3


def triangle_channels(forms: Forms, *, residues: int, hidden: int, buffers: int | None = None) -> int:
    """How many channels a triangle multiplication takes at once; for each group it reads z anew.

    ``buffers``: of a group; None means as many as a forward pass has.
    """
    channel = residues * residues * WIDE
    budget = max(forms.scaled(hidden * channel // TRIANGLE_SHARE), forms.scaled(TRIANGLE_SMALL))
    return min(hidden, max(1, budget // ((buffers or _triangle_buffers(forms)) * channel)))


def triangle_multiplication(ledger: Ledger, forms: Forms, *, residues: int, width: int, hidden: int) -> None:
    """``foldase_kernels.triangle_multiplication.cpu``, in place."""
    size, wide = residues, WIDE
    buffers, channel = _triangle_buffers(forms), size * size * wide
    channels = triangle_channels(forms, residues=residues, hidden=hidden)
    with ledger.frame():
        ledger.make(forms.item * hidden * size * size)
        pairs = size * min(size, max(1, forms.scaled(TRIANGLE_PAIRS) // size))
        ledger.make(2 * channel + buffers * channels * channel)
        ledger.make(wide * pairs * (4 * channels + TRIANGLE_BLOCKS * max(width, hidden)))
        ledger.make(wide * (5 * hidden + width + 6) * width)
        ledger.flash(wide * 4 * hidden * width)


def outer_product_mean(
    ledger: Ledger, forms: Forms, *, sequences: int, residues: int, hidden: int, channels: int, weighted: bool
) -> None:
    """``foldase_kernels.outer_product_mean.cpu``, added in place."""
    pairs = residues * residues
    with ledger.frame():
        if pairs * max(hidden**2, channels) * WIDE <= forms.scaled(SMALL_PRODUCTS_OUTER):
            _outer_at_once(ledger, sequences, residues, hidden, channels, weighted)
        elif _few_are_cheaper(forms, sequences, residues, hidden, channels):
            _outer_of_few(ledger, forms, sequences, residues, hidden, channels)
        else:
            _outer_in_tiles(ledger, forms, sequences, residues, hidden, channels, weighted)


def _outer_at_once(
    ledger: Ledger, sequences: int, residues: int, hidden: int, channels: int, weighted: bool
) -> None:
    pairs, factor = residues * residues, WIDE * sequences * residues * hidden
    if weighted:
        ledger.make(2 * factor + WIDE * (pairs + sequences * residues))
    with ledger.frame():
        ledger.make(WIDE * pairs * hidden**2)
        ledger.flash(WIDE * pairs * hidden**2)
        ledger.make(WIDE * pairs * channels)
        ledger.flash(WIDE * pairs * channels, WIDE * pairs)


def _few_are_cheaper(forms: Forms, sequences: int, residues: int, hidden: int, channels: int) -> bool:
    if sequences * hidden * max(channels, hidden) * WIDE > forms.scaled(OUTER_TILE):
        return False
    factor = sequences * hidden * channels
    return factor + factor * hidden / residues < hidden**2 * (sequences + channels)


def _outer_of_few(
    ledger: Ledger, forms: Forms, sequences: int, residues: int, hidden: int, channels: int
) -> None:
    inner, numbers = sequences * hidden, forms.scaled(OUTER_TILE) // WIDE
    rows = max(1, min(residues, numbers // (inner * channels)))
    columns = max(1, min(residues, numbers // max(inner, rows * channels)))
    ledger.make(WIDE * (rows + columns) * inner)
    ledger.make(WIDE * (rows * inner * channels + rows * columns * channels))
    ledger.make(WIDE * channels * hidden**2)


def _outer_in_tiles(
    ledger: Ledger,
    forms: Forms,
    sequences: int,
    residues: int,
    hidden: int,
    channels: int,
    weighted: bool,
) -> None:
    numbers = forms.scaled(OUTER_TILE) // WIDE
    most = max(1, numbers // max(hidden**2, channels))
    rows = min(residues, math.isqrt(most))
    columns = min(residues, max(1, most // rows))
    step = min(sequences, max(1, numbers // (columns * hidden)))
    size = rows * columns
    ledger.make(WIDE * size * (2 * hidden**2 + channels + weighted))
    if weighted or forms.item != WIDE:
        ledger.make(WIDE * step * hidden * (rows + columns))
    if weighted:
        ledger.flash(WIDE * step * (rows + 2 * columns))
    if forms.item != WIDE:
        ledger.make(WIDE * channels * hidden**2)
