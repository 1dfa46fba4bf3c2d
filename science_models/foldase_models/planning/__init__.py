"""What a run will take, before it runs: configurations in, numbers out. No torch here."""

from __future__ import annotations

from foldase_models.planning.contacts import (
    ContactEstimate,
    estimate_prediction,
    estimate_training,
    parameter_count,
)

__all__ = ["ContactEstimate", "estimate_prediction", "estimate_training", "parameter_count"]
