"""What folding operators write: structures, errors of pairs, the tree of arrays and what the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts import BadInput, StepContext

if TYPE_CHECKING:
    from foldase_models.folding.prediction import FoldPrediction
    from foldase_workflows.formats.predicted import PredictedStructure
    from foldase_workflows.formats.zarr_predictions import Prediction

RULE = (
    "confidence: 0.8 ipTM + 0.2 pTM for several chains (as AlphaFold-Multimer ranks), mean pLDDT / 100 for "
    "one chain or where the model tells no ipTM; the greater the better"
)
CONTACT_CUTOFF = 8.0
"""C-beta atoms nearer than this are in contact, A."""
MIN_SEPARATION = 6
CONTACTS_OF_STRUCTURE = "contacts of the predicted structure (the model tells no probabilities)"


def confidence_of(structure: PredictedStructure) -> float:
    """What structures of one record are ranked by, 0 to 1; see :data:`RULE`."""
    if structure.iptm is not None and structure.ptm is not None:
        return 0.8 * structure.iptm + 0.2 * structure.ptm
    return structure.mean_plddt / 100


def structure_of(
    name: str, chains: tuple[str, ...], prediction: FoldPrediction, made: Mapping[str, Any]
) -> PredictedStructure:
    """A model's answer as the writers take it.

    Raises:
        BadInput: ``bad_prediction``: the answer holds what no structure has, for example NaN.
    """
    from foldase_workflows.contracts import Location
    from foldase_workflows.formats.predicted import PredictedStructure, Provenance

    try:
        return PredictedStructure(
            name=name,
            chains=chains,
            positions=prediction.positions,
            atom_mask=prediction.atom_mask,
            plddt=prediction.plddt,
            pae=prediction.pae,
            ptm=prediction.ptm,
            iptm=prediction.iptm,
            contact_probability=prediction.contact_probability,
            recycle_alpha=prediction.recycle_alpha,
            numbers=prediction.numbers,
            distogram=prediction.distogram,
            frames=prediction.frames,
            provenance=Provenance.from_json(made),
        )
    except ValueError as error:
        raise BadInput(
            f"what the model answered is no structure: {error}",
            code="bad_prediction",
            location=Location(record=name),
            hint="check the weights; try float32 where the plan chose another type",
        ) from error


def write_structure(
    folder: Path, target: str, structure: PredictedStructure, context: StepContext, *, pdb: bool
) -> None:
    """Write ``target.cif``, ``target_pae.json`` where there are errors of pairs, and ``target.pdb``.

    What a PDB file cannot hold is left out with a warning: the mmCIF file has it all.
    """
    from foldase_workflows.formats.predicted_json import write_pae
    from foldase_workflows.formats.predicted_mmcif import write_mmcif
    from foldase_workflows.formats.predicted_pdb import write_pdb

    write_mmcif(folder / f"{target}.cif", structure)
    if structure.pae is not None:
        write_pae(folder / f"{target}_pae.json", structure.pae)
    if pdb:
        try:
            write_pdb(folder / f"{target}.pdb", structure)
        except BadInput as error:
            context.log(str(error), level="warning")


def shown(target: str, structure: PredictedStructure, scores: Mapping[str, float]) -> Prediction:
    """What the page shows of a structure: contacts, the trace and its confidence."""
    import numpy as np

    from foldase_workflows.formats.atom_names import ATOM37_INDEX
    from foldase_workflows.formats.zarr_predictions import Prediction

    contacts = structure.contact_probability
    if contacts is None:
        contacts = contacts_of(structure)
    return Prediction(
        target=target,
        contact_probability=contacts.astype(np.float32),
        coords=structure.positions[:, ATOM37_INDEX["CA"]].astype(np.float32),
        confidence=structure.plddt.astype(np.float32),
        sequence=structure.sequence,
        scores=dict(scores),
    )


def contacts_of(structure: PredictedStructure) -> Any:
    """Pairs of the structure itself that are in contact, float32 (N, N), 1 or 0."""
    import numpy as np

    from foldase_workflows.formats.atom_names import ATOM37_INDEX

    beta = structure.positions[:, ATOM37_INDEX["CB"]].copy()
    without = ~structure.atom_mask[:, ATOM37_INDEX["CB"]]
    beta[without] = structure.positions[without, ATOM37_INDEX["CA"]]
    contacts = np.empty((len(beta), len(beta)), dtype=np.float32)
    for row, point in enumerate(beta):
        contacts[row] = np.linalg.norm(beta - point, axis=-1) < CONTACT_CUTOFF
    return contacts


def scores_of(structure: PredictedStructure) -> dict[str, float]:
    """The numbers of a structure, for tables."""
    scores = {"plddt": structure.mean_plddt, "confidence": confidence_of(structure)}
    if structure.ptm is not None:
        scores["ptm"] = structure.ptm
    if structure.iptm is not None:
        scores["iptm"] = structure.iptm
    return scores


def target_of(key: str, seed: int, sample: int, *, only: bool) -> str:
    """The name of a structure: that of its record, with seed and sample where there are several."""
    return key if only else f"{key}_s{seed}_{sample}"
