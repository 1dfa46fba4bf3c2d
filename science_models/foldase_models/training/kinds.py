"""Kinds of state; a key is ``kind/name``, for example ``exp_avg/trunk.blocks.0.attention.query.weight``.

Importable without torch.
"""

from __future__ import annotations

WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE, BUFFERS = (
    "weights",
    "exp_avg",
    "exp_avg_sq",
    "average",
    "buffers",
)
