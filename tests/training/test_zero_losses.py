"""Fifty steps at stages 0 to 2 beside torch's own AdamW in one process with the same batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import LimitsConfig, OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from foldase_models.training.config import learning_rate

pytestmark = SAME_WORKER

STEPS, PARTS, ROWS = 50, 4, 8
FLOAT32_TOLERANCE = 1e-5
"""Of losses, and of weights relative to the largest of their tensor."""
BFLOAT16_TOLERANCE = 0.01
"""Of the mean of the last ten losses, relative."""
TOKENS, WIDTH = 11, 32


class Small(nn.Module):
    """Predicts the token after the next by an embedding that is tied to the readout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.hidden = nn.Linear(2 * WIDTH, 3 * WIDTH)
        self.norm = nn.LayerNorm(3 * WIDTH)
        self.back = nn.Linear(3 * WIDTH, WIDTH)
        self.readout = nn.Linear(WIDTH, TOKENS)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.hidden(self.embedding(tokens).flatten(1))
        return self.readout(self.back(self.norm(x).relu()))


def batch_of(number):
    return torch.randint(0, TOKENS, (ROWS, 2), generator=torch.Generator().manual_seed(number))


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch).float(), batch.sum(dim=1) % TOKENS)


def config_of(stage, precision, **changes):
    return TrainingConfig(
        steps=STEPS,
        stage=stage,
        precision=precision,
        micro_batches=PARTS,
        average_decay=0.0,
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.1),
        schedule=ScheduleConfig(warmup_steps=5),
        limits=LimitsConfig(bucket_bytes=8192),
        **changes,
    )


def train(ranks, stage, precision):
    model = Small()
    config = config_of(stage, precision)
    losses = []
    trainer = Trainer(model, lambda batch, step: (loss_of(model, batch), {}), batch_of, config, ranks=ranks)
    trainer.run(lambda report: losses.append(report.loss))
    weights = {name: weight.numpy() for name, weight in trainer.result().items()}
    trainer.close()
    return losses, weights


@pytest.fixture(scope="module")
def reference():
    """Losses and weights by torch alone: no engine, no buckets, one process."""
    model = Small()
    config = config_of(0, "float32")
    matrices = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() <= 1]
    decay, constants = config.optimizer.weight_decay, config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
        betas=constants.betas,
        eps=constants.epsilon,
    )
    losses = []
    for step in range(STEPS):
        loss = sum(loss_of(model, batch_of(step * PARTS + part)) for part in range(PARTS)) / PARTS
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: one.detach().numpy() for name, one in model.named_parameters()}


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.verify), pytest.param(4, marks=pytest.mark.verify)],
)
def gang(request):
    with Gang(request.param) as gang:
        yield gang


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.verify), 1, 2])
def test_float32_follows_one_process(gang, reference, stage):
    losses, weights = gang.run(train, stage, "float32")[0]
    wanted_losses, wanted = reference
    assert wanted_losses[-1] < wanted_losses[0] / 2
    np.testing.assert_allclose(losses, wanted_losses, rtol=0, atol=FLOAT32_TOLERANCE)
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        limit = FLOAT32_TOLERANCE * np.abs(wanted[name]).max()
        np.testing.assert_allclose(weight, wanted[name], rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
    "stage", [pytest.param(0, marks=pytest.mark.verify), pytest.param(1, marks=pytest.mark.verify), 2]
)
def test_bfloat16_ends_where_float32_ends(gang, reference, stage):
    losses, weights = gang.run(train, stage, "bfloat16")[0]
    wanted = reference[0]
    assert np.mean(losses[-10:]) == pytest.approx(np.mean(wanted[-10:]), rel=BFLOAT16_TOLERANCE)
    assert losses != wanted
    assert {weight.dtype for weight in weights.values()} == {np.dtype("float32")}
