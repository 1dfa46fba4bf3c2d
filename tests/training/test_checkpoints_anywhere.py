"""A run that is saved at one stage on some ranks goes on at another on others as if nothing had been."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import pytest
import torch
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import (
    CheckpointConfig,
    CheckpointStore,
    LimitsConfig,
    OffloadConfig,
    ScheduleConfig,
    Trainer,
    TrainingConfig,
)
from foldase_models.training.checkpoints import export_weights, read_commit
from foldase_models.training.checkpoints.saving import Saving
from foldase_models.training.config import MIB
from foldase_models.training.ranks import Ranks

pytestmark = SAME_WORKER
LOSS_TOLERANCE = 1e-5
"""Absolute, of losses around 1: gradients are summed in another order on other numbers of ranks."""
SAVED_AT, STEPS = 6, 16


class Form(NamedTuple):
    """Where a training has its state."""

    stage: int
    optimizer: str = "none"
    parameters: str = "none"


STAGES = tuple(map(Form, range(4)))
OFFLOADED = (Form(0, "cpu"), Form(2, "nvme"), Form(3, "cpu", "cpu"), Form(3, "nvme", "nvme"))


class Stop(Exception):
    pass


class Reader(nn.Module):
    """Tied, frozen and idle parameters, a layer that is called twice, dropout and a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.Sequential(nn.Linear(6, 13), nn.GELU(), nn.Dropout(0.2), nn.Linear(13, 6))
        self.norm = nn.LayerNorm(6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.idle = nn.Linear(3, 5)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, letters):
        x = self.embedding(letters) + self.frozen(self.embedding(letters))
        x = self.mix(x) + x
        return self.head(self.norm(self.mix(x) * self.scale))


def trainer_of(ranks, form, folder, cap=None):
    torch.manual_seed(1)
    model = Reader()
    config = TrainingConfig(
        steps=STEPS,
        micro_batches=6,
        stage=form.stage,
        offload=OffloadConfig(
            optimizer=form.optimizer, parameters=form.parameters, folder=folder.parent / "disk"
        ),
        limits=LimitsConfig(bucket_bytes=4096, memory_bytes=cap),
        schedule=ScheduleConfig(warmup_steps=8),
        checkpoint=CheckpointConfig(seconds=0.0),
    )

    def batch_of(number):
        letters = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(number))
        return letters[:, :-1], letters[:, 1:]

    def loss(batch, step):
        return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()), {}

    return Trainer(model, loss, batch_of, config, CheckpointStore(folder, kept=1), ranks)


def losses_of(ranks, form, folder, stop_after=None, cap=None):
    """Losses of the steps that this process takes, and where it began; each is saved in the background."""
    (folder.parent / "disk").mkdir(exist_ok=True)
    trainer = trainer_of(ranks, form, folder, cap)
    losses = []

    def on_step(report):
        losses.append(report.loss)
        if report.step == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        trainer.run(on_step)
    first = trainer.step - len(losses)
    weights = trainer.result()
    trainer.close()
    return first, losses, weights


def interrupt(gang, form, folder):
    for first, losses, _ in gang.run(losses_of, form, folder, SAVED_AT):
        assert (first, len(losses)) == (0, SAVED_AT)


def go_on(gang, form, folder):
    """The rest of the losses, by a run that leaves the checkpoint as it is."""
    ((first, losses, weights), *others) = gang.run(losses_of, form, folder)
    assert all(other[:2] == (first, losses) for other in others)
    assert first == SAVED_AT
    return losses, weights


def copied(folder, name):
    (marker,) = folder.glob("*.json")
    (data,) = folder.glob("step-*.*/")
    target = folder.parent / name
    (target / data.name).mkdir(parents=True)
    for path in [marker, *data.iterdir()]:
        (target / path.relative_to(folder)).write_bytes(path.read_bytes())
    return target


def close(losses, wanted):
    return len(losses) == len(wanted) and losses == pytest.approx(wanted, abs=LOSS_TOLERANCE, rel=0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    _, losses, weights = losses_of(Ranks(), Form(0), tmp_path_factory.mktemp("uninterrupted"))
    return losses, weights


@pytest.mark.parametrize("form", [Form(2), Form(3, "nvme", "nvme")])
def test_two_ranks_go_on_as_one_and_as_two_of_another_stage(tmp_path, form, uninterrupted):
    wanted, weights = uninterrupted
    folder = tmp_path / "saved"
    with Gang(2) as two:
        interrupt(two, form, folder)
        assert len(read_commit(folder, SAVED_AT).files) == 2
        losses, _ = go_on(two, Form(1), copied(folder, "two"))
        assert close(losses, wanted[SAVED_AT:])
    first, losses, found = losses_of(Ranks(), Form(0), copied(folder, "one"))
    assert first == SAVED_AT
    assert close(losses, wanted[SAVED_AT:])
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, atol=LOSS_TOLERANCE, rtol=0)
    (exported,) = export_weights(tmp_path / "one", tmp_path / "exported")
    assert exported.stat().st_size > sum(tensor.nbytes for tensor in found.values())


@pytest.mark.verify
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("saved_forms", "loaded_forms"),
    [(STAGES, STAGES), (OFFLOADED, (*OFFLOADED, Form(1))), ((Form(1),), OFFLOADED)],
    ids=["all stages", "from offloaded", "to offloaded"],
)
def test_any_form_on_four_ranks_goes_on_in_any_form_on_one_two_or_three(
    tmp_path, uninterrupted, saved_forms, loaded_forms
):
    """Number 3 of the training's promises, whole."""
    wanted = uninterrupted[0][SAVED_AT:]
    differences = []
    with Gang(4) as four:
        for saved in saved_forms:
            interrupt(four, saved, tmp_path / f"saved {saved}")
    for size in (1, 2, 3):
        with Gang(size) as gang:
            for saved in saved_forms:
                for form in loaded_forms:
                    folder = copied(tmp_path / f"saved {saved}", f"{saved} {form} {size}")
                    losses, _ = go_on(gang, form, folder)
                    assert close(losses, wanted), (saved, form, size)
                    differences += [abs(a - b) for a, b in zip(losses, wanted, strict=True)]
    ways = len(differences) // len(wanted)
    print(f"{ways} ways on: next {len(wanted)} losses differ by {max(differences):.1e} at most")


def test_state_that_lies_on_disk_is_not_copied_to_memory_and_a_cap_is_kept(
    tmp_path, uninterrupted, monkeypatch
):
    """The cap counts what saving and loading take, too."""
    monkeypatch.setattr(Saving, "stage", lambda self: pytest.fail("a copy of what lies on the disk"))
    form, cap = Form(3, "nvme", "nvme"), 16 * MIB
    _, first, _ = losses_of(Ranks(), form, tmp_path / "run", SAVED_AT, cap)
    begun, second, _ = losses_of(Ranks(), form, tmp_path / "run", cap=cap)
    assert begun == SAVED_AT
    assert close(first + second, uninterrupted[0])
