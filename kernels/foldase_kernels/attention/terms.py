"""What is added to the scores of one leading index, sorted by what it costs to hold.

A term that does not depend on the query is carried by an extra column of q and k, so it never becomes a
``[queries, keys]`` matrix. The others are summed into one tile at a time, unless a single bias can be read
where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foldase_kernels.attention.reference import position_offsets

NEVER = -1e30
"""Stands for -inf in sums that must stay finite; no score comes near it."""


def _depends(view: torch.Tensor, dim: int) -> bool:
    return view.shape[dim] > 1 and view.stride(dim) != 0


@dataclass(frozen=True, slots=True)
class Terms:
    """Biases and masks of one leading index, each an expanded view ``[rows, heads, queries, keys]``."""

    column_biases: tuple[torch.Tensor, ...]
    column_masks: tuple[torch.Tensor, ...]
    tile_biases: tuple[torch.Tensor, ...]
    tile_masks: tuple[torch.Tensor, ...]
    causal: bool
    slopes: torch.Tensor | None
    shift: int
    """Keys minus queries: the last query stands at the last key."""

    @classmethod
    def sort(
        cls,
        biases: Sequence[torch.Tensor],
        mask: torch.Tensor | None,
        causal: bool,
        slopes: torch.Tensor | None,
        shift: int,
    ) -> Terms:
        """Sort expanded views into columns and tiles."""
        masks = () if mask is None else (mask,)
        return cls(
            tuple(bias for bias in biases if not _depends(bias, 2)),
            tuple(view for view in masks if not _depends(view, 2)),
            tuple(bias for bias in biases if _depends(bias, 2)),
            tuple(view for view in masks if _depends(view, 2)),
            causal,
            slopes,
            shift,
        )

    @property
    def has_column(self) -> bool:
        """Whether q and k need the extra column."""
        return bool(self.column_biases or self.column_masks)

    @property
    def has_tile(self) -> bool:
        """Whether anything depends on query and key."""
        return bool(self.tile_biases or self.tile_masks or self.causal or self.slopes is not None)

    @property
    def tile_by_row(self) -> bool:
        """Whether the tile differs between rows."""
        return any(_depends(view, 0) for view in (*self.tile_biases, *self.tile_masks))

    @property
    def tile_by_head(self) -> bool:
        """Whether the tile differs between heads."""
        views = (*self.tile_biases, *self.tile_masks)
        return self.slopes is not None or any(_depends(view, 1) for view in views)

    def keys_seen(self, last_query: int, keys: int) -> int:
        """How many leading keys the queries before ``last_query`` may see."""
        return max(0, min(keys, last_query + self.shift)) if self.causal else keys

    def fill_column(self, column: torch.Tensor, rows: slice) -> None:
        """Write the query-independent terms of some rows into ``column`` ``[rows, heads, keys]``."""
        column.zero_()
        for bias in self.column_biases:
            column += bias[rows, :, 0]
        column.clamp_(min=NEVER)
        for mask in self.column_masks:
            column.masked_fill_(~mask[rows, :, 0], NEVER)

    def direct(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The single bias that can stand for the tile without a copy, if there is one."""
        if self.tile_masks or self.causal or self.slopes is not None or len(self.tile_biases) != 1:
            return None
        bias = self.tile_biases[0]
        return bias if bias.dtype == dtype and bias.stride(3) == 1 else None

    def fill_tile(self, tile: torch.Tensor, rows: slice, queries: slice) -> None:
        """Write the sum of the query-dependent terms into a tile.

        ``tile`` is ``[rows or 1, heads or 1, queries, keys]`` and covers the leading keys; sizes 1 stand
        for terms that do not differ there.
        """
        keys = slice(0, tile.shape[3])
        rows = rows if tile.shape[0] > 1 else slice(rows.start, rows.start + 1)
        heads = slice(0, tile.shape[1])
        tile.zero_()
        for bias in self.tile_biases:
            tile += bias[rows, heads, queries, keys]
        tile.clamp_(min=NEVER)
        for mask in self.tile_masks:
            tile.masked_fill_(~mask[rows, heads, queries, keys], NEVER)
        if self.causal or self.slopes is not None:
            count = tile.shape[2]
            offsets = position_offsets(count, keys.stop, tile.device)
            offsets += keys.stop - count - queries.start - self.shift
            if self.slopes is not None:
                tile -= self.slopes.to(tile.dtype)[:, None, None] * offsets.abs()
            if self.causal:
                tile.masked_fill_(offsets > 0, NEVER)
