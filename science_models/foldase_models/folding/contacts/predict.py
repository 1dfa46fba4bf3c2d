"""Predicting one alignment with the contact model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.contacts.config import PAIR_FEATURES
from foldase_models.folding.contacts.features import choose_rows
from foldase_models.folding.contacts.model import ContactModel, ContactOutput

MAX_ROWS = 2048
"""Rows whose covariance is taken at most; more cost memory and tell little more."""


@dataclass(frozen=True, slots=True)
class ContactPrediction:
    """What is predicted of one alignment.

    Attributes:
        contact_probability: float32 (N, N), symmetric, 0 below the model's ``min_separation``.
        distance: float32 (N, N), expected, A, diagonal 0.
        coords: float32 (N, 3), C-alpha trace, A; its handedness is arbitrary.
        confidence: float32 (N,), expected lDDT of the trace, 0 to 100.
    """

    contact_probability: NDArray[np.float32]
    distance: NDArray[np.float32]
    coords: NDArray[np.float32]
    confidence: NDArray[np.float32]


@torch.no_grad()
def predict_contacts(
    model: ContactModel,
    msa: NDArray[np.uint8],
    weights: NDArray[np.float32] | None = None,
    *,
    seed: int = 0,
    keep_query: bool = False,
    pairs: NDArray[np.float32] | None = None,
) -> ContactPrediction:
    """Predict contacts, distances, a trace and its confidence.

    Args:
        model: in evaluation mode.
        msa: letter indices (S, N).
        weights: of the rows (S,); None means equal.
        seed: decides which rows are shown to the Evoformer where there are too many.
        keep_query: whether row 0 is always among them.
        pairs: float32 (N, N, F), features of the alignment's pairs, for models whose inputs are couplings;
            rows and weights count for nothing then.

    Raises:
        ModelError: letters outside the alphabet, a chain too short for a contact, or no features of pairs for
            a model that needs them.
    """
    config = model.config
    rows, residues = msa.shape
    if int(msa.max()) >= len(config.letters):
        raise ModelError(
            f"letter {int(msa.max())} is outside the model's alphabet of {len(config.letters)}",
            code="unknown_letter",
        )
    if residues <= config.min_separation:
        raise ModelError(f"{residues} residues have no pair {config.min_separation} apart", code="too_short")
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    if config.inputs == "couplings":
        if pairs is None or pairs.shape != (residues, residues, PAIR_FEATURES):
            raise ModelError(
                "this model needs the features of pairs of its alignment",
                code="no_pairs",
                hint="give what foldase_models.coevolution.pair_features makes of the alignment",
            )
        output = model.from_pairs(torch.from_numpy(pairs).unsqueeze(0).to(device))
        model.train(was_training)
        return _read(model, output)
    order = choose_rows(rows, min(rows, MAX_ROWS), np.random.default_rng(seed), keep_first=keep_query)
    letters = torch.from_numpy(msa[order]).unsqueeze(0).to(device)
    share = None if weights is None else torch.from_numpy(weights[order]).unsqueeze(0).to(device)
    output = model(letters[:, : config.sequences], letters, share)
    model.train(was_training)
    return _read(model, output)


def _read(model: ContactModel, output: ContactOutput) -> ContactPrediction:
    """The first protein of an output."""
    config, residues = model.config, output.distance.shape[-1]
    index = torch.arange(residues, device=output.distance.device)
    near = (index[:, None] - index[None]).abs() < config.min_separation
    probability = torch.sigmoid(output.contact_logits[0].float()).masked_fill(near, 0.0)

    def values(tensor: torch.Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = tensor.float().cpu().numpy()
        return found

    return ContactPrediction(
        contact_probability=values(probability),
        distance=values(output.distance[0].fill_diagonal_(0.0)),
        coords=values(output.coords[0]),
        confidence=values((100.0 * output.confidence[0]).clamp(0, 100)),
    )
