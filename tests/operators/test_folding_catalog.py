"""catalog/fold.yaml through the store, the scheduler and threads as workers, on a tiny random ESMFold."""

from __future__ import annotations

import json
from typing import Any

import gemmi
import numpy as np
import pytest
from esmfold_peer import peer_model
from thread_platform import ThreadPlatform

from foldase_models.folding.esmfold import EsmFoldFolder

pytestmark = pytest.mark.xdist_group("transformers")

RANK = """\
version: 1
name: rank-both
inputs: {folds: {type: "list[tree]"}}
steps:
  rank: {uses: fold.rank@1, with: {folds: "${{ inputs.folds }}"}}
outputs:
  ranking: ${{ steps.rank.ranking }}
"""
TRAIN_AND_FOLD = """\
version: 1
name: train-and-fold
inputs: {sequences: {type: fasta}}
steps:
  make:
    uses: structure.simulate@1
    with: {structures: 2, helices: 2, helix_length: 8, seed: 4}
  train:
    uses: fold.train@1
    with:
      structures: ${{ steps.make.structures }}
      steps: 2
      width: 16
      pair_width: 16
      structure_blocks: 2
      crop: 12
  fold:
    uses: fold.predict@1
    with: {sequences: "${{ inputs.sequences }}", weights: "${{ steps.train.model }}"}
outputs:
  model: ${{ steps.train.model }}
  structures: ${{ steps.fold.structures }}
"""
FASTA = ">mono\nMKVWARNDCQEGHILKMF\n>dimer\nMKVW:ARND\n"


@pytest.fixture
def platform(tmp_path):
    platform = ThreadPlatform(tmp_path / "home")
    yield platform
    platform.close()


@pytest.fixture
def given(platform, tmp_path):
    """The weights and the sequences, as the store keeps them."""
    peer_model().save_pretrained(tmp_path / "tiny")
    (tmp_path / "two.fasta").write_text(FASTA)
    return {
        "weights": platform.store.blobs.put_tree(tmp_path / "tiny", "weights").to_json(),
        "sequences": platform.store.blobs.put_file(tmp_path / "two.fasta", "fasta").to_json(),
    }


def test_sequences_become_ranked_structures(platform, given, tmp_path):
    run = platform.run("fold", **given, recycles=0)
    assert run.summary.state == "succeeded", run.summary.error
    ranking = json.loads(platform.fetch(run.outputs["ranking"], tmp_path / "r").read_text())
    assert [record["record"] for record in ranking["records"]] == ["mono", "dimer"]
    assert [len(record["models"]) for record in ranking["records"]] == [1, 1]
    structures = platform.fetch(run.outputs["structures"], tmp_path / "s")
    found = gemmi.read_structure(str(structures / "dimer.cif"))
    assert [chain.name for chain in found[0]] == ["A", "B"]
    best = ranking["records"][1]["models"][0]
    local = [residue[0].b_iso for chain in found[0] for residue in chain]
    assert np.mean(local) == pytest.approx(best["plddt"], abs=0.01)
    status = json.loads(platform.fetch(run.outputs["status"], tmp_path / "t").read_text())
    assert [record["state"] for record in status["records"]] == ["succeeded"] * 2


@pytest.mark.verify
def test_a_known_structure_is_compared_where_it_is_given(platform, given, tmp_path):
    first = platform.run("fold", **given, recycles=0)
    structures = platform.fetch(first.outputs["structures"], tmp_path / "s")
    reference = platform.store.blobs.put_file(structures / "mono.cif", "structure").to_json()
    sequences = tmp_path / "one.fasta"
    sequences.write_text(FASTA.split(">dimer")[0])
    given |= {"sequences": platform.store.blobs.put_file(sequences, "fasta").to_json()}
    run = platform.run("fold", **given, recycles=0, reference=reference)
    assert run.summary.state == "succeeded", run.summary.error
    scores = json.loads(platform.fetch(run.outputs["comparison"], tmp_path / "c").read_text())
    assert scores["rows"][0]["rmsd_alpha"] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.verify
def test_a_record_that_is_at_fault_fails_the_run_by_name(platform, given, tmp_path):
    (tmp_path / "bad.fasta").write_text(FASTA + ">bad\nMK1\n")
    given |= {"sequences": platform.store.blobs.put_file(tmp_path / "bad.fasta", "fasta").to_json()}
    run = platform.run("fold", **given, recycles=0)
    assert run.summary.state == "failed"
    assert "bad" in str(run.summary.error)
    allowed = platform.run("fold", **given, recycles=0, allow_failures=0.4)
    assert allowed.summary.state == "succeeded"
    status = json.loads(platform.fetch(allowed.outputs["status"], tmp_path / "t").read_text())
    assert [record["state"] for record in status["records"]] == ["succeeded", "succeeded", "failed"]


def folded_again(monkeypatch, faulty: str | None = None) -> list[str]:
    """The names of the records that the model is asked to fold; ``faulty`` is one that it cannot."""
    asked, real = [], EsmFoldFolder.fold

    def fold(self: EsmFoldFolder, record: Any, **options: Any) -> Any:
        asked.append(record.name)
        if record.name == faulty:
            raise RuntimeError("shapes do not match")
        return real(self, record, **options)

    monkeypatch.setattr(EsmFoldFolder, "fold", fold)
    return asked


@pytest.mark.verify
def test_a_resumed_run_folds_only_what_was_not_folded_yet(platform, given, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        asked = folded_again(patched, faulty="mono")
        failed = platform.run("fold", **given, recycles=0)
    assert failed.summary.state == "failed"
    assert asked[:2] == ["dimer", "mono"], "short ones first"
    asked = folded_again(monkeypatch)
    run = platform.resume(failed)
    assert run.summary.state == "succeeded", run.summary.error
    assert asked == ["mono"]
    status = json.loads(platform.fetch(run.outputs["status"], tmp_path / "t").read_text())
    reused = {one["record"]: one["structures"][0]["reused"] for one in status["records"]}
    assert reused == {"mono": False, "dimer": True}


def test_a_failed_run_is_done_again_with_failures_allowed_and_folds_nothing_anew(
    platform, given, tmp_path, monkeypatch
):
    (tmp_path / "s.fasta").write_text(FASTA + ">bad\nMK1\n")
    given |= {"sequences": platform.store.blobs.put_file(tmp_path / "s.fasta", "fasta").to_json()}
    asked = folded_again(monkeypatch)
    assert platform.run("fold", **given, recycles=0).summary.state == "failed"
    assert sorted(asked) == ["dimer", "mono"]
    asked.clear()
    run = platform.run("fold", **given, recycles=0, allow_failures=0.4)
    assert run.summary.state == "succeeded", run.summary.error
    assert asked == []


@pytest.mark.verify
def test_what_failed_is_folded_alone_and_ranked_with_the_others(platform, given, tmp_path):
    def sequences(text: str) -> dict[str, Any]:
        (tmp_path / "s.fasta").write_text(text)
        return given | {"sequences": platform.store.blobs.put_file(tmp_path / "s.fasta", "fasta").to_json()}

    first = platform.run("fold", **sequences(FASTA + ">bad\nMK1\n"), recycles=0, allow_failures=0.4)
    status = json.loads(platform.fetch(first.outputs["status"], tmp_path / "t").read_text())
    assert [one["record"] for one in status["records"] if one["state"] == "failed"] == ["bad"]
    rest = platform.run("fold", **sequences(">bad\nMKL\n"), recycles=0)
    ranked = platform.run(RANK, folds=[run.outputs["folds"] for run in (first, rest)])
    assert ranked.summary.state == "succeeded", ranked.summary.error
    ranking = json.loads(platform.fetch(ranked.outputs["ranking"], tmp_path / "r").read_text())
    assert [record["record"] for record in ranking["records"]] == ["mono", "dimer", "bad"]


@pytest.mark.verify
def test_weights_that_a_step_trained_are_folded_with_by_the_next(platform, given, tmp_path):
    run = platform.run(TRAIN_AND_FOLD, sequences=given["sequences"])
    assert run.summary.state == "succeeded", run.summary.error
    structures = platform.fetch(run.outputs["structures"], tmp_path / "s")
    assert {path.suffix for path in structures.iterdir()} == {".cif", ".pdb", ".json"}
    trained = platform.fetch(run.outputs["model"], tmp_path / "m")
    assert {"config.json", "model.safetensors"} <= {path.name for path in trained.iterdir()}
