"""In which of their forms layers and kernels run: what decides how much lies between their results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

GROUP = 2**20
"""``layers.row_groups.GROUP``: bytes of a group of rows where a plan says nothing else."""
SMALL = 4 * 2**20
"""``layers.row_groups.SMALL``"""
WIDE = 4
"""Bytes of a number in sums and scores."""
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number by dtype."""

Kernels = Literal["cpu", "triton"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """What the options of a forward pass mean to a layer.

    Attributes:
        item: bytes of a number of weights and representations.
        group_bytes: as in ``ForwardOptions``.
        kernels: which backend of the kernels runs.
        masked: whether masks are given.
        waiting: weights of blocks are there while a block runs, and are the ledger's to count.
    """

    item: int = WIDE
    group_bytes: int = GROUP
    kernels: Kernels = "cpu"
    masked: bool = True
    waiting: bool = False

    def scaled(self, size: int) -> int:
        """As ``foldase_kernels.scratch.scaled`` within ``working_set(group_bytes)``."""
        return size if self.group_bytes == GROUP else int(size * (self.group_bytes / GROUP))

    def rows(self, rows: int, row_bytes: int) -> int:
        """How many rows ``layers.row_groups`` takes at once where each has ``row_bytes`` bytes."""
        if rows * row_bytes <= self.scaled(SMALL):
            return rows
        return max(1, min(rows, self.scaled(GROUP) // row_bytes))


def ceil_div(number: int, step: int) -> int:
    """Rounded up."""
    return math.ceil(number / step)
