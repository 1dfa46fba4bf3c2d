"""Training the contact model: families in, model out.

A rank function without Ray: the operator ``contacts.train@1`` calls it on every rank, and so can a script.
Families held back at the end of the list show early how the model does on what it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_kernels.attention import choose_backend
from foldase_models.coevolution.pair_features import pair_features
from foldase_models.errors import ModelError
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.features import Batch, Cropping, TrainingFamily, make_batch
from foldase_models.folding.contacts.losses import contact_losses
from foldase_models.folding.contacts.model import ContactModel
from foldase_models.folding.contacts.predict import predict_contacts
from foldase_models.metrics import contact_precision, lddt, pearson
from foldase_models.recipes.running import Looks, Watcher, run_training
from foldase_models.training.config import TrainingConfig, check_parts
from foldase_models.training.ranks import Ranks
from foldase_models.training.results import take_weights
from foldase_models.training.trainer import TrainingSummary

_BATCHES, _RECYCLES, _INIT = 1, 2, 3
"""Streams of random numbers drawn from one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRecipe:
    """Everything about the training but the model's sizes.

    Attributes:
        training: steps, rates, checkpoints.
        families_per_step: examples of a batch, shared out evenly over its parts.
        cropping: how examples are cut.
        validation: families held back, at most a fifth of all.
        validate_every: steps between looks at them.
    """

    training: TrainingConfig
    families_per_step: int = 4
    cropping: Cropping = field(default_factory=Cropping)
    validation: int = 8
    validate_every: int = 100

    def __post_init__(self) -> None:
        check_parts("families_per_step", self.families_per_step, self.training)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "training": self.training.result_fields()}


def train_contacts(
    families: Sequence[TrainingFamily],
    config: ContactModelConfig,
    recipe: ContactRecipe,
    *,
    ranks: Ranks | None = None,
    checkpoints: Path | None = None,
    watcher: Watcher | None = None,
) -> tuple[ContactModel, dict[str, Any]]:
    """Train a contact model.

    Args:
        families: with letters of ``config``; the last ones are held back.
        config: of the model.
        recipe: of the training.
        ranks: the processes that share the work, all with the same arguments; this one alone if left out.
        checkpoints: a folder; the run continues from what an earlier one left there, on any number of ranks.
        watcher: hears of progress.

    Returns:
        A model with the averaged weights, ready to predict (on ranks but the first one that knows nothing),
        and what is known of the training, plain values.

    Raises:
        ModelError: no families, letters outside the alphabet, chains too short for a contact, or a training
            that diverged.
        TrainingStopped: the watcher asked for it.
    """
    ranks, watcher = ranks or Ranks(), watcher or Watcher()
    _check(families, config)
    if config.inputs == "couplings":
        families = _with_pairs(families, config, watcher if ranks.first else Watcher())
    held_back = min(recipe.validation, len(families) // 5)
    split = len(families) - held_back
    seen, unseen = families[:split], families[split:]
    model = _new_model(config, recipe.training.seed)
    run = _Run(model, seen, recipe, ranks.device)
    trained = run_training(
        model,
        run.loss,
        run.batch,
        recipe.training,
        ranks=ranks,
        checkpoints=checkpoints,
        watcher=watcher,
        looks=Looks(
            recipe.validate_every,
            (lambda: validate(model, unseen)) if unseen else None,
            lambda: validate(model, unseen) if unseen else {},
        ),
    )
    finished = _new_model(config, recipe.training.seed).eval()
    take_weights(finished, trained.weights)
    if ranks.first:
        watcher.validation(trained.summary.steps, trained.found)
    return finished, _record(finished, recipe, (len(seen), held_back), trained.summary, trained.found)


def validate(model: ContactModel, families: Sequence[TrainingFamily]) -> dict[str, float]:
    """Precision at L, L/2 and L/5, lDDT of the trace and how confidence follows it, means over families."""
    precisions: list[dict[str, float]] = []
    scores, confidences = [], []
    for family in families:
        pairs = pairs_for(model.config, family.msa) if family.pairs is None else family.pairs
        found = predict_contacts(model, family.msa, seed=0, pairs=pairs)
        precisions.append(
            contact_precision(
                found.contact_probability, family.contacts, min_separation=model.config.min_separation
            )
        )
        scores.append(lddt(found.coords, family.coords).per_residue)
        confidences.append(found.confidence / 100.0)
    pooled, confidence = np.concatenate(scores), np.concatenate(confidences)
    known = np.isfinite(pooled)
    return {
        **{f"precision_at_{cut}": float(np.mean([p[cut] for p in precisions])) for cut in precisions[0]},
        "validation_lddt": float(pooled[known].mean()),
        "confidence_correlation": pearson(confidence[known], pooled[known]),
    }


class _Run:
    """Batches and losses of one training; what a step draws depends on seed and step only."""

    def __init__(
        self,
        model: ContactModel,
        families: Sequence[TrainingFamily],
        recipe: ContactRecipe,
        device: torch.device,
    ) -> None:
        self.model, self.families, self.recipe, self.device = model, families, recipe, device
        self.seed = recipe.training.seed

    def batch(self, number: int) -> Batch:
        """The examples of a part of a step's batch."""
        return make_batch(
            self.families,
            self.recipe.families_per_step // self.recipe.training.micro_batches,
            self.model.config.sequences,
            self.recipe.cropping,
            np.random.default_rng([self.seed, _BATCHES, number]),
        )

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Forward with a random number of recycles, alike in all parts (AlphaFold 2, supplement 1.11.8)."""
        draws = np.random.default_rng([self.seed, _RECYCLES, step])
        recycles = int(draws.integers(0, self.model.config.recycles + 1))
        if self.model.config.inputs == "couplings":
            assert batch.pairs is not None  # train_contacts saw to it
            output = self.model.from_pairs(self._tensor(batch.pairs), recycles=recycles)
        else:
            output = self.model(self._tensor(batch.rows), self._tensor(batch.extra), recycles=recycles)
        loss, shown = contact_losses(
            output,
            self._tensor(batch.coords),
            self._tensor(batch.contacts),
            self.model.config,
            self.model.distance_bins,
        )
        # Values are means over the parts: each tells what all of them have, were they like it.
        residues = math.prod(batch.coords.shape[:2]) * self.recipe.training.micro_batches
        return loss, {**shown, "residues": torch.tensor(float(residues))}

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def pairs_for(
    config: ContactModelConfig, msa: NDArray[np.uint8], weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32] | None:
    """What a model is shown of the pairs of an alignment (S, N) in its letters; None where it sees these."""
    if config.inputs == "letters":
        return None
    return pair_features(msa, len(config.letters), weights, gap=config.gap)


def _with_pairs(
    families: Sequence[TrainingFamily], config: ContactModelConfig, watcher: Watcher
) -> list[TrainingFamily]:
    """The families with features of pairs, those that had them untouched."""
    found = []
    for family in families:
        pairs = pairs_for(config, family.msa) if family.pairs is None else family.pairs
        found.append(replace(family, pairs=pairs))
        watcher.prepared(len(found), len(families))
    return found


def _new_model(config: ContactModelConfig, seed: int) -> ContactModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, _INIT]).integers(2**62)))
        return ContactModel(config)


def _check(families: Sequence[TrainingFamily], config: ContactModelConfig) -> None:
    if not families:
        raise ModelError("there are no families to train on", code="no_families")
    for family in families:
        if int(family.msa.max()) >= len(config.letters):
            raise ModelError(
                f"letter {int(family.msa.max())} is outside the alphabet of {len(config.letters)}",
                code="unknown_letter",
                location=family.name,
            )
        if family.length <= config.min_separation:
            raise ModelError(
                f"{family.length} residues have no pair {config.min_separation} apart",
                code="too_short",
                location=family.name,
                hint="give families longer than min_separation",
            )


def _record(
    model: ContactModel,
    recipe: ContactRecipe,
    families: tuple[int, int],
    summary: TrainingSummary,
    final: Mapping[str, float],
) -> dict[str, Any]:
    """What is kept with the weights; no times, so that the same training gives the same bytes."""
    return {
        "recipe": recipe.to_json(),
        "families": families[0],
        "families_held_back": families[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "curve": dict(summary.curve),
        "steps": summary.steps,
        "skipped_steps": summary.skipped_steps,
        "validation": dict(final),
        "torch": torch.__version__,
        "attention_backend": choose_backend(next(model.parameters()).device),
    }
