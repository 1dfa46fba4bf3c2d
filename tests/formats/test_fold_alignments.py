"""Alignments matched with the chains they are of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.fold_alignments import (
    alignments_of_record,
    missing_alignment,
    read_given_alignment,
    rows_side_by_side,
)
from foldase_workflows.formats.fold_records import read_fold_records
from foldase_workflows.formats.letters import GAP, decode

SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))

COMPLEX = "#4,3\t2,1\n>101\t102\nMKVWARN\n>pair\nMKa-WAR-\n>first\nM-VW---\n>second\n----ARN\n"


def given(tmp_path: Path, content: str, name: str = "x.a3m"):
    (tmp_path / name).write_text(content)
    return read_given_alignment(tmp_path / name)


def test_a_single_chain_with_deletions(tmp_path):
    found = given(tmp_path, ">q\nMKVW\n>r\nMabKc-W\n")
    assert (found.chains, found.copies) == (("MKVW",), (1,))
    rows, used = alignments_of_record("q", ["MKVW"], [found])
    assert used == {"x.a3m"}
    assert rows[0].texts() == ("MKVW", "MK-W")
    assert rows[0].deletions.tolist() == [[0, 0, 0, 0], [0, 2, 1, 0]]
    assert rows[0].deletions.dtype == np.int32


def test_a_complex_as_colabfold_writes_it(tmp_path):
    found = given(tmp_path, COMPLEX)
    assert (found.chains, found.copies) == (("MKVW", "ARN"), (2, 1))
    rows, _ = alignments_of_record("z", ["MKVW", "ARN", "MKVW"], [found])
    assert rows[0].texts() == rows[2].texts() == ("MKVW", "MK-W", "M-VW")
    assert rows[0].deletions[1].tolist() == [0, 0, 1, 0]
    assert rows[1].texts() == ("ARN", "AR-", "ARN")


def test_a_complex_with_other_copies_is_not_the_record(tmp_path):
    found = given(tmp_path, COMPLEX)
    rows, used = alignments_of_record("z", ["MKVW", "ARN"], [found])
    assert rows == [None, None]
    assert not used


@pytest.mark.parametrize("head", ["#4,2\t1,1", "#7\t1,1", "#7,0\t1,1", "#3,4\t0,1"])
def test_a_head_that_does_not_fit_the_columns(tmp_path, head):
    with pytest.raises(BadInput) as caught:
        given(tmp_path, COMPLEX.replace("#4,3\t2,1", head))
    assert (caught.value.code, caught.value.location.line) == ("a3m_head", 1)


def test_single_chains_of_a_complex_and_unknown_residues(tmp_path):
    first = given(tmp_path, ">a\nMKVW\n>r\nMKV-\n", "a.a3m")
    second = given(tmp_path, ">b\nAXN\n>r\nARN\n", "b.a3m")
    rows, used = alignments_of_record("z", ["MKVW", "ARN", "WWW"], [first, second])
    assert used == {"a.a3m", "b.a3m"}
    assert rows[1].texts()[1] == "ARN"
    assert rows[2] is None
    letters, deletions, mask = rows_side_by_side(["MKVW", "ARN", "WWW"], rows)
    assert [decode(row) for row in letters] == ["MKVWARNWWW", "MKV-------", "----ARN---"]
    assert deletions.shape == letters.shape
    written = ["".join("x" if own else " " for own in row) for row in mask]
    assert written == ["x" * 10, "xxxx      ", "    xxx   "]
    assert rows_side_by_side(["MKVW"], [None]) is None


@pytest.mark.parametrize(
    ("query", "said"),
    [("MKVA", "residue 4: A instead of W"), ("MKV", "has 3 residues, the record 4")],
)
def test_a_file_with_the_name_of_a_record_must_be_of_it(tmp_path, query, said):
    found = given(tmp_path, f">q\n{query}\n>r\n{query}\n", "mine.a3m")
    with pytest.raises(BadInput) as caught:
        alignments_of_record("mine", ["MKVW"], [found])
    error = caught.value
    assert (error.code, error.location.file, error.location.record) == (
        "alignment_query",
        "mine.a3m",
        "mine",
    )
    assert said in error.message
    assert alignments_of_record("other", ["MKVW"], [found]) == ([None], set())


@pytest.mark.parametrize(("query", "said"), [("MKVA", "residue 4"), ("MKVWA", "5 residues instead of 4")])
def test_the_nearest_file_is_named_where_none_fits(tmp_path, query, said):
    far = given(tmp_path, ">q\nAAAAAAAAAA\n", "far.a3m")
    near = given(tmp_path, f">q\n{query}\n", "near.a3m")
    error = missing_alignment("mine", 1, "MKVW", [far, near])
    assert "near.a3m" in error.message
    assert said in error.message
    assert "nearest" not in missing_alignment("mine", 1, "MKVW", []).message


def test_a_real_alignment_is_of_its_sequence():
    if not (SHARED / "6KWC_1.a3m").exists():
        pytest.skip(f"no 6KWC_1.a3m in {SHARED}; set FOLDASE_TEST_DATA")
    (record,) = read_fold_records(SHARED / "6KWC.fasta").records
    rows, _ = alignments_of_record(record.name, record.chains, [read_given_alignment(SHARED / "6KWC_1.a3m")])
    assert rows[0] is not None
    assert rows[0].letters.shape == (1428, 191)
    assert not (rows[0].letters[0] == GAP).any()
    assert rows[0].deletions.max() > 0


def test_a_number_too_long_for_a_length_is_no_head(tmp_path):
    found = given(tmp_path, "#" + "9" * 5000 + "\t1\n>q\nMKVW\n")
    assert found.chains == ("MKVW",)
