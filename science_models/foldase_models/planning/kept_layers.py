"""What the shared layers keep for their backward pass and hold beside it, after ``foldase_models/layers``.

Everything counts numbers, not bytes; an index is two of them. Shapes: R rows of L positions, N residues, S
rows of an alignment, c channels, H heads of w channels, P pairs. A layer whose representation is small is one
group of rows, and keeps what autograd wants; a larger one keeps its arguments only, and computes a group of
rows at a time anew. Kernels of the CPU likewise, each with an idea of its own of small; those of a GPU never
keep more than their arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from foldase_models.layers.dims import EvoformerDims
from foldase_models.planning import cpu_kernels
from foldase_models.planning.cpu_kernels import (
    ATTENTION_QUERIES,
    ATTENTION_TILE,
    SMALL_HIDDEN,
    SMALL_PRODUCTS_OUTER,
    SMALL_SCORES,
    TRANSITION_TILE,
    TRIANGLE_PAIRS,
)
from foldase_models.planning.forms import WIDE, Forms, ceil_div
from foldase_models.planning.ledger import Ledger
from foldase_models.planning.stages import Stage
from foldase_models.planning.trainees import Device

SMALL_PRODUCTS = 2 * 2**20
"""``foldase_kernels.triangle_multiplication.cpu.SMALL_PRODUCTS``"""
BACKWARD_GROUPS, BACKWARD_BLOCKS = 4, 6
"""``foldase_kernels.triangle_multiplication.cpu_gradients``"""
MIXED = 3
"""Bytes of a number on a CPU in bfloat16, about: representations have two, norms and kernels' copies four."""


class Work(NamedTuple):
    """Of some rows: what autograd keeps of them beyond the argument, and what lies beside it at most.

    ``forward`` has the result in it, ``backward`` all gradients but that of the result.
    """

    kept: float
    forward: float
    backward: float


def mixed_item(item: int, device: Device) -> int:
    """Bytes that a number of a representation counts with, where numbers have ``item`` bytes."""
    return MIXED if device == "cpu" and item < WIDE else item


class KeptLayers:
    """Stages of layers on one kind of device.

    Attributes:
        device: what computes.
        item: bytes of a number of a representation.
        forms: in which layers run.
    """

    def __init__(self, device: Device, item: int = WIDE) -> None:
        self.device, self.item, self.forms = device, item, Forms()

    def small(self, numbers: float, limit: int) -> bool:
        """Whether a kernel keeps what autograd wants."""
        return self.device == "cpu" and WIDE * numbers <= self.forms.scaled(limit)

    def by_rows(
        self, rows: int, row: int, result: int, of_rows: Callable[[int], Work], *, argument: bool = True
    ) -> Stage:
        """``layers.row_groups.by_rows`` on ``rows`` rows of ``row`` numbers; ``result`` of a row.

        ``argument``: whether it counts here, and not with another stage that keeps it too.
        """
        taken = self.forms.rows(rows, self.item * row)
        work, own = of_rows(taken), rows * row if argument else 0
        if taken == rows:
            return Stage(kept=own + work.kept, forward=work.forward, backward=work.backward + rows * result)
        return Stage(
            kept=own,
            forward=rows * result + work.kept + work.forward,
            backward=rows * (row + result) + work.kept + taken * result + work.backward,
        )

    def attention(
        self,
        rows: int,
        positions: int,
        width: int,
        heads: int,
        head_width: int,
        *,
        bias: bool = False,
        dropped: bool = False,
    ) -> Stage:
        """``attend_within_rows``, gated; ``dropped`` where a factor is on the update."""
        inner = heads * head_width

        def of_rows(taken: int) -> Work:
            count = taken * positions
            call = cpu_kernels.Attention(
                rows=taken, heads=heads, queries=positions, keys=positions, width=head_width, mask=False
            )
            kernel = self.attention_kernel(call, has_tile=bias)
            return Work(
                kept=count * (width + 2) + kernel.kept,
                forward=max(kernel.forward, (2 + dropped) * count * width),
                backward=max(
                    count * inner + kernel.backward + (3 * heads * positions**2 if bias else 0),
                    3 * count * width,
                ),
            )

        return self.by_rows(rows, positions * width, positions * width, of_rows)

    def attention_kernel(self, call: cpu_kernels.Attention, *, has_tile: bool = False) -> Work:
        """``evoformer_attention``: projections, gate and result count as kept.

        ``has_tile``: terms of queries and keys are summed in a tile where scores are not there at once.
        """
        queries = call.rows * call.heads * call.queries * call.width
        keys = call.rows * call.heads * call.keys * call.width
        gates = queries if call.gate else 0
        kept = 2 * queries + 2 * keys + gates + call.rows * call.heads * call.queries
        gradients = queries + 2 * keys + gates
        if self.device == "gpu":
            return Work(kept, 0, gradients)
        if self.small(call.scores, SMALL_SCORES):
            copied = queries + 2 * keys if call.heads > 1 and call.rows > 1 else 0
            packed = queries + 2 * keys if call.heads > 1 else 0
            forward = call.scores + copied + gates + 3 * call.rows * call.heads * call.queries
            # Heads as matrices, their gradients, those once more in order, and what is taken on the way.
            backward = queries + 2 * keys + copied + packed + (queries if copied else 0) + queries + 3 * gates
            return Work(kept, forward, 2 * call.scores + backward)
        step = min(call.queries, ATTENTION_QUERIES)
        tile = self.forms.scaled(ATTENTION_TILE)
        taken = ceil_div(call.rows, ceil_div(call.rows * call.heads * step * call.keys * WIDE, tile))
        long = 2 * call.queries + 4 * call.keys
        scratch = long * call.width + 3 * call.queries + 6 * call.keys + step * (call.width + 2)
        scratch += 2 * step * call.keys + (2 * call.queries * call.width if call.gate else 0)
        ledger = Ledger()
        cpu_kernels.attention(ledger, self.forms, call)
        added = call.heads * step * call.keys if has_tile else 0
        return Work(kept, ledger.peak / WIDE - queries, gradients + taken * call.heads * scratch + added)

    def pair_bias(self, residues: int, width: int, heads: int, *, own: bool) -> Stage:
        """``pair_bias``; ``own``: pairs are no argument of the attention that it is for.

        Gradients of pairs that wait for its own count here.
        """
        pairs = residues * residues

        def of_rows(taken: int) -> Work:
            count = taken * residues
            return Work(count * (width + 2), count * heads, 2 * count * width)

        stage = self.by_rows(residues, residues * width, residues * heads, of_rows, argument=own)
        waiting = pairs * width
        return Stage(
            kept=stage.kept + pairs * heads, forward=stage.forward, backward=stage.backward + waiting
        )

    def transition(self, positions: int, width: int, hidden: int) -> Stage:
        """``Transition``, with the residual."""
        argument = positions * width
        if self.small(positions * max(hidden, width), SMALL_HIDDEN):
            kept = argument + positions * (width + 2 + hidden)
            return Stage(kept=kept, forward=2 * argument, backward=argument + 4 * positions * hidden)
        if self.device == "gpu":
            return Stage(kept=argument, forward=argument, backward=2 * argument)
        taken = max(1, self.forms.scaled(TRANSITION_TILE) // (max(hidden, width) * WIDE))
        taken = min(positions, taken)
        forward = argument + taken * (3 * width + hidden + 2)
        return Stage(
            kept=argument, forward=forward, backward=2 * argument + taken * (6 * width + 2 * hidden + 2)
        )

    def triangle_multiplication(
        self, residues: int, width: int, hidden: int, *, dropped: bool = False
    ) -> Stage:
        """``TriangleMultiplication``, either direction, with the residual; ``dropped`` by dropout."""
        pairs = residues * residues
        argument = pairs * width
        if self.small(pairs * hidden, SMALL_PRODUCTS):
            kept = argument + pairs * (3 * width + 8 * hidden + 4)
            # The residual's gradient, what dropout leaves of it, and both factors' of the gate.
            backward = (1 + dropped) * argument + 2 * pairs * max(width, hidden)
            return Stage(kept=kept, forward=2 * argument, backward=backward)
        if self.device == "gpu":
            return Stage(kept=argument, forward=argument, backward=2 * argument + pairs * hidden)
        ledger = Ledger()
        cpu_kernels.triangle_multiplication(ledger, self.forms, residues=residues, width=width, hidden=hidden)
        block = residues * min(residues, max(1, self.forms.scaled(TRIANGLE_PAIRS) // residues))
        channels = cpu_kernels.triangle_channels(
            self.forms, residues=residues, hidden=hidden, buffers=BACKWARD_GROUPS
        )
        scratch = pairs * (2 + hidden + BACKWARD_GROUPS * channels)
        scratch += block * (4 * channels + BACKWARD_BLOCKS * max(width, hidden))
        return Stage(kept=argument, forward=argument + ledger.peak / WIDE, backward=2 * argument + scratch)

    def outer_product(
        self, sequences: int, residues: int, width: int, hidden: int, channels: int
    ) -> tuple[Stage, Stage]:
        """``OuterProductMean`` and what it is added to; its alignment counts with what comes next."""
        pairs, letters = residues * residues, sequences * residues

        def of_rows(taken: int) -> Work:
            count = taken * residues
            return Work(count * (width + 2), count * hidden, 2 * count * width)

        factor = self.by_rows(sequences, residues * width, residues * hidden, of_rows, argument=False)
        # The other factor's share of the alignment's gradient, and that of the alignment behind, wait.
        factors = Stage(
            kept=2 * (factor.kept + letters * hidden),
            forward=factor.forward,
            backward=factor.backward + letters * (hidden + 2 * width),
        )
        if self.small(pairs * max(hidden**2, channels), SMALL_PRODUCTS_OUTER):
            products = pairs * hidden**2
            return factors, Stage(
                kept=products,
                forward=2 * pairs * max(channels, hidden**2),
                backward=pairs * (channels + max(channels, hidden**2)) + products,
            )
        ledger = Ledger()
        if self.device == "cpu":
            cpu_kernels.outer_product_mean(
                ledger,
                self.forms,
                sequences=sequences,
                residues=residues,
                hidden=hidden,
                channels=channels,
                weighted=False,
            )
        scratch = ledger.peak / WIDE
        return factors, Stage(
            forward=2 * pairs * channels + scratch,
            backward=pairs * channels + 2 * letters * hidden + 2 * scratch,
        )

    def triangles(self, dims: EvoformerDims, residues: int, *, dropped: bool) -> tuple[Stage, ...]:
        """Both multiplications, then both attentions, each after its bias."""
        multiplication = self.triangle_multiplication(residues, dims.c_z, dims.c_hidden_mul, dropped=dropped)
        return (multiplication, multiplication, *self.triangle_attentions(dims, residues, dropped=dropped))

    def triangle_attentions(self, dims: EvoformerDims, residues: int, *, dropped: bool) -> tuple[Stage, ...]:
        """Both of them, each after its bias."""
        attention = self.attention(
            residues,
            residues,
            dims.c_z,
            dims.no_heads_pair,
            dims.c_hidden_pair_att,
            bias=True,
            dropped=dropped,
        )
        return 2 * (self.pair_bias(residues, dims.c_z, dims.no_heads_pair, own=False), attention)
