"""fold.predict on a tiny random ESMFold, end to end: outputs, faults, checkpoints, plans, determinism."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import gemmi
import numpy as np
import pytest
from esmfold_peer import peer_model
from pydantic import ValidationError

from foldase_models.errors import ModelError
from foldase_models.folding import load_folder
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import FoldInput
from foldase_workflows.contracts import BadInput, Cancelled
from foldase_workflows.formats.all_atoms import read_all_atoms
from foldase_workflows.formats.predicted_json import read_pae
from foldase_workflows.formats.zarr_folds import FoldSet
from foldase_workflows.formats.zarr_predictions import PredictionSet
from foldase_workflows.operators import fold_rank
from foldase_workflows.operators.fold_predict import OPERATOR, FoldInputs

pytestmark = pytest.mark.xdist_group("transformers")

DECIMALS = 6e-4
"""Files hold coordinates with three decimals, A."""
HALF = 5e-4
"""Of a probability in half precision."""
HALF_STEP = 0.0625 + 1e-6
"""Aligned errors are kept in steps of 0.125 A."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esmfold") / "tiny"
    peer_model().save_pretrained(folder)
    return folder


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "two.fasta"
    path.write_text(">long one\nMKVWARNDCQEGHILKMF\n>dimer\nMKVW:ARND\n")
    return path


@pytest.fixture
def context_of(make_context):
    """A context whose artifacts have names."""

    def make(checkpoints=None, **options):
        context = make_context({"sequences": "two.fasta", "weights": "tiny"}, **options)
        context.checkpoints = checkpoints or context.checkpoints
        return context

    return make


def status(outputs):
    return {one["record"]: one for one in json.loads(outputs.status.read_text())["records"]}


def refused(inputs, context):
    with pytest.raises(BadInput) as caught:
        OPERATOR.run(inputs, context)
    return caught.value


def count_folds(monkeypatch, fault=None):
    """The names of the records that the model was asked to fold; ``fault`` may raise instead."""
    from foldase_models.folding.esmfold import EsmFoldFolder

    asked, real = [], EsmFoldFolder.fold

    def fold(self, record, **options):
        asked.append(record.name)
        if fault is not None:
            fault(record)
        return real(self, record, **options)

    monkeypatch.setattr(EsmFoldFolder, "fold", fold)
    return asked


def test_files_hold_what_the_model_answers(weights, fasta, run):
    outputs = run(OPERATOR, sequences=fasta, weights=weights, recycles=1)
    assert (outputs.succeeded, outputs.failed) == (2, 0)
    names = sorted(path.name for path in outputs.structures.iterdir())
    assert names == sorted(
        f"{key}{end}" for key in ("long", "dimer") for end in (".cif", ".pdb", "_pae.json")
    )
    folder = load_folder(weights, ForwardOptions())
    wanted = folder.fold(FoldInput(name="dimer", chains=("MKVW", "ARND")), seed=1, recycles=1)
    for ending in ("cif", "pdb"):
        chains = read_all_atoms(outputs.structures / f"dimer.{ending}")
        assert [chain.sequence for chain in chains] == ["MKVW", "ARND"]
        found = np.concatenate([chain.positions for chain in chains])
        np.testing.assert_allclose(
            found[wanted.atom_mask], wanted.positions[wanted.atom_mask], atol=2 * DECIMALS
        )
    np.testing.assert_allclose(read_pae(outputs.structures / "dimer_pae.json"), wanted.pae, atol=0.51)
    folds = FoldSet(outputs.folds)
    one = folds.read(folds.entries[1])
    np.testing.assert_allclose(one.pae, wanted.pae, atol=HALF_STEP + 1e-3)
    assert (one.chains, one.provenance.seed, one.provenance.recycles) == (("MKVW", "ARND"), 1, 1)
    assert one.ptm == pytest.approx(wanted.ptm, abs=1e-4)
    assert one.iptm is not None
    assert folds.read(folds.entries[0]).iptm is None
    shown = PredictionSet(outputs.predictions)
    assert shown.targets == ["long", "dimer"]
    assert shown.read("dimer").confidence.max() > 1.0, "confidence goes to 100"


@pytest.mark.verify
def test_the_status_tells_plans_and_what_was_taken(weights, fasta, run):
    outputs = run(OPERATOR, sequences=fasta, weights=weights, recycles=0)
    records = status(outputs)
    assert list(records) == ["long", "dimer"]
    assert [record["state"] for record in records.values()] == ["succeeded"] * 2
    (made,) = records["dimer"]["structures"]
    assert made["predicted_peak_bytes"] > 0
    assert made["seconds"] > 0
    assert not made["reused"]
    assert records["dimer"]["residues"] == 8


def test_the_same_seed_twice_gives_identical_files(weights, fasta, run):
    first, again = (run(OPERATOR, sequences=fasta, weights=weights, seeds=[3], recycles=0) for _ in range(2))
    for port in ("structures", "predictions", "folds"):
        one, other = getattr(first, port), getattr(again, port)
        files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
        for file in files:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_distances_and_frames_are_kept_where_they_are_asked_for(weights, tmp_path, context_of, monkeypatch):
    (tmp_path / "x.fasta").write_text(">dimer\nMKVW:ARND\n")
    asked, context = count_folds(monkeypatch), context_of()
    given = {"sequences": tmp_path / "x.fasta", "weights": weights, "recycles": 0, "pdb": False}
    plain = FoldSet(OPERATOR.run(FoldInputs(**given), context).folds)
    more = FoldInputs(**given, distogram=True, frames=True)
    folds = FoldSet(OPERATOR.run(more, context_of(context.checkpoints)).folds)
    assert len(asked) == 2, "what is kept without them does not do"
    extras = ("distogram", "frames")
    dimer = FoldInput(name="dimer", chains=("MKVW", "ARND"))
    wanted = load_folder(weights, ForwardOptions()).fold(dimer, seed=1, recycles=0, extras=extras)
    entry = folds.entries[0]
    np.testing.assert_allclose(folds.distogram(entry), wanted.distogram, atol=HALF)
    np.testing.assert_allclose(folds.read(entry).frames, wanted.frames, atol=DECIMALS)
    np.testing.assert_array_equal(folds.read(entry).positions, plain.read(plain.entries[0]).positions)
    assert plain.distogram(plain.entries[0]) is None


@pytest.mark.verify
def test_an_alignment_that_the_model_did_not_see_is_no_feature(weights, fasta, tmp_path, run):
    (tmp_path / "long.a3m").write_text(">q\nMKVWARNDCQEGHILKMF\n>r\nMKVWARNDCQEGHILKMY\n")
    inputs = {"alignments": [tmp_path / "long.a3m"], "missing_alignment": "single_sequence"}
    outputs = run(OPERATOR, sequences=fasta, weights=weights, recycles=0, **inputs)
    assert FoldSet(outputs.folds).alignment("long") is None


@pytest.mark.verify
def test_seeds_and_samples_have_names_of_their_own_and_are_ranked(weights, tmp_path, run):
    (tmp_path / "one.fasta").write_text(">x\nMKVWAR\n")
    outputs = run(
        OPERATOR,
        sequences=tmp_path / "one.fasta",
        weights=weights,
        seeds=[5, 2],
        samples=2,
        recycles=0,
        pdb=False,
    )
    assert PredictionSet(outputs.predictions).targets == ["x_s5_0", "x_s5_1", "x_s2_0", "x_s2_1"]
    ranked = run(fold_rank.OPERATOR, folds=[outputs.folds], keep=1)
    assert sorted(path.name for path in ranked.structures.iterdir()) == ["x.cif", "x.pdb", "x_pae.json"]
    found = gemmi.read_structure(str(ranked.structures / "x.cif"))
    assert [residue.name for residue in found[0]["A"]] == ["MET", "LYS", "VAL", "TRP", "ALA", "ARG"]


@pytest.mark.verify
def test_like_lengths_run_together_and_short_ones_first(weights, tmp_path, run, monkeypatch):
    lengths = {"a": 70, "b": 5, "c": 66, "d": 9}
    (tmp_path / "x.fasta").write_text("".join(f">{name}\n{'M' * n}\n" for name, n in lengths.items()))
    asked = count_folds(monkeypatch)
    outputs = run(OPERATOR, sequences=tmp_path / "x.fasta", weights=weights, recycles=0, pdb=False)
    assert asked == ["b", "d", "c", "a"]
    assert PredictionSet(outputs.predictions).targets == ["a", "b", "c_", "d"]


FAULTY = ">good\nMKVW\n>bad\nMK1\n>good\nARND\n>empty\n>also\nARND\n>odd\nMXK\n"


def test_faulty_records_fail_the_step_after_the_others_are_folded(weights, tmp_path, context_of, run):
    path = tmp_path / "x.fasta"
    path.write_text(FAULTY)
    context = context_of()
    error = refused(FoldInputs(sequences=path, weights=weights, recycles=0), context)
    assert error.code == "records_failed"
    for part in ("4 of 6", "bad (fasta_letters)", "good (fasta_duplicate_id)", "odd (unknown_residue)"):
        assert part in error.message
    assert error.location.record == "bad"
    assert "allow_failures" in error.hint
    assert len(list(context.checkpoints.glob("*.npz"))) == 2
    outputs = run(OPERATOR, sequences=path, weights=weights, recycles=0, allow_failures=0.7)
    assert (outputs.succeeded, outputs.failed) == (2, 4)
    states = [
        (one["record"], one["state"], one.get("error", {}).get("code"))
        for one in json.loads(outputs.status.read_text())["records"]
    ]
    assert states == [
        ("good", "succeeded", None),
        ("bad", "failed", "fasta_letters"),
        ("good", "failed", "fasta_duplicate_id"),
        ("empty", "failed", "fasta_empty_record"),
        ("also", "succeeded", None),
        ("odd", "failed", "unknown_residue"),
    ]


def test_no_share_of_failures_makes_a_step_of_nothing_succeed(weights, tmp_path, context_of):
    (tmp_path / "x.fasta").write_text(">bad\nMK1\n")
    inputs = FoldInputs(sequences=tmp_path / "x.fasta", weights=weights, allow_failures=0.99)
    assert refused(inputs, context_of()).code == "fasta_letters"


@pytest.mark.verify
def test_unknown_residues_are_folded_where_that_is_asked_for(weights, tmp_path, run):
    (tmp_path / "x.fasta").write_text(">odd\nMXKB\n")
    outputs = run(OPERATOR, sequences=tmp_path / "x.fasta", weights=weights, recycles=0, unknown_residues="x")
    assert PredictionSet(outputs.predictions).read("odd").sequence == "MXKX"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), marks=pytest.mark.verify),
    ],
)
def test_a_record_that_runs_out_of_memory_leaves_the_others(weights, fasta, context_of, monkeypatch, error):
    def fault(record):
        if record.name == "long":
            raise error

    asked = count_folds(monkeypatch, fault)
    context = context_of()
    with pytest.raises(type(error)):
        OPERATOR.run(FoldInputs(sequences=fasta, weights=weights, recycles=0), context)
    assert sorted(asked) == ["dimer", "long"]
    # The platform tries again with the next more frugal plan; what is finished is not folded again.
    monkeypatch.undo()
    asked = count_folds(monkeypatch)
    frugal = FoldInputs(sequences=fasta, weights=weights, recycles=0, frugality=1)
    outputs = OPERATOR.run(frugal, context_of(context.checkpoints))
    assert asked == ["long"]
    assert status(outputs)["dimer"]["structures"][0]["reused"]
    assert outputs.failed == 0


def test_what_a_record_held_is_given_back_before_the_next_one(weights, fasta, run, monkeypatch):
    class Tensor:
        pass

    held = []

    def fault(record):
        if record.name == "dimer":  # the shorter one comes first
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            raise MemoryError("no room")
        assert held[0]() is None

    count_folds(monkeypatch, fault)
    run(OPERATOR, sequences=fasta, weights=weights, recycles=0, frugality=8, allow_failures=0.5)
    assert held


@pytest.mark.verify
def test_lack_of_memory_counts_as_a_failure_when_no_plan_is_left(weights, fasta, run, monkeypatch):
    def fault(record):
        if record.name == "long":
            raise MemoryError("no room")

    count_folds(monkeypatch, fault)
    frugal = {"sequences": fasta, "weights": weights, "recycles": 0, "frugality": 8}
    outputs = run(OPERATOR, **frugal, allow_failures=0.5)
    assert status(outputs)["long"]["error"]["code"] == "out_of_memory"
    assert PredictionSet(outputs.predictions).targets == ["dimer"]


@pytest.mark.verify
def test_another_fault_of_the_program_is_not_taken_for_a_record_s(weights, fasta, context_of, monkeypatch):
    def fault(record):
        raise RuntimeError("shapes do not match")

    count_folds(monkeypatch, fault)
    with pytest.raises(RuntimeError, match="shapes"):
        OPERATOR.run(FoldInputs(sequences=fasta, weights=weights), context_of())


@pytest.mark.verify
def test_a_model_s_refusal_stays_with_its_record(weights, fasta, run, monkeypatch):
    def fault(record):
        if record.name == "dimer":
            raise ModelError("not a number", code="not_finite", location=record.name, hint="use float32")

    count_folds(monkeypatch, fault)
    outputs = run(OPERATOR, sequences=fasta, weights=weights, recycles=0, allow_failures=0.5)
    error = status(outputs)["dimer"]["error"]
    assert (error["code"], error["hint"], error["location"]) == (
        "not_finite",
        "use float32",
        {"record": "dimer"},
    )


def test_a_cancelled_step_goes_on_where_it_was(weights, fasta, context_of, monkeypatch):
    inputs = FoldInputs(sequences=fasta, weights=weights, recycles=0, pdb=False)
    whole = OPERATOR.run(inputs, context_of())
    cancelled = context_of()

    def fault(record):
        if record.name == "long":  # folded second; the model's own report of progress ends it
            cancelled.checks_left = 0

    count_folds(monkeypatch, fault)
    with pytest.raises(Cancelled):
        OPERATOR.run(inputs, cancelled)
    monkeypatch.undo()
    asked = count_folds(monkeypatch)
    again = OPERATOR.run(inputs, context_of(cancelled.checkpoints))
    assert asked == ["long"]
    for file in sorted(whole.folds.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (again.folds / file.relative_to(whole.folds)).read_bytes()


@pytest.mark.verify
def test_a_damaged_checkpoint_is_made_again(weights, fasta, context_of, monkeypatch):
    inputs = FoldInputs(sequences=fasta, weights=weights, recycles=0)
    context = context_of()
    OPERATOR.run(inputs, context)
    damaged = min(context.checkpoints.glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    asked = count_folds(monkeypatch)
    OPERATOR.run(inputs, context_of(context.checkpoints))
    assert len(asked) == 1


@pytest.mark.verify
def test_other_seeds_and_other_records_are_not_taken_from_checkpoints(
    weights, fasta, context_of, monkeypatch
):
    context = context_of()
    OPERATOR.run(FoldInputs(sequences=fasta, weights=weights, recycles=0), context)
    asked = count_folds(monkeypatch)
    for changed in ({"seeds": [2]}, {"recycles": 1}):
        inputs = FoldInputs(**{"sequences": fasta, "weights": weights, "recycles": 0} | changed)
        OPERATOR.run(inputs, context_of(context.checkpoints))
    assert len(asked) == 4
    renamed = fasta.parent / "renamed.fasta"
    renamed.write_text(fasta.read_text().replace(">long", ">other"))
    outputs = OPERATOR.run(
        FoldInputs(sequences=renamed, weights=weights, recycles=0), context_of(context.checkpoints)
    )
    assert len(asked) == 4, "a name decides nothing"
    assert status(outputs)["other"]["structures"][0]["reused"]


def test_the_plan_is_told_before_the_weights_come(weights, fasta, context_of, monkeypatch):
    context = context_of()
    seen = []
    monkeypatch.setattr(
        "foldase_models.folding.load_folder",
        lambda *a, real=load_folder, **k: (seen.append(dict(context.planned)), real(*a, **k))[1],
    )
    OPERATOR.run(FoldInputs(sequences=fasta, weights=weights, recycles=0), context)
    (plan,) = seen
    assert plan["predicted_peak_bytes"] > 0
    assert plan["key"] == "esmfold cpu"
    assert plan["records"] == 2
    (line,) = [line for _, line in context.lines if "loaded" in line]
    assert re.fullmatch(
        r"esmfold 0{12} loaded on the CPU, float32, cpu kernels, rows in groups of [\d.]+ MiB, in place; "
        r"[\d.]+ [MG]iB expected at 64 residues",
        line,
    )


def test_what_does_not_fit_is_refused_before_it_starts_and_the_others_are_folded(
    weights, tmp_path, context_of, monkeypatch
):
    (tmp_path / "x.fasta").write_text(f">huge\n{'M' * 60_000}\n>small\nMKVW\n")
    asked = count_folds(monkeypatch)
    context = context_of()
    context.memory_bytes = 2 * 2**30
    error = refused(FoldInputs(sequences=tmp_path / "x.fasta", weights=weights, recycles=0), context)
    assert asked == ["small"]
    assert error.code == "does_not_fit"
    assert "GiB" in error.message
    assert error.location.record == "huge"
    assert error.hint


@pytest.mark.verify
def test_a_correction_is_taken_into_the_plan(weights, fasta, context_of):
    plain, corrected = context_of(), context_of()
    corrected.corrections = {"esmfold cpu": 1.5}
    for context in (plain, corrected):
        OPERATOR.run(FoldInputs(sequences=fasta, weights=weights, recycles=0), context)
    ratio = corrected.planned["predicted_peak_bytes"] / plain.planned["predicted_peak_bytes"]
    assert ratio == pytest.approx(1.5, rel=1e-6)
    assert corrected.planned["correction"] == 1.5


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", None, "missing_file"),
        ("config.json", "{", "bad_config"),
        ("config.json", "[]", "bad_config"),
        ("config.json", '{"model_type": "esm"}', "wrong_model"),
    ],
)
def test_weights_that_are_none(weights, fasta, tmp_path, context_of, name, content, code):
    folder = tmp_path / "w"
    folder.mkdir()
    if content is not None:
        (folder / name).write_text(content)
    error = refused(FoldInputs(sequences=fasta, weights=folder), context_of())
    assert error.code == code
    assert error.location.path == "with.weights"


def test_weights_that_do_not_match_name_the_keys(weights, fasta, tmp_path, context_of):
    folder = tmp_path / "w"
    folder.mkdir()
    config = json.loads((weights / "config.json").read_text())
    config["esmfold_config"]["trunk"]["num_blocks"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((weights / "model.safetensors").read_bytes())
    error = refused(FoldInputs(sequences=fasta, weights=folder), context_of())
    assert "trunk.blocks.2" in error.message
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "safetensors" in str(refused(FoldInputs(sequences=fasta, weights=folder), context_of()))


@pytest.mark.verify
def test_alignments_that_are_of_no_record(weights, fasta, tmp_path, context_of, run):
    (tmp_path / "long.a3m").write_text(">q\nMKVWARNDCQEGHILKMW\n")
    inputs = {"sequences": fasta, "weights": weights, "recycles": 0, "alignments": [tmp_path / "long.a3m"]}
    error = refused(FoldInputs(**inputs), context_of())
    assert error.code == "records_failed"
    assert "long (alignment_query), dimer (alignment_missing)" in error.message
    assert error.location.file == "long.a3m"
    outputs = run(OPERATOR, **inputs, missing_alignment="single_sequence", allow_failures=0.5)
    assert {name: one["state"] for name, one in status(outputs).items()} == {
        "long": "failed",
        "dimer": "succeeded",
    }


def test_estimates_need_no_torch():
    code = (
        "import sys\n"
        "from foldase_workflows.contracts import Artifact, Hardware\n"
        "from foldase_workflows.operators.fold_predict import OPERATOR\n"
        "given = lambda size: {'weights': Artifact('sha256:0', 'weights', 8 * 10**9, 'w'),\n"
        "                      'sequences': Artifact('sha256:0', 'fasta', size, 'f')}\n"
        "few, many = (OPERATOR.estimate(given(size), Hardware(2.0, 8 << 30)) for size in (100, 1000))\n"
        "assert 8 * 10**9 < few.memory_bytes < many.memory_bytes and few.seconds[1] < many.seconds[1]\n"
        "assert OPERATOR.estimate({}, Hardware(2.0, 8 << 30)) is None\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_seed_twice_is_refused():
    with pytest.raises(ValidationError, match="name each once"):
        FoldInputs(sequences=Path("s.fasta"), weights=Path("w"), seeds=[1, 2, 1])
