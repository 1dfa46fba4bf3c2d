"""The ready workflows that come with the package."""

from __future__ import annotations

import pytest

from foldase_workflows.contracts import DocumentErrors, NotFound, TooLarge
from foldase_workflows.spec import catalog, catalog_entry, read_document


@pytest.fixture
def folder(tmp_path, monkeypatch, sweep):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "sweep.yaml").write_text(sweep, encoding="utf-8")
    (tmp_path / "catalog" / "notes.txt").write_text("no workflow", encoding="utf-8")
    monkeypatch.setattr("foldase_workflows.spec.library._PACKAGE", tmp_path)
    return tmp_path / "catalog"


def test_workflows_are_found_by_name(folder, sweep):
    [entry] = catalog()
    assert (entry.name, entry.title) == ("train-and-compare", "Train a few models and compare them")
    assert entry.source == sweep
    assert entry.path == folder / "sweep.yaml"
    assert catalog_entry("train-and-compare") == entry
    assert entry.load().steps["simulate"].uses == "families.simulate@1"


def test_a_changed_file_is_read_again(folder, sweep):
    assert catalog()[0].title.startswith("Train a few")
    (folder / "sweep.yaml").write_text(sweep.replace("Train a few", "Train many"), encoding="utf-8")
    assert catalog()[0].title.startswith("Train many")


def test_an_unknown_name_gets_the_closest(folder):
    with pytest.raises(NotFound) as caught:
        catalog_entry("train_and_compare")
    assert caught.value.code == "unknown_workflow"
    assert "'train-and-compare'" in caught.value.hint


def test_a_checkout_keeps_it_beside_the_package(tmp_path, monkeypatch, sweep):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "sweep.yaml").write_text(sweep, encoding="utf-8")
    monkeypatch.setattr("foldase_workflows.spec.library._PACKAGE", tmp_path / "package")
    assert [entry.name for entry in catalog()] == ["train-and-compare"]
    monkeypatch.setattr("foldase_workflows.spec.library._PACKAGE", tmp_path / "else" / "where")
    assert catalog() == []


def test_documents_are_read_within_the_limit(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("é", encoding="utf-8")
    assert read_document(path) == "é"
    path.write_bytes(b"version: 1\nname: \xff\n")
    with pytest.raises(DocumentErrors) as caught:
        read_document(path)
    assert (caught.value.code, caught.value.location.line, caught.value.location.column) == (
        "bad_characters",
        2,
        7,
    )
    path.write_bytes(b"#" * (11 * 2**20))
    with pytest.raises(TooLarge) as large:
        read_document(path)
    assert "got 11.0 MiB" in large.value.message
    for missing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(NotFound) as gone:
            read_document(missing)
        assert gone.value.code == "file_missing"
