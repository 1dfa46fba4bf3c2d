from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.sequences import FastaLimits, Record, read_fasta, write_fasta
from foldase_workflows.formats.text import LineReader, TextLimits


def fasta(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "in.fasta"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fault(path: Path, **options: object) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_fasta(path, **options)  # type: ignore[arg-type]
    return caught.value


def test_records_in_order_with_descriptions_and_lines(tmp_path):
    path = fasta(tmp_path, ">a first one\nACDE\n\nfghi\n>b\nKL MN\n")
    assert read_fasta(path) == [Record("a", "first one", "ACDEFGHI", 1), Record("b", "", "KLMN", 5)]


@pytest.mark.parametrize(
    "content",
    [b">a\r\nACD\r\nEF\r\n", b"\xef\xbb\xbf>a\nACDEF\n", b">a\rACD\rEF\r", b">a\nACDEF", b"\n\n>a\nacdef*\n"],
    ids=["crlf", "bom", "cr", "no-final-newline", "blank-lines-lower-case-stop"],
)
def test_what_is_accepted(tmp_path, content):
    assert [(r.name, r.sequence) for r in read_fasta(fasta(tmp_path, content))] == [("a", "ACDEF")]


@pytest.mark.parametrize(
    ("content", "code", "line", "column", "record"),
    [
        ("", "fasta_empty", None, None, None),
        ("\n  \n", "fasta_empty", 2, None, None),
        ("ACDE\n", "fasta_no_header", 1, None, None),
        ("; old comment\n>a\nAC\n", "fasta_no_header", 1, None, None),
        (">\nACDE\n", "fasta_no_name", 1, None, None),
        (">a\nAC\n>b\n>c\nAC\n", "fasta_empty_record", 3, None, "b"),
        (">a\nAC\n>b\n", "fasta_empty_record", 3, None, "b"),
        (">a\n*\n", "fasta_empty_record", 1, None, "a"),
        (">a\nACDE\nAC1DE\n", "fasta_letters", 3, 3, "a"),
        (">a\nAC-DE\n", "fasta_letters", 2, 3, "a"),
        (">a\nAC*DE\n", "fasta_letters", 1, None, "a"),
        (">a\n ACß\n", "fasta_letters", 2, 4, "a"),
        (">a\nACıD\n", "fasta_letters", 2, 3, "a"),
        (">a x\nAC\n>b\nDE\n>a y\nAC\n", "fasta_duplicate_id", 5, None, "a"),
    ],
)
def test_faults_name_code_line_and_record(tmp_path, content, code, line, column, record):
    error = fault(fasta(tmp_path, content), name="mine.fasta")
    assert error.code == code
    assert error.location is not None
    place = error.location
    assert (place.file, place.line, place.column, place.record) == ("mine.fasta", line, column, record)
    assert error.hint or code == "fasta_empty"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (gzip.compress(b">a\nACDE\n", mtime=0), "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (">a\nACDE\n".encode("utf-16"), "UTF-16"),
        (b">a\nAC\x00DE\n", "NUL"),
        (b">a\nAC\xe9E\n", "UTF-8"),
    ],
)
def test_not_text(tmp_path, content, word):
    error = fault(fasta(tmp_path, content))
    assert error.code == "not_text"
    assert word in error.message


def test_name_in_another_encoding_is_named_with_its_line(tmp_path):
    error = fault(fasta(tmp_path, b">a\nACDE\n>caf\xe9\nAC\n"))
    assert (error.code, error.location.line, error.location.column) == ("not_text", 3, 5)


def test_gaps_are_refused_removed_or_kept(tmp_path):
    path = fasta(tmp_path, ">a\nAC--D.E\n")
    assert "alignment" in (fault(path).hint or "")
    assert read_fasta(path, gaps="remove")[0].sequence == "ACDE"
    assert read_fasta(path, gaps="keep")[0].sequence == "AC--D.E"
    assert fault(fasta(tmp_path, ">a\n---\n"), gaps="remove").code == "fasta_empty_record"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (FastaLimits(records=2), "fasta_too_many_records"),
        (FastaLimits(residues=9), "fasta_too_long"),
        (FastaLimits(text=TextLimits(file_bytes=20)), "file_too_large"),
        (FastaLimits(text=TextLimits(line_bytes=8)), "line_too_long"),
    ],
)
def test_limits(tmp_path, limits, code):
    path = fasta(tmp_path, ">a\nACDEFGHIKL\n>b\nAC\n>c\nAC\n")
    error = fault(path, limits=limits)
    assert error.code == code
    assert error.location.line is not None


def test_a_long_line_is_not_read_whole(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b">a\n")
        file.seek(1 << 32)
        file.write(b"A")
    with pytest.raises(BadInput) as caught, LineReader(path) as lines:
        list(lines)
    assert caught.value.code == "line_too_long"


names = st.text("abcdefgXYZ019_|.", min_size=1, max_size=12)
residues = st.text("ACDEFGHIKLMNPQRSTVWYBZXJUO", min_size=1, max_size=200)


@given(st.dictionaries(names, residues, min_size=1, max_size=8), st.integers(1, 90))
def test_what_is_written_is_read(tmp_path_factory, sequences, width):
    path = tmp_path_factory.mktemp("fasta") / "out.fasta"
    records = [Record(name, "", sequence, 0) for name, sequence in sequences.items()]
    write_fasta(records, path, width=width)
    assert {record.name: record.sequence for record in read_fasta(path)} == sequences


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fasta") / "any"
    path.write_bytes(content)
    try:
        found = read_fasta(path)[0].name
    except BadInput as error:
        found = error.code.removeprefix("bad_input")
    assert found
