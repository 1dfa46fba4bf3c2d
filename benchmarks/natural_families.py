"""Simulated families that are like natural ones, for whoever measures on them."""

from __future__ import annotations

from foldase_models.coevolution import FamilyConfig

NATURAL_LIKE = FamilyConfig(
    alphabet=20,
    length=60,
    longest=150,
    fold="layered",
    own_energies=True,
    contact_cutoff=8.0,
    min_separation=6,
    nearest_coupling=2,
    ancestors=300,
    descendants=2,
    ancestor_sweeps=6,
    descendant_sweeps=1,
    redrawn=0.5,
    coupling=0.3,
    coupling_spread=(0.0, 2.0),
    field=0.8,
    uneven=0.5,
    variety=0.7,
    stray=0.1,
    gaps=0.08,
)
"""Lengths, conservation and gaps differ from family to family, and so does what letters mean."""
