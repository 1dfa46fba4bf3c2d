"""What is read off the decoder: the next token.

Shapes: B sequences, L tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from foldase_models.language.decoder.features import IGNORED


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats of each target, float32 ``[B, L]``; 0 where there is none.

    Args:
        logits: ``[B, L, V]``, any floating dtype.
        targets: int64 ``[B, L]``, :data:`~foldase_models.language.decoder.features.IGNORED` for none.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat = functional.cross_entropy(
        wide.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(targets.shape)


def next_token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of :func:`token_losses` over the targets there are."""
    return token_losses(logits, targets).sum() / (targets != IGNORED).sum()
