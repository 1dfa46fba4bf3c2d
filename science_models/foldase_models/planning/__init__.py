"""What a run will take, before it runs: configurations in, numbers out. No torch here."""

from __future__ import annotations

from foldase_models.planning.alphafold_training import AlphaFoldTrainee
from foldase_models.planning.compressed_training import check_exchanges
from foldase_models.planning.contacts import (
    ContactEstimate,
    estimate_prediction,
    parameter_count,
)
from foldase_models.planning.esmfold_training import EsmFoldTrainee
from foldase_models.planning.hardware import Hardware
from foldase_models.planning.inference import plan_inference
from foldase_models.planning.plan import InferencePlan, Plan
from foldase_models.planning.trainees import Part
from foldase_models.planning.training import DoesNotFit, plan_training
from foldase_models.planning.training_plan import TrainingPlan

__all__ = [
    "AlphaFoldTrainee",
    "ContactEstimate",
    "DoesNotFit",
    "EsmFoldTrainee",
    "Hardware",
    "InferencePlan",
    "Part",
    "Plan",
    "TrainingPlan",
    "check_exchanges",
    "estimate_prediction",
    "parameter_count",
    "plan_inference",
    "plan_training",
]
