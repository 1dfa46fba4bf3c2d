"""The recipe for the language model: it learns, to a known bound, and the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_ranks import SAME_WORKER, run_ranks

from foldase_models.errors import ModelError
from foldase_models.language.decoder import DecoderConfig, save_decoder
from foldase_models.recipes.language import LanguageRecipe, train_language, validate
from foldase_models.recipes.running import Watcher
from foldase_models.training import (
    CheckpointConfig,
    OptimizerConfig,
    Ranks,
    ScheduleConfig,
    TrainingConfig,
)
from foldase_models.training.trainer import TrainingStopped

pytestmark = SAME_WORKER

CLOSE = 1e-5
"""Losses of the same training on other numbers of ranks."""
TINY = DecoderConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
    tie_word_embeddings=True,
)


def chains(count: int, length: int, seed: int) -> tuple[list[np.ndarray], float]:
    """Sequences of a Markov chain on five letters that mostly has a fixed successor; nats of a letter."""
    rng = np.random.default_rng(seed)
    stays = 0.9
    found = []
    for _ in range(count):
        ids = [int(rng.integers(5))]
        for _ in range(length - 1):
            ids.append((ids[-1] + 1) % 5 if rng.random() < stays else int(rng.integers(5)))
        found.append(np.array(ids) + 1)
    likely, other = stays + (1 - stays) / 5, (1 - stays) / 5
    return found, -(likely * np.log(likely) + 4 * other * np.log(other))


def recipe_of(steps: int, **changes: object) -> LanguageRecipe:
    training = {
        "steps": steps,
        "optimizer": OptimizerConfig(learning_rate=2e-2),
        "schedule": ScheduleConfig(warmup_steps=5),
        "average_decay": 0.9,
        "checkpoint": CheckpointConfig(seconds=0.0),
    }
    own = {name: changes.pop(name) for name in ("validation", "validate_every") if name in changes}
    return LanguageRecipe(
        training=TrainingConfig(**{**training, **changes}), block=20, blocks_per_step=4, **own
    )


def test_what_can_be_known_is_learned_and_no_more():
    sequences, floor = chains(60, 30, seed=3)
    looked: list[tuple[int, float]] = []
    watcher = Watcher(
        validation=lambda step, values: looked.append((step, values["validation_loss"])),
    )
    model, record = train_language(
        sequences, TINY, recipe_of(75, validation=10, validate_every=30), watcher=watcher
    )
    assert [step for step, _ in looked] == [30, 60, 75]
    # A letter in thirty-one is an end or a start, which cost up to ln 5 and ln 31 more.
    assert floor - 0.1 < looked[-1][1] < floor + 0.35
    assert record["validation"]["validation_perplexity"] == pytest.approx(np.exp(looked[-1][1]))
    assert (record["sequences"], record["sequences_held_back"]) == (50, 10)
    assert record["tokens"] == 75 * 4 * 20
    again = validate(model, sequences[50:], 20, torch.device("cpu"))
    assert again["validation_loss"] == pytest.approx(looked[-1][1], abs=CLOSE)


def trained_on(
    ranks: Ranks, sequences: Sequence[np.ndarray], recipe: LanguageRecipe, folder: Path | None, last: int
) -> tuple[list[tuple[float, float]], dict[str, np.ndarray], dict[str, float]]:
    """Losses and tokens told on rank 0, weights, and the last look, up to a step at which one rank stops."""
    told: list[tuple[float, float]] = []
    watcher = Watcher(
        step=lambda report: told.append((report.loss, report.values["tokens"])),
        stop=lambda: ranks.rank == ranks.size - 1 and steps() >= last,
    )
    done = [0]

    def steps() -> int:
        done[0] += 1
        return done[0]

    try:
        model, record = train_language(
            sequences, TINY, recipe, ranks=ranks, checkpoints=folder, watcher=watcher
        )
    except TrainingStopped:
        return told, {}, {}
    return told, {name: w.numpy() for name, w in model.state_dict().items()}, record["validation"]


def test_ranks_change_nothing_and_a_stop_on_one_of_them_stops_all(tmp_path):
    sequences, _ = chains(20, 12, seed=1)
    recipe = recipe_of(6, micro_batches=4, validation=3, validate_every=4)
    alone = trained_on(Ranks(), sequences, recipe, None, 99)
    assert [tokens for _, tokens in alone[0]] == [80.0] * 6
    first, second = run_ranks(trained_on, 2, sequences, recipe, tmp_path, 3)
    assert [len(first[0]), len(second[0])] == [3, 0], "only rank 0 tells, and both have stopped"
    told, weights, last = trained_on(Ranks(), sequences, recipe, tmp_path, 99)
    assert np.allclose(first[0] + told, alone[0], atol=CLOSE)
    assert last["validation_loss"] == pytest.approx(alone[2]["validation_loss"], abs=CLOSE)
    for name, values in alone[1].items():
        np.testing.assert_allclose(weights[name], values, atol=1e-4, err_msg=name)


def test_a_training_goes_on_from_a_model_of_a_file(tmp_path):
    sequences, _ = chains(8, 12, seed=1)
    model, _ = train_language(sequences, TINY, recipe_of(20))
    save_decoder(tmp_path, model)
    losses: list[float] = []
    watcher = Watcher(step=lambda report: losses.append(report.loss))
    train_language(sequences, TINY, recipe_of(2), start=tmp_path, watcher=watcher)
    train_language(sequences, TINY, recipe_of(2), watcher=watcher)
    assert losses[0] < losses[2] - 0.5
    other = replace(TINY, hidden_size=32)
    with pytest.raises(ModelError, match="other sizes"):
        train_language(sequences, other, recipe_of(2), start=tmp_path)


def test_what_cannot_be_learned_is_named():
    sequences, _ = chains(3, 12, seed=1)

    def fault(given: list[np.ndarray], recipe: LanguageRecipe | None = None) -> ModelError:
        with pytest.raises(ModelError) as caught:
            train_language(given, TINY, recipe or recipe_of(2))
        return caught.value

    assert fault([]).code == "no_sequences"
    assert fault([sequences[0], np.zeros(0, dtype=int)]).location == "2"
    assert fault([sequences[0], sequences[1] + 40]).code == "unknown_token"
    assert fault(sequences, LanguageRecipe(training=TrainingConfig(steps=1), block=33)).location == "block"
    with pytest.raises(ModelError, match="micro_batches"):
        recipe_of(2, micro_batches=3)
