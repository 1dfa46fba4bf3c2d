"""The operators of the catalog with the same names and ports, but answers made up in moments.

The page is tested with real documents, real forms and real artifacts; only the science is skipped. Training
stops half way until a test opens the gate, so that it can be watched at leisure.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from quick_folds import QuickFold

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.registry import Registry, default_registry
from foldase_workflows.formats.mmcif_traces import write_trace
from foldase_workflows.formats.zarr_predictions import Prediction, PredictionsWriter
from foldase_workflows.operators.alignment_simulate import SimulateAlignments, SimulateInputs, SimulateOutputs
from foldase_workflows.operators.contacts_couple import CoupleContacts, CoupleInputs, CoupleOutputs
from foldase_workflows.operators.contacts_evaluate import EvaluateContacts, EvaluateInputs, EvaluateOutputs
from foldase_workflows.operators.contacts_predict import PredictContacts, PredictInputs, PredictOutputs
from foldase_workflows.operators.contacts_train import TrainContacts, TrainInputs, TrainOutputs
from foldase_workflows.operators.report import MakeReport, ReportInputs, ReportOutputs

LENGTH = 28
TARGETS = ("f0000", "f0001")
POINTS = 40
GATE_SECONDS = 60.0

gate = threading.Event()
"""Closed: training waits half way."""
gate.set()


def _tree(context: StepContext, name: str, content: object) -> Path:
    tree = context.new_tree(name)
    (tree / "numbers.json").write_text(json.dumps(content))
    return tree


class QuickSimulate(SimulateAlignments):
    def run(self, inputs: SimulateInputs, context: StepContext) -> SimulateOutputs:
        context.log(f"{inputs.families} families of {inputs.length} residues")
        return SimulateOutputs(families=_tree(context, "families", inputs.seed), contacts_per_residue=2.0)


class QuickTrain(TrainContacts):
    def run(self, inputs: TrainInputs, context: StepContext) -> TrainOutputs:
        for point in range(1, POINTS + 1):
            if point == POINTS // 2:
                self._wait(context)
            context.check_cancelled()
            context.metrics({"loss": 2.0 / point, "precision_at_L": 1 - 1 / point}, at=float(point))
            context.log(f"step {point} of {POINTS}", level="debug" if point % 10 else "warning")
            context.progress(point / POINTS, f"step {point} of {POINTS}")
        return TrainOutputs(model=_tree(context, "model", inputs.steps), scores={"precision_at_L": 0.9})

    def _wait(self, context: StepContext) -> None:
        end = time.monotonic() + GATE_SECONDS
        while not gate.is_set():
            context.check_cancelled()
            assert time.monotonic() < end, "no test opened the gate"
            time.sleep(0.02)


def make_prediction(target: str, seed: int, length: int = LENGTH) -> Prediction:
    """A chain that turns on itself, its contacts, and a map that mostly sees them."""
    rng = np.random.default_rng(seed)
    angle = np.arange(length) * 0.9
    coords = np.stack([6 * np.cos(angle), 6 * np.sin(angle), np.arange(length) * 1.4], axis=1)
    distance = np.linalg.norm(coords[:, None] - coords[None], axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    truth = (distance < 11.0) & (apart >= 4)
    noise = rng.uniform(0, 0.3, (length, length))
    probability = np.where(truth, 0.65 + noise, noise)
    probability = np.triu(probability) + np.triu(probability, 1).T
    return Prediction(
        target,
        probability.astype(np.float32),
        truth=truth.astype(np.uint8),
        coords=coords.astype(np.float32),
        confidence=np.linspace(30, 97, length).astype(np.float32),
        distance=distance.astype(np.float32),
        sequence="".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)),
        scores={"precision_at_L": 0.9},
    )


def write_predictions(tree: Path, predictions: list[Prediction], method: str) -> None:
    """The arrays of some targets."""
    writer = PredictionsWriter(tree)
    for prediction in predictions:
        writer.add(prediction)
    attributes = {"handedness": "arbitrary"}
    writer.complete(method=method, contact_cutoff=11.0, min_separation=4, attributes=attributes)


class QuickPredict(PredictContacts):
    def run(self, inputs: PredictInputs, context: StepContext) -> PredictOutputs:
        found = [make_prediction(target, number) for number, target in enumerate(TARGETS)]
        tree, structures = context.new_tree("predictions"), context.new_tree("structures")
        write_predictions(tree, found, "shuffled" if inputs.shuffle_columns else "trained model")
        for one in found:
            assert one.coords is not None
            assert one.sequence is not None
            write_trace(
                structures / f"{one.target}.cif",
                identifier=one.target,
                sequence=one.sequence,
                alpha=one.coords,
                confidence=one.confidence,
            )
        return PredictOutputs(predictions=tree, structures=structures, scores={"precision_at_L": 0.9})


class QuickCouple(CoupleContacts):
    def run(self, inputs: CoupleInputs, context: StepContext) -> CoupleOutputs:
        tree = context.new_tree("predictions")
        prediction = make_prediction("query", 7)
        write_predictions(tree, [Prediction("query", prediction.contact_probability)], inputs.method)
        return CoupleOutputs(predictions=tree, scores={})


def _scores() -> dict[str, Any]:
    methods = {"model": 0.95, "mi_apc": 0.62, "prior": 0.3, "random": 0.2, "shuffled": 0.31}
    methods |= {"couplings_mean_field": 0.48, "couplings_pseudolikelihood": 0.55, "couplings": 0.55}
    intervals = {"model": {"mean": 0.95, "low": 0.93, "high": 0.97}}
    margin = {"mean": 0.33, "low": 0.3, "high": 0.36, "best": "mi_apc"}
    rest = {"shuffled_minus_prior": 0.01, "interval": [-0.02, 0.04], "ratio": 0.015}
    cuts = ("L", "L/2", "L/5")
    return {
        "precision": dict.fromkeys(cuts, methods),
        "intervals": dict.fromkeys(cuts, intervals),
        "bootstrap": {"model_minus_best_classical": dict.fromkeys(cuts, margin)},
        "ablation": dict.fromkeys(cuts, rest),
        "families": len(TARGETS),
        "lddt": 0.81,
    }


class QuickEvaluate(EvaluateContacts):
    def run(self, inputs: EvaluateInputs, context: StepContext) -> EvaluateOutputs:
        table = _scores()
        path = context.new_file("scores.json")
        path.write_text(json.dumps(table))
        margins = table["bootstrap"]["model_minus_best_classical"]
        return EvaluateOutputs(scores=path, precision=table["precision"], margin=margins)


class QuickReport(MakeReport):
    def run(self, inputs: ReportInputs, context: StepContext) -> ReportOutputs:
        page, numbers = context.new_file("report.html"), context.new_file("numbers.json")
        page.write_text(f"<!doctype html><title>{inputs.title}</title>")
        numbers.write_text("{}")
        return ReportOutputs(report=page, numbers=numbers)


def quick_registry() -> Registry:
    """All operators of the installation, those above in place of the slow ones."""
    quick = [
        QuickSimulate(),
        QuickTrain(),
        QuickPredict(),
        QuickCouple(),
        QuickEvaluate(),
        QuickReport(),
        QuickFold(),
    ]
    replaced = {operator.reference for operator in quick}
    return Registry([*quick, *(one for one in default_registry() if one.reference not in replaced)])
