"""One self-contained HTML file with the figures of a prediction, and its numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    StepContext,
)
from foldase_workflows.contracts.ports import Model, Predictions, Report, Table
from foldase_workflows.operators._report_figures import Bar, bars, contact_map, curve, facts, table
from foldase_workflows.operators._report_page import Section, figure, page, paragraphs

if TYPE_CHECKING:
    from foldase_workflows.formats.zarr_predictions import Prediction, PredictionSet

MAPS_SHOWN = 6
TARGETS_LISTED = 100
PAIRS_LISTED = 25
CUTS = ("L", "L/2", "L/5")

METHODS = {
    "model": ("Trained model", "model"),
    "mi": ("Mutual information", "classical"),
    "mi_apc": ("Mutual information, corrected", "classical"),
    "couplings_mean_field": ("Mean-field couplings", "classical"),
    "couplings_pseudolikelihood": ("Pseudolikelihood couplings", "classical"),
    "prior": ("Separation prior", "low"),
    "shuffled": ("Model, columns shuffled", "low"),
    "random": ("Random", "low"),
}
"""Name for people and colour of each method, in the order of the figures."""

SCORINGS = {
    "plain": "",
    "apc": "",
    "norm_apc": ", norm of the couplings, corrected",
    "weighted_norm": ", norm weighted by the frequencies of letters",
    "weighted_norm_apc": ", norm weighted by the frequencies of letters, corrected",
}
"""What the method text says of each way of scoring."""

HANDEDNESS = (
    "Contacts and distances are the same for a fold and its mirror image, so no method here can know the "
    "handedness of a trace: RMSD and TM-score are those of the better mirror image."
)
SHARED_ENERGIES = (
    "The families are simulated. Those scored share neither fold nor sequences with those of training, but "
    "all families share the energies of letter pairs, as physics is shared by real proteins: that is what "
    "can be learned across families, and a claim about natural proteins does not follow."
)


class ReportInputs(Ports):
    """What is shown."""

    predictions: Annotated[Predictions, Field(description="Contact maps, with the truth where it is known")]
    scores: Annotated[Table | None, Field(description="The table of contacts.evaluate")] = None
    model: Annotated[Model | None, Field(description="The model, for the record of its training")] = None
    title: Annotated[str, Field(min_length=1, max_length=200, description="Heading of the page")] = "Contacts"


class ReportOutputs(Ports):
    """The page, and its numbers."""

    report: Annotated[Report, Field(description="One HTML file that loads nothing")]
    numbers: Annotated[Table, Field(description="The numbers of the page as JSON")]


class MakeReport(Operator[ReportInputs, ReportOutputs]):
    """Draws maps, bars with intervals, the ablation and the loss curve, and says how all was done."""

    name = "report"
    version = 1
    help = "Make one HTML report of predictions and scores"
    Inputs = ReportInputs
    Outputs = ReportOutputs

    def run(self, inputs: ReportInputs, context: StepContext) -> ReportOutputs:
        """Read, draw, write.

        Raises:
            BadInput: a table that is not one of contacts.evaluate, or is one of other targets.
            Damaged: a part of the predictions is missing or was changed.
        """
        from foldase_workflows.formats.zarr_predictions import PredictionSet

        predictions = PredictionSet(inputs.predictions)
        scores = None if inputs.scores is None else _read_scores(inputs.scores, predictions)
        training = None if inputs.model is None else _read_training(inputs.model)
        context.progress(0.2, "drawing")
        numbers = _numbers(inputs.title, predictions, scores, training)
        sections = [*_score_sections(scores), *_map_sections(predictions, scores)]
        context.check_cancelled()
        sections += _training_sections(training)
        sections.append(Section("Method", paragraphs(*_method_texts(predictions, scores))))
        lead = f"{len(predictions)} {'target' if len(predictions) == 1 else 'targets'}; {predictions.method}"
        text = json.dumps(numbers, indent=1, allow_nan=False)
        report, table_file = context.new_file("report.html"), context.new_file("numbers.json")
        report.write_text(page(inputs.title, lead, sections, text), encoding="utf-8")
        table_file.write_text(text, encoding="utf-8")
        context.progress(1.0, "done")
        return ReportOutputs(report=report, numbers=table_file)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """A few figures take seconds whatever is in them."""
        return Estimate(
            seconds=(1.0, 10.0), memory_bytes=300_000_000, disk_bytes=2_000_000, basis="a few figures"
        )


def _read_scores(path: Path, predictions: PredictionSet) -> dict[str, Any]:
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"the scores are no JSON: {error}", code="bad_scores", location=Location(path="with.scores")
        ) from error
    if not isinstance(scores, dict) or scores.get("kind") != "contacts.evaluation":
        raise BadInput(
            "this is no table of contacts.evaluate",
            code="bad_scores",
            location=Location(path="with.scores"),
            hint="give the `scores` of a contacts.evaluate step",
        )
    missing = sorted(set(scores["targets"]) ^ set(predictions.targets))
    if missing:
        raise BadInput(
            f"scores and predictions are of other targets: {missing[0]!r}",
            code="bad_scores",
            location=Location(path="with.scores", record=missing[0]),
        )
    return scores


def _read_training(model: Path) -> dict[str, Any]:
    try:
        training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the model has no record of its training: {error}",
            code="wrong_model",
            location=Location(path="with.model", record="training.json"),
        ) from error
    return dict(training) if isinstance(training, dict) else {}


def _numbers(
    title: str,
    predictions: PredictionSet,
    scores: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "kind": "report",
        "schema_version": 1,
        "title": title,
        "method": predictions.method,
        "min_separation": predictions.min_separation,
        "contact_cutoff": predictions.contact_cutoff,
        "targets": {one.target: {"length": one.length, **one.scores} for one in predictions},
        "evaluation": scores,
        "training": training,
    }


def _score_sections(scores: Mapping[str, Any] | None) -> list[Section]:
    if scores is None:
        return []
    margins = scores["bootstrap"]["model_minus_best_classical"]
    precision, margin = scores["precision"]["L"], margins["L"]
    head = facts(
        {
            "Precision at L, model": f"{precision['model']:.3f}",
            f"Best classical: {METHODS[margin['best']][0].lower()}": f"{precision[margin['best']]:.3f}",
            "Model minus best classical": f"{margin['mean']:+.3f}",
            "95 % interval": f"{margin['low']:+.3f} to {margin['high']:+.3f}",
            "Families": str(scores["families"]),
        }
    )
    figures = "".join(
        figure(bars(_bars(scores, cut), title=f"Precision at {cut}"), f"Precision of the best {cut} pairs.")
        for cut in CUTS
    )
    note = paragraphs(
        "Bars are means over families, whiskers 95 % bootstrap intervals over families. The margin is "
        "paired: the same families are drawn for all methods, and the best classical method is chosen anew "
        "in every drawing."
    )
    sections = [Section("Precision of contacts", head + f'<div class="bars">{figures}</div>' + note)]
    if scores["ablation"]:
        sections.append(Section("Ablation: columns shuffled", _ablation(scores["ablation"])))
    if "lddt" in scores:
        sections.append(Section("Traces", _traces(scores)))
    return sections


def _bars(scores: Mapping[str, Any], cut: str) -> list[Bar]:
    precision, intervals = scores["precision"][cut], scores["intervals"][cut]
    return [
        Bar(label, precision[name], intervals[name]["low"], intervals[name]["high"], kind)
        for name, (label, kind) in METHODS.items()
        if name in precision
    ]


def _ablation(ablation: Mapping[str, Any]) -> str:
    rows = [
        (cut, one["shuffled_minus_prior"], *one["interval"], one["model_minus_prior"], one["ratio"])
        for cut, one in ablation.items()
    ]
    head = ("Pairs", "Shuffled - prior", "low", "high", "Model - prior", "Ratio")
    text = paragraphs(
        "Every column of each alignment is shuffled on its own: letters stay as frequent as they were, but "
        "columns no longer know of each other. What is then left above the separation prior cannot come from "
        "coevolution."
    )
    return text + table(head, rows, caption="What is left when coevolution is taken away")


def _traces(scores: Mapping[str, Any]) -> str:
    intervals = scores["structure_intervals"]
    rows = [
        (label, intervals[name]["mean"], intervals[name]["low"], intervals[name]["high"])
        for name, label in (
            ("lddt", "lDDT of C-alpha atoms, 0 to 1"),
            ("rmsd", "RMSD over the better mirror image, A"),
            ("tm_score", "TM-score over the better mirror image, 0 to 1"),
        )
    ]
    found = table(("Score", "Mean", "low", "high"), rows, caption="Predicted traces against the true ones")
    confidence = scores.get("confidence")
    if confidence:
        found += facts(
            {
                "Confidence and true lDDT, Pearson": f"{confidence['pearson']:.3f}",
                "Spearman": f"{confidence['spearman']:.3f}",
                "Residues": f"{confidence['residues']:.0f}",
            }
        )
    return found + paragraphs(HANDEDNESS)


def _map_sections(predictions: PredictionSet, scores: Mapping[str, Any] | None) -> list[Section]:
    shown = _shown(predictions, scores)
    pictures = []
    for target, why in shown:
        one = predictions.read(target)
        known = "true contacts above" if one.truth is not None else "the same above: the truth is not known"
        reached = one.scores.get("precision_at_L")
        precision = "" if reached is None else f" Precision at L {reached:.3f}."
        picture = contact_map(
            one.contact_probability,
            one.truth,
            min_separation=predictions.min_separation,
            title=f"Contact map of {target}",
            size=260 if len(shown) > 1 else 480,
        )
        pictures.append(figure(picture, f"{target}{why}: predicted below the diagonal, {known}.{precision}"))
    key = '<p><span class="key predicted">predicted</span> &nbsp; <span class="key truth">true</span></p>'
    sections = [Section("Contact maps", key + f'<div class="maps">{"".join(pictures)}</div>')]
    if len(predictions) == 1:
        sections.append(Section("Strongest pairs", _pairs(predictions.read(shown[0][0]), predictions)))
    else:
        sections.append(Section("Targets", _targets(predictions)))
    return sections


def _shown(predictions: PredictionSet, scores: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Targets whose maps are drawn, and why: spread evenly from the best to the worst, not picked."""
    if scores is None or len(predictions) <= 1:
        return [(target, "") for target in predictions.targets[:MAPS_SHOWN]]
    reached = dict(zip(scores["targets"], scores["per_family"]["L"]["model"], strict=True))
    ranked = sorted(reached, key=lambda target: (-reached[target], target))
    count = min(MAPS_SHOWN, len(ranked))
    places = sorted({round(k * (len(ranked) - 1) / max(count - 1, 1)) for k in range(count)})
    return [(ranked[place], f" (rank {place + 1} of {len(ranked)})") for place in places]


def _pairs(one: Prediction, predictions: PredictionSet) -> str:
    import numpy as np

    i, j = np.triu_indices(one.length, predictions.min_separation)
    score = one.contact_probability if one.coupling_score is None else one.coupling_score
    order = np.argsort(-score[i, j], kind="stable")[:PAIRS_LISTED]
    letters = one.sequence or "?" * one.length
    rows = []
    for a, b in zip(i[order], j[order], strict=True):
        row: list[Any] = [f"{letters[a]}{a + 1} - {letters[b]}{b + 1}", float(score[a, b])]
        row.append(float(one.contact_probability[a, b]))
        row.append(None if one.truth is None else ("yes" if one.truth[a, b] else "no"))
        rows.append(row)
    head = ("Residues", "Score", "0 to 1", "Contact")
    values = {name: f"{value:.4g}" for name, value in one.scores.items()}
    return facts(values) + table(head, rows, caption=f"The {len(rows)} strongest pairs, numbered from 1")


def _targets(predictions: PredictionSet) -> str:
    rows = []
    names: Sequence[str] = ()
    for target in predictions.targets[:TARGETS_LISTED]:
        one = predictions.read(target)
        names = names or sorted(one.scores)
        rows.append((target, one.length, *(one.scores.get(name) for name in names)))
    rest = len(predictions) - len(rows)
    more = f"; {rest} more are in the JSON" if rest else ""
    return table(("Target", "Residues", *names), rows, caption=f"Scores of each target{more}")


def _training_sections(training: Mapping[str, Any] | None) -> list[Section]:
    if training is None:
        return []
    plain = {
        str(name).replace("_", " "): f"{value:g}"
        for name, value in training.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    body = facts(plain)
    loss = training.get("curve") or {}
    if loss.get("step") and len(loss["step"]) == len(loss.get("loss", ())):
        points = [(float(x), float(y)) for x, y in zip(loss["step"], loss["loss"], strict=True)]
        picture = curve(points, title="Training loss", x_label="step", y_label="loss")
        body += figure(picture, "Loss over training steps.")
    return [Section("Training", body)]


def _method_texts(predictions: PredictionSet, scores: Mapping[str, Any] | None) -> list[str]:
    atoms = predictions.attributes.get("atoms", "C-alpha")
    definition = (
        f"Two residues are in contact when their {atoms} atoms are nearer than "
        f"{predictions.contact_cutoff:g} A; pairs less than {predictions.min_separation} apart in the chain "
        "are not counted. Precision at L is the share of contacts among the best L pairs of a chain of L "
        "residues; pairs of equal score count with the share of contacts among them."
    )
    texts = [definition]
    rule = predictions.attributes.get("rule")
    if isinstance(rule, str):
        texts.append(f"How scores became numbers from 0 to 1: {rule}.")
    if scores is None:
        return texts
    fit = scores["baselines"]["couplings_pseudolikelihood"]
    settings = "; ".join(
        f"{METHODS[name][0].lower()}: strength {one['strength']:g}, "
        f"{'with' if one['weighted'] else 'without'} sequence weights{SCORINGS[one['scoring']]}"
        for name, one in scores["baselines"].items()
    )
    tuning = (
        f"The classical methods were tuned on {scores['tuning_families']} families of training ({settings}). "
        f"The pseudolikelihood converged on {fit['converged']:.0f} of {scores['families']} families; the "
        f"largest relative gradient left was {fit['largest_relative_gradient']:.1e}. The separation prior "
        f"was learned from all {scores['training_families']} families of training."
    )
    overlap = (
        "Of the contacts that a family scored here and a family of training have between them, at most "
        f"{scores['largest_overlap_with_training']:.0%} are common to both."
    )
    texts += [tuning, overlap]
    if scores.get("shared_energies"):
        texts.append(SHARED_ENERGIES)
    texts.append(HANDEDNESS)
    return texts


OPERATOR = MakeReport()
