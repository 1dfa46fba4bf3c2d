"""A training in bfloat16 whose model has a part that computes in float32."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from training_ranks import SAME_WORKER, Gang

from foldase_kernels.operators import no_autocast
from foldase_models.training import LimitsConfig, OffloadConfig, OptimizerConfig, ScheduleConfig, Trainer
from foldase_models.training.config import TrainingConfig
from foldase_models.training.precision import parameter_dtypes
from foldase_models.training.ranks import Ranks
from foldase_models.training.zero.units import ROOT, find_units

pytestmark = SAME_WORKER

STEPS, PARTS = 12, 2
SAME = 1e-5
"""Of losses in float32, wherever things lie."""
BFLOAT16_TOLERANCE = 0.02
"""Of losses beside those of another order of rounding, and of the last one beside float32, relative."""
PLACES = [(0, "none", "none"), (1, "cpu", "none"), (2, "nvme", "none"), (3, "none", "none")]
PLACES += [(3, "cpu", "none"), (3, "cpu", "cpu"), (3, "nvme", "nvme")]


class Frames(nn.Module):
    """Computes what must not be rounded, and tells when it would be."""

    computes_in_float32: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x):
        with no_autocast(x.device):
            x = self.norm(x.float())
            for layer in self.layers:
                assert layer.weight.dtype == torch.float32
                x = layer(x).tanh()
            assert x.dtype == torch.float32
            return x


class Model(nn.Module):
    """Blocks, what computes in float32, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.frames = Frames()
        self.head = nn.Linear(16, 4)
        self.blocks[1].bias.requires_grad_(False)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(self.frames(x))


def config_of(stage: int, optimizer: str, parameters: str, precision: str, folder=None) -> TrainingConfig:
    return TrainingConfig(
        steps=STEPS,
        micro_batches=PARTS,
        precision=precision,
        stage=stage,
        average_decay=0.9,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(warmup_steps=1),
        offload=OffloadConfig(optimizer=optimizer, parameters=parameters, folder=folder),
        limits=LimitsConfig(bucket_bytes=4096),
    )


def train(ranks: Ranks, config: TrainingConfig) -> tuple[list[float], dict[str, np.ndarray]]:
    def batch_of(number: int) -> torch.Tensor:
        return torch.randn(32, 8, generator=torch.Generator().manual_seed(number))

    def loss_of(model: nn.Module, batch: torch.Tensor, step: int):
        return functional.mse_loss(model(batch).float(), batch[:, :4].sin()), {}

    model, losses = Model(), []
    trainer = Trainer(model, partial(loss_of, model), batch_of, config, ranks=ranks)
    trainer.run(lambda report: losses.append(report.loss))
    weights = {name: weight.numpy() for name, weight in trainer.result().items()}
    trainer.close()
    return losses, weights


def test_a_module_that_computes_in_float32_keeps_its_weights_and_what_it_shares():
    model = Model()
    model.head.weight = model.frames.layers[0].weight
    found = parameter_dtypes(model, "bfloat16")
    wide = {name for name, dtype in found.items() if dtype == torch.float32}
    assert wide == {name for name in found if name.startswith("frames.")}
    assert {found[name] for name in found.keys() - wide} == {torch.bfloat16}
    assert set(parameter_dtypes(model, "float32").values()) == {torch.float32}


def test_frozen_weights_of_another_dtype_keep_it():
    model = nn.Sequential(nn.Linear(2, 2).half().requires_grad_(False), nn.Linear(2, 2))
    assert list(parameter_dtypes(model, "bfloat16").values()) == [
        torch.float16,
        torch.float16,
        torch.bfloat16,
        torch.bfloat16,
    ]


def test_it_is_a_unit_of_its_own_at_stage_3_with_the_lists_inside_it():
    names = [unit.name for unit in find_units(Model())]
    assert names == ["blocks.0", "blocks.1", "frames", ROOT]


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.verify)])
def gang(request):
    with Gang(request.param) as gang:
        yield gang


@pytest.fixture(scope="module")
def plain():
    """Losses of float32 and of bfloat16, both in one process with everything on the device."""
    return {name: train(Ranks(), config_of(0, "none", "none", name))[0] for name in ("float32", "bfloat16")}


@pytest.mark.parametrize(("stage", "optimizer", "parameters"), PLACES)
def test_it_trains_with_everything_anywhere(gang, plain, tmp_path, stage, optimizer, parameters):
    config = config_of(stage, optimizer, parameters, "bfloat16", tmp_path)
    losses, weights = gang.run(train, config)[0]
    np.testing.assert_allclose(losses, plain["bfloat16"], rtol=BFLOAT16_TOLERANCE)
    np.testing.assert_allclose(losses[-1], plain["float32"][-1], rtol=BFLOAT16_TOLERANCE)
    assert losses[-1] < 0.8 * losses[0]
    assert weights["frames.layers.0.weight"].dtype == np.float32


def test_in_float32_nothing_is_different(plain):
    config = replace(config_of(0, "none", "none", "float32"), stage=3)
    np.testing.assert_allclose(train(Ranks(), config)[0], plain["float32"], rtol=0, atol=SAME)
