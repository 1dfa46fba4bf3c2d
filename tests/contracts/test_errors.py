"""The tree of errors: every one says what, where and how to mend it, also after crossing a process border."""

from __future__ import annotations

import pickle

from foldase_workflows.contracts import BadInput, DocumentError, DocumentErrors, FoldaseError, Location


def test_an_error_tells_place_message_code_and_hint() -> None:
    error = BadInput(
        "row 3 has 12 columns, row 1 has 14",
        code="alignment_unequal_rows",
        location=Location(file="family.fasta", line=9, record="sp|P0"),
        hint="pad rows with '-'",
    )
    assert str(error) == (
        "family.fasta:9, record sp|P0: row 3 has 12 columns, row 1 has 14 [alignment_unequal_rows] "
        "(pad rows with '-')"
    )
    assert error.to_json() == {
        "code": "alignment_unequal_rows",
        "message": "row 3 has 12 columns, row 1 has 14",
        "location": {"file": "family.fasta", "line": 9, "record": "sp|P0"},
        "hint": "pad rows with '-'",
    }


def test_errors_cross_process_borders_whole() -> None:
    error = BadInput("empty", code="empty_file", location=Location(file="a"), hint="h")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is BadInput
    assert back.to_json() == error.to_json()


def test_all_faults_of_a_document_travel_together() -> None:
    faults = [
        DocumentError("one", location=Location(line=1)),
        DocumentError("two", location=Location(line=2)),
    ]
    both = pickle.loads(pickle.dumps(DocumentErrors(faults)))
    assert [fault["message"] for fault in both.to_json()["errors"]] == ["one", "two"]
    assert "and 1 more" in str(both)


def test_every_class_of_the_tree_has_a_code_of_its_own() -> None:
    def below(kind: type[FoldaseError]) -> list[type[FoldaseError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    codes = [kind.default_code for kind in below(FoldaseError) if kind is not DocumentErrors]
    ours = [code for code in codes if code != "error"]
    assert len(set(ours)) == len(ours)
