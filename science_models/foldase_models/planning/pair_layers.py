"""What the shared layers hold beyond their arguments, after ``foldase_models/layers``, in place.

Shapes: N residues, S sequences, R rows of P positions, c channels, H heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from foldase_models.layers.dims import EvoformerDims
from foldase_models.planning import cpu_kernels, gpu_kernels
from foldase_models.planning.cpu_kernels import Attention, Bias
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.ledger import Ledger

KERNELS: dict[str, ModuleType] = {"cpu": cpu_kernels, "triton": gpu_kernels}
"""By the name of a backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAttention:
    """Of rows: ``[rows, positions, width]`` in ``heads`` heads of ``head_width``."""

    rows: int
    positions: int
    width: int
    heads: int
    head_width: int
    gate: bool = True
    mask: bool = True
    bias: Bias = "none"


def by_rows(
    ledger: Ledger, forms: Forms, *, rows: int, row_bytes: int, out_bytes: int, compute: Callable[[int], None]
) -> None:
    """``by_rows``: ``compute`` replays a number of rows, its result included; ``out_bytes`` of a row.

    The whole result counts, and is the caller's to make again if it stays.
    """
    taken = forms.rows(rows, row_bytes)
    with ledger.frame():
        if taken < rows:
            ledger.make(out_bytes * rows)
            ledger.make(out_bytes * taken)
        compute(taken)


def attend_within_rows(ledger: Ledger, forms: Forms, call: SelfAttention) -> None:
    """``attend_within_rows`` in place."""
    taken = forms.rows(call.rows, call.positions * call.width * forms.item)
    position = forms.item * taken * call.positions
    inner = call.heads * call.head_width
    with ledger.frame():
        ledger.make(position * call.width)
        ledger.flash(2 * WIDE * taken * call.positions)
        with ledger.frame():
            projections = 4 if call.gate else 3
            ledger.make(projections * position * inner)
            KERNELS[forms.kernels].attention(
                ledger,
                forms,
                Attention(
                    rows=taken,
                    heads=call.heads,
                    queries=call.positions,
                    keys=call.positions,
                    width=call.head_width,
                    gate=call.gate,
                    mask=call.mask,
                    bias=call.bias,
                ),
            )
        ledger.flash(position * inner, position * call.width)
        ledger.flash(2 * position * call.width)


def pair_bias(ledger: Ledger, forms: Forms, *, residues: int, width: int, heads: int) -> Bias:
    """``pair_bias``, which the frame around it then holds; how attention will read it."""
    row = forms.item * residues

    def compute(rows: int) -> None:
        ledger.make(rows * row * (width + heads))
        ledger.flash(2 * WIDE * rows * residues)

    by_rows(ledger, forms, rows=residues, row_bytes=row * width, out_bytes=row * heads, compute=compute)
    ledger.make(row * residues * heads)
    lies_ready = forms.item == WIDE and forms.rows(residues, row * width) < residues
    return "direct" if lies_ready or forms.kernels != "cpu" else "summed"


def triangle_attention(
    ledger: Ledger, forms: Forms, *, residues: int, width: int, heads: int, head_width: int
) -> None:
    """``TriangleAttention``, either node."""
    with ledger.frame():
        bias = pair_bias(ledger, forms, residues=residues, width=width, heads=heads)
        call = SelfAttention(
            rows=residues,
            positions=residues,
            width=width,
            heads=heads,
            head_width=head_width,
            mask=forms.masked,
            bias=bias,
        )
        attend_within_rows(ledger, forms, call)


def triangle_multiplication(ledger: Ledger, forms: Forms, *, residues: int, width: int, hidden: int) -> None:
    """``TriangleMultiplication``, either direction."""
    KERNELS[forms.kernels].triangle_multiplication(
        ledger, forms, residues=residues, width=width, hidden=hidden
    )


def transition(ledger: Ledger, forms: Forms, *, positions: int, width: int, hidden: int) -> None:
    """``Transition``."""
    KERNELS[forms.kernels].transition(ledger, forms, positions=positions, width=width, hidden=hidden)


def outer_product_mean(
    ledger: Ledger,
    forms: Forms,
    *,
    sequences: int,
    residues: int,
    width: int,
    hidden: int,
    channels: int,
    weighted: bool,
) -> None:
    """``OuterProductMean``: both factors lie whole, the normed alignment does not."""
    position, row = forms.item * residues, forms.item * residues * width

    def project(rows: int) -> None:
        ledger.make(rows * (row + position * hidden))
        ledger.flash(2 * WIDE * rows * residues)

    with ledger.frame():
        for _ in range(2):
            by_rows(
                ledger, forms, rows=sequences, row_bytes=row, out_bytes=position * hidden, compute=project
            )
            ledger.make(position * hidden * sequences)
        KERNELS[forms.kernels].outer_product_mean(
            ledger,
            forms,
            sequences=sequences,
            residues=residues,
            hidden=hidden,
            channels=channels,
            weighted=weighted,
        )


def msa_row_attention(ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, mask: bool) -> None:
    """``MSARowAttentionWithPairBias``."""
    with ledger.frame("attention along rows of the alignment"):
        bias = pair_bias(ledger, forms, residues=N, width=dims.c_z, heads=dims.no_heads_msa)
        call = SelfAttention(
            rows=S,
            positions=N,
            width=dims.c_m,
            heads=dims.no_heads_msa,
            head_width=dims.c_hidden_msa_att,
            mask=mask,
            bias=bias,
        )
        attend_within_rows(ledger, forms, call)


def msa_column_attention(
    ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, mask: bool
) -> None:
    """``MSAColumnAttention``."""
    with ledger.frame("attention along columns of the alignment"):
        call = SelfAttention(
            rows=N,
            positions=S,
            width=dims.c_m,
            heads=dims.no_heads_msa,
            head_width=dims.c_hidden_msa_att,
            mask=mask,
        )
        attend_within_rows(ledger, forms, call)


def global_column_attention(
    ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, mask: bool
) -> None:
    """``MSAColumnGlobalAttention``: one query a head, keys and values of one head."""
    heads, width = dims.no_heads_msa, dims.c_hidden_msa_att
    taken = forms.rows(N, S * dims.c_m * forms.item)
    letters = forms.item * taken * S
    with ledger.frame("attention along columns of the alignment"):
        ledger.make(letters * dims.c_m)
        with ledger.frame():
            if mask:
                ledger.make(letters)
                ledger.flash(letters * dims.c_m)
            ledger.make(forms.item * taken * (dims.c_m + heads * width))
            with ledger.frame():
                ledger.make(2 * letters * width)
                call = Attention(
                    rows=taken,
                    heads=1,
                    queries=heads,
                    keys=S,
                    width=width,
                    gate=False,
                    mask=mask,
                    bias="none",
                )
                KERNELS[forms.kernels].attention(ledger, forms, call)
            ledger.make(2 * letters * heads * width)
            ledger.flash(letters * heads * width)
            ledger.flash(letters * dims.c_m)
        ledger.flash(2 * letters * dims.c_m)


def pair_stack(ledger: Ledger, forms: Forms, dims: EvoformerDims, N: int) -> None:
    """``PairStack``."""
    with ledger.frame("triangle multiplication"):
        triangle_multiplication(ledger, forms, residues=N, width=dims.c_z, hidden=dims.c_hidden_mul)
    with ledger.frame("triangle attention"):
        triangle_attention(
            ledger,
            forms,
            residues=N,
            width=dims.c_z,
            heads=dims.no_heads_pair,
            head_width=dims.c_hidden_pair_att,
        )
    with ledger.frame("transition of pairs"):
        transition(ledger, forms, positions=N * N, width=dims.c_z, hidden=dims.transition_n * dims.c_z)


def evoformer_block(
    ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, *, msa_masked: bool
) -> None:
    """``EvoformerBlock`` in place; ``forms.masked`` is of pairs."""
    msa_row_attention(ledger, forms, dims, S, N, msa_masked)
    msa_column_attention(ledger, forms, dims, S, N, msa_masked)
    _after_attention(ledger, forms, dims, S, N, msa_masked)


def extra_msa_block(
    ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, *, msa_masked: bool
) -> None:
    """``ExtraMSABlock`` in place."""
    msa_row_attention(ledger, forms, dims, S, N, msa_masked)
    global_column_attention(ledger, forms, dims, S, N, msa_masked)
    _after_attention(ledger, forms, dims, S, N, msa_masked)


def _after_attention(
    ledger: Ledger, forms: Forms, dims: EvoformerDims, S: int, N: int, msa_masked: bool
) -> None:
    with ledger.frame("transition of the alignment"):
        transition(ledger, forms, positions=S * N, width=dims.c_m, hidden=dims.transition_n * dims.c_m)
    with ledger.frame("outer product mean"):
        outer_product_mean(
            ledger,
            forms,
            sequences=S,
            residues=N,
            width=dims.c_m,
            hidden=dims.c_hidden_opm,
            channels=dims.c_z,
            weighted=msa_masked,
        )
    pair_stack(ledger, forms, dims, N)
