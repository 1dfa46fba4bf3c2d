"""How sure a language model is of a text."""

from __future__ import annotations

import math

from foldase_models.errors import ModelError


def perplexity(negative_log_likelihood: float, tokens: int) -> float:
    """``exp`` of the mean negative log-likelihood of a token: 1 when certain, V when guessing among V.

    Args:
        negative_log_likelihood: summed over all predicted tokens, in nats.
        tokens: how many these are; the end of each sequence is one of them where it is predicted.

    Returns:
        At least 1 for a model that gives probabilities; infinite where it is beyond a float.

    Raises:
        ModelError: ``no_tokens``: nothing was predicted.
    """
    if tokens < 1:
        raise ModelError("perplexity needs at least one predicted token", code="no_tokens")
    try:
        return math.exp(negative_log_likelihood / tokens)
    except OverflowError:
        return math.inf
