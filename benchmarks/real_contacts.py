"""A contact model trained on simulated families only, measured on one real alignment.

    python benchmarks/real_contacts.py --work WORK ALIGNMENT STRUCTURE

1. simulates families with layered folds, letter energies of their own, many lengths, trees and gaps;
2. trains the contact model whose inputs are couplings, looking at held-back simulated families only;
3. measures it on further simulated families, and once on ALIGNMENT with the contacts of STRUCTURE as truth,
   beside mean-field and pseudolikelihood couplings, MI + APC, and the same alignment with shuffled columns.

Nothing of ALIGNMENT or STRUCTURE is read before the training has ended. Everything is drawn from --seed; a
run that was stopped goes on from WORK. One thread. Tables are printed; numbers lie in WORK/result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from natural_families import NATURAL_LIKE
from numpy.typing import NDArray

from foldase_models.coevolution import (
    SeparationPrior,
    average_product_correction,
    couple,
    iterate_families,
    mutual_information,
    sequence_weights,
)
from foldase_models.coevolution.pair_features import pair_features
from foldase_models.folding.contacts import ContactModel, ContactModelConfig
from foldase_models.folding.contacts.features import Cropping, TrainingFamily, shuffle_columns
from foldase_models.folding.contacts.predict import predict_contacts
from foldase_models.folding.contacts.weights import load_model, save_model
from foldase_models.metrics import bootstrap_mean, contact_precision
from foldase_models.recipes.contacts import ContactRecipe, Watcher, pairs_for, train_contacts
from foldase_models.training import CheckpointConfig, TrainingConfig
from foldase_workflows.formats.letters import GAP, LETTERS

MIN_SEPARATION, CUTOFF = 6, 8.0
SHUFFLES = 5
SHUFFLED = "model, shuffled columns"
RECIPES = (NATURAL_LIKE, replace(NATURAL_LIKE, ancestors=60, descendants=3, generations=2, redrawn=0.6))
"""Stars of descent and trees, in turn."""
UNSEEN = 1_000_003
"""Added to the seed of families that are never trained on."""

Maps = dict[str, NDArray[np.floating]]


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def families(folder: Path, count: int, seed: int) -> list[TrainingFamily]:
    """Simulated families with their features, kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for k in range(count):
        path = folder / f"{seed}-{k:05d}.npz"
        if not path.exists():
            [made] = iterate_families(RECIPES[k % len(RECIPES)], 1, seed * 100_000 + k)
            pairs = pair_features(made.letters, len(LETTERS), gap=GAP)
            with (folder / "unfinished").open("wb") as file:
                np.savez(file, msa=made.letters, coords=made.coords, contacts=made.contacts, pairs=pairs)
            (folder / "unfinished").replace(path)
            if (k + 1) % 20 == 0:
                say(f"{k + 1} of {count} families")
        with np.load(path, allow_pickle=False) as kept:
            found.append(TrainingFamily(path.stem, **{name: kept[name] for name in kept.files}))
    return found


def train(args: argparse.Namespace, training: list[TrainingFamily]) -> ContactModel:
    folder = args.work / "model"
    if not (folder / "config.json").exists():
        config = ContactModelConfig(
            letters=LETTERS,
            inputs="couplings",
            width=args.width,
            blocks=args.blocks,
            convolutions=args.convolutions,
            heads=4,
            recycles=0,
            contact_cutoff=CUTOFF,
            min_separation=MIN_SEPARATION,
        )
        recipe = ContactRecipe(
            training=TrainingConfig(
                steps=args.steps, seed=args.seed, checkpoint=CheckpointConfig(seconds=30.0)
            ),
            families_per_step=args.batch,
            cropping=Cropping(smallest=48, largest=72, rows=8, fewest_rows=2, shuffled=0.0),
            validation=16,
            validate_every=max(1, args.steps // 10),
        )
        started = time.process_time()
        watcher = Watcher(step=_report_step, validation=_report_validation)
        model, record = train_contacts(
            training, config, recipe, checkpoints=args.work / "checkpoints", watcher=watcher
        )
        say(f"trained: {record['parameters']} parameters, {time.process_time() - started:.0f} CPU s")
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder, model, record)
    return load_model(folder)


def _report_step(report: Any) -> None:
    if report.step % 25 == 0:
        say(
            f"step {report.step} of {report.steps}: loss {report.loss:.3f}, "
            f"contacts {report.values['contact_loss']:.4f}, {report.seconds:.2f} s a step"
        )


def _report_validation(step: int, values: Any) -> None:
    say(f"held back at step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))


def classical(msa: NDArray[np.uint8], weights: NDArray[np.float32], method: str) -> NDArray[np.floating]:
    """Scores of a method that learns nothing, with the defaults of the code."""
    if method == "MI + APC":
        information = mutual_information(msa, len(LETTERS), weights, skip_letter=GAP)
        return average_product_correction(information)
    if method == "mean-field":
        return couple(msa, len(LETTERS), weights, method="mean_field", skip_letter=GAP).scores

    def report(iteration: int, _: float, relative_gradient: float) -> None:
        if iteration % 10 == 0:
            say(f"pseudolikelihood, iteration {iteration}: relative gradient {relative_gradient:.1e}")

    fit = couple(msa, len(LETTERS), weights, method="pseudolikelihood", skip_letter=GAP, report=report)
    if not fit.converged:
        raise SystemExit("the pseudolikelihood did not converge")
    return fit.scores


def predicted(
    model: ContactModel, msa: NDArray[np.uint8], weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The model's map of an alignment."""
    pairs = pairs_for(model.config, msa, weights)
    return predict_contacts(model, msa, pairs=pairs).contact_probability


def on_simulated(model: ContactModel, unseen: list[TrainingFamily], prior: SeparationPrior) -> Any:
    """Mean precision, with 95 % intervals over families."""
    reached: dict[str, list[dict[str, float]]] = {}
    for family in unseen:
        weights = sequence_weights(family.msa)
        maps = {name: classical(family.msa, weights, name) for name in ("MI + APC", "mean-field")}
        maps["prior"] = prior.scores(family.length)
        maps["model"] = predict_contacts(model, family.msa, pairs=family.pairs).contact_probability
        shuffled = shuffle_columns(family.msa, np.random.default_rng(family.length))
        maps[SHUFFLED] = predicted(model, shuffled)
        for name, scores in maps.items():
            reached.setdefault(name, []).append(
                contact_precision(scores, family.contacts, min_separation=MIN_SEPARATION)
            )
    return {
        name: {cut: bootstrap_mean(np.array([v[cut] for v in values]), seed=0).to_json() for cut in values[0]}
        for name, values in reached.items()
    }


def on_real(args: argparse.Namespace, model: ContactModel, prior: SeparationPrior) -> Any:
    """Precision on the alignment, and the mean over copies of it with shuffled columns."""
    from foldase_workflows.formats.alignments import read_alignment
    from foldase_workflows.formats.structures import read_chain

    alignment, chain = read_alignment(args.alignment), read_chain(args.structure)
    if chain.sequence != alignment.query:
        raise SystemExit("the structure's residues are not those of the query")
    msa = alignment.letters[(alignment.letters == GAP).mean(axis=1) < 0.5]
    weights = sequence_weights(msa)
    say(f"{len(msa)} rows of {msa.shape[1]} columns, {weights.sum():.0f} effective sequences")
    distance = np.linalg.norm(chain.beta[:, None] - chain.beta[None], axis=-1)
    contacts = (distance < CUTOFF).astype(np.uint8)

    kept = args.work / "real.json"
    reached: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}

    def measure(name: str, scores: Callable[[], NDArray[np.floating]]) -> None:
        if name not in reached:
            reached[name] = contact_precision(scores(), contacts, min_separation=MIN_SEPARATION)
            kept.write_text(json.dumps(reached, indent=1))
        say(f"{name}: " + ", ".join(f"{cut} {value:.3f}" for cut, value in reached[name].items()))

    measure("model", lambda: predicted(model, msa, weights))
    measure("mean-field", lambda: classical(msa, weights, "mean-field"))
    measure("MI + APC", lambda: classical(msa, weights, "MI + APC"))
    measure("prior", lambda: prior.scores(msa.shape[1]))
    for number in range(SHUFFLES):
        rows = shuffle_columns(msa, np.random.default_rng([args.seed, number]))
        measure(f"{SHUFFLED} {number + 1}", partial(predicted, model, rows))
    measure("pseudolikelihood", lambda: classical(msa, weights, "pseudolikelihood"))
    copies = [reached.pop(name) for name in sorted(reached) if name.startswith(SHUFFLED)]
    mean = {cut: float(np.mean([copy[cut] for copy in copies])) for cut in copies[0]}
    return {**reached, SHUFFLED: mean}


def table(reached: Any) -> str:
    lines = ["| | L | L/2 | L/5 |", "|---|---:|---:|---:|"]
    for name, values in reached.items():
        cells = []
        for value in values.values():
            if isinstance(value, dict):
                cells.append(f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})")
            else:
                cells.append(f"{value:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("alignment", type=Path, nargs="?", help="A3M; without it the real part is left out")
    parser.add_argument("structure", type=Path, nargs="?", help="of the query, PDB or mmCIF")
    parser.add_argument("--work", type=Path, required=True, help="folder of families, checkpoints and model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--families", type=int, default=200)
    parser.add_argument("--unseen", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--convolutions", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    training = families(args.work / "families", args.families, args.seed)
    unseen = families(args.work / "families", args.unseen, args.seed + UNSEEN)
    model = train(args, training)
    prior = SeparationPrior([family.contacts for family in training])
    result: dict[str, Any] = {"simulated": on_simulated(model, unseen, prior)}
    print(f"\n{args.unseen} simulated families never seen:\n\n{table(result['simulated'])}\n", flush=True)
    if args.alignment is not None and args.structure is not None:
        result["real"] = on_real(args, model, prior)
        print(f"\nThe real alignment:\n\n{table(result['real'])}\n", flush=True)
    (args.work / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
