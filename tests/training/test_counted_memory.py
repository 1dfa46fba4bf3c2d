"""All tensors counted by tier and owner, the cap, and tensors of main memory that no pass may use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training import LimitsConfig, Trainer, TrainingConfig
from foldase_models.training.counted_memory import CountedMemory, peaks_of
from foldase_models.training.ledger import ACTIVATIONS, Ledger

CPU = torch.device("cpu")
FLOATS = 1000
ROWS, WIDTH, LAYERS = 64, 128, 3
SMALL_CHANGE = 4096
"""Bytes of scalars: losses, norms, seeds."""


def trainer_of(cap=None):
    torch.manual_seed(0)
    layers = [part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    model = nn.Sequential(*layers)
    config = TrainingConfig(
        steps=3, stage=2, average_decay=0.0, limits=LimitsConfig(bucket_bytes=2**16, memory_bytes=cap)
    )

    def loss(batch, step):
        return model(batch).square().mean(), {}

    return Trainer(model, loss, lambda number: torch.randn(ROWS, WIDTH), config)


def test_a_tensor_counts_until_it_is_freed():
    ledger = Ledger(CPU)
    kept = ledger.zeros("pinned", "staging", FLOATS, torch.float32)
    lost = ledger.zeros("host", "optimizer", FLOATS, torch.bfloat16)
    view = lost[5:]
    del lost
    assert ledger.held() == {"staging": 4 * FLOATS, "optimizer": 2 * FLOATS}
    del view
    assert ledger.held() == {"staging": 4 * FLOATS}
    ledger.release(kept)
    assert ledger.tiers() == {"device": 0, "pinned": 0, "host": 0, "disk": 0}
    assert ledger.peaks() == {"device": 0, "pinned": 4 * FLOATS, "host": 2 * FLOATS, "disk": 0}


def test_memory_that_is_adopted_again_is_measured_anew():
    ledger = Ledger(CPU)
    tensor = torch.zeros(FLOATS)
    for owner in ("weights", "weights", "buffers"):
        ledger.adopt("device", owner, tensor.view(10, -1))
        assert ledger.held() == {owner: 4 * FLOATS}
    tensor.untyped_storage().resize_(0)
    ledger.adopt("device", "buffers", tensor)
    assert ledger.held() == {}


def test_what_has_no_owner_counts_as_an_activation_while_it_lives():
    ledger = Ledger(CPU)
    weights = ledger.zeros("device", "weights", FLOATS, torch.float32)
    with CountedMemory(ledger):
        product = weights * 2
        first = product[:10]
        assert ledger.held() == {"weights": 4 * FLOATS, ACTIVATIONS: 4 * FLOATS}
        del product
        first.add_(1)
        assert ledger.held()[ACTIVATIONS] == 4 * FLOATS
        del first
        assert ledger.held() == {"weights": 4 * FLOATS}
        kept = torch.ones(FLOATS)
    assert ledger.held() == {"weights": 4 * FLOATS}
    assert kept.numel() == FLOATS
    assert ledger.peaks()["device"] == 8 * FLOATS


def test_what_autograd_keeps_counts():
    """Of tanh(tanh(x)) both results are kept for the backward pass, though nobody else holds the first."""
    ledger = Ledger(CPU)
    x = torch.randn(FLOATS, requires_grad=True)
    with CountedMemory(ledger):
        result = x.tanh().tanh()
        assert ledger.held() == {ACTIVATIONS: 3 * 4 * FLOATS}
        result.sum().backward()
        del result
        assert ledger.held() == {ACTIVATIONS: 2 * 4 * FLOATS}  # x and its gradient


def test_a_training_is_counted_whole():
    trainer = trainer_of()
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    state = trainer.ledger.tiers()["device"]
    assert 16 * parameters <= state <= 16 * parameters + SMALL_CHANGE
    activations = (2 * LAYERS + 1) * ROWS * WIDTH * 4
    buckets = 2 * 2**16 + 2 * WIDTH * 4
    peak = peaks_of(trainer.ledger, trainer.run)["device"]
    assert state + activations < peak < state + activations + buckets + 3 * WIDTH * WIDTH * 4
    assert ACTIVATIONS not in trainer.ledger.held()


def test_the_cap_is_kept_to_the_byte():
    free = trainer_of()
    peak = peaks_of(free.ledger, free.run)["device"]
    capped = trainer_of(cap=max(2**20, peak))
    summary = capped.run()
    assert summary.curve == free.curve
    with pytest.raises(ModelError, match="this rank holds") as raised:
        trainer_of(cap=2**20).run()
    error = raised.value
    assert (error.code, error.location) == ("memory_cap", "limits.memory_bytes")
    assert peak > 2**20


@pytest.mark.parametrize(
    ("tier", "owner", "hint"),
    [
        ("device", "optimizer", "offload.optimizer"),
        ("device", "gradients", "stage to 2"),
        ("host", "average", "average_decay"),
        ("pinned", "staging", "more ranks"),
    ],
)
def test_the_owner_of_the_most_is_named_and_what_helps(tier, owner, hint):
    ledger = Ledger(CPU, cap=4 * FLOATS + 100)
    ledger.add("disk", "file", 10**9)
    kept = ledger.zeros(tier, owner, FLOATS, torch.float32)
    with pytest.raises(
        ModelError, match=f"most of it is {owner}, {kept.nbytes:,} bytes in the {tier}"
    ) as raised:
        ledger.zeros("device", "little", 50, torch.float32)
    assert hint in raised.value.hint


def test_activations_too_break_the_cap():
    ledger = Ledger(CPU, cap=10 * FLOATS)
    with CountedMemory(ledger), pytest.raises(ModelError, match="most of it is activations") as raised:
        _ = torch.ones(FLOATS).exp(), torch.ones(FLOATS), torch.ones(FLOATS)
    assert "recompute" in raised.value.hint


@pytest.mark.parametrize("tier", ["host", "pinned"])
def test_main_memory_takes_no_part_in_a_pass(tier):
    ledger = Ledger(CPU)
    away = ledger.zeros(tier, "optimizer", FLOATS, torch.float32)
    here = ledger.zeros("device", "weights", FLOATS, torch.float32).requires_grad_()
    with CountedMemory(ledger):
        assert (away + 1).sum() == FLOATS, "outside a pass it may"
        with ledger.computing():
            assert torch.empty(FLOATS).copy_(away[:FLOATS].view(10, -1).flatten()).sum() == 0
            with ledger.apart():
                away.add_(1)
            with pytest.raises(ModelError, match=f"lies in the {tier} tier") as raised:
                (here * away).sum().backward()
    assert (raised.value.code, raised.value.location) == ("wrong_tier", "optimizer")


def test_main_memory_takes_no_part_in_the_way_back():
    ledger = Ledger(CPU)
    away = ledger.zeros("host", "optimizer", FLOATS, torch.float32)
    here = torch.ones(FLOATS, requires_grad=True)
    product = here * away
    with CountedMemory(ledger), ledger.computing(), pytest.raises(ModelError, match=r"entered aten\.mul"):
        product.sum().backward()
