"""FASTA for folding: chains, and faults that do not take the other records with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.fold_records import FoldRecords, read_fold_records
from foldase_workflows.formats.sequences import FastaLimits


def read(tmp_path: Path, content: str, **options: object) -> FoldRecords:
    path = tmp_path / "x.fasta"
    path.write_text(content)
    return read_fold_records(path, name="mine.fasta", **options)  # type: ignore[arg-type]


def test_colons_join_chains(tmp_path):
    found = read(tmp_path, ">dimer of two words\nMKV:\nAR\nND*\n>mono\nmkv\n")
    assert [(record.name, record.chains) for record in found.records] == [
        ("dimer", ("MKV", "ARND")),
        ("mono", ("MKV",)),
    ]
    assert found.records[0].description == "of two words"
    assert (found.records[1].line, found.records[0].residues) == (5, 7)
    assert not found.faults


@pytest.mark.parametrize(
    ("record", "code", "line", "column"),
    [
        (">bad\nMK1V\n", "fasta_letters", 4, 3),
        (">bad\nMK\nM-KV\n", "fasta_letters", 5, 2),
        (">bad\nMKXV\n", "unknown_residue", 4, 3),
        (">bad\nMKuV\n", "unknown_residue", 4, 3),
        (">bad\nMK*V\n", "fasta_letters", 3, None),
        (">bad\n\n", "fasta_empty_record", 3, None),
        (">bad\nMK::V\n", "fasta_empty_chain", 3, None),
        (">bad\nMK:\n", "fasta_empty_chain", 3, None),
        (">bad\n*\n", "fasta_empty_chain", 3, None),
        (">\nMKV\n", "fasta_no_name", 3, None),
        (">good\nMKV\n", "fasta_duplicate_id", 3, None),
        (">bad\n" + "M" * 21 + "\n", "fasta_too_long", 3, None),
        (">bad\nMK\u00c4V\n", "fasta_letters", 4, 3),
    ],
)
def test_a_faulty_record_is_named_and_the_others_stay(tmp_path, record, code, line, column):
    content = f">good\nMKV\n{record}>last\nARND\n"
    found = read(tmp_path, content, limits=FastaLimits(residues=20))
    assert [one.name for one in found.records] == ["good", "last"]
    (fault,) = found.faults
    assert fault.error.code == code
    assert fault.error.hint
    location = fault.error.location
    assert location is not None
    assert (location.file, location.line, location.column) == ("mine.fasta", line, column)


def test_unknown_residues_become_x_where_that_is_asked_for(tmp_path):
    found = read(tmp_path, ">a\nMXBzUOjK\n", unknown="x")
    assert found.records[0].chains == ("MXXXXXXK",)
    assert read(tmp_path, ">a\nM?K\n", unknown="x").faults[0].error.code == "fasta_letters"


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "fasta_empty"), ("\n\n", "fasta_empty"), ("MKV\n", "fasta_no_header"), ("a\0b", "not_text")],
)
def test_a_file_that_is_no_fasta_is_refused_as_a_whole(tmp_path, content, code):
    with pytest.raises(BadInput) as caught:
        read(tmp_path, content)
    assert caught.value.code == code
    assert caught.value.location.file == "mine.fasta"


def test_too_many_records(tmp_path):
    with pytest.raises(BadInput, match="more than 2"):
        read(tmp_path, ">a\nM\n>b\nM\n>c\nM\n", limits=FastaLimits(records=2))


@given(st.text(alphabet="MKV:>*x- \n1\u00e9", max_size=60))
@settings(max_examples=25)
def test_every_record_is_read_or_said_to_be_at_fault(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "x.fasta"
    path.write_text(">first\nMKV\n" + text)
    found = read_fold_records(path)
    headers = sum(line.startswith(">") for line in path.read_text().split("\n"))
    assert len(found.records) + len(found.faults) == headers
    assert all(set("".join(record.chains)) <= set("MKVX") for record in found.records)
