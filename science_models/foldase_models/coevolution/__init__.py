"""Coevolution: simulated families, couplings, mutual information and priors of contacts."""

from foldase_models.coevolution.chains import contact_map, random_chain
from foldase_models.coevolution.families import (
    Family,
    FamilyConfig,
    iterate_families,
    shared_energy,
    simulate_families,
)

__all__ = [
    "Family",
    "FamilyConfig",
    "contact_map",
    "iterate_families",
    "random_chain",
    "shared_energy",
    "simulate_families",
]
