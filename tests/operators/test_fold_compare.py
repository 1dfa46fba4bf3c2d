"""fold.compare: predictions beside references, and what becomes of files that do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tmtools import tm_align

from foldase_models.folding.ideal_structures import IdealStructure, helix_bundle
from foldase_workflows.contracts import BadInput, Cancelled
from foldase_workflows.formats.predicted import PredictedStructure, Provenance
from foldase_workflows.formats.predicted_mmcif import write_mmcif
from foldase_workflows.formats.predicted_pdb import write_pdb
from foldase_workflows.operators import fold_compare
from foldase_workflows.operators._record_failures import may_fail

ROUNDED = 2e-3
"""What three decimals of coordinates may change a score by."""
SEARCH = 0.02
"""How far the heuristic searches of TM-score may lie apart."""


def written(path: Path, chains: list[IdealStructure], *, noise: float = 0.0, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    positions = np.concatenate([chain.positions + 40 * k for k, chain in enumerate(chains)])
    mask = np.concatenate([chain.mask for chain in chains])
    structure = PredictedStructure(
        name=path.stem,
        chains=tuple(chain.sequence for chain in chains),
        positions=(positions + noise * rng.normal(size=positions.shape)).astype(np.float32),
        atom_mask=mask,
        plddt=np.full(len(mask), 50, dtype=np.float32),
        provenance=Provenance(model="ideal", weights="0" * 64, seed=0),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    (write_pdb if path.suffix == ".pdb" else write_mmcif)(path, structure)
    return path


def part(chain: IdealStructure, residues: slice) -> IdealStructure:
    return replace(
        chain,
        sequence=chain.sequence[residues],
        positions=chain.positions[residues],
        mask=chain.mask[residues],
    )


BUNDLE = helix_bundle(2, 12, seed=3)


def rows_of(outputs) -> dict[str, dict]:
    return {row["record"]: row for row in json.loads(outputs.scores.read_text())["rows"]}


def test_every_prediction_is_compared_with_the_reference_of_its_name(tmp_path, run):
    other = helix_bundle(2, 10, seed=8)
    written(tmp_path / "known/first.pdb", [BUNDLE])
    written(tmp_path / "known/second.cif", [other])
    written(tmp_path / "said/first_model_1.cif", [BUNDLE])
    written(tmp_path / "said/first_model_2.cif", [BUNDLE], noise=1.0)
    written(tmp_path / "said/second.pdb", [other], noise=0.3)
    outputs = run(fold_compare.OPERATOR, structures=tmp_path / "said", references=tmp_path / "known")
    rows = rows_of(outputs)
    assert {name: row["reference"] for name, row in rows.items()} == {
        "first_model_1": "first.pdb",
        "first_model_2": "first.pdb",
        "second": "second.cif",
    }
    exact, noisy = rows["first_model_1"], rows["first_model_2"]
    for name in ("tm_score", "lddt", "lddt_alpha", "gdt_ts", "gdt_ha"):
        assert exact[name] == pytest.approx(1.0, abs=ROUNDED)
        assert noisy[name] < 1 - ROUNDED
    assert exact["rmsd_all"] == pytest.approx(0.0, abs=ROUNDED)
    assert noisy["rmsd_alpha"] > 0.5
    assert noisy["clashes"] > exact["clashes"]
    assert exact["ramachandran_favoured"] > 0.8
    assert len(exact["lddt_by_residue"]) == exact["residues"] == len(BUNDLE.sequence)
    assert outputs.summary["compared"] == 3
    assert outputs.summary["mean"]["lddt"] == pytest.approx(np.mean([row["lddt"] for row in rows.values()]))
    header, *lines = outputs.table.read_text().splitlines()
    assert header.split("\t")[:5] == ["record", "reference", "status", "residues", "matched"]
    assert [line.split("\t")[0] for line in lines] == list(rows)


def test_residues_that_a_prediction_lacks_lower_its_scores(tmp_path, run):
    reference = written(tmp_path / "whole.cif", [BUNDLE])
    written(tmp_path / "said/half.cif", [part(BUNDLE, slice(6, 20))])
    [row] = rows_of(run(fold_compare.OPERATOR, structures=tmp_path / "said", reference=reference)).values()
    assert (row["matched"], row["residues"]) == (14, 28)
    assert row["rmsd_alpha"] == pytest.approx(0.0, abs=ROUNDED)
    assert row["tm_score"] == pytest.approx(0.5, abs=ROUNDED)
    assert row["gdt_ts"] == pytest.approx(0.5)
    assert row["lddt"] < 0.6
    assert row["lddt_by_residue"][0] == 0.0


def test_chains_are_matched_by_their_sequences(tmp_path, run):
    other = helix_bundle(2, 10, seed=8)
    reference = written(tmp_path / "complex.cif", [BUNDLE, other])
    swapped = [
        replace(other, positions=other.positions + 40),
        replace(BUNDLE, positions=BUNDLE.positions - 40),
    ]
    written(tmp_path / "said/complex.cif", swapped)
    [row] = rows_of(run(fold_compare.OPERATOR, structures=tmp_path / "said", reference=reference)).values()
    assert row["matched"] == len(BUNDLE.sequence) + len(other.sequence)
    assert row["tm_score"] == pytest.approx(1.0, abs=ROUNDED)
    assert row["lddt"] == pytest.approx(1.0, abs=ROUNDED)


def test_numbering_matches_what_sequences_do_not(tmp_path, run):
    mutated = replace(BUNDLE, sequence="G" * len(BUNDLE.sequence))
    keep = np.isin(np.arange(37), [0, 1, 2, 4])
    mutated = replace(mutated, mask=mutated.mask & keep)
    reference = written(tmp_path / "known.cif", [BUNDLE])
    written(tmp_path / "said/known.cif", [mutated])
    given = {"structures": tmp_path / "said", "reference": reference}
    with pytest.raises(BadInput) as caught:
        run(fold_compare.OPERATOR, **given)
    assert caught.value.code == "structures_differ"
    [row] = rows_of(run(fold_compare.OPERATOR, match="numbering", **given)).values()
    assert row["rmsd_backbone"] == pytest.approx(0.0, abs=ROUNDED)
    assert row["identical"] == BUNDLE.sequence.count("G")


def test_two_files_of_one_real_entry_agree_and_tm_align_says_so_too(tmp_path, run, real_data):
    (tmp_path / "said").mkdir()
    shutil.copy(real_data / "1A8O.pdb", tmp_path / "said/1A8O.pdb")
    outputs = run(fold_compare.OPERATOR, structures=tmp_path / "said", reference=real_data / "1A8O.cif")
    [row] = rows_of(outputs).values()
    assert (row["residues"], row["matched"], row["identical"]) == (70, 70, 70)
    assert row["lddt"] == row["tm_score"] == row["gdt_ha"] == pytest.approx(1.0)
    assert row["clash_score"] < 10
    assert row["ramachandran_outliers"] == 0.0
    from foldase_workflows.formats.all_atoms import read_all_atom_chain

    real = read_all_atom_chain(real_data / "1A8O.cif")
    noisy = IdealStructure("1A8O", real.sequence, real.positions, real.mask)
    written(tmp_path / "noisy/1A8O.pdb", [noisy], noise=1.5)
    [row] = rows_of(
        run(fold_compare.OPERATOR, structures=tmp_path / "noisy", reference=real_data / "1A8O.cif")
    ).values()
    said = read_all_atom_chain(tmp_path / "noisy/1A8O.pdb")
    peer = tm_align(
        said.positions[:, 1].astype(float), real.positions[:, 1].astype(float), said.sequence, real.sequence
    )
    assert row["tm_score"] == pytest.approx(peer.tm_norm_chain2, abs=SEARCH)


def test_a_file_that_cannot_be_read_fails_its_row_and_the_step_unless_allowed(tmp_path, run):
    reference = written(tmp_path / "known.cif", [BUNDLE])
    written(tmp_path / "said/good.cif", [BUNDLE])
    (tmp_path / "said/broken.cif").write_text((tmp_path / "said/good.cif").read_text()[:3000])
    given = {"structures": tmp_path / "said", "reference": reference}
    with pytest.raises(BadInput, match="1 of 2 predictions could not be compared") as caught:
        run(fold_compare.OPERATOR, **given)
    assert caught.value.location.file == "broken.cif"
    outputs = run(fold_compare.OPERATOR, allow_failures=0.5, **given)
    rows = rows_of(outputs)
    assert (rows["good"]["status"], rows["broken"]["status"]) == ("ok", "failed")
    assert rows["broken"]["error"]["location"]["file"] == "broken.cif"
    assert (outputs.summary["compared"], outputs.summary["failed"]) == (1, 1)
    (tmp_path / "said/good.cif").unlink()
    with pytest.raises(BadInput):
        run(fold_compare.OPERATOR, allow_failures=1.0, **given)


@pytest.mark.parametrize(("failed", "total", "share"), [(29, 100, 0.29), (7, 100, 0.07), (0, 3, 0.0)])
def test_as_many_may_fail_as_the_share_says(failed, total, share):
    assert may_fail(failed, total, share)
    assert not may_fail(failed + 1, total, share)


def test_a_prediction_without_reference_is_named(tmp_path, run):
    written(tmp_path / "known/first.cif", [BUNDLE])
    written(tmp_path / "said/firstly.cif", [BUNDLE])
    with pytest.raises(BadInput) as caught:
        run(fold_compare.OPERATOR, structures=tmp_path / "said", references=tmp_path / "known")
    assert (caught.value.code, caught.value.location.record) == ("no_reference", "firstly")


def test_one_kind_of_reference_is_wanted_and_structures_to_compare(tmp_path, run, make_context):
    reference = written(tmp_path / "said/known.cif", [BUNDLE])
    with pytest.raises(BadInput) as caught:
        run(fold_compare.OPERATOR, structures=tmp_path / "said")
    assert caught.value.code == "bad_references"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as caught:
        run(fold_compare.OPERATOR, structures=tmp_path / "empty", reference=reference)
    assert (caught.value.code, caught.value.location.path) == ("no_structures", "with.structures")
    with pytest.raises(Cancelled):
        run(fold_compare.OPERATOR, structures=tmp_path / "said", reference=reference, cancel_after=1)
