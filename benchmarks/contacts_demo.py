"""The demonstration, seed by seed, without the platform: simulate, train, predict, shuffle, evaluate.

    python benchmarks/contacts_demo.py --seeds 1 2 3 --out results.json

The steps, their defaults and their seeds are those of `workflows/catalog/contacts.yaml`, so the numbers are
the workflow's. One JSON object a seed is printed, then a table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from foldase_models.coevolution import FamilyConfig, simulate_families
from foldase_models.folding.contacts import ContactModel, ContactModelConfig
from foldase_models.folding.contacts.features import Cropping, TrainingFamily, shuffle_columns
from foldase_models.folding.contacts.predict import ContactPrediction, predict_contacts
from foldase_models.folding.contacts.weights import save_model
from foldase_models.recipes.contact_baselines import KnownFamily
from foldase_models.recipes.contact_evaluation import Target, evaluate
from foldase_models.recipes.contacts import ContactRecipe, Watcher, train_contacts
from foldase_models.training import TrainingConfig

LETTERS = "ARNDCQEGHILKMFPSTWYV"
UNSEEN_OFFSET = 1_000_003
METHODS = (
    "model",
    "mi_apc",
    "couplings_mean_field",
    "couplings_pseudolikelihood",
    "prior",
    "random",
    "shuffled",
)


class Clock:
    """Wall and processor seconds of the parts of a run."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.parts[name] = {
            "wall_seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }


def make_families(config: FamilyConfig, count: int, seed: int) -> list[TrainingFamily]:
    made = simulate_families(config, count, seed)
    return [TrainingFamily(f"f{f.index:04d}", f.letters, f.coords, f.contacts) for f in made]


def train(families: list[TrainingFamily], args: argparse.Namespace, seed: int) -> ContactModel:
    config = ContactModelConfig(letters=LETTERS[: args.letters])
    recipe = ContactRecipe(
        training=TrainingConfig(steps=args.steps, seed=seed), cropping=Cropping(shuffled=args.shuffled)
    )

    def on_validation(step: int, values: Any) -> None:
        print(json.dumps({"seed": seed, "step": step, **values}), flush=True)

    model, record = train_contacts(families, config, recipe, watcher=Watcher(validation=on_validation))
    if args.models is not None:
        folder = args.models / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder, model, record)
    return model


def predict(
    model: ContactModel, families: list[TrainingFamily], *, shuffled: bool
) -> dict[str, ContactPrediction]:
    found = {}
    for number, family in enumerate(families, 1):
        msa = shuffle_columns(family.msa, np.random.default_rng([0, number])) if shuffled else family.msa
        found[family.name] = predict_contacts(model, msa, seed=0)
    return found


def run(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    clock = Clock()
    config = FamilyConfig(length=args.length, alphabet=args.letters)
    with clock.part("simulate"):
        familiar = make_families(config, args.families, seed)
        unseen = make_families(config, args.unseen, seed + UNSEEN_OFFSET)
    with clock.part("train"):
        model = train(familiar, args, seed)
    with clock.part("predict"):
        plain = predict(model, unseen, shuffled=False)
        shuffled = predict(model, unseen, shuffled=True)
    targets = [
        Target(
            KnownFamily(family.name, family.msa, family.contacts),
            family.coords,
            plain[family.name].contact_probability,
            shuffled[family.name].contact_probability,
            plain[family.name].coords,
            plain[family.name].confidence,
        )
        for family in unseen
    ]
    training = [KnownFamily(family.name, family.msa, family.contacts) for family in familiar]
    torch.set_num_threads(1)
    with clock.part("evaluate"):
        numbers = evaluate(
            targets,
            training,
            args.letters,
            min_separation=config.min_separation,
            tuning_families=20,
            samples=10_000,
            seed=0,
            report=lambda share, message: None,  # noqa: ARG005
        )
    kept = {key: value for key, value in numbers.items() if key not in ("per_family", "targets")}
    return {"seed": seed, "threads": args.threads, "times": clock.parts, **kept}


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| seed | cut | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 2) + "|"]
    for result in results:
        for cut in ("L", "L/2", "L/5"):
            values = [f"{result['precision'][cut][method]:.3f}" for method in METHODS]
            lines.append(f"| {result['seed']} | {cut} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--families", type=int, default=300)
    parser.add_argument("--unseen", type=int, default=40)
    parser.add_argument("--length", type=int, default=28)
    parser.add_argument("--letters", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--shuffled", type=float, default=0.15, help="share of training without coevolution")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", type=Path, help="folder to keep the trained models in")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    for seed in args.seeds:
        torch.set_num_threads(args.threads)
        results.append(run(args, seed))
        print(json.dumps(results[-1]), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
