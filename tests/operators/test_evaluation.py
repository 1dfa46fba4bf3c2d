"""contacts.evaluate and report, on predictions made from the truth."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from foldase_workflows.contracts import BadInput, Cancelled
from foldase_workflows.formats.zarr_families import FamilySet
from foldase_workflows.formats.zarr_predictions import Prediction, PredictionsWriter
from foldase_workflows.operators.alignment_read import OPERATOR as READ
from foldase_workflows.operators.alignment_simulate import OPERATOR as SIMULATE
from foldase_workflows.operators.contacts_couple import OPERATOR as COUPLE
from foldase_workflows.operators.contacts_evaluate import OPERATOR as EVALUATE
from foldase_workflows.operators.report import OPERATOR as REPORT

SMALL = {"length": 16, "ancestors": 24, "letters": 5}
QUICK = {"tuning_families": 2, "bootstrap_samples": 500}
CUTS = {"L", "L/2", "L/5"}
METHODS = {
    "model",
    "mi",
    "mi_apc",
    "couplings_mean_field",
    "couplings_pseudolikelihood",
    "couplings",
    "prior",
    "random",
    "shuffled",
}


@pytest.fixture(scope="module")
def unseen(run):
    return run(SIMULATE, families=4, seed=1, **SMALL).families


@pytest.fixture(scope="module")
def training(run):
    return run(SIMULATE, families=6, seed=2, **SMALL).families


def _predict(path, families, *, noise: float, traces: bool = True):
    """Predictions that are the truth plus noise; 0.5 everywhere where the noise is infinite."""
    rng = np.random.default_rng(0)
    writer = PredictionsWriter(path)
    stored = FamilySet(families)
    for family in stored:
        length = len(family.contacts)
        disturbance = rng.normal(size=(length, length)) * min(noise, 1e3)
        found = np.full((length, length), 0.5) if np.isinf(noise) else family.contacts + disturbance
        error = rng.uniform(0, 4, size=(length, 1))
        writer.add(
            Prediction(
                target=family.name,
                contact_probability=np.clip(found, 0, 1).astype(np.float32),
                truth=family.contacts,
                coords=-(family.coords + error * rng.normal(size=(length, 3))) if traces else None,
                confidence=np.float32(100 - 20 * error[:, 0]) if traces else None,
                scores={"precision_at_L": 0.5},
            )
        )
    writer.complete(method="truth with noise", contact_cutoff=7.0, min_separation=stored.min_separation)
    return path


@pytest.fixture(scope="module")
def evaluated(run, unseen, training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    predictions = _predict(folder / "predictions", unseen, noise=0.05)
    shuffled = _predict(folder / "shuffled", unseen, noise=np.inf)
    outputs = run(
        EVALUATE,
        predictions=predictions,
        shuffled=shuffled,
        families=unseen,
        training_families=training,
        **QUICK,
    )
    return predictions, outputs


def test_the_table_has_every_method_at_every_cut(evaluated):
    _, outputs = evaluated
    table = json.loads(outputs.scores.read_text())
    assert set(table["precision"]) == CUTS
    for cut in CUTS:
        assert set(table["precision"][cut]) == METHODS
        assert table["precision"][cut]["model"] > 0.99
        means = table["precision"][cut]
        assert means["couplings"] == max(means["couplings_mean_field"], means["couplings_pseudolikelihood"])
        for method, values in table["per_family"][cut].items():
            assert means[method] == pytest.approx(np.mean(values))
        classical = max(means[name] for name in ("mi", "mi_apc", "couplings", "prior"))
        margin = table["bootstrap"]["model_minus_best_classical"][cut]
        assert margin["mean"] == pytest.approx(means["model"] - classical)
        assert margin["low"] <= margin["mean"] <= margin["high"]
    assert outputs.precision == table["precision"]
    assert outputs.margin["L"] == table["bootstrap"]["model_minus_best_classical"]["L"]
    assert table["families"] == 4
    assert table["shared_energies"] is True
    assert table["largest_overlap_with_training"] < 1
    assert table["baselines"]["couplings_pseudolikelihood"]["converged"] == 4


def test_a_map_without_information_scores_the_base_rate_and_the_ablation_says_so(evaluated, unseen):
    _, outputs = evaluated
    table = json.loads(outputs.scores.read_text())
    i, j = np.triu_indices(16, 4)
    rate = np.mean([family.contacts[i, j].mean() for family in FamilySet(unseen)])
    assert table["precision"]["L"]["shuffled"] == pytest.approx(rate)
    ablation = table["ablation"]["L"]
    precision = table["precision"]["L"]
    assert ablation["shuffled_minus_prior"] == pytest.approx(precision["shuffled"] - precision["prior"])
    assert ablation["ratio"] == pytest.approx(
        (precision["shuffled"] - precision["prior"]) / (precision["model"] - precision["prior"])
    )


def test_traces_are_scored_over_the_better_mirror_and_confidence_by_its_correlation(evaluated):
    _, outputs = evaluated
    table = json.loads(outputs.scores.read_text())
    assert 0.3 < table["lddt"] < 0.95
    assert 0.5 < table["rmsd"] < 6
    assert table["confidence"]["residues"] == 64
    assert table["confidence"]["pearson"] > 0.3


def test_without_traces_or_shuffled_maps_those_parts_are_left_out(run, unseen, training, tmp_path):
    predictions = _predict(tmp_path / "bare", unseen, noise=0.1, traces=False)
    outputs = run(EVALUATE, predictions=predictions, families=unseen, training_families=training, **QUICK)
    table = json.loads(outputs.scores.read_text())
    assert "lddt" not in table
    assert table["ablation"] == {}
    assert "shuffled" not in table["precision"]["L"]
    page = run(REPORT, predictions=predictions, scores=outputs.scores).report.read_text()
    assert "Ablation" not in page
    assert "Traces" not in page


def test_families_of_training_are_refused(run, unseen, training, tmp_path):
    predictions = _predict(tmp_path / "seen", training, noise=0.1)
    with pytest.raises(BadInput) as caught:
        run(EVALUATE, predictions=predictions, families=training, training_families=training, **QUICK)
    assert caught.value.code == "family_was_trained_on"
    assert caught.value.location.record == "f0000"


def test_predictions_of_other_families_are_refused(run, unseen, training, tmp_path):
    more = run(SIMULATE, families=9, seed=3, **SMALL).families
    predictions = _predict(tmp_path / "more", more, noise=0.1)
    with pytest.raises(BadInput) as caught:
        run(EVALUATE, predictions=predictions, families=unseen, training_families=training, **QUICK)
    assert (caught.value.code, caught.value.location.record) == ("unknown_target", "f0004")
    longer = run(SIMULATE, families=4, seed=3, **{**SMALL, "length": 18}).families
    predictions = _predict(tmp_path / "longer", longer, noise=0.1)
    with pytest.raises(BadInput) as caught:
        run(EVALUATE, predictions=predictions, families=unseen, training_families=training, **QUICK)
    assert (caught.value.code, caught.value.location.record) == ("target_length", "f0000")
    other = run(SIMULATE, families=4, seed=3, **{**SMALL, "letters": 6}).families
    predictions = _predict(tmp_path / "fitting", unseen, noise=0.1)
    with pytest.raises(BadInput) as caught:
        run(EVALUATE, predictions=predictions, families=unseen, training_families=other, **QUICK)
    assert caught.value.code == "families_differ"


def test_evaluating_stops_when_asked(run, unseen, training, tmp_path):
    predictions = _predict(tmp_path / "predictions", unseen, noise=0.1)
    with pytest.raises(Cancelled):
        run(
            EVALUATE,
            predictions=predictions,
            families=unseen,
            training_families=training,
            cancel_after=5,
            **QUICK,
        )


class _Page(HTMLParser):
    """Checks that tags are balanced and collects what the page would load."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = dict(attrs)
        self.loads += [names[name] for name in ("src", "href", "xlink:href", "action") if name in names]
        if tag == "svg":
            self.pictures.append(names["aria-label"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    assert page.open == []
    return page


def test_the_report_is_one_file_that_loads_and_runs_nothing(run, evaluated, tmp_path):
    predictions, outputs = evaluated
    model = tmp_path / "model"
    model.mkdir()
    curve = {"step": [1, 2, 3], "loss": [0.6, 0.4, 0.2]}
    (model / "training.json").write_text(json.dumps({"steps": 3, "curve": curve}))
    title = 'Contacts <of> "made-up" & families'
    made = run(REPORT, predictions=predictions, scores=outputs.scores, model=model, title=title)
    text = made.report.read_text()
    page = _parse(text)
    assert page.loads == []
    assert "script" not in page.tags
    assert "Contacts &lt;of&gt; &quot;made-up&quot; &amp; families" in text
    assert "url(" not in text
    described = " ".join(page.pictures)
    for expected in ("Precision at L:", "Precision at L/5:", "Contact map of f0000", "Training loss"):
        assert expected in described
    for said in ("share the energies of letter pairs", "handedness", "Ablation", "prefers-color-scheme"):
        assert said in text
    numbers = json.loads(made.numbers.read_text())
    assert numbers["evaluation"] == json.loads(outputs.scores.read_text())
    assert numbers["training"]["curve"] == curve
    assert set(numbers["targets"]) == {"f0000", "f0001", "f0002", "f0003"}


def test_the_report_of_one_alignment_lists_its_strongest_pairs(run, unseen, tmp_path):
    family = FamilySet(unseen).read("f0000")
    text = "".join(f">s{k}\n{''.join('ARNDC'[x] for x in row)}\n" for k, row in enumerate(family.msa))
    (tmp_path / "in.fasta").write_text(text)
    msa = run(READ, alignment=tmp_path / "in.fasta").msa
    coupled = run(COUPLE, msa=msa, method="mean_field")
    page = run(REPORT, predictions=coupled.predictions, title="Couplings").report.read_text()
    _parse(page)
    assert "Strongest pairs" in page
    assert "the truth is not known" in page
    assert "C-beta" in page
    assert "simulated families: a guide" in page


@pytest.mark.parametrize("content", ["no json", "[]", '{"kind": "something else"}'])
def test_a_table_that_is_none_is_refused(run, unseen, tmp_path, content):
    predictions = _predict(tmp_path / "predictions", unseen, noise=0.1)
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(BadInput) as caught:
        run(REPORT, predictions=predictions, scores=tmp_path / "scores.json")
    assert caught.value.code == "bad_scores"


def test_a_table_of_other_targets_and_a_model_without_record_are_refused(run, evaluated, tmp_path):
    _, outputs = evaluated
    other = run(SIMULATE, families=2, seed=9, **SMALL).families
    predictions = _predict(tmp_path / "others", other, noise=0.1)
    with pytest.raises(BadInput) as caught:
        run(REPORT, predictions=predictions, scores=outputs.scores)
    assert (caught.value.code, caught.value.location.record) == ("bad_scores", "f0002")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as caught:
        run(REPORT, predictions=predictions, model=tmp_path / "empty")
    assert caught.value.code == "wrong_model"
