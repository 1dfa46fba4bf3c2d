"""AlphaFold ready to fold: a record in, a structure with its confidence out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.features import RecordFeatures, pass_features, record_features
from foldase_models.folding.alphafold.heads import Confidence
from foldase_models.folding.alphafold.inputs import ModelInputs, inputs_of
from foldase_models.folding.alphafold.model import AlphaFold, AlphaFoldOutput
from foldase_models.folding.alphafold.weights import load_alphafold
from foldase_models.folding.finite import check_finite
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import Extra, FoldInput, FoldPrediction
from foldase_models.layers.residues import ATOM37_MASK, ATOM37_TO_ATOM14
from foldase_models.layers.row_groups import working_set

_FEATURES_SHARE = 0.02
"""Of the time of a record; a guess that only the progress bar sees."""


class _Passes(Sequence[ModelInputs]):
    """Features of each pass, drawn when the model comes to it, so that those of one pass exist at a time."""

    def __init__(self, record: RecordFeatures, model: AlphaFold, seed: int, count: int) -> None:
        self._record, self._sizes, self._seed, self._count = record, model.config.features, seed, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> ModelInputs: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[ModelInputs]: ...
    def __getitem__(self, number: int | slice) -> ModelInputs | Sequence[ModelInputs]:
        if isinstance(number, slice):
            return [self[own] for own in range(*number.indices(self._count))]
        return inputs_of(pass_features(self._record, self._sizes, seed=self._seed, number=number))


class AlphaFoldFolder:
    """Implements :class:`foldase_models.folding.prediction.Folder`; pLDDT is 0 to 100."""

    kind = "alphafold"

    def __init__(self, model: AlphaFold, digest: str, options: ForwardOptions) -> None:
        self.model, self.digest, self.options = model.eval(), digest, options
        self.max_recycles = model.config.recycles

    @classmethod
    def load(
        cls,
        folder: Path,
        options: ForwardOptions,
        *,
        known_digest: str | None = None,
        device: torch.device | None = None,
    ) -> AlphaFoldFolder:
        """Read a model from a folder, for one way of running it.

        Args:
            folder: see :func:`load_alphafold`.
            options: what a pass may do to save memory.
            known_digest: of the weights, where the caller has it; None reads every byte once more.
            device: where it runs; None means the CPU.
        """
        model, digest = load_alphafold(folder, known_digest=known_digest)
        model.place(device or torch.device("cpu"), options)
        return cls(model, digest, options)

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
        """Fold one record.

        Args:
            record: chains, alignments and templates. Several chains are laid one after the other with a gap
                in the index, rows of one chain among gaps: the models know single chains only.
            seed: of clusters, masked letters and extra rows; 0 or above.
            recycles: passes before the last one; None means as the model was trained.
            tolerance: stop recycling when C-alpha distances change by less, A, root mean square.
            progress: called with the share done and a few words; what it raises ends the work.
            extras: what else is wanted of the answer.

        Raises:
            ModelError: as :func:`record_features`; ``not_finite`` where the result is no structure.
        """
        count = 1 + (self.max_recycles if recycles is None else recycles)
        if count < 1 or seed < 0:
            raise ModelError(
                f"recycles is {count - 1} and the seed {seed}; expected 0 or above",
                code="bad_options",
                location=record.name,
            )
        tell = progress or _tell_nobody
        tell(0.0, "features")
        features = record_features(record, self.model.config.features)

        def follow(share: float, words: str) -> None:
            tell(_FEATURES_SHARE + (1 - 2 * _FEATURES_SHARE) * share, words)

        with torch.no_grad():
            output = self.model(
                _Passes(features, self.model, seed, count),
                options=self.options,
                tolerance=tolerance,
                progress=follow,
            )
            several = features.chain_index[-1] > 0
            chains = torch.from_numpy(features.chain_index).to(output.single.device) if several else None
            confidence = self.model.confidence(output, chains=chains, options=self.options)
            told = self._extras(extras, output)
        tell(1.0, "done")
        return dataclasses.replace(_prediction(record, features, output, confidence), **told)

    def _extras(self, extras: Collection[Extra], output: AlphaFoldOutput) -> dict[str, Any]:
        """What was asked for beyond the usual, by its name in a prediction."""
        told: dict[str, Any] = {}
        if "distogram" in extras:
            with working_set(self.options.group_bytes):
                told["distogram"] = self.model.aux_heads.distance_shares(output.pair).numpy()
        if "frames" in extras:
            told["frames"] = _array(output.structure.frames[-1].to_tensor_4x4())
        return told


def _prediction(
    record: FoldInput, features: RecordFeatures, output: AlphaFoldOutput, confidence: Confidence
) -> FoldPrediction:
    atom14 = _array(output.structure.positions[-1])
    said = {
        "positions": output.structure.positions[-1],
        "pLDDT": confidence.plddt,
        "aligned errors": confidence.aligned_error,
        "contacts": confidence.contact_probability,
    }
    check_finite(record.name, said)
    kinds = features.aatype
    mask = ATOM37_MASK[kinds]
    positions = np.take_along_axis(atom14, ATOM37_TO_ATOM14[kinds][..., None], axis=1)
    starts = np.searchsorted(features.chain_index, features.chain_index)
    error = confidence.aligned_error
    return FoldPrediction(
        sequence="".join(record.chains),
        chain_index=features.chain_index.astype(np.int16),
        residue_index=(np.arange(len(kinds)) - starts + 1).astype(np.int32),
        positions=np.where(mask[..., None], positions, 0.0).astype(np.float32),
        atom_mask=mask,
        plddt=_array(confidence.plddt),
        pae=None if error is None else _array(error),
        ptm=_number(confidence.ptm),
        iptm=_number(confidence.iptm),
        contact_probability=_array(confidence.contact_probability),
        recycle_alpha=np.stack([_array(points) for points in output.alpha]),
        recycles=output.recycles,
        converged=output.converged,
        numbers={
            "alignment_rows": float(len(features.rows)),
            "templates": 0.0 if features.templates is None else float(len(features.templates.aatype)),
        },
    )


def _tell_nobody(_share: float, _words: str) -> None:
    """Where nobody asked for progress."""


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = values.float().cpu().numpy()
    return found


def _number(value: torch.Tensor | None) -> float | None:
    return None if value is None else float(value)
