"""The contact model that sees couplings instead of letters: features, model, training, files, plan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from foldase_models.coevolution import FamilyConfig, simulate_families
from foldase_models.coevolution.pair_features import pair_features
from foldase_models.errors import ModelError
from foldase_models.folding.contacts import ContactModel, ContactModelConfig
from foldase_models.folding.contacts.config import PAIR_FEATURES
from foldase_models.folding.contacts.features import Cropping, TrainingFamily, make_batch
from foldase_models.folding.contacts.predict import predict_contacts
from foldase_models.folding.contacts.weights import load_model, save_model
from foldase_models.planning import parameter_count
from foldase_models.recipes.contacts import ContactRecipe, train_contacts, validate
from foldase_models.recipes.running import Watcher
from foldase_models.training import OptimizerConfig, ScheduleConfig, TrainingConfig

TINY = ContactModelConfig(
    letters="ARND-",
    inputs="couplings",
    width=12,
    blocks=1,
    convolutions=2,
    heads=2,
    head_width=4,
    recycles=0,
    dropout=0.0,
)
GAP = 4
SAME = 1e-4
"""float32 features of the same alignment in another alphabet."""


def make_families(count, seed=5):
    config = FamilyConfig(length=16, longest=20, alphabet=4, ancestors=40, own_energies=True, gaps=0.05)
    made = simulate_families(config, count, seed)
    return [TrainingFamily(f"f{f.index}", f.letters, f.coords, f.contacts) for f in made]


def recipe_of(steps, **changes):
    settings = {
        "training": TrainingConfig(
            steps=steps,
            optimizer=OptimizerConfig(learning_rate=1e-2),
            schedule=ScheduleConfig(warmup_steps=10),
        ),
        "families_per_step": 2,
        "cropping": Cropping(smallest=10, largest=14, fewest_rows=2, rows=8),
        "validation": 0,
    }
    return ContactRecipe(**{**settings, **changes})


def test_features_are_symmetric_and_do_not_know_letters():
    msa = make_families(1)[0].msa
    found = pair_features(msa, 5, gap=GAP)
    N = msa.shape[1]
    assert found.shape == (N, N, PAIR_FEATURES)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, found.swapaxes(0, 1), atol=SAME)
    rng = np.random.default_rng(0)
    renamed = msa.copy()
    for column in range(N):
        table = np.array([*rng.permutation(4), GAP], dtype=np.uint8)
        renamed[:, column] = table[msa[:, column]]
    weights = np.ones(len(msa), dtype=np.float32)
    np.testing.assert_allclose(
        pair_features(renamed, 5, weights, gap=GAP), pair_features(msa, 5, weights, gap=GAP), atol=SAME
    )


@pytest.mark.parametrize("length", [2, 5])
def test_features_of_short_chains_and_of_rows_all_alike_are_finite(length):
    msa = np.zeros((10, length), dtype=np.uint8)
    assert np.isfinite(pair_features(msa, 5, gap=GAP)).all()


def test_one_family_is_learned_by_heart():
    family = make_families(1)[0]
    cropping = Cropping(smallest=16, whole=1.0, reverse=False)
    losses = []
    model, record = train_contacts(
        [family],
        TINY,
        recipe_of(60, cropping=cropping),
        watcher=Watcher(step=lambda report: losses.append(report.values["contact_loss"])),
    )
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    assert record["recipe"]["cropping"]["whole"] == 1.0
    assert validate(model, [family])["precision_at_L/5"] == 1.0


def test_crops_take_the_features_of_their_pairs():
    families = [
        dataclasses.replace(f, pairs=np.repeat(f.contacts[..., None], PAIR_FEATURES, -1).astype(np.float32))
        for f in make_families(3)
    ]
    lengths = set()
    for step in range(20):
        batch = make_batch(families, 2, 4, Cropping(smallest=9, largest=14), np.random.default_rng([0, step]))
        assert np.array_equal(batch.pairs[..., 3], batch.contacts)
        lengths.add(batch.contacts.shape[-1])
    assert min(lengths) < max(lengths) == 14


def test_training_prepares_families_once_repeats_and_is_kept(tmp_path):
    families = make_families(6)
    seen = []
    recipe = recipe_of(4, validation=1)
    watcher = Watcher(prepared=lambda done, of: seen.append((done, of)))
    model, record = train_contacts(families, TINY, recipe, watcher=watcher)
    assert seen == [(k, 6) for k in range(1, 7)]
    prepared = [dataclasses.replace(f, pairs=pair_features(f.msa, 5, gap=GAP)) for f in families]
    again, _ = train_contacts(prepared, TINY, recipe)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    save_model(tmp_path, model, record)
    loaded = load_model(tmp_path)
    assert loaded.config == TINY
    msa = families[0].msa
    pairs = pair_features(msa, 5, gap=GAP)
    wanted, found = (predict_contacts(one, msa, pairs=pairs) for one in (model, loaded))
    np.testing.assert_array_equal(found.contact_probability, wanted.contact_probability)
    np.testing.assert_array_equal(wanted.contact_probability, wanted.contact_probability.T)
    with pytest.raises(ModelError) as caught:
        predict_contacts(model, msa)
    assert caught.value.code == "no_pairs"


def test_recycling_and_parameters_are_planned():
    config = dataclasses.replace(TINY, recycles=1, blocks=2)
    torch.manual_seed(0)
    model = ContactModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pairs = torch.randn(1, 9, 9, PAIR_FEATURES)
    pairs = pairs + pairs.transpose(1, 2)
    first, second = model.from_pairs(pairs, recycles=0), model.from_pairs(pairs)
    assert (first.contact_logits - second.contact_logits).abs().max() > SAME
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "wrong", [{"inputs": "guesses"}, {"convolutions": -1}, {"inputs": "letters", "convolutions": 1}]
)
def test_configurations_that_make_no_sense(wrong):
    with pytest.raises(ModelError) as caught:
        dataclasses.replace(TINY, **wrong)
    assert caught.value.code == "bad_config"
