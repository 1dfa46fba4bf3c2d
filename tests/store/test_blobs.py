"""Blobs and trees: whole or not there, never changed, damage always seen."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase.store import BlobStore
from foldase.store.artifacts import safe_name
from foldase.store.jsontext import canonical, loads
from foldase_workflows.contracts import Artifact, BadInput, Damaged, NotFound, TooLarge


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files in folders, two of them equal, one empty."""
    root = tmp_path / "model.zarr"
    for path, content in {"zarr.json": "{}", "c/0/0": "chunk", "c/0/1": "chunk", "empty": ""}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def litter(blobs: BlobStore) -> list[Path]:
    return list((blobs.root / "tmp").iterdir())


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    if how == "flip":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def test_a_stream_becomes_a_read_only_file_under_its_digest(blobs):
    artifact = blobs.put_stream(io.BytesIO(b">q\nACDE\n"), type="fasta", name="q.fa")
    digest = hashlib.sha256(b">q\nACDE\n").hexdigest()
    assert artifact == Artifact(f"sha256:{digest}", "fasta", 8, "q.fa", "text/x-fasta")
    path = blobs.path(artifact.digest)
    assert path == blobs.root / digest[:2] / digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert blobs.open(digest).read() == b">q\nACDE\n"
    assert blobs.size(artifact.digest) == 8
    assert litter(blobs) == []


def test_the_same_bytes_are_stored_once(blobs):
    first = blobs.put_stream([b"a", b"b"], type="file", name="one")
    second = blobs.put_stream([b"ab"], type="file", name="two")
    assert first.digest == second.digest
    assert second.name == "two"
    assert sum(path.is_file() for path in blobs.root.rglob("*")) == 1


@pytest.mark.parametrize(
    ("chunks", "more", "error", "code"),
    [
        ([b"x" * 60, b"x" * 60], {"limit": 100}, TooLarge, "body_too_large"),
        ([b"abc"], {"expected": "0" * 64}, BadInput, "digest_mismatch"),
        ([b"abc"], {"expected": "no digest"}, BadInput, "digest_mismatch"),
        ([], {}, BadInput, "empty_file"),
        ([b""], {}, BadInput, "empty_file"),
    ],
)
def test_refused_streams_leave_nothing(blobs, chunks, more, error, code):
    with pytest.raises(error) as caught:
        blobs.put_stream(chunks, type="file", name="x", **more)
    assert caught.value.code == code
    assert litter(blobs) == []
    assert [path for path in blobs.root.rglob("*") if path.is_file()] == []


def test_a_stream_that_breaks_leaves_nothing(blobs):
    def broken():
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put_stream(broken(), type="file", name="x")
    assert litter(blobs) == []


def test_the_announced_digest_is_compared(blobs):
    digits = hashlib.sha256(b"abc").hexdigest()
    for expected in (digits, digits.upper(), f"sha256:{digits}"):
        assert blobs.put_stream([b"abc"], type="file", name="x", expected=expected).size == 3


def test_a_stream_is_never_held_in_memory(blobs):
    script = (
        "import resource, sys; from pathlib import Path; from foldase.store import BlobStore\n"
        "blobs = BlobStore(Path(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "blobs.put_stream((bytes(1 << 20) for _ in range(192)), type='file', name='x')\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024\n"
    )
    subprocess.run([sys.executable, "-c", script, str(blobs.root)], check=True, timeout=120)


@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_copied_or_taken_over(blobs, tmp_path, move):
    path = tmp_path / "result.html"
    path.write_text("<html>")
    artifact = blobs.put_file(path, "report", move=move)
    assert (artifact.name, artifact.size, artifact.media_type) == ("result.html", 6, "text/html")
    assert path.exists() is not move
    assert blobs.read(artifact.digest) == b"<html>"


def test_what_is_no_regular_file_is_refused(blobs, tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "missing", "."):
        with pytest.raises(BadInput) as caught:
            blobs.put_file(tmp_path / name, "file")
        assert caught.value.code == "missing_file"


@pytest.mark.parametrize("digest", ["", "abc", "sha256:", "../../etc/passwd", "sha256:" + "g" * 64, "A" * 64])
def test_what_is_no_digest_is_not_found(blobs, digest):
    for ask in (blobs.open, blobs.size, blobs.verify, blobs.manifest, blobs.read):
        with pytest.raises(NotFound):
            ask(digest)


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_damage_is_reported_never_returned(blobs, tmp_path, how):
    artifact = blobs.put_stream([b"precious"], type="file", name="x")
    blobs.verify(artifact.digest)
    damage(blobs.path(artifact.digest), how)
    for ask in (blobs.verify, blobs.read):
        with pytest.raises(Damaged):
            ask(artifact.digest)
    with pytest.raises(Damaged):
        blobs.materialise(artifact, tmp_path / "work")


def test_storing_again_mends_what_was_cut(blobs):
    artifact = blobs.put_stream([b"precious"], type="file", name="x")
    damage(blobs.path(artifact.digest), "cut")
    blobs.put_stream([b"precious"], type="file", name="x")
    blobs.verify(artifact.digest)


@pytest.mark.parametrize("move", [False, True])
def test_a_tree_is_a_manifest_of_its_files(blobs, tree, move):
    artifact = blobs.put_tree(tree, "model", move=move)
    manifest = blobs.manifest(artifact.digest)
    assert [file.path for file in manifest] == ["c/0/0", "c/0/1", "empty", "zarr.json"]
    assert artifact.size == sum(file.size for file in manifest) == 12
    assert artifact.name == "model.zarr"
    stored = loads(blobs.read(artifact.digest))
    assert stored["files"][0] == {
        "path": "c/0/0",
        "sha256": hashlib.sha256(b"chunk").hexdigest(),
        "size": 5,
    }
    assert blobs.open_in_tree(artifact.digest, "c/0/1").read() == b"chunk"
    with pytest.raises(NotFound):
        blobs.open_in_tree(artifact.digest, "../secret")


def test_equal_trees_have_equal_digests_wherever_they_lie(blobs, tree, tmp_path):
    other = tmp_path / "elsewhere"
    tree_again = blobs.put_tree(tree, "model")
    tree.rename(other)
    assert blobs.put_tree(other, "model", "name").digest == tree_again.digest


def test_trees_hold_files_and_folders_only(blobs, tree):
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(BadInput) as caught:
        blobs.put_tree(tree, "model")
    assert caught.value.code == "tree_not_regular"
    with pytest.raises(BadInput):
        blobs.put_tree(tree / "missing", "model")


def test_artifacts_are_materialised_as_hard_links(blobs, tree, tmp_path):
    single = blobs.put_stream([b"abc"], type="file", name="../a b.txt")
    path = blobs.materialise(single, tmp_path / "one")
    assert path == tmp_path / "one" / "_a b.txt"
    assert path.stat().st_ino == blobs.path(single.digest).stat().st_ino
    whole = blobs.put_tree(tree, "model")
    folder = blobs.materialise(whole, tmp_path / "two")
    assert sorted(item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file()) == [
        "c/0/0", "c/0/1", "empty", "zarr.json"
    ]  # fmt: skip
    assert (folder / "c/0/1").read_text() == "chunk"


def test_on_another_file_system_artifacts_are_copied(blobs, tmp_path, monkeypatch):
    def elsewhere(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    artifact = blobs.put_stream([b"abc"], type="file", name="a.txt")
    monkeypatch.setattr(os, "link", elsewhere)
    path = blobs.materialise(artifact, tmp_path / "work")
    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "lose"])
def test_a_damaged_or_lost_chunk_of_a_tree_is_an_error(blobs, tree, tmp_path, how):
    artifact = blobs.put_tree(tree, "model")
    blobs.verify_artifact(artifact)
    assert blobs.complete(artifact)
    damage(blobs.path(hashlib.sha256(b"chunk").hexdigest()), how)
    assert blobs.complete(artifact) is (how == "flip")
    with pytest.raises((Damaged, NotFound)):
        blobs.verify_artifact(artifact)
    with pytest.raises(Damaged):
        blobs.materialise(artifact, tmp_path / "work")
    if how != "flip":
        with pytest.raises(Damaged):
            blobs.open_in_tree(artifact.digest, "c/0/0")


def test_a_manifest_that_is_none_and_one_that_points_outside(blobs, tmp_path):
    single = blobs.put_stream([b"[]"], type="model", name="x")
    with pytest.raises(Damaged):
        blobs.manifest(single.digest)
    entry = {"path": "../../escape", "sha256": hashlib.sha256(b"[]").hexdigest(), "size": 2}
    evil = blobs.put_stream([canonical({"files": [entry]}).encode()], type="model", name="evil")
    with pytest.raises(Damaged):
        blobs.materialise(evil, tmp_path / "work")
    assert not (tmp_path.parent / "escape").exists()


def test_litter_of_the_dead_is_removed_and_that_of_the_living_stays(blobs):
    script = (
        "import os, sys; from pathlib import Path; from foldase.store import BlobStore\n"
        "writer = BlobStore(Path(sys.argv[1])).writer(); writer.write(b'half'); os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(blobs.root)], timeout=60)
    assert len(litter(blobs)) == 1
    mine = blobs.writer()
    mine.write(b"at work")
    foreign = blobs.root / "tmp" / "other-host~1-2~abc"
    foreign.write_bytes(b"?")
    assert blobs.remove_litter(now=time.time()) == 1
    assert len(litter(blobs)) == 2
    assert blobs.remove_litter(now=time.time() + 2 * 86400) == 1
    assert not foreign.exists()
    assert mine.publish()[1] == 7


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_names_are_safe_for_any_text(name):
    safe = safe_name(name)
    assert safe
    assert "/" not in safe
    assert "\x00" not in safe
    assert not safe.startswith(".")
    assert len(os.fsencode(safe.encode("utf-8", "replace"))) <= 255
