"""How good a prediction is: contacts, distances, superpositions, geometry, texts, and how sure a mean is."""

from foldase_models.metrics.all_atoms import AllAtoms, atom_rmsd, lddt_all_atoms, with_better_names
from foldase_models.metrics.clashes import Clashes, clashes
from foldase_models.metrics.comparison import compare_structures, laid_over
from foldase_models.metrics.contacts import contact_precision, precision_at
from foldase_models.metrics.lddt import LDDT_CUTOFF, LDDT_THRESHOLDS, Lddt, lddt
from foldase_models.metrics.perplexity import perplexity
from foldase_models.metrics.ramachandran import Ramachandran, backbone_torsions, ramachandran
from foldase_models.metrics.resampling import Interval, bootstrap_margin, bootstrap_mean, pearson, spearman
from foldase_models.metrics.superposition import (
    Superposition,
    mirror_rmsd,
    rmsd,
    superpose,
)
from foldase_models.metrics.template_score import GDT_HA, GDT_TS, gdt, gdt_shares, tm_score

__all__ = [
    "GDT_HA",
    "GDT_TS",
    "LDDT_CUTOFF",
    "LDDT_THRESHOLDS",
    "AllAtoms",
    "Clashes",
    "Interval",
    "Lddt",
    "Ramachandran",
    "Superposition",
    "atom_rmsd",
    "backbone_torsions",
    "bootstrap_margin",
    "bootstrap_mean",
    "clashes",
    "compare_structures",
    "contact_precision",
    "gdt",
    "gdt_shares",
    "laid_over",
    "lddt",
    "lddt_all_atoms",
    "mirror_rmsd",
    "pearson",
    "perplexity",
    "precision_at",
    "ramachandran",
    "rmsd",
    "spearman",
    "superpose",
    "tm_score",
    "with_better_names",
]
