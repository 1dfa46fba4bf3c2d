from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.alignments import AlignmentLimits, read_alignment
from foldase_workflows.formats.letters import GAP, LETTERS, decode, encode

SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write(tmp_path: Path, content: str, name: str = "in.aln") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode())
    return path


def fault(path: Path, **options: object) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_alignment(path, **options)  # type: ignore[arg-type]
    return caught.value


def rows(alignment) -> list[str]:
    return [decode(row) for row in alignment.letters]


def test_aligned_fasta(tmp_path):
    alignment = read_alignment(write(tmp_path, ">q one\nACDE\n>b\nAC-E\n>b\nac.e\n"))
    assert alignment.format == "fasta"
    assert alignment.names == ("q", "b", "b")
    assert rows(alignment) == ["ACDE", "AC-E", "AC-E"]
    assert not alignment.deletions.any()
    assert (alignment.letters.dtype, alignment.deletions.dtype) == (np.uint8, np.uint16)


def test_columns_without_a_query_residue_become_deletion_counts(tmp_path):
    alignment = read_alignment(write(tmp_path, ">q\n-A--CD-\n>b\nFAGHCDK\n>c\n-AG-C--\n"))
    assert rows(alignment) == ["ACD", "ACD", "AC-"]
    assert alignment.deletions.tolist() == [[0, 0, 0], [1, 2, 0], [0, 1, 0]]


def test_a3m_insertions_become_deletion_counts(tmp_path):
    alignment = read_alignment(write(tmp_path, ">q\nACD\n>b\nfAghCDk\n>c\nAgC-\n"))
    assert alignment.format == "a3m"
    assert alignment.query == "ACD"
    assert rows(alignment) == ["ACD", "ACD", "AC-"]
    assert alignment.deletions.tolist() == [[0, 0, 0], [1, 2, 0], [0, 1, 0]]


def test_a2m_is_read_as_a3m(tmp_path):
    alignment = read_alignment(write(tmp_path, ">q\n.A..CD.\n>b\nfAghCDk\n>c\n.Ag.C-.\n"))
    assert alignment.format == "a3m"
    assert alignment.deletions.tolist() == [[0, 0, 0], [1, 2, 0], [0, 1, 0]]


def test_soft_masked_fasta_is_no_a3m(tmp_path):
    alignment = read_alignment(write(tmp_path, ">q\nACDE\n>b\nAcdE\n"))
    assert alignment.format == "fasta"
    assert rows(alignment) == ["ACDE", "ACDE"]


def test_heads_of_colabfold_and_annotations_of_hhsuite_are_left_out(tmp_path):
    content = "#3\t1\n>ss_pred\nHHE\n>ss_conf\n991\n>q\nACD\n>b\nA-aD\n"
    alignment = read_alignment(write(tmp_path, content, "x.a3m"))
    assert alignment.names == ("q", "b")
    assert rows(alignment) == ["ACD", "A-D"]


STOCKHOLM = """# STOCKHOLM 1.0
#=GF ID  test
#=GF CC
#=GS q/1-4 AC X1
#=GS q/1-4 AC X2

q/1-4      AC.D
other\tACkD
#=GR q/1-4 SS HH
#=GC RF    xx.x

q/1-4      -E
other      GE
//
"""


def test_stockholm_in_blocks(tmp_path):
    alignment = read_alignment(write(tmp_path, STOCKHOLM))
    assert alignment.format == "stockholm"
    assert alignment.names == ("q/1-4", "other")
    assert rows(alignment) == ["ACDE", "ACDE"]
    assert alignment.deletions.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]


CLUSTAL = """CLUSTAL W (1.81) multiple sequence alignment


q              ACD-
second         ACDE
               ***

q              EF
second         -F
                *
"""


def test_clustal_in_blocks(tmp_path):
    alignment = read_alignment(write(tmp_path, "\n" + CLUSTAL.replace("\n", "\r\n")))
    assert alignment.format == "clustal"
    assert alignment.names == ("q", "second")
    assert rows(alignment) == ["ACDEF", "ACD-F"]
    assert alignment.deletions.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0]]


def test_another_row_can_be_the_query(tmp_path):
    path = write(tmp_path, CLUSTAL)
    alignment = read_alignment(path, query="second")
    assert alignment.names == ("second", "q")
    assert alignment.query == "ACDEF"
    assert fault(path, query="third").code == "alignment_query"


@pytest.mark.parametrize(
    ("content", "code", "line", "record"),
    [
        ("", "alignment_empty", None, None),
        ("\n\n", "alignment_empty", 2, None),
        ("#3\t1\n", "alignment_empty", 1, None),
        ("# STOCKHOLM 1.0\n//\n", "alignment_empty", 2, None),
        ("ACDE\nAC-E\n", "fasta_no_header", 1, None),
        ("{json: yes}\n", "alignment_format", 1, None),
        (">q\nACDE\n>b\nACD\n", "alignment_unequal_rows", 3, "b"),
        (">q\nACDE\n>b\nAC1E\n", "fasta_letters", 4, "b"),
        (">q\nACDE\n>b\n>c\nACDE\n", "fasta_empty_record", 3, "b"),
        (">q\nACD\n>b\nAaCD\n>c\nAC\n", "a3m_length", 5, "c"),
        (">q\nA-D\n>b\nAaCD\n", "a3m_query_gaps", 1, "q"),
        (">q\n----\n>b\nACDE\n", "alignment_query", 1, "q"),
        (STOCKHOLM.replace("//\n", ""), "stockholm_truncated", 13, None),
        (STOCKHOLM + STOCKHOLM, "alignment_several", 28, None),
        (STOCKHOLM.replace("GE", "GEE"), "alignment_unequal_rows", None, None),
        (STOCKHOLM.replace("GE", "G1"), "stockholm_letters", 8, "other"),
        ("CLUSTAL W\n\n\n", "clustal_syntax", 3, None),
        ("# STOCKHOLM 1.0\nname\n//\n", "stockholm_syntax", 2, None),
        (CLUSTAL.replace("second         -F", "third          -F"), "clustal_syntax", 9, None),
        (CLUSTAL.replace("ACDE", "AC4E"), "clustal_letters", 5, "second"),
        (CLUSTAL.replace("ACDE", "ACDEE"), "clustal_syntax", None, None),
    ],
)
def test_faults_name_code_line_and_record(tmp_path, content, code, line, record):
    error = fault(write(tmp_path, content), name="mine")
    assert error.code == code
    place = error.location
    assert place is not None
    assert place.file == "mine"
    assert place.record == record
    if line is not None:
        assert place.line == line


def test_a_row_count_is_told(tmp_path):
    assert "row 3 has 2 columns" in fault(write(tmp_path, ">q\nACD\n>b\nAaCD\n>c\nAC\n")).message


def test_an_a3m_file_with_a_short_row_is_told_so_by_its_name(tmp_path):
    assert fault(write(tmp_path, ">q\nACDE\n>b\nACD\n", "x.a3m")).code == "a3m_length"
    assert fault(write(tmp_path, ">q\nACDE\n>b\nACD\n"), format="a3m").code == "a3m_length"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (AlignmentLimits(rows=2), "fasta_too_many_records"),
        (AlignmentLimits(row_length=3), "fasta_too_long"),
        (AlignmentLimits(cells=11), "alignment_too_large"),
    ],
)
def test_limits(tmp_path, limits, code):
    assert fault(write(tmp_path, ">q\nACDE\n>b\nACDE\n>c\nACDE\n"), limits=limits).code == code


def test_letters():
    assert LETTERS[GAP] == "-"
    assert decode(encode("BZJUOXbzjuox.-")) == "DELCK-DELCK---"
    assert decode(encode(LETTERS.lower())) == LETTERS
    for stranger in "1*é \n":
        with pytest.raises(ValueError, match="is no residue"):
            encode("AC" + stranger)


residue_rows = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.text("ACDEFGHIKLMNPQRSTVWY-", min_size=n, max_size=n), min_size=1, max_size=6)
)
insertions = st.lists(st.text("acdefgh.", max_size=3), min_size=31, max_size=31)


@given(residue_rows, st.data())
def test_a3m_columns_and_counts(tmp_path_factory, texts, data):
    query = texts[0].replace("-", "A")
    table = [query, *texts]
    inserted = [[""] * 31, *(data.draw(insertions) for _ in texts)]
    content = ""
    for number, (row, between) in enumerate(zip(table, inserted, strict=True)):
        content += (
            f">s{number}\n"
            + "".join(a + b for a, b in zip(between, row, strict=False))
            + between[len(row)]
            + "\n"
        )
    path = tmp_path_factory.mktemp("aln") / "x.a3m"
    path.write_text(content)
    alignment = read_alignment(path)
    assert rows(alignment) == table
    expected = [[len(part.replace(".", "")) for part in between[: len(query)]] for between in inserted]
    assert alignment.deletions.tolist() == expected


@given(residue_rows)
def test_three_formats_give_one_alignment(tmp_path_factory, texts):
    texts = ["".join("AC"[i % 2] if i % 3 == 0 else c for i, c in enumerate(texts[0])), *texts]
    folder = tmp_path_factory.mktemp("aln")
    fasta = write(folder, "".join(f">s{i}\n{row}\n" for i, row in enumerate(texts)), "a")
    body = "".join(f"s{i:<8} {row}\n" for i, row in enumerate(texts))
    stockholm = write(folder, f"# STOCKHOLM 1.0\n\n{body}//\n", "b")
    clustal = write(folder, f"CLUSTAL W\n\n\n{body}\n", "c")
    first, *others = (read_alignment(path) for path in (fasta, stockholm, clustal))
    for other in others:
        assert other.names == first.names
        assert np.array_equal(other.letters, first.letters)
        assert np.array_equal(other.deletions, first.deletions)


heads = st.sampled_from(["", ">q\n", "#3\t1\n>q\n", "# STOCKHOLM 1.0\n", "CLUSTAL W\n\n"])
bodies = st.text(">qACDE-.ac1*\n\t #=/", max_size=200)


@given(st.builds("".join, st.tuples(heads, bodies)) | st.binary(max_size=100))
def test_anything_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("aln") / "any"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    codes: set[str] = set()
    for kind in (None, "fasta", "a3m", "stockholm", "clustal"):
        try:
            alignment = read_alignment(path, format=kind)
        except BadInput as error:
            codes.add(error.code)
        else:
            assert alignment.letters.shape == alignment.deletions.shape
            assert alignment.letters.shape[0] == len(alignment.names) > 0
    assert "bad_input" not in codes


def test_a_real_alignment():
    path = SHARED / "6KWC_1.a3m"
    if not path.exists():
        pytest.skip(f"no real alignments in {SHARED}; set FOLDASE_TEST_DATA")
    alignment = read_alignment(path)
    assert alignment.format == "a3m"
    assert alignment.letters.shape == (1428, 191)
    assert alignment.query.startswith("GSTIQPGTGYNNGYFYSYW")
    assert len(set(alignment.names)) < len(alignment.names)
    gapless = (alignment.letters != GAP).mean(axis=1) > 0.5
    assert int(gapless.sum()) == 1123
