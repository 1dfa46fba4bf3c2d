"""Which engine a configuration asks for."""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.engine import Engine
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.compressed import CompressedEngine
from foldase_models.training.zero.fully_sharded import FullyShardedEngine
from foldase_models.training.zero.replicated import ReplicatedEngine
from foldase_models.training.zero.sharded import ShardedGradientsEngine, ShardedOptimizerEngine
from foldase_models.training.zero.streamed import StreamedEngine


def make_engine(model: nn.Module, surroundings: Surroundings) -> Engine:
    """The engine that a configuration asks for.

    Raises:
        ModelError: ``ranks_disagree``: models or configurations differ between ranks; ``bad_config``.
    """
    config = surroundings.config
    parameters = {name: f"{_described(p)} {p.requires_grad}" for name, p in model.named_parameters()}
    buffers = {name: _described(buffer) for name, buffer in model.named_buffers()}
    agreed = config.to_json()
    agreed["offload"].pop("folder")  # every machine has its own
    surroundings.collectives.agree("the configuration", agreed)
    surroundings.collectives.agree("the model's parameters", parameters)
    surroundings.collectives.agree("the model's buffers", buffers)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("the model has no parameter to train", code="bad_config", location="model")
    if config.optimizer.compresses:
        return CompressedEngine(model, surroundings)
    if config.stage == 1:
        return ShardedOptimizerEngine(model, surroundings)
    if config.stage == 2:
        return ShardedGradientsEngine(model, surroundings)
    if config.stage == 3:
        return _third_stage(model, surroundings)
    return ReplicatedEngine(model, surroundings)


def _third_stage(model: nn.Module, surroundings: Surroundings) -> Engine:
    """``fully_shard`` where it can do it; a single process that offloads no weights has nothing to share out.

    It knows nothing of shards outside the device, of models without memory, of parameters without dimension,
    and of trained parameters of several dtypes.
    """
    parameters = list(model.parameters())
    dtypes = {parameter.dtype for parameter in parameters if parameter.requires_grad}
    streams = (
        surroundings.config.offload.parameters != "none"
        or any(parameter.is_meta for parameter in parameters)
        or any(parameter.dim() == 0 for parameter in parameters)
        or len(dtypes) > 1
    )
    if streams:
        return StreamedEngine(model, surroundings)
    if surroundings.collectives.ranks.size == 1:
        return ReplicatedEngine(model, surroundings)
    return FullyShardedEngine(model, surroundings)


def _described(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
