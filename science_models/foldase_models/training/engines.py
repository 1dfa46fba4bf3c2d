"""Which engine a configuration asks for."""

from __future__ import annotations

from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.engine import Engine
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.replicated import ReplicatedEngine


def make_engine(model: nn.Module, surroundings: Surroundings) -> Engine:
    """The engine that a configuration asks for.

    Raises:
        ModelError: ``ranks_disagree``: models or configurations differ between ranks; ``bad_config``.
    """
    config = surroundings.config
    described = {
        name: f"{tuple(p.shape)} {p.dtype} {p.requires_grad}" for name, p in model.named_parameters()
    }
    surroundings.collectives.agree("the configuration", config.to_json() | {"offload": None})
    surroundings.collectives.agree("the model's parameters", described)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("the model has no parameter to train", code="bad_config", location="model")
    return ReplicatedEngine(model, surroundings)
