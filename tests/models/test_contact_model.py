"""The contact model: shapes, invariances, trace, confidence, files, plans."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from counted_memory import peak_of
from safetensors.torch import load_file, save_file

from foldase_kernels.attention import cpu
from foldase_models.coevolution import FamilyConfig, random_chain, simulate_families
from foldase_models.errors import ModelError
from foldase_models.folding.contacts import ContactModel, ContactModelConfig
from foldase_models.folding.contacts.features import (
    Cropping,
    TrainingFamily,
    choose_rows,
    make_batch,
    shuffle_columns,
)
from foldase_models.folding.contacts.heads import DistanceBins
from foldase_models.folding.contacts.predict import predict_contacts
from foldase_models.folding.contacts.trace import BOND, lddt_ca, trace_from_distances
from foldase_models.folding.contacts.weights import load_model, read_training, save_model
from foldase_models.metrics import lddt, mirror_rmsd
from foldase_models.planning import Hardware, Part, estimate_prediction, parameter_count, plan_training
from foldase_models.planning import contacts as planning
from foldase_models.training import TrainingConfig

TINY = ContactModelConfig(
    letters="ARND", width=8, blocks=1, heads=2, head_width=4, outer_width=4, sequences=6, recycles=1
)
PLANNED_MEMORY = 0.3
"""How far a planned peak may be from the counted one."""
SAME = 1e-4
"""float32 results of the same sums in another order."""


@pytest.fixture(scope="module")
def families():
    made = simulate_families(FamilyConfig(length=18, alphabet=4, ancestors=16), 4, 5)
    return [TrainingFamily(f"f{f.index}", f.letters, f.coords, f.contacts) for f in made]


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = ContactModel(TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def letters(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, size=shape, dtype=np.uint8))


def test_shapes_and_symmetry(model):
    out = model(letters(2, 6, 11), letters(2, 20, 11))
    assert out.contact_logits.shape == (2, 11, 11)
    assert out.distogram_logits.shape == (2, 11, 11, TINY.distance_bins)
    assert out.coords.shape == (2, 11, 3)
    assert out.confidence.shape == out.confidence_spread.shape == (2, 11)
    assert (out.confidence_spread > 0).all()
    assert torch.equal(out.contact_logits, out.contact_logits.mT)
    assert torch.allclose(out.distance, out.distance.mT, atol=1e-5)
    assert ((out.confidence > 0) & (out.confidence < 1)).all()
    assert all(bool(field.isfinite().all()) for field in (out.contact_logits, out.coords, out.confidence))


def test_the_order_of_rows_and_of_proteins_means_nothing(model):
    rows, extra = letters(2, 6, 11), letters(2, 20, 11)
    order, extra_order = torch.randperm(6), torch.randperm(20)
    wanted = model(rows, extra)
    found = model(rows[:, order], extra[:, extra_order])
    assert (found.contact_logits - wanted.contact_logits).abs().max() < SAME
    alone = model(rows[1:], extra[1:])
    assert (alone.contact_logits - wanted.contact_logits[1:]).abs().max() < SAME


def test_weights_of_rows_count_like_copies(model):
    """A row of weight two is two rows; all weights one is no weights."""
    rows, extra = letters(1, 6, 11), letters(1, 20, 11)
    doubled = torch.cat((extra, extra[:, :5]), 1)
    weights = torch.ones(1, 20)
    weights[:, :5] = 2.0
    found, wanted = model(rows, extra, weights), model(rows, doubled)
    assert (found.contact_logits - wanted.contact_logits).abs().max() < SAME
    plain, unit = model(rows, extra), model(rows, extra, torch.ones(1, 20))
    assert (plain.contact_logits - unit.contact_logits).abs().max() < SAME


def test_recycling_changes_the_answer_and_has_no_gradient_through(model):
    rows, extra = letters(1, 6, 11), letters(1, 20, 11)
    first, second = model(rows, extra, recycles=0), model(rows, extra, recycles=1)
    assert (first.contact_logits - second.contact_logits).abs().max() > 1e-3
    second.contact_logits.sum().backward()
    assert model.recycling_embedder.linear.weight.grad.abs().max() > 0


def test_confidence_does_not_train_what_it_judges(model):
    out = model(letters(1, 6, 11), letters(1, 20, 11))
    (out.confidence + out.confidence_spread).sum().backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {"confidence_head"}


@pytest.mark.parametrize("length", [1, 2, 3, 5, 40])
def test_trace_from_exact_distances(length):
    chain = torch.from_numpy(random_chain(length, np.random.default_rng(3))).unsqueeze(0)
    distance = torch.cdist(chain, chain)
    trace = trace_from_distances(distance, torch.full_like(distance, 0.1))[0]
    assert trace.shape == (length, 3)
    if length > 1:
        assert (trace.diff(dim=0).norm(dim=-1) - BOND).abs().max() < 1e-3
        assert mirror_rmsd(trace.numpy(), chain[0].numpy()) < 0.05


def test_trace_from_impossible_distances_is_finite_and_repeatable():
    noise = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(0)) * 40
    noise = noise + noise.mT
    first = trace_from_distances(noise, torch.ones_like(noise))
    assert bool(first.isfinite().all())
    assert torch.equal(first, trace_from_distances(noise, torch.ones_like(noise)))
    assert (first.diff(dim=-2).norm(dim=-1) - BOND).abs().max() < 1e-3


def test_lddt_is_that_of_the_metrics_room():
    rng = np.random.default_rng(0)
    truth = random_chain(30, rng)
    guess = truth + rng.normal(scale=1.5, size=truth.shape).astype(np.float32)
    found = lddt_ca(torch.from_numpy(guess)[None], torch.from_numpy(truth)[None])[0]
    assert np.allclose(found.numpy(), lddt(guess, truth).per_residue, atol=1e-6)


def test_distance_bins():
    bins = DistanceBins(4.0, 26.0, 24)
    assert len(bins.centres) == 24
    assert torch.allclose(bins.centres.diff(), torch.ones(23))
    assert bins.index(torch.tensor([0.0, 4.5, 25.9, 90.0])).tolist() == [0, 1, 22, 23]
    sure = torch.full((24,), -30.0)
    sure[5] = 30.0
    mean, spread = bins.moments(sure)
    assert abs(float(mean - bins.centres[5])) < 1e-4
    assert float(spread) < 0.05
    # Within its bin of 1 A all distances are as likely: half an A covers it, and 0.5 A further out half.
    kept, counted = bins.expected_kept(sure, bins.centres[5])
    assert abs(float(kept) - 1.0) < 1e-4
    assert abs(float(counted) - 1.0) < 1e-4
    kept, _ = bins.expected_kept(sure, bins.centres[5] + 0.5)
    assert abs(float(kept) - (0.5 + 3.0) / 4) < 1e-4
    far = torch.full((24,), -30.0)
    far[20] = 30.0
    assert float(bins.expected_kept(far, bins.centres[20])[1]) < 1e-4


def test_shuffled_columns_keep_their_composition():
    msa = np.random.default_rng(0).integers(0, 4, size=(60, 9), dtype=np.uint8)
    mixed = shuffle_columns(msa, np.random.default_rng(1))
    assert np.array_equal(np.sort(mixed, axis=0), np.sort(msa, axis=0))
    assert not np.array_equal(mixed, msa)
    moved = [np.flatnonzero(mixed[:, i] != msa[:, i]) for i in range(9)]
    assert len({tuple(rows) for rows in moved}) == 9


def test_batches_depend_on_the_generator_only(families):
    cropping = Cropping(smallest=9, fewest_rows=4, rows=20)
    seen = set()
    for step in range(30):
        batch = make_batch(families, 3, 6, cropping, np.random.default_rng([0, step]))
        again = make_batch(families, 3, 6, cropping, np.random.default_rng([0, step]))
        assert np.array_equal(batch.extra, again.extra)
        assert np.array_equal(batch.coords, again.coords)
        depth, length = batch.extra.shape[1:]
        assert 4 <= depth <= 20
        assert 9 <= length <= 18
        assert np.array_equal(batch.rows, batch.extra[:, :6])
        near = np.linalg.norm(batch.coords[:, :, None] - batch.coords[:, None], axis=-1) < 7.0
        assert not (batch.contacts & ~near).any()
        seen.add((depth, length))
    assert len(seen) > 5


def test_choose_rows_keeps_the_query_where_asked():
    rng = np.random.default_rng(0)
    assert choose_rows(50, 10, rng, keep_first=True)[0] == 0
    assert len(set(choose_rows(50, 10, rng).tolist())) == 10
    assert choose_rows(1, 10, rng, keep_first=True).tolist() == [0]


def test_prediction_is_repeatable_and_complete(model, families):
    first = predict_contacts(model, families[0].msa, seed=3)
    again = predict_contacts(model, families[0].msa, seed=3)
    assert np.array_equal(first.contact_probability, again.contact_probability)
    assert np.array_equal(first.coords, again.coords)
    i, j = np.tril_indices(18, 3)
    near = np.abs(i - j) < 4
    assert (first.contact_probability[i[near], j[near]] == 0).all()
    assert np.array_equal(first.contact_probability, first.contact_probability.T)
    assert (np.diag(first.distance) == 0).all()
    assert ((first.confidence >= 0) & (first.confidence <= 100)).all()


@pytest.mark.parametrize(
    ("msa", "code"), [(np.full((5, 10), 4), "unknown_letter"), (np.zeros((5, 4)), "too_short")]
)
def test_prediction_refuses_what_it_cannot_read(model, msa, code):
    with pytest.raises(ModelError) as caught:
        predict_contacts(model, msa.astype(np.uint8))
    assert caught.value.code == code


def test_saved_and_loaded(model, tmp_path, families):
    save_model(tmp_path, model, {"steps": 3})
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert read_training(tmp_path) == {"steps": 3}
    wanted, found = predict_contacts(model, families[0].msa), predict_contacts(loaded, families[0].msa)
    assert np.array_equal(wanted.contact_probability, found.contact_probability)


def damage_config(folder):
    described = json.loads((folder / "config.json").read_text())
    described["config"]["width"] = 12
    (folder / "config.json").write_text(json.dumps(described))


def damage_kind(folder):
    (folder / "config.json").write_text('{"kind": "other"}')


def damage_field(folder):
    described = json.loads((folder / "config.json").read_text())
    described["config"]["depth"] = 3
    (folder / "config.json").write_text(json.dumps(described))


def damage_tensors(folder):
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def damage_value(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["contact_head.linear.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def damage_missing(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (damage_config, "wrong_weights"),
        (damage_kind, "wrong_model"),
        (damage_field, "bad_config"),
        (damage_tensors, "bad_weights"),
        (damage_value, "bad_weights"),
        (damage_missing, "missing_file"),
    ],
)
def test_damaged_models_are_refused(model, tmp_path, damage, code):
    save_model(tmp_path, model, {})
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"letters": "A"},
        {"letters": "AA"},
        {"width": 0},
        {"recycles": -1},
        {"distance_bins": 2},
        {"distance_first": 30.0},
    ],
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ModelError) as caught:
        dataclasses.replace(TINY, **changes)
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        ContactModelConfig(letters="ARNDCQEG"),
        ContactModelConfig(
            letters="ABC", width=20, blocks=3, heads=3, head_width=5, outer_width=7, transition_n=4
        ),
    ],
)
def test_planned_parameters_are_exact(config):
    assert parameter_count(config) == sum(p.numel() for p in ContactModel(config).parameters())


def test_plans_grow_with_the_work():
    base = {"examples": 4, "length": 28, "rows": 192}

    def seconds(steps=100, cores=2.0, **changes):
        hardware = Hardware(ram_bytes=2**40, cores=cores)
        part = Part(**(base | changes))
        return plan_training(TINY, TrainingConfig(steps=steps), hardware, part=part).seconds

    low, high = seconds()
    assert low < high
    for change in ({"steps": 200}, {"examples": 8}, {"length": 56}, {"rows": 400}, {"cores": 1.0}):
        assert seconds(**change)[0] > low, change
    small = estimate_prediction(TINY, proteins=1, residues=50, rows=100, cpus=2.0)
    large = estimate_prediction(TINY, proteins=1, residues=500, rows=100, cpus=2.0)
    assert large.memory_bytes > small.memory_bytes


def test_configurations_and_plans_do_without_torch():
    code = (
        "import sys, foldase_models.folding.contacts.config, foldase_models.planning, "
        "foldase_models.training.config, foldase_models.errors; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_planner_knows_what_attention_keeps():
    assert planning.SMALL_SCORES == cpu.SMALL_SCORES


@pytest.mark.parametrize(("residues", "proteins"), [(28, 4), (64, 1), (100, 1)])
def test_planned_memory_is_near_what_is_counted(residues, proteins):
    config = ContactModelConfig(letters="ARNDCQEG")
    model = ContactModel(config).eval()
    rows = letters(proteins, config.sequences, residues)
    extra = letters(proteins, 100, residues)

    def work():
        with torch.no_grad():
            model(rows, extra)

    counted = peak_of(work)
    planned = planning.activation_bytes(config, residues, proteins)
    assert abs(planned - counted) <= PLANNED_MEMORY * counted
