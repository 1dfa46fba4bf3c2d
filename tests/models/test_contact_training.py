"""The recipe for the contact model on tiny families."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from foldase_models.coevolution import FamilyConfig, simulate_families
from foldase_models.errors import ModelError
from foldase_models.folding.contacts import ContactModelConfig
from foldase_models.folding.contacts.features import Cropping, TrainingFamily
from foldase_models.metrics import contact_precision
from foldase_models.recipes.contacts import ContactRecipe, train_contacts, validate
from foldase_models.recipes.running import Watcher
from foldase_models.training import (
    CheckpointConfig,
    CheckpointStore,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)

TINY = ContactModelConfig(
    letters="ARND",
    width=12,
    blocks=1,
    heads=2,
    head_width=4,
    outer_width=4,
    sequences=8,
    recycles=1,
    dropout=0.1,
)


def make_families(count, length=16, seed=5):
    made = simulate_families(FamilyConfig(length=length, alphabet=4, ancestors=24), count, seed)
    return [TrainingFamily(f"f{f.index}", f.letters, f.coords, f.contacts) for f in made]


def training_of(steps, **changes):
    return TrainingConfig(
        steps=steps,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        schedule=ScheduleConfig(warmup_steps=10),
        checkpoint=CheckpointConfig(seconds=0.0),
        **changes,
    )


def recipe_of(steps, **changes):
    settings = {
        "training": training_of(steps),
        "families_per_step": 2,
        "cropping": Cropping(smallest=10, fewest_rows=8, rows=48, shuffled=0.2),
        "validation": 0,
    }
    return ContactRecipe(**{**settings, **changes})


def test_one_family_is_learned_by_heart():
    family = make_families(1)[0]
    cropping = Cropping(smallest=16, whole=1.0, rows=48, whole_depth=1.0, shuffled=0.0, reverse=False)
    losses = []
    model, record = train_contacts(
        [family],
        TINY,
        recipe_of(100, cropping=cropping),
        watcher=Watcher(step=lambda report: losses.append(report.values["contact_loss"])),
    )
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    found = validate(model, [family])
    i, j = np.triu_indices(16, 4)
    contacts = int(family.contacts[i, j].sum())
    assert contacts >= 5
    assert found["precision_at_L/5"] == 1.0
    assert found["validation_lddt"] > 0.5
    assert record["steps"] == 100
    assert record["skipped_steps"] == 0


@pytest.mark.parametrize(
    "stop_after", [4, *(pytest.param(step, marks=pytest.mark.verify) for step in (1, 6))]
)
def test_interrupted_training_ends_with_the_same_model_bitwise(tmp_path, stop_after):
    families = make_families(6)
    recipe = recipe_of(9, validation=1, validate_every=4)
    whole, _ = train_contacts(families, TINY, recipe)

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == stop_after:
            raise Stop

    with pytest.raises(Stop):
        train_contacts(families, TINY, recipe, checkpoints=tmp_path, watcher=Watcher(step=stop))
    steps = []
    continued, _ = train_contacts(
        families,
        TINY,
        recipe,
        checkpoints=tmp_path,
        watcher=Watcher(step=lambda report: steps.append(report.step)),
    )
    assert steps == list(range(stop_after + 1, 10))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name


def test_families_held_back_are_watched_but_not_seen():
    families = make_families(10)
    looked = []
    _, record = train_contacts(
        families,
        TINY,
        recipe_of(6, validation=2, validate_every=2),
        watcher=Watcher(validation=lambda step, values: looked.append((step, values))),
    )
    assert [step for step, _ in looked] == [2, 4, 6]
    assert record["families"] == 8
    assert record["families_held_back"] == 2
    assert set(record["validation"]) == {
        "precision_at_L",
        "precision_at_L/2",
        "precision_at_L/5",
        "validation_lddt",
        "confidence_correlation",
    }


def test_seeds_differ_and_repeat():
    families = make_families(3)
    first, _ = train_contacts(families, TINY, recipe_of(3))
    again, _ = train_contacts(families, TINY, recipe_of(3))
    other, _ = train_contacts(families, TINY, recipe_of(3, training=training_of(3, seed=1)))
    name = "contact_head.linear.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "code"),
    [("none", "no_families"), ("letters", "unknown_letter"), ("short", "too_short")],
)
def test_families_that_cannot_be_used(change, code):
    families = make_families(2)
    if change == "none":
        families = []
    elif change == "letters":
        families[1].msa[3, 2] = 9
    else:
        f = families[1]
        families[1] = TrainingFamily("short", f.msa[:, :4], f.coords[:4], f.contacts[:4, :4])
    with pytest.raises(ModelError) as caught:
        train_contacts(families, TINY, recipe_of(2))
    assert caught.value.code == code


def test_families_of_different_lengths_train_together():
    families = [*make_families(2, length=16), *make_families(2, length=12, seed=6)]
    model, record = train_contacts(families, TINY, recipe_of(4))
    assert record["steps"] == 4
    assert 0 <= contact_precision(np.zeros((16, 16)), families[0].contacts, min_separation=4)["L"] <= 1
    assert not model.training


_TRAIN_IN_A_PROCESS = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
import test_contact_training as t
recipe = t.recipe_of(int(sys.argv[3]))
t.train_contacts(t.make_families(6), t.TINY, recipe, checkpoints=Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("steps", "kills"), [(20, 1), pytest.param(60, 3, marks=pytest.mark.verify)])
def test_a_killed_process_is_continued_to_the_same_model(tmp_path, steps, kills):
    """SIGKILL at a random moment, perhaps again, then the rest: the model is that of a quiet run."""
    families = make_families(6)
    whole, _ = train_contacts(families, TINY, recipe_of(steps))
    reached = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", _TRAIN_IN_A_PROCESS, str(Path(__file__).parent), str(tmp_path), str(steps)]
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            saved = CheckpointStore(tmp_path).steps()
            if saved and saved[0] > reached + 3:
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        reached = CheckpointStore(tmp_path).steps()[0]
        assert reached > 0
    first = []
    continued, _ = train_contacts(
        families,
        TINY,
        recipe_of(steps),
        checkpoints=tmp_path,
        watcher=Watcher(step=lambda report: first.append(report.step)),
    )
    assert first[:1] in ([reached + 1], [])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, continued.state_dict()[name]), name
