"""Coevolution: simulated families, couplings, mutual information and priors of contacts.

Names that need torch are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foldase_models.coevolution.chains import contact_map, random_chain
from foldase_models.coevolution.families import (
    Family,
    FamilyConfig,
    iterate_families,
    shared_energy,
    simulate_families,
)
from foldase_models.coevolution.mutual_information import mutual_information
from foldase_models.coevolution.scores import (
    SeparationPrior,
    average_product_correction,
    frobenius_scores,
    random_scores,
    weighted_scores,
)
from foldase_models.coevolution.weights import sequence_weights

if TYPE_CHECKING:
    from foldase_models.coevolution.couplings import CouplingScores, couple, probability_of_scores
    from foldase_models.coevolution.mean_field import mean_field_couplings
    from foldase_models.coevolution.pseudolikelihood import PseudolikelihoodFit, fit_pseudolikelihood

_WITH_TORCH = {
    "CouplingScores": "couplings",
    "PseudolikelihoodFit": "pseudolikelihood",
    "couple": "couplings",
    "fit_pseudolikelihood": "pseudolikelihood",
    "mean_field_couplings": "mean_field",
    "probability_of_scores": "couplings",
}

__all__ = [
    "CouplingScores",
    "Family",
    "FamilyConfig",
    "PseudolikelihoodFit",
    "SeparationPrior",
    "average_product_correction",
    "contact_map",
    "couple",
    "fit_pseudolikelihood",
    "frobenius_scores",
    "iterate_families",
    "mean_field_couplings",
    "mutual_information",
    "probability_of_scores",
    "random_chain",
    "random_scores",
    "sequence_weights",
    "shared_energy",
    "simulate_families",
    "weighted_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
