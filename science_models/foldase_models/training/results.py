"""What recipes need after a training: its weights in the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from foldase_models.errors import ModelError


@torch.no_grad()
def take_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put trained weights into a model; an empty mapping, what ranks but the first have, changes nothing.

    The model is one that was built like the trained one: at stage 3 the trained one has only shards.

    Raises:
        ModelError: ``not_gathered``: the model is one whose weights a training shared out.
    """
    if not weights:
        return
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter:
            raise ModelError(
                f"{name} lies elsewhere, in shards: the model belongs to a training at stage 3",
                code="not_gathered",
                location=name,
                hint="build the model anew, and give it the weights of Trainer.result",
            )
    model.load_state_dict(weights, strict=False)
