"""How good a prediction is: contacts, distances, superpositions, and how sure one can be of a mean."""

from foldase_models.metrics.contacts import contact_precision, precision_at
from foldase_models.metrics.lddt import LDDT_CUTOFF, LDDT_THRESHOLDS, Lddt, lddt
from foldase_models.metrics.resampling import Interval, bootstrap_margin, bootstrap_mean, pearson, spearman
from foldase_models.metrics.superposition import (
    Superposition,
    mirror_rmsd,
    rmsd,
    superpose,
)
from foldase_models.metrics.template_score import gdt, tm_score

__all__ = [
    "LDDT_CUTOFF",
    "LDDT_THRESHOLDS",
    "Interval",
    "Lddt",
    "Superposition",
    "bootstrap_margin",
    "bootstrap_mean",
    "contact_precision",
    "gdt",
    "lddt",
    "mirror_rmsd",
    "pearson",
    "precision_at",
    "rmsd",
    "spearman",
    "superpose",
    "tm_score",
]
