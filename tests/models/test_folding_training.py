"""Folding models learn: one structure by heart, the same way every time, and on from where they stopped."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.folding import load_folder
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.ideal_structures import helix_bundle
from foldase_models.folding.losses import LossWeights
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import FoldInput
from foldase_models.layers.residues import ATOM37_INDEX
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.recipes.folding import FoldingRecipe, train_folding
from foldase_models.recipes.folding_data import TrainingStructure, draw_crop
from foldase_models.recipes.folding_models import EsmFoldTrainee, save_trainee
from foldase_models.recipes.folding_rates import published_training
from foldase_models.recipes.running import Watcher
from foldase_models.training.checkpoints import CheckpointStore

SAME = 1e-4
"""Coordinates of a model and of the same one read back from its file, A."""
BFLOAT16_TOLERANCE = 0.005
"""Of the first losses, relative."""
BY_HEART = LossWeights(clamped_share=0.0, masked_msa=0.0)
"""FAPE is never cut off, so that it pulls from afar too, and no residue is hidden."""


def config(
    width: int = 32, *, blocks: int = 0, structure_blocks: int = 3, long: bool = False
) -> EsmFoldConfig:
    """A small ESMFold: relative positions, a random language model, trunk blocks, the structure module.

    Chains of more than 32 residues are ``long``: without blocks to tell, far residues must not look alike.
    """
    return EsmFoldConfig(
        language=Esm2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            position_embedding_type="absolute" if long else "rotary",
        ),
        trunk=TrunkDims(
            c_s=width,
            c_z=32,
            sequence_head_width=16,
            pair_head_width=16,
            no_blocks=blocks,
            position_bins=64 if long else 32,
        ),
        structure=StructureDims(
            c_s=width,
            c_z=32,
            c_ipa=8,
            c_resnet=32,
            no_heads_ipa=4,
            no_v_points=4,
            no_blocks=structure_blocks,
            dropout_rate=0.0,
        ),
        lddt_width=32 if long else 16,
        passes=1,
    )


def bundle(helices: int, length: int, seed: int = 1) -> TrainingStructure:
    built = helix_bundle(helices, length, seed=seed)
    return TrainingStructure(
        name=built.name,
        sequence=built.sequence,
        positions=built.positions,
        mask=built.mask,
        residue_index=np.arange(len(built.sequence)),
    )


def by_heart(steps: int, **changes: Any) -> FoldingRecipe:
    training = {"learning_rate": 5e-3, "warmup_steps": 20, "average_decay": 0.9, "steps": steps, **changes}
    return FoldingRecipe(
        training=published_training(**training), losses=BY_HEART, recycles=0, hidden_share=0.0
    )


def test_a_helix_hairpin_is_learned_by_heart():
    losses = []
    watcher = Watcher(step=lambda report: losses.append(report.loss))
    _, found, record = train_folding(
        partial(EsmFoldTrainee.new, config(), 0), [bundle(2, 8)], by_heart(75), watcher=watcher
    )
    assert losses[-1] < 0.5 * losses[0]
    assert record["scored"] == "trained on"
    assert record["scores"] == pytest.approx(found[0].scores)
    assert record["scores"]["lddt_alpha"] > 0.6
    assert record["scores"]["rmsd_alpha"] < 3.0


def dtypes(model: nn.Module) -> set[torch.dtype]:
    return {own.dtype for own in model.parameters() if own.requires_grad}


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.verify)])
def test_bfloat16_learns_as_float32_does_as_frames_and_losses_stay_exact(stage):
    losses, held = {}, set()

    def train(precision):
        made = []

        def new():
            made.append(EsmFoldTrainee.new(config(blocks=1), 0))
            return made[-1]

        def step(report):
            losses.setdefault(precision, []).append(report.loss)
            trunk = made[0].model.trunk
            held.add((precision, *dtypes(trunk.structure_module), *dtypes(trunk.blocks)))

        recipe = by_heart(6 if stage == 0 else 75, precision=precision, stage=stage)
        train_folding(new, [bundle(2, 8)], recipe, watcher=Watcher(step=step))

    train("float32")
    train("bfloat16")
    assert held == {
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
    }
    np.testing.assert_allclose(losses["bfloat16"][:6], losses["float32"][:6], rtol=BFLOAT16_TOLERANCE)
    assert stage == 0 or losses["bfloat16"][-1] < 0.5 * losses["bfloat16"][0]


@pytest.mark.verify
@pytest.mark.timeout(1800)  # two minutes of one core, which others may share
def test_a_bundle_as_large_as_ubiquitin_is_learned_by_heart():
    known = bundle(3, 22)
    assert known.length == 74
    new = partial(EsmFoldTrainee.new, config(64, structure_blocks=4, long=True), 0)
    recipe = by_heart(330, learning_rate=3e-3, clip_norm=1.0)
    started = time.process_time()
    _, _, record = train_folding(new, [known], recipe)
    print(f"{time.process_time() - started:.0f} s of the processor: {record['scores']}")
    assert record["scores"]["lddt"] > 0.9
    assert record["scores"]["rmsd_alpha"] < 1.0


def small_recipe(steps: int = 4, **changes: object) -> FoldingRecipe:
    return FoldingRecipe(
        training=published_training(steps=steps),
        losses=LossWeights.fine_tuning(),
        crop=12,
        structures_per_step=2,
        recycles=1,
        **changes,
    )


class Stopped(Exception):
    pass


def small_trainee(seed: int = 0) -> EsmFoldTrainee:
    return EsmFoldTrainee.new(config(16, blocks=1, structure_blocks=2), seed)


def weights_of(trainee: EsmFoldTrainee) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in trainee.model.state_dict().items()}


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    structures = [bundle(2, 8, seed) for seed in (1, 2, 3)]
    whole, _, record = train_folding(small_trainee, structures, small_recipe())

    def stop(report):
        if report.step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_folding(
            small_trainee, structures, small_recipe(), checkpoints=tmp_path, watcher=Watcher(step=stop)
        )
    assert CheckpointStore(tmp_path).steps() == [2]
    steps = []
    second, _, other = train_folding(
        small_trainee,
        structures,
        small_recipe(),
        checkpoints=tmp_path,
        watcher=Watcher(step=lambda report: steps.append(report.step)),
    )
    assert steps == [3, 4]
    assert json.dumps(record, sort_keys=True) == json.dumps(other, sort_keys=True)
    for name, values in weights_of(whole).items():
        np.testing.assert_array_equal(values, weights_of(second)[name], err_msg=name)


def test_all_losses_are_there_and_structures_held_back_are_looked_at():
    structures = [bundle(2, 8, seed) for seed in range(5)]
    told, values = {}, []
    watcher = Watcher(step=lambda report: values.append(report.values), validation=told.__setitem__)
    before = weights_of(small_trainee())
    trainee, found, record = train_folding(
        small_trainee, structures, small_recipe(3, validation=3, validate_every=2), watcher=watcher
    )
    weighted = set(LossWeights().to_json()) - {"clamped_share", "resolved"}
    assert set(values[0]) == weighted | {"lddt", "residues"}
    assert {one["residues"] for one in values} == {24.0}, "two crops of twelve"
    assert all(np.isfinite(list(one.values())).all() for one in values)
    assert (record["structures"], record["structures_held_back"], record["scored"]) == (4, 1, "held back")
    assert sorted(told) == [2, 3]
    assert [one.name for one in found] == [structures[-1].name]
    assert found[0].plddt.shape == (structures[-1].length,)
    after = weights_of(trainee)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "trunk.structure_module.ipa.linear_q.weight" in changed
    assert not any(name.startswith("esm.") for name in changed)


def test_a_trained_model_is_read_back_as_any_checkpoint_is(tmp_path):
    known = bundle(2, 8)
    trainee, found, record = train_folding(partial(small_trainee, 3), [known], small_recipe(2))
    save_trainee(tmp_path, trainee, record)
    folder = load_folder(tmp_path, ForwardOptions())
    said = folder.fold(FoldInput(name="again", chains=(known.sequence,)), seed=0, recycles=1)
    mask = said.atom_mask
    np.testing.assert_allclose(said.positions[mask], found[0].atoms.positions[mask], atol=SAME)
    assert json.loads((tmp_path / "training.json").read_text())["kind"] == "esmfold"


def test_crops_hold_something_that_was_seen():
    known = bundle(2, 8)
    mask = known.mask.copy()
    mask[:10] = False
    hidden = TrainingStructure(
        name="hidden",
        sequence=known.sequence,
        positions=known.positions,
        mask=mask,
        residue_index=known.residue_index,
    )
    rng = np.random.default_rng(0)
    drawn = [draw_crop(hidden, 8, rng) for _ in range(200)]
    assert {length for _, length in drawn} == {8}
    assert {start for start, _ in drawn} == set(range(6, 13))
    assert draw_crop(hidden, 100, rng) == (0, 20)


def broken(known: TrainingStructure, change: str) -> TrainingStructure:
    if change == "letter":
        return replace(known, sequence="U" + known.sequence[1:])
    if change == "coordinate":
        positions = known.positions.copy()
        positions[3, 1] = np.nan
        return replace(known, positions=positions)
    if change == "types":
        return replace(known, sequence="X" * (known.length - 3) + known.sequence[-3:])
    if change == "spread":
        apart = 100.0 * np.arange(known.length, dtype=np.float32)
        return replace(known, positions=known.positions + apart[:, None, None])
    if change == "atoms":
        mask = known.mask.copy()
        mask[3:, ATOM37_INDEX["CA"]] = False
        return replace(known, mask=mask)
    return replace(known, mask=known.mask[:-1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("letter", "unknown_residue"),
        ("coordinate", "bad_structure"),
        ("atoms", "too_short"),
        ("types", "too_short"),
        ("spread", "bad_structure"),
        ("shape", "bad_structure"),
    ],
)
def test_structures_that_cannot_be_learned_are_named(change, code):
    structures = [bundle(2, 8), broken(bundle(2, 8, seed=2), change)]
    with pytest.raises(ModelError) as caught:
        train_folding(small_trainee, structures, small_recipe())
    assert (caught.value.code, caught.value.location) == (code, structures[1].name)


@pytest.mark.parametrize(
    "change", [{"crop": 0}, {"structures_per_step": 0}, {"recycles": -1}, {"validate_every": 0}]
)
def test_recipes_that_make_no_sense_are_refused(change):
    with pytest.raises(ModelError, match=next(iter(change))):
        FoldingRecipe(training=published_training(steps=1), **change)


def test_nothing_to_learn_is_refused():
    with pytest.raises(ModelError, match="no structures"):
        train_folding(small_trainee, [], small_recipe())
