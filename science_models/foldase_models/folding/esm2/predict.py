"""Contacts of sequences by the attention of ESM-2."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.folding.esm2.features import tokenize
from foldase_models.folding.esm2.heads import ContactSum
from foldase_models.folding.esm2.model import Esm2, Esm2Encoder
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.row_groups import working_set


@torch.no_grad()
def contact_probabilities(
    encoder: Esm2Encoder,
    tokens: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    options: ForwardOptions | None = None,
) -> torch.Tensor:
    """Of every pair of residues, ``[B, L - 2, L - 2]``; pairs with padding or eos mean nothing.

    Args:
        encoder: in evaluation mode.
        tokens: int64 ``[B, L]``, cls first, eos behind each sequence.
        mask: boolean ``[B, L]``, True = real.
        options: of the forward pass.
    """
    residues = tokens != encoder.config.eos_token_id
    if mask is not None:
        residues &= mask
    contacts = ContactSum(encoder.contact_head, residues, mask)
    options = options or ForwardOptions()
    with working_set(options.group_bytes):
        encoder(tokens, mask, watch=contacts.add, options=options)
    return contacts.probabilities()


def predict_contacts(
    model: Esm2, sequence: str, *, options: ForwardOptions | None = None
) -> NDArray[np.float32]:
    """Probability that two residues touch (C-beta within 8 A), float32 ``[N, N]``, symmetric.

    Raises:
        ModelError: an empty sequence, or a letter that the vocabulary lacks.
    """
    device = model.esm.embeddings.word_embeddings.weight.device
    tokens = torch.from_numpy(tokenize([sequence], model.config).ids).to(device)
    return contact_probabilities(model.esm, tokens, options=options)[0].float().cpu().numpy()
