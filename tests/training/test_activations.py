"""What is kept for the backward pass: where it lies changes no loss and no gradient, only the memory."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from training_ranks import SAME_WORKER, run_ranks

from foldase_models.errors import ModelError
from foldase_models.training import OffloadConfig, Trainer, TrainingConfig
from foldase_models.training.clock import Clock
from foldase_models.training.counted_memory import CountedMemory
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.activations import OffloadedActivations, blocks_of
from foldase_models.training.offload.spill import OWNER, DiskSpill, HostSpill, Space, rounded_up

pytestmark = SAME_WORKER

PLACES = ("recompute", "cpu", "nvme")
RANK_TOLERANCE = 1e-5
"""Of losses and norms; sums over ranks in another order."""
WIDTH, ROWS, BLOCKS = 128, 512, 4
CPU = torch.device("cpu")


class Block(nn.Module):
    """Two layers with dropout, whose input is saved for more than one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x, scale=1.0):
        y = self.norm(x)
        return x + scale * self.dropout(self.down(torch.nn.functional.gelu(self.up(y)) * y))


class Stack(nn.Module):
    """Blocks between two layers, the first of which is used again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH, bias=False)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.register_buffer("shift", torch.linspace(0, 1, WIDTH))

    def forward(self, x):
        x = self.embed(x) + self.shift
        for block in self.blocks:
            x = block(x, scale=0.5)
        return nn.functional.linear(x, self.embed.weight.T)


def batch(number):
    return torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(number))


def trainer_of(place, tmp_path, *, steps=2, ranks=None, elsewhere="none", **changes):
    torch.manual_seed(0)
    model = Stack()
    offload = OffloadConfig(
        activations=place,
        optimizer=elsewhere,
        parameters=elsewhere if changes.get("stage") == 3 else "none",
        folder=tmp_path if "nvme" in (place, elsewhere) else None,
    )
    config = TrainingConfig(steps=steps, micro_batches=2, offload=offload, **changes)

    def loss(part, step):
        return (model(part) - part.roll(1, 0)).square().mean(), {}

    return Trainer(model, loss, batch, config, ranks=ranks)


def losses_of(trainer):
    losses = []
    trainer.run(lambda report: losses.append((report.loss, report.gradient_norm)))
    weights = trainer.result()
    trainer.close()
    return losses, weights


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"stage": 3}], ids=str)
def test_losses_and_weights_are_the_same_wherever_activations_lie(changes, tmp_path):
    expected, weights = losses_of(trainer_of("none", tmp_path, **changes))
    for place in PLACES:
        found, others = losses_of(trainer_of(place, tmp_path, **changes))
        assert found == expected, place
        assert all(torch.equal(weights[name], others[name]) for name in weights), place


def losses_on_ranks(ranks, place, tmp_path, stage, elsewhere):
    return losses_of(trainer_of(place, tmp_path, ranks=ranks, stage=stage, elsewhere=elsewhere))[0]


@pytest.mark.parametrize(
    ("stage", "place", "elsewhere"),
    [
        pytest.param(*case, marks=() if case == (3, "nvme", "cpu") else pytest.mark.verify)
        for case in itertools.product(range(4), PLACES, ("none", "cpu", "nvme"))
    ],
)
def test_on_two_ranks_beside_whatever_else_lies_elsewhere(stage, place, elsewhere, tmp_path):
    expected, _ = losses_of(trainer_of("none", tmp_path))
    for found in run_ranks(losses_on_ranks, 2, place, tmp_path, stage, elsewhere):
        np.testing.assert_allclose(found, expected, rtol=RANK_TOLERANCE, atol=RANK_TOLERANCE)


def test_weights_that_come_and_go_are_no_activations(tmp_path, monkeypatch):
    """At stage 3 their memory is another one than before the call of their unit."""
    monkeypatch.setattr("foldase_models.training.offload.activations.LEAST_BYTES", WIDTH * WIDTH)
    moved = []
    for stage in (0, 3):
        trainer = trainer_of("cpu", tmp_path, steps=1, stage=stage)
        trainer.run()
        moved.append((trainer.activations.moved_bytes, trainer.activations.stayed_bytes))
        trainer.close()
    assert moved[0] == moved[1]
    assert moved[0][0] > 0


def device_peak(place, tmp_path):
    """The most that lay on the device, beyond weights, gradients and the optimizer's state."""
    trainer = trainer_of(place, tmp_path, steps=2)
    gc.collect()
    before = trainer.ledger.tiers()["device"]
    with CountedMemory(trainer.ledger):
        trainer.run()
    peaks = trainer.ledger.peaks()
    held = trainer.ledger.held()
    trainer.close()
    return peaks["device"] - before, peaks, held


def test_less_lies_on_the_device_and_the_rest_is_counted_where_it_lies(tmp_path):
    plain, _, _ = device_peak("none", tmp_path)
    for place, tier in (("recompute", None), ("cpu", "pinned"), ("nvme", "disk")):
        found, peaks, held = device_peak(place, tmp_path)
        assert found < 0.6 * plain, f"{place}: {found:,} of {plain:,} bytes"
        if tier is not None:
            block = ROWS * WIDTH * 4
            assert peaks[tier] >= 4 * BLOCKS * block
            assert held[OWNER] > 0
        else:
            assert peaks["pinned"] == peaks["disk"] == 0


@pytest.fixture
def offloaded(tmp_path):
    """A model with offloaded activations, of at least 1 KiB, and the ledger."""
    made = []

    def make(model, place="cpu", **options):
        ledger, clock = Ledger(CPU), Clock()
        spill = HostSpill(ledger, clock) if place == "cpu" else DiskSpill(tmp_path, ledger, clock, **options)
        made.append(OffloadedActivations(model, spill, least_bytes=1024))
        return made[-1], ledger

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("place", ["cpu", "nvme"])
def test_views_of_the_same_memory_go_once_and_weights_stay(place, offloaded):
    first, second = nn.Linear(32, 32), nn.Linear(32, 32)
    model = nn.ModuleList([first, second])
    activations, _ = offloaded(model, place)
    x = torch.randn(64, 32, requires_grad=True)
    with activations.kept():
        y = x * 1.0
        total = first(y).sum() + second(y.view(2, 32, 32)).sum() + (y[:32] * y[32:]).sum()
    assert activations.moved_bytes == y.nbytes
    total.backward()
    plain = x.detach().clone().requires_grad_()
    copied = plain * 1.0
    weights = [layer.weight.grad.clone() for layer in (first, second)]
    model.zero_grad()
    (
        first(copied).sum() + second(copied.view(2, 32, 32)).sum() + (copied[:32] * copied[32:]).sum()
    ).backward()
    assert torch.equal(x.grad, plain.grad)
    assert all(torch.equal(w, layer.weight.grad) for w, layer in zip(weights, (first, second), strict=True))


def test_memory_that_was_written_between_two_savings_goes_twice(offloaded):
    activations, _ = offloaded(nn.Identity())
    x = torch.randn(64, 32, requires_grad=True)
    with activations.kept():
        y = x * 1.0
        first = y.sin().sum()
        with torch.no_grad():
            changed = y.detach().mul_(2.0)
        second = (changed * x).sum()
    assert activations.moved_bytes >= 2 * y.nbytes
    kept = (x.detach().clone().cos(), 2 * x.detach())
    (first + second).backward()
    assert torch.equal(x.grad, kept[0] + kept[1])


def test_what_stayed_must_not_change(offloaded):
    activations, _ = offloaded(nn.Identity())
    x = torch.randn(4, requires_grad=True)
    with activations.kept():
        y = x * 1.0
        z = y.square().sum()
        with torch.no_grad():
            y.add_(1.0)
    assert activations.moved_bytes == 0
    with pytest.raises(RuntimeError, match="changed in place after it was saved"):
        z.backward()


def test_buffers_are_used_again_and_those_too_many_are_given_back(offloaded):
    model = nn.Identity()
    activations, ledger = offloaded(model)

    def one(count, rows):
        with activations.kept():
            x = torch.randn(rows, 64, requires_grad=True)
            for _ in range(count):
                x = x.exp()
        held = ledger.held("pinned")[OWNER]
        x.sum().backward()
        return held

    assert one(4, 16) == 4 * 4096
    assert one(4, 16) == one(4, 16) == 4 * 4096
    assert one(1, 64) <= 5 * 4 * 4096
    one(1, 64)
    assert one(1, 64) == rounded_up(64 * 64 * 4)


def test_a_graph_that_is_dropped_gives_its_place_back(offloaded):
    for place in ("cpu", "nvme"):
        activations, _ = offloaded(
            nn.Identity(), place, **({} if place == "cpu" else {"segment_bytes": 4096})
        )
        for _ in range(3):
            with activations.kept():
                y = torch.randn(64, 64, requires_grad=True).exp().exp()
            del y
            gc.collect()
        spill = activations._spill
        spill.sweep()
        if place == "nvme":
            spill.intake.settle()
            assert spill.space.free == spill.space.size
            assert spill.space.size <= 4 * 16384
        else:
            assert sum(spill._busy.values()) == 0


def test_space_on_a_disk_is_joined_again(tmp_path):
    ledger = Ledger(CPU)
    space = Space(tmp_path, ledger, Clock(), 16 * 4096)
    places = [space.take(4096 * size) for size in (1, 2, 3, 4, 6)]
    assert space.free == 0
    for number in (1, 3, 0, 2, 4):
        space.give(places[number])
    whole = space.take(16 * 4096)
    assert (whole.start, whole.stop) == (0, 16 * 4096)
    assert space.size == ledger.tiers()["disk"] == 16 * 4096
    assert space.take(100).file is not whole.file
    space.close()
    assert ledger.tiers()["disk"] == 0


def test_sizes_of_buffers_waste_little():
    for size in (1, 4096, 4097, 100_000, 2**20, 2**20 + 1, 3_333_333):
        assert size <= rounded_up(size) <= max(4096, size * 1.125 + 4096)
    assert len({rounded_up(size) for size in range(2**20, 2**21, 1000)}) <= 9


def test_blocks_are_the_elements_of_lists():
    model = Stack()
    assert blocks_of(model) == tuple(model.blocks)
    assert blocks_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == ()


def test_recomputing_needs_blocks():
    model = nn.Linear(2, 2)
    config = TrainingConfig(steps=1, offload=OffloadConfig(activations="recompute"))
    with pytest.raises(ModelError, match="no list of blocks") as raised:
        Trainer(model, lambda part, step: (model(part).sum(), {}), batch, config)
    assert raised.value.location == "offload.activations"


def test_a_folder_that_is_missing_is_said_before_the_first_step(tmp_path):
    with pytest.raises(ModelError, match="is not there") as raised:
        trainer_of("nvme", tmp_path / "none")
    assert raised.value.location == "offload.folder"


def test_looking_at_the_model_recomputes_nothing(tmp_path):
    trainer = trainer_of("recompute", tmp_path)
    calls = []
    trainer.model.blocks[0].up.register_forward_hook(lambda *_: calls.append(1))
    with trainer.averaged(), torch.no_grad():
        trainer.model(batch(0))
    assert len(calls) == 1
    trainer.run()
    assert len(calls) == 1 + 2 * trainer.config.steps * trainer.config.micro_batches
    trainer.close()
    assert "forward" not in vars(trainer.model.blocks[0])
