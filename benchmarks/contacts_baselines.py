"""Classical contact methods measured on unseen simulated families and on one real alignment.

    python benchmarks/contacts_baselines.py families         tuned methods on 40 unseen families
    python benchmarks/contacts_baselines.py regularisation   how the defaults of the couplings were chosen
    python benchmarks/contacts_baselines.py calibration      how scores were made into probabilities
    python benchmarks/contacts_baselines.py real ALIGNMENT STRUCTURE

Each line printed is one JSON object. Only `real` reads files; nothing is tuned on them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from foldase_models.coevolution import (
    Family,
    FamilyConfig,
    SeparationPrior,
    couple,
    random_scores,
    sequence_weights,
    simulate_families,
)
from foldase_models.metrics import bootstrap_mean, contact_precision
from foldase_models.recipes.contact_baselines import BASELINES, KnownFamily, score, tune

NATURAL_LIKE = (
    {"length": 40, "ancestors": 150},
    {"length": 40, "ancestors": 600},
    {"length": 80, "ancestors": 150},
    {"length": 80, "ancestors": 600},
)
"""Lengths and depths on which the defaults were chosen: 20 letters, uneven columns (field 1.5)."""
PSEUDOCOUNTS = (0.1, 0.3, 0.5, 0.7, 0.9)
PENALTIES = (3.0, 10.0, 20.0, 40.0, 80.0)


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def known(family: Family) -> KnownFamily:
    return KnownFamily(f"f{family.index:04d}", family.letters, family.contacts)


def families(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for energy_seed in arguments.energy_seeds:
        config = FamilyConfig(energy_seed=energy_seed)
        training = simulate_families(config, arguments.training, seed=arguments.seed)
        unseen = simulate_families(config, arguments.unseen, seed=arguments.seed + 1_000_003)
        effective = float(np.mean([sequence_weights(one.letters).sum() for one in unseen]))
        reached: dict[str, list[dict[str, float]]] = {}
        settings: dict[str, object] = {}
        for method in BASELINES:
            tuned = tune(
                method,
                [known(one) for one in training[: arguments.tuning]],
                config.alphabet,
                min_separation=config.min_separation,
            )
            settings[method] = tuned.to_json()
            for one in unseen:
                found = score(
                    known(one),
                    method,
                    config.alphabet,
                    strength=tuned.setting.strength,
                    weighted=tuned.setting.weighted,
                )
                assert found.converged
                scores = found.scores[tuned.setting.scoring]
                reached.setdefault(method, []).append(_precision(scores, one, config))
        prior = SeparationPrior([one.contacts for one in training])
        for one in unseen:
            reached.setdefault("prior", []).append(_precision(prior.scores(config.length), one, config))
            chance = random_scores(config.length, one.index)
            reached.setdefault("random", []).append(_precision(chance, one, config))
        for method, values in reached.items():
            intervals = {
                cut: bootstrap_mean(np.array([value[cut] for value in values]), seed=0).to_json()
                for cut in values[0]
            }
            say(
                energy_seed=energy_seed,
                method=method,
                precision=intervals,
                setting=settings.get(method),
                families=len(unseen),
                effective_sequences=effective,
            )


def _precision(scores: np.ndarray, family: Family, config: FamilyConfig) -> dict[str, float]:
    return contact_precision(scores, family.contacts, min_separation=config.min_separation)


def regularisation(arguments: argparse.Namespace) -> None:
    for size in NATURAL_LIKE:
        config = FamilyConfig(alphabet=20, field=1.5, **size)
        made = simulate_families(config, arguments.count, seed=11)
        weights = [sequence_weights(one.letters) for one in made]
        effective = float(np.mean([weight.sum() for weight in weights]))
        tried = [("mean_field", {"pseudocount": value}) for value in PSEUDOCOUNTS]
        tried += [("pseudolikelihood", {"coupling_penalty": value}) for value in PENALTIES]
        for method, setting in tried:
            areas, precisions = [], []
            for one, weight in zip(made, weights, strict=True):
                found = couple(one.letters, 20, weight, method=method, **setting).scores
                areas.append(average_precision(found, one.contacts, config.min_separation))
                precisions.append(_precision(found, one, config))
            say(
                **size,
                effective_sequences=round(effective),
                method=method,
                **setting,
                average_precision=float(np.mean(areas)),
                precision={cut: float(np.mean([p[cut] for p in precisions])) for cut in precisions[0]},
            )


def average_precision(scores: np.ndarray, contacts: np.ndarray, min_separation: int) -> float:
    """Area under precision over recall: finer than precision at a cut where methods are nearly perfect."""
    i, j = np.triu_indices(len(scores), min_separation)
    truth = contacts[i, j][np.argsort(-scores[i, j], kind="stable")] != 0
    return float((np.cumsum(truth) / np.arange(1, len(truth) + 1))[truth].mean())


def calibration(arguments: argparse.Namespace) -> None:
    for ancestors in (60, 150, 500):
        for coupling in (0.4, 0.8):
            config = FamilyConfig(length=60, alphabet=20, field=1.5, ancestors=ancestors, coupling=coupling)
            made = simulate_families(config, arguments.count, seed=77)
            for method in ("mean_field", "pseudolikelihood"):
                z, truth = [], []
                for one in made:
                    weights = sequence_weights(one.letters)
                    scores = couple(one.letters, 20, weights, method=method).scores
                    values = scores[np.triu_indices(60, config.min_separation)]
                    middle = np.median(values)
                    z.append((values - middle) / (1.4826 * np.median(np.abs(values - middle))))
                    truth.append(one.contacts[np.triu_indices(60, config.min_separation)])
                slope, midpoint = logistic(np.concatenate(z), np.concatenate(truth).astype(float))
                say(
                    sequences=config.sequences,
                    coupling=coupling,
                    method=method,
                    slope=slope,
                    midpoint=midpoint,
                )


def logistic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and midpoint of the likeliest logistic curve, by Newton's method."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    found = np.array([1.0, -3.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ found))
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        found += np.linalg.solve(hessian, design.T @ (y - p))
    return float(found[0]), float(-found[1] / found[0])


def real(arguments: argparse.Namespace) -> None:
    from foldase_workflows.formats.alignments import read_alignment
    from foldase_workflows.formats.letters import GAP, LETTERS
    from foldase_workflows.formats.structures import read_chain

    alignment, chain = read_alignment(arguments.alignment), read_chain(arguments.structure)
    if chain.sequence != alignment.query:
        raise SystemExit("the structure's residues are not those of the query")
    letters = alignment.letters[(alignment.letters == GAP).mean(axis=1) < 0.5]
    weights = sequence_weights(letters)
    distance = np.linalg.norm(chain.beta[:, None] - chain.beta[None], axis=-1)
    for method in ("mean_field", "pseudolikelihood"):
        start = time.perf_counter()
        found = couple(letters, len(LETTERS), weights, method=method, skip_letter=GAP)
        say(
            method=method,
            precision=contact_precision(found.scores, (distance < 8).astype(np.uint8), min_separation=6),
            rows=len(letters),
            effective_sequences=float(weights.sum()),
            converged=found.converged,
            seconds=round(time.perf_counter() - start, 1),
            **found.details,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("families")
    command.add_argument("--training", type=int, default=300)
    command.add_argument("--unseen", type=int, default=40)
    command.add_argument("--tuning", type=int, default=20)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--energy-seeds", type=int, nargs="+", default=[0, 1, 2])
    command.set_defaults(run=families)
    for name, run in (("regularisation", regularisation), ("calibration", calibration)):
        command = commands.add_parser(name)
        command.add_argument("--count", type=int, default=4, help="families of each kind")
        command.set_defaults(run=run)
    command = commands.add_parser("real")
    command.add_argument("alignment", type=Path)
    command.add_argument("structure", type=Path)
    command.set_defaults(run=real)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
