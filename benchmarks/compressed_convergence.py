"""How far 0/1 Adam and 1-bit Adam come in as many steps as AdamW, and what they send on the way.

A small protein language model learns simulated families. Every optimizer is tried at the same rates with the
first seed, and is measured with the best of them: loss in nats a residue on sequences that nobody trained on,
and bytes as the collectives count them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from natural_families import NATURAL_LIKE
from numpy.typing import NDArray
from rank_processes import Gang

from foldase_models.coevolution import FamilyConfig, iterate_families
from foldase_models.language.decoder.config import VOCABULARY, DecoderConfig
from foldase_models.language.decoder.features import encode
from foldase_models.recipes.language import LanguageRecipe, train_language
from foldase_models.recipes.running import Watcher
from foldase_models.training import OptimizerConfig, Ranks, ScheduleConfig, StepReport, TrainingConfig
from foldase_models.training.config import CompressionConfig
from foldase_models.training.optim.policies import make_policy
from foldase_workflows.formats.letters import LETTERS

STEPS = 1200
SEEDS = (1, 2, 3)
RATES = (1e-3, 2e-3, 4e-3)
WARM_UP_SHARE = 0.2
"""Of the steps, that 1-bit Adam takes with whole gradients."""
MOST_SENT, MOST_ROUNDS, MOST_LOSS = 0.10, 0.50, 0.01
MOST_SENT_ONE_BIT = WARM_UP_SHARE + (1 - WARM_UP_SHARE) / 32 + 0.01
BLOCK, BLOCKS = 64, 8
"""Tokens of an example, and examples of a step."""
HELD_BACK = 256
MODEL = DecoderConfig(
    vocab_size=VOCABULARY["amino_acids"],
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    tokens="amino_acids",
)
"""335,040 parameters."""
FAMILIES = 40
COMPACT = FamilyConfig(alphabet=20, length=64, ancestors=300)
"""As in the workflow train-compressed: one length, and letters that mean the same in all families."""


@dataclass(frozen=True)
class Found:
    """What one training ended with.

    Attributes:
        loss: nats a residue on what was held back.
        sent: bytes, by rank 0, in all steps.
        rounds: share of the steps after the freeze in which anything was sent; 1 for AdamW.
    """

    loss: float
    sent: float
    rounds: float


def sequences_of(config: FamilyConfig, families: int, seed: int = 1) -> list[NDArray[np.int64]]:
    """Token ids of all rows of so many families, mixed, without gaps."""
    letters = encode(LETTERS[: config.alphabet])
    found = []
    for family in iterate_families(config, families, seed):
        found += [letters[row[row < config.alphabet]] for row in family.letters]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[place] for place in order]


def config_of(kind: str, rate: float, seed: int, *, steps: int = STEPS, parts: int = 2) -> TrainingConfig:
    """One training; all of them have everything else in common."""
    freeze = round(WARM_UP_SHARE * steps) if kind == "one_bit_adam" else None
    return TrainingConfig(
        steps=steps,
        seed=seed,
        micro_batches=parts,
        optimizer=OptimizerConfig(
            kind=kind,  # type: ignore[arg-type]
            learning_rate=rate,
            compression=CompressionConfig(freeze_step=freeze),
        ),
        schedule=ScheduleConfig(warmup_steps=steps // 10),
    )


def train(ranks: Ranks, sequences: Sequence[NDArray[np.int64]], training: TrainingConfig) -> Found | None:
    """What every rank does; None on all but the first."""
    recipe = LanguageRecipe(
        training=training,
        block=BLOCK,
        blocks_per_step=BLOCKS,
        validation=HELD_BACK,
        validate_every=training.steps + 1,
    )
    reports: list[StepReport] = []
    _, record = train_language(sequences, MODEL, recipe, ranks=ranks, watcher=Watcher(step=reports.append))
    if not ranks.first:
        return None
    frozen = make_policy(training).first_frozen() if training.optimizer.compresses else 0
    before = reports[frozen - 1].rounds if frozen else 0
    rounds = (reports[-1].rounds - before) / (training.steps - frozen)
    return Found(record["validation"]["validation_loss"], reports[-1].sent, rounds)


def convergence() -> Iterator[dict[str, Any]]:
    """Rows of the losses, what was sent and in how many rounds."""
    sequences = sequences_of(NATURAL_LIKE, FAMILIES)
    best: dict[str, float] = {}
    measured: dict[str, list[Found]] = {}
    with Gang(2) as gang:
        for kind in ("adamw", "one_bit_adam", "zero_one_adam"):
            tried = {rate: _one(gang, sequences, config_of(kind, rate, SEEDS[0])) for rate in RATES}
            for rate, found in tried.items():
                yield {"what": f"{kind}, rate {rate:g}: loss with seed {SEEDS[0]}", "figure": found.loss}
            best[kind] = min(tried, key=lambda rate: tried[rate].loss)
            others = [_one(gang, sequences, config_of(kind, best[kind], seed)) for seed in SEEDS[1:]]
            measured[kind] = [tried[best[kind]], *others]
            losses = ", ".join(f"{found.loss:.4f}" for found in measured[kind])
            yield {
                "what": f"{kind}, rate {best[kind]:g}: mean loss of {losses}",
                "figure": _mean(measured[kind]),
            }
    yield from verdicts(measured)
    yield from _on_four(sequences, best["zero_one_adam"], measured["adamw"])
    yield from _compact(best)


def verdicts(measured: dict[str, list[Found]]) -> Iterator[dict[str, Any]]:
    """Number 1 of the goals, of trainings of all three kinds, in order of their seeds."""
    adamw = measured["adamw"]
    most = {"zero_one_adam": MOST_SENT, "one_bit_adam": MOST_SENT_ONE_BIT}
    for kind, limit in most.items():
        share = max(one.sent / other.sent for one, other in zip(measured[kind], adamw, strict=True))
        yield {"what": f"{kind}: sent, of adamw's", "figure": share, "at_most": limit}
        yield _above(kind, measured[kind], adamw)
    rounds = max(one.rounds for one in measured["zero_one_adam"])
    what = "zero_one_adam: steps after the freeze with anything sent, of all"
    yield {"what": what, "figure": rounds, "at_most": MOST_ROUNDS}


def _on_four(
    sequences: Sequence[NDArray[np.int64]], rate: float, adamw: Sequence[Found]
) -> Iterator[dict[str, Any]]:
    """The same batches in four parts; AdamW's results are the same on any number of ranks."""
    with Gang(4) as gang:
        found = [_one(gang, sequences, config_of("zero_one_adam", rate, seed, parts=4)) for seed in SEEDS]
    yield _above("zero_one_adam, 4 ranks", found, adamw)


def _compact(best: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Other families, at the rates that were best for the first."""
    sequences = sequences_of(COMPACT, FAMILIES)
    with Gang(2) as gang:
        found = {
            kind: [_one(gang, sequences, config_of(kind, rate, seed)) for seed in SEEDS]
            for kind, rate in best.items()
        }
    for kind in ("zero_one_adam", "one_bit_adam"):
        yield _above(f"{kind}, families of the workflow", found[kind], found["adamw"])


def _above(what: str, found: Sequence[Found], adamw: Sequence[Found]) -> dict[str, Any]:
    share = _mean(found) / _mean(adamw) - 1
    return {"what": f"{what}: mean loss above adamw's", "figure": share, "at_most": MOST_LOSS}


def _mean(found: Sequence[Found]) -> float:
    return statistics.fmean(one.loss for one in found)


def _one(gang: Gang, sequences: Sequence[NDArray[np.int64]], training: TrainingConfig) -> Found:
    found: Found = gang.run(train, sequences, training, timeout=1200)[0]
    return found
