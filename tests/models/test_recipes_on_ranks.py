"""Every recipe gives the same losses and the same model on several ranks, wherever its state lies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_ranks import SAME_WORKER, Gang

from foldase_models.coevolution import FamilyConfig, simulate_families
from foldase_models.folding.contacts import ContactModelConfig
from foldase_models.folding.contacts.features import Cropping, TrainingFamily
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.ideal_structures import helix_bundle
from foldase_models.language.decoder import DecoderConfig
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.recipes.contacts import ContactRecipe, train_contacts
from foldase_models.recipes.folding import FoldingRecipe, train_folding
from foldase_models.recipes.folding_data import TrainingStructure
from foldase_models.recipes.folding_models import EsmFoldTrainee
from foldase_models.recipes.folding_rates import published_training
from foldase_models.recipes.language import LanguageRecipe, train_language
from foldase_models.recipes.running import Watcher
from foldase_models.training import OffloadConfig, Ranks, TrainingConfig

pytestmark = SAME_WORKER

CLOSE = 1e-5
"""Losses of the first steps, absolute."""
WEIGHTS = 2e-4
"""Weights after them: where a gradient is all rounding, AdamW makes a whole step of it."""
HALF = 0.03
"""Losses in bfloat16 beside those in float32, relative."""
STEPS = 3

Told = tuple[list[float], dict[str, np.ndarray], float]


def run(ranks: Ranks, recipe: str, changes: dict[str, Any]) -> Told:
    """Losses, weights, and what was counted in a step, on this rank."""
    losses: list[float] = []
    counted: list[float] = []

    def on_step(report: Any) -> None:
        losses.append(report.loss)
        counted.append(report.values.get("tokens", report.values.get("residues")))

    training = {"steps": STEPS, "micro_batches": 2, "average_decay": 0.9, **changes}
    model = _RECIPES[recipe](ranks, Watcher(step=on_step), training)
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    return losses, weights, counted[0] if counted else 0.0


def language(ranks: Ranks, watcher: Watcher, training: dict[str, Any]) -> Any:
    rng = np.random.default_rng(0)
    config = DecoderConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    recipe = LanguageRecipe(
        training=TrainingConfig(**training), block=10, blocks_per_step=4, validation=2, validate_every=2
    )
    sequences = [rng.integers(1, 27, 12) for _ in range(10)]
    return train_language(sequences, config, recipe, ranks=ranks, watcher=watcher)[0]


def contacts(ranks: Ranks, watcher: Watcher, training: dict[str, Any]) -> Any:
    # What dropout draws depends on the type of the numbers that it drops.
    config = ContactModelConfig(
        letters="ARND",
        width=8,
        blocks=1,
        heads=2,
        head_width=4,
        outer_width=4,
        sequences=6,
        dropout=training.pop("dropout", 0.1),
    )
    recipe = ContactRecipe(
        training=TrainingConfig(**training),
        families_per_step=2,
        cropping=Cropping(smallest=10, fewest_rows=8, rows=16),
        validation=1,
        validate_every=2,
    )
    made = simulate_families(FamilyConfig(length=14, alphabet=4, ancestors=12), 5, 1)
    families = [TrainingFamily(f"f{f.index}", f.letters, f.coords, f.contacts) for f in made]
    return train_contacts(families, config, recipe, ranks=ranks, watcher=watcher)[0]


def folding(ranks: Ranks, watcher: Watcher, training: dict[str, Any]) -> Any:
    config = EsmFoldConfig(
        language=Esm2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            position_embedding_type="rotary",
        ),
        trunk=TrunkDims(c_s=16, c_z=16, sequence_head_width=8, pair_head_width=8, no_blocks=1),
        structure=StructureDims(
            c_s=16, c_z=16, c_ipa=4, c_resnet=16, no_heads_ipa=2, no_v_points=2, no_blocks=2, dropout_rate=0.0
        ),
        lddt_width=16,
        passes=2,
    )
    built = [helix_bundle(2, 8, seed=seed) for seed in range(5)]
    structures = [
        TrainingStructure(
            name=one.name,
            sequence=one.sequence,
            positions=one.positions,
            mask=one.mask,
            residue_index=np.arange(len(one.sequence)),
        )
        for one in built
    ]
    recipe = FoldingRecipe(
        training=published_training(**training), crop=12, structures_per_step=2, recycles=1, validation=1
    )
    new = partial(EsmFoldTrainee.new, config, 0)
    return train_folding(new, structures, recipe, ranks=ranks, watcher=watcher)[0].model


_RECIPES = {"language": language, "contacts": contacts, "folding": folding}
COUNTED = {"language": 40.0, "contacts": (20.0, 28.0), "folding": 24.0}


def same(found: Told, alone: Told, recipe: str) -> None:
    assert len(found[0]) == STEPS
    np.testing.assert_allclose(found[0], alone[0], atol=CLOSE, rtol=CLOSE)
    assert found[2] == alone[2]
    least, most = COUNTED[recipe] if recipe == "contacts" else (COUNTED[recipe], COUNTED[recipe])
    assert least <= found[2] <= most
    for name, values in alone[1].items():
        np.testing.assert_allclose(found[1][name], values, atol=WEIGHTS, err_msg=name)


@pytest.fixture(scope="module")
def alone() -> dict[str, Told]:
    """Each recipe in a single process."""
    return {}


def known(alone: dict[str, Told], recipe: str, **changes: float) -> Told:
    key = f"{recipe} {changes}"
    if key not in alone:
        alone[key] = run(Ranks(), recipe, dict(changes))
    return alone[key]


def test_two_ranks_train_what_one_does(alone):
    """Two recipes at a stage each; all of them at all stages in the long test."""
    with Gang(2) as gang:
        for recipe, stage in (("language", 3), ("contacts", 2)):
            first, second = gang.run(run, recipe, {"stage": stage})
            same(first, known(alone, recipe), recipe)
            assert second[0] == [], "only rank 0 tells"


@pytest.mark.verify
@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("place", ["none", "cpu", "nvme"])
def test_stages_and_places_change_nothing(alone, recipe, stage, place, tmp_path: Path):
    offload = OffloadConfig(optimizer=place, parameters=place if stage == 3 else "none", folder=tmp_path)
    with Gang(2) as gang:
        first, _ = gang.run(run, recipe, {"stage": stage, "offload": offload}, timeout=240)
    same(first, known(alone, recipe), recipe)


@pytest.mark.verify
@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_half_precision_trains_every_model(alone, recipe, stage):
    changes = {"dropout": 0.0} if recipe == "contacts" else {}
    with Gang(2) as gang:
        half = {"stage": stage, "precision": "bfloat16", **changes}
        first, _ = gang.run(run, recipe, half, timeout=240)
    np.testing.assert_allclose(first[0], known(alone, recipe, **changes)[0], rtol=HALF)
