"""ESMFold as a :class:`foldase_models.folding.prediction.Folder`: a record in, a structure out.

Shapes: N residues, M with the linkers between chains. Lengths in A.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch

from foldase_models.folding.esmfold.features import Features, encode_record
from foldase_models.folding.esmfold.heads import (
    PairConfidence,
    contact_probability,
    distance_shares,
    pair_confidence,
)
from foldase_models.folding.esmfold.model import EsmFold, EsmFoldOutput
from foldase_models.folding.finite import check_finite
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import Extra, FoldInput, FoldPrediction
from foldase_models.layers.atoms import atom14_to_atom37
from foldase_models.layers.residues import ATOM37_INDEX, ATOM37_MASK, decode
from foldase_models.layers.row_groups import working_set


class EsmFoldFolder:
    """ESMFold ready to fold.

    Nothing is drawn at random, so that every seed gives the same bits. Alignments and templates of a record
    are not used: the model knows sequences only.

    Attributes:
        kind: ``esmfold``.
        digest: of the weights.
        max_recycles: passes before the last one, as trained.
        model: on the device where it folds.
        options: of every forward pass.
    """

    kind = "esmfold"

    def __init__(self, model: EsmFold, digest: str, options: ForwardOptions) -> None:
        self.model = model.eval()
        self.digest = digest
        self.options = options
        self.max_recycles = model.config.passes - 1

    def fold(
        self,
        record: FoldInput,
        *,
        seed: int,
        recycles: int | None = None,
        tolerance: float | None = None,
        progress: Callable[[float, str], None] | None = None,
        extras: Collection[Extra] = (),
    ) -> FoldPrediction:
        """As the protocol says.

        Raises:
            ModelError: ``unknown_residue`` or ``empty_sequence``; ``not_finite`` where the answer or any
                confidence is not a number, which must never pass for a prediction.
        """
        features = encode_record(record)
        device = self.model.esm_s_combine.device
        aatype = torch.as_tensor(features.aatype, device=device)[None]
        index = torch.as_tensor(features.residue_index, device=device)[None]
        with torch.no_grad():
            output = self.model(
                aatype,
                residue_index=index,
                recycles=recycles,
                tolerance=tolerance,
                options=self.options,
                progress=progress,
            )
            with working_set(self.options.group_bytes):
                confidence = self._confidence(output, features)
                contacts = contact_probability(output.z, self.model.distogram_head)
            atoms = atom14_to_atom37(output.structure.positions[-1], aatype)
        check_finite(
            record.name,
            {"positions": atoms, "pLDDT": output.plddt, "PAE": confidence.pae, "contacts": contacts},
        )
        found = _prediction(features, output, confidence, contacts, atoms)
        return dataclasses.replace(found, **self._extras(extras, output, features))

    def _extras(self, extras: Collection[Extra], output: EsmFoldOutput, features: Features) -> dict[str, Any]:
        """What was asked for beyond the usual, by its name in a prediction."""
        told: dict[str, Any] = {}
        kept = torch.as_tensor(np.flatnonzero(features.real), device=output.z.device)
        if "distogram" in extras:
            with torch.no_grad(), working_set(self.options.group_bytes):
                told["distogram"] = distance_shares(output.z, self.model.distogram_head, kept)[0].numpy()
        if "frames" in extras:
            told["frames"] = output.structure.frames[-1, 0, kept].to_tensor_4x4().float().cpu().numpy()
        return told

    def _confidence(self, output: EsmFoldOutput, features: Features) -> PairConfidence:
        real = torch.as_tensor(features.real, device=output.z.device)[None]
        chains = np.zeros(len(features.aatype), dtype=np.int64)
        chains[features.real] = features.chain_index
        index = torch.as_tensor(chains, device=output.z.device)[None]
        return pair_confidence(output.z, self.model.ptm_head, real, index)


def _prediction(
    features: Features,
    output: EsmFoldOutput,
    confidence: PairConfidence,
    contacts: torch.Tensor,
    atoms: torch.Tensor,
) -> FoldPrediction:
    real = features.real
    types = features.aatype[real]
    mask = ATOM37_MASK[types]
    plddt = output.plddt[0].float().cpu().numpy()[real]
    alone = int(features.chain_index[-1]) == 0
    kept = np.flatnonzero(real)
    pairs = np.ix_(kept, kept)
    return FoldPrediction(
        sequence=decode(types),
        chain_index=features.chain_index,
        residue_index=features.numbers,
        positions=atoms[0].float().cpu().numpy()[real],
        atom_mask=mask,
        plddt=100 * plddt[:, ATOM37_INDEX["CA"]],
        pae=confidence.pae[0].float().cpu().numpy()[pairs],
        ptm=float(confidence.ptm[0]),
        iptm=None if alone else float(confidence.iptm[0]),
        contact_probability=contacts[0].float().cpu().numpy()[pairs],
        recycle_alpha=output.alpha[:, 0].float().cpu().numpy()[:, real],
        recycles=len(output.alpha) - 1,
        converged=output.converged,
        numbers={"mean_plddt_of_atoms": float(100 * plddt[mask].mean()) if mask.any() else 0.0},
    )
