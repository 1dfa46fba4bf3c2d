"""What the Triton kernels hold beyond their arguments, after ``foldase_kernels/*/triton.py``.

The calls and the legend are those of :mod:`foldase_models.planning.cpu_kernels`. Tiles live in registers.
"""
# ruff: noqa: ARG001 - the signatures of the other backend

from __future__ import annotations

from foldase_models.planning.cpu_kernels import Attention
from foldase_models.planning.forms import WIDE, Forms, ceil_div
from foldase_models.planning.ledger import Ledger

TRIANGLE_SHARE = 4
LEAST_CHANNELS = 32
WIDEST_OF_FLOAT32, WIDEST_OF_HALF = 256, 512


def attention(ledger: Ledger, forms: Forms, call: Attention) -> None:
    """Result and log-sum-exp."""
    ledger.flash(forms.item * call.out, WIDE * call.rows * call.heads * call.queries)


def transition(
    ledger: Ledger, forms: Forms, *, positions: int, width: int, hidden: int, gated: bool = False
) -> None:
    """In place, nothing; layers too wide for the kernel run in plain torch, their hidden layer whole."""
    if width > (WIDEST_OF_FLOAT32 if forms.item == WIDE else WIDEST_OF_HALF):
        ledger.flash(WIDE * positions * (2 * width + (3 if gated else 1) * hidden))


def triangle_multiplication(ledger: Ledger, forms: Forms, *, residues: int, width: int, hidden: int) -> None:
    """Products and two groups of channels, and folded parameters."""
    pairs = residues * residues
    kept = 4 if forms.item == WIDE else forms.item
    group = min(hidden, ceil_div(ceil_div(hidden, TRIANGLE_SHARE), LEAST_CHANNELS) * LEAST_CHANNELS)
    parameters = (5 * hidden + width + 8) * (width + 8)
    ledger.flash(kept * hidden * pairs, 2 * kept * group * pairs, 16 * parameters)


def outer_product_mean(
    ledger: Ledger, forms: Forms, *, sequences: int, residues: int, hidden: int, channels: int, weighted: bool
) -> None:
    """A number a pair where positions are weighted."""
    ledger.flash(WIDE * residues * residues * weighted)
