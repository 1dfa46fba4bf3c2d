"""A disk that is full at any moment of storing: an error that says so, and nothing half written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foldase.store import BlobStore, faults
from foldase_workflows.contracts import StorageFull

PLACES = ["blob.write", "blob.fsync.before", "blob.rename.before"]


def full_at(name: str, hit: int = 1):
    left = [hit]

    def hook(reached: str) -> None:
        if reached == name:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

    return hook


@pytest.fixture
def blobs(tmp_path: Path):
    yield BlobStore(tmp_path / "blobs")
    faults.install(None)


def files(blobs: BlobStore) -> list[Path]:
    return [path for path in blobs.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", PLACES)
def test_streams(blobs, place):
    faults.install(full_at(place))
    with pytest.raises(StorageFull):
        blobs.put_stream([b"abc"], type="file", name="x")
    assert files(blobs) == []
    faults.install(None)
    assert blobs.put_stream([b"abc"], type="file", name="x").size == 3


@pytest.mark.parametrize("move", [False, True])
def test_a_file_that_could_not_be_stored_is_still_there(blobs, tmp_path, move):
    path = tmp_path / "result"
    path.write_text("precious")
    faults.install(full_at("blob.rename.before"))
    with pytest.raises(StorageFull):
        blobs.put_file(path, "file", move=move)
    assert path.read_text() == "precious"
    assert files(blobs) == []


@pytest.mark.parametrize("hit", [1, 2, 3, 4])
def test_a_tree_exists_as_a_whole_or_not_at_all(blobs, tmp_path, hit):
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(3):
        (root / f"{number}").write_text(f"chunk {number}")
    whole = BlobStore(tmp_path / "other").put_tree(root, "tree")
    faults.install(full_at("blob.rename.before", hit))
    with pytest.raises(StorageFull):
        blobs.put_tree(root, "tree")
    assert not blobs.exists(whole.digest)
    assert list((blobs.root / "tmp").iterdir()) == []
    faults.install(None)
    blobs.verify_artifact(blobs.put_tree(root, "tree"))


def test_copies_for_a_step(blobs, tmp_path, monkeypatch):
    artifact = blobs.put_stream([b"abc"], type="file", name="x")

    def refuse(number):
        def call(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr("os.link", refuse(errno.EXDEV))
    monkeypatch.setattr("shutil.copyfile", refuse(errno.ENOSPC))
    with pytest.raises(StorageFull):
        blobs.materialise(artifact, tmp_path / "work")


def test_other_errors_of_the_system_pass(blobs):
    def hook(name: str) -> None:
        raise OSError(errno.EIO, "I/O error")

    faults.install(hook)
    with pytest.raises(OSError, match="I/O"):
        blobs.put_stream([b"abc"], type="file", name="x")
