"""Training a language model: sequences of tokens in, decoder out.

A rank function without Ray: the operator ``language.train@1`` calls it on every rank, and so can a script.
Sequences held back at the end of the list show how the model does on what it never saw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_kernels.attention import choose_backend
from foldase_models.errors import ModelError
from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.language.decoder.features import IGNORED, PackedBlocks, padded, windows
from foldase_models.language.decoder.heads import next_token_loss, token_losses
from foldase_models.language.decoder.model import Decoder
from foldase_models.language.decoder.weights import load_decoder
from foldase_models.metrics import perplexity
from foldase_models.recipes.running import Looks, Watcher, run_training
from foldase_models.training.config import TrainingConfig, check_parts
from foldase_models.training.ranks import Ranks
from foldase_models.training.results import take_weights
from foldase_models.training.trainer import TrainingSummary

SCORED_TOGETHER = 16
"""Pieces of sequences that are looked at in one pass."""
_INIT, _BLOCKS = 31, 32
"""Streams of random numbers drawn from one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRecipe:
    """Everything about the training but the model's sizes.

    Attributes:
        training: steps, rates, checkpoints.
        block: tokens of an example; sequences are packed into blocks with separators between them.
        blocks_per_step: examples of a batch, shared out evenly over its parts.
        validation: sequences held back, at most a fifth of all.
        validate_every: steps between looks at them.

    Raises:
        ModelError: ``bad_config``: a number that makes no sense.
    """

    training: TrainingConfig
    block: int = 128
    blocks_per_step: int = 8
    validation: int = 32
    validate_every: int = 100

    def __post_init__(self) -> None:
        least = {"block": 1, "validation": 0, "validate_every": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ModelError(
                    f"{name} must be at least {smallest}, got {getattr(self, name)}",
                    code="bad_config",
                    location=name,
                )
        check_parts("blocks_per_step", self.blocks_per_step, self.training)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "training": self.training.result_fields()}


def train_language(
    sequences: Sequence[NDArray[np.integer]],
    config: DecoderConfig,
    recipe: LanguageRecipe,
    *,
    start: Path | None = None,
    ranks: Ranks | None = None,
    checkpoints: Path | None = None,
    watcher: Watcher | None = None,
) -> tuple[Decoder, dict[str, Any]]:
    """Train a decoder.

    Args:
        sequences: token ids ``[N]`` each, without separators; the last ones are held back.
        config: of the model.
        recipe: of the training.
        start: a checkpoint folder to begin with, of a model with this very configuration; random weights
            where it is left out.
        ranks: the processes that share the work, all with the same arguments; this one alone if left out.
        checkpoints: a folder; the run continues from what an earlier one left there, on any number of ranks.
        watcher: hears of progress.

    Returns:
        A model with the averaged weights, in evaluation mode (on ranks but the first one that knows
        nothing), and what is known of the training, plain values.

    Raises:
        ModelError: no sequences, tokens outside the vocabulary, blocks longer than the model is meant for,
            a checkpoint that cannot be read, or a training that diverged.
        TrainingStopped: the watcher asked for it.
    """
    ranks, watcher = ranks or Ranks(), watcher or Watcher()
    _check(sequences, config, recipe)
    held_back = min(recipe.validation, len(sequences) // 5)
    split = len(sequences) - held_back
    seen, unseen = sequences[:split], sequences[split:]
    packed = PackedBlocks(
        seen, recipe.block, int(np.random.default_rng([recipe.training.seed, _BLOCKS]).integers(2**31))
    )
    model = _new_model(config, recipe.training.seed, start)
    run = _Run(model, packed, recipe, ranks.device)

    def look() -> dict[str, float]:
        return validate(model, unseen, recipe.block, ranks.device) if unseen else {}

    trained = run_training(
        model,
        run.loss,
        run.batch,
        recipe.training,
        ranks=ranks,
        checkpoints=checkpoints,
        watcher=watcher,
        looks=Looks(recipe.validate_every, look if unseen else None, look),
    )
    finished = _new_model(config, recipe.training.seed, start).eval()
    take_weights(finished, trained.weights)
    if ranks.first:
        watcher.validation(trained.summary.steps, trained.found)
    return finished, _record(finished, recipe, (len(seen), held_back), packed, trained.summary, trained.found)


@torch.no_grad()
def validate(
    model: Decoder, sequences: Sequence[NDArray[np.integer]], block: int, device: torch.device
) -> dict[str, float]:
    """Mean loss in nats, perplexity and accuracy over all tokens of sequences and their ends.

    Each sequence is read from its start; one longer than ``block`` in pieces that know nothing of each
    other.
    """
    pieces = [piece for ids in sequences for piece in windows(ids, block)]
    total, right, count = 0.0, 0, 0
    for first in range(0, len(pieces), SCORED_TOGETHER):
        inputs, targets = (
            torch.from_numpy(array).to(device) for array in padded(pieces[first : first + SCORED_TOGETHER])
        )
        logits = model(inputs)
        total += float(token_losses(logits, targets).sum(dtype=torch.float64))
        right += int((logits.argmax(-1) == targets).sum())
        count += int((targets != IGNORED).sum())
    return {
        "validation_loss": total / count,
        "validation_perplexity": perplexity(total, count),
        "validation_accuracy": right / count,
    }


class _Run:
    """Batches and losses of one training."""

    def __init__(
        self, model: Decoder, packed: PackedBlocks, recipe: LanguageRecipe, device: torch.device
    ) -> None:
        self.model, self.packed, self.recipe, self.device = model, packed, recipe, device

    def batch(self, number: int) -> torch.Tensor:
        """The blocks of a part of a step's batch, ``[B, L + 1]``."""
        count = self.recipe.blocks_per_step // self.recipe.training.micro_batches
        return torch.from_numpy(self.packed.batch(number * count, count)).to(self.device)

    def loss(
        self,
        batch: torch.Tensor,
        step: int,  # nothing is drawn here
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Cross-entropy of the next token, nats."""
        loss = next_token_loss(self.model(batch[:, :-1]), batch[:, 1:])
        # Values are means over the parts: each tells what all of them have.
        tokens = self.recipe.blocks_per_step * self.recipe.block
        return loss, {"tokens": torch.tensor(float(tokens))}


def _new_model(config: DecoderConfig, seed: int, start: Path | None) -> Decoder:
    if start is not None:
        model = load_decoder(start, dtype=torch.float32)
        if model.config.to_json() != config.to_json():
            raise ModelError(
                "the checkpoint is of a model with other sizes", code="wrong_model", location=start.name
            )
        return model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([seed, _INIT]).integers(2**62)))
        return Decoder(config)


def _check(sequences: Sequence[NDArray[np.integer]], config: DecoderConfig, recipe: LanguageRecipe) -> None:
    if recipe.block > config.max_position_embeddings:
        raise ModelError(
            f"block {recipe.block} is more than the {config.max_position_embeddings} tokens that the model "
            "is meant for",
            code="bad_config",
            location="block",
        )
    if not sequences:
        raise ModelError("there are no sequences to train on", code="no_sequences")
    for number, ids in enumerate(sequences, 1):
        if not len(ids):
            raise ModelError("the sequence is empty", code="empty_sequence", location=str(number))
        if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
            raise ModelError(
                f"a token is outside the vocabulary of {config.vocab_size}",
                code="unknown_token",
                location=str(number),
            )


def _record(
    model: Decoder,
    recipe: LanguageRecipe,
    sequences: tuple[int, int],
    packed: PackedBlocks,
    summary: TrainingSummary,
    final: Mapping[str, float],
) -> dict[str, Any]:
    """What is kept with the weights; no times, so that the same training gives the same bytes."""
    tokens = summary.steps * recipe.blocks_per_step * recipe.block
    return {
        "recipe": recipe.to_json(),
        "sequences": sequences[0],
        "sequences_held_back": sequences[1],
        "tokens": tokens,
        "rounds": tokens / packed.tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "curve": dict(summary.curve),
        "steps": summary.steps,
        "skipped_steps": summary.skipped_steps,
        "validation": {name: value for name, value in final.items() if math.isfinite(value)},
        "torch": torch.__version__,
        "attention_backend": choose_backend(next(model.parameters()).device),
    }
