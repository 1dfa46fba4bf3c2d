"""Training folding models on known structures: structures in, model out.

A rank function without Ray: the operator ``fold.train@1`` calls it on every rank, and so can a script.
What a step sees and draws depends on the seed and the number of the step only, so that a run that goes on
from a checkpoint takes the very steps of one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldase_kernels.operators import no_autocast
from foldase_models.errors import ModelError
from foldase_models.folding.losses import LossWeights, folding_losses
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.atoms import atom14_to_atom37
from foldase_models.layers.residues import ATOM37_MASK, encode
from foldase_models.layers.row_groups import working_set
from foldase_models.metrics import AllAtoms, compare_structures
from foldase_models.recipes.folding_data import TrainingStructure, check_structures, draw_crop
from foldase_models.recipes.folding_models import Draw, Trainee
from foldase_models.recipes.running import Looks, Watcher, run_training
from foldase_models.training.config import TrainingConfig, check_parts
from foldase_models.training.ranks import Ranks
from foldase_models.training.results import take_weights
from foldase_models.training.trainer import TrainingSummary

SHOWN = ("lddt", "lddt_alpha", "tm_score", "rmsd_alpha")
"""Scores that a look at the model reports."""
LOOKED_AT = 8
"""Structures of the training that the finished model is looked at with."""
_EXAMPLES = 1
"""The stream of random numbers that steps draw from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldingRecipe:
    """Everything about the training but the model.

    Attributes:
        training: steps, rates, average, checkpoints.
        losses: how much each counts.
        crop: residues of an example at most.
        structures_per_step: examples whose mean loss makes a step, shared out evenly over its parts.
        recycles: at most; a step draws how many for all its examples, all numbers equally likely.
        hidden_share: of residues whose type is hidden and learned, by models that read one sequence.
        validation: structures held back, at most a fifth of all.
        validate_every: steps between looks at them.
        options: what forward passes may do to save memory.

    Raises:
        ModelError: ``bad_config``: a number that makes no sense.
    """

    training: TrainingConfig
    losses: LossWeights = field(default_factory=LossWeights)
    crop: int = 256
    structures_per_step: int = 1
    recycles: int = 3
    hidden_share: float = 0.15
    validation: int = 0
    validate_every: int = 200
    options: ForwardOptions = field(default_factory=ForwardOptions)

    def __post_init__(self) -> None:
        least = {"crop": 1, "structures_per_step": 1, "recycles": 0, "validation": 0, "validate_every": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ModelError(
                    f"{name} must be at least {smallest}, got {getattr(self, name)}", code="bad_config"
                )
        check_parts("structures_per_step", self.structures_per_step, self.training)
        if not 0 <= self.hidden_share < 1:
            raise ModelError(f"hidden_share must lie in 0 to 1, got {self.hidden_share}", code="bad_config")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "training": self.training.result_fields()}


@dataclass(frozen=True, slots=True)
class Folded:
    """What a model makes of one structure: the prediction, and its scores by name."""

    name: str
    atoms: AllAtoms
    plddt: np.ndarray[Any, np.dtype[np.float32]]
    scores: Mapping[str, float]


def train_folding(
    new_trainee: Callable[[], Trainee],
    structures: Sequence[TrainingStructure],
    recipe: FoldingRecipe,
    *,
    ranks: Ranks | None = None,
    checkpoints: Path | None = None,
    watcher: Watcher | None = None,
) -> tuple[Trainee, list[Folded], dict[str, Any]]:
    """Train a model.

    Args:
        new_trainee: makes the model as it begins, the same every time: one is trained, another one takes the
            trained weights.
        structures: to learn; the last ones are held back.
        recipe: of the training.
        ranks: the processes that share the work, all with the same arguments; this one alone if left out.
        checkpoints: a folder; the run continues from what an earlier one left there, on any number of ranks.
        watcher: hears of progress.

    Returns:
        A model with the averaged weights, ready to predict (on ranks but the first one that knows nothing);
        what it makes of the structures held back, or of the first few it was trained on where none are; and
        what is known of the training, plain values.

    Raises:
        ModelError: as :func:`check_structures`, a training that diverged, or a checkpoint of another model.
        TrainingStopped: the watcher asked for it.
    """
    ranks, watcher = ranks or Ranks(), watcher or Watcher()
    check_structures(structures)
    held_back = min(recipe.validation, len(structures) // 5)
    split = len(structures) - held_back
    seen, unseen = structures[:split], structures[split:]
    trainee = new_trainee()
    run = _Run(trainee, seen, recipe, ranks.device)
    with working_set(recipe.options.group_bytes):
        trained = run_training(
            trainee.model,
            run.loss,
            run.batch,
            recipe.training,
            ranks=ranks,
            checkpoints=checkpoints,
            watcher=watcher,
            looks=Looks(
                recipe.validate_every,
                (lambda: mean_scores(fold_all(trainee, unseen, recipe))) if unseen else None,
                lambda: fold_all(trainee, unseen or seen[:LOOKED_AT], recipe),
            ),
        )
    finished = new_trainee()
    take_weights(finished.model, trained.weights)
    finished.model.eval()
    if unseen and ranks.first:
        watcher.validation(trained.summary.steps, mean_scores(trained.found))
    record = _record(finished, recipe, (len(seen), held_back), trained.summary, trained.found)
    return finished, trained.found, record


@torch.no_grad()
def fold_all(
    trainee: Trainee, structures: Sequence[TrainingStructure], recipe: FoldingRecipe
) -> list[Folded]:
    """Fold whole chains with all recycles, nothing hidden, and compare them with the truth."""
    found = []
    for known in structures:
        draw = Draw((recipe.training.seed, 0), recipe.recycles, 0.0)
        predicted, _ = trainee.predict(known, draw, recipe.options)
        types = encode(known.sequence)
        atoms = atom14_to_atom37(
            predicted.structure.positions[-1].float().cpu(), torch.from_numpy(types)[None]
        )
        said = replace(known.atoms(), positions=atoms[0].numpy(), mask=ATOM37_MASK[types])
        pairs = np.repeat(np.arange(known.length)[:, None], 2, axis=1)
        scores, _ = compare_structures(said, known.atoms(), pairs)
        numbers = {name: float(scores[name] or 0.0) for name in SHOWN}
        found.append(Folded(known.name, said, _confidence(predicted.plddt_logits), numbers))
    return found


def mean_scores(found: Sequence[Folded]) -> dict[str, float]:
    """Means over structures, by name."""
    return {name: float(np.mean([one.scores[name] for one in found])) for name in SHOWN}


def _confidence(logits: torch.Tensor | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of residues, 0 to 100, from logits of C-alpha or of all 37 atoms; nothing where there are none."""
    if logits is None:
        return np.zeros(0, dtype=np.float32)
    own = logits[0, :, 1] if logits.dim() == 4 else logits[0]
    centres = (torch.arange(own.shape[-1], device=own.device) + 0.5) / own.shape[-1]
    expected = 100 * (own.float().softmax(-1) * centres).sum(-1)
    plddt: np.ndarray[Any, np.dtype[np.float32]] = expected.cpu().numpy()
    return plddt


@dataclass(frozen=True, slots=True)
class _Example:
    known: TrainingStructure
    draw: Draw
    clamped: float


class _Run:
    """Examples and losses of one training."""

    def __init__(
        self,
        trainee: Trainee,
        structures: Sequence[TrainingStructure],
        recipe: FoldingRecipe,
        device: torch.device,
    ) -> None:
        self.trainee, self.structures, self.recipe, self.device = trainee, structures, recipe, device

    def batch(self, number: int) -> list[_Example]:
        """Structures in an order that is drawn anew for each round through all of them."""
        recipe, count = self.recipe, len(self.structures)
        parts = recipe.training.micro_batches
        size = recipe.structures_per_step // parts
        step_seed = (recipe.training.seed, _EXAMPLES, 2, number // parts)
        recycles = int(np.random.default_rng(step_seed).integers(recipe.recycles + 1))
        examples = []
        for slot in range(number * size, (number + 1) * size):
            lap = np.random.default_rng([recipe.training.seed, _EXAMPLES, 0, slot // count])
            known = self.structures[int(lap.permutation(count)[slot % count])]
            seed = (recipe.training.seed, _EXAMPLES, 1, slot)
            rng = np.random.default_rng(seed)
            start, length = draw_crop(known, recipe.crop, rng)
            clamped = float(rng.random() < recipe.losses.clamped_share)
            draw = Draw(seed, recycles, recipe.hidden_share)
            examples.append(_Example(known.cropped(start, length), draw, clamped))
        return examples

    def loss(self, batch: list[_Example], step: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The mean over the examples, and the mean of each of its parts."""
        totals, parts = [], []
        for example in batch:
            predicted, hidden = self.trainee.predict(example.known, example.draw, self.recipe.options)
            with no_autocast(self.device):
                truth = example.known.truth(self.device)
            clamped = truth.atom37.new_tensor([example.clamped])
            total, shown = folding_losses(
                predicted, truth, self.recipe.losses, clamped=clamped, hidden=hidden
            )
            totals.append(total)
            parts.append(shown)
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        # Values are means over the parts of the batch: the sum over them is as many times that.
        residues = sum(example.known.length for example in batch) * self.recipe.training.micro_batches
        return torch.stack(totals).mean(), {**means, "residues": torch.tensor(float(residues))}


def _record(
    trainee: Trainee,
    recipe: FoldingRecipe,
    structures: tuple[int, int],
    summary: TrainingSummary,
    found: Sequence[Folded],
) -> dict[str, Any]:
    """What is kept with the weights; no times, so that the same training gives the same bytes."""
    return {
        "kind": trainee.kind,
        "recipe": recipe.to_json(),
        "structures": structures[0],
        "structures_held_back": structures[1],
        "parameters": sum(own.numel() for own in trainee.model.parameters()),
        "curve": dict(summary.curve),
        "steps": summary.steps,
        "skipped_steps": summary.skipped_steps,
        "scored": "held back" if structures[1] else "trained on",
        "scores": mean_scores(found),
        "torch": torch.__version__,
    }
