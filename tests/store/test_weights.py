"""Public weights by name: what is listed, what is refused, and a digest that is found once."""

from __future__ import annotations

import json
import os
import time

import pytest

from foldase.store.artifacts import BlobStore
from foldase.store.weights import WeightsLibrary, find_weights
from foldase_workflows.contracts import BadInput, Unavailable


def lay(root, name, **files):
    """A folder of weights; ``a__b`` becomes ``a.b``."""
    folder = root / name
    folder.mkdir(parents=True)
    content = {"config__json": json.dumps({"model_type": "esm"}), "model__safetensors": "tensors", **files}
    for file, text in content.items():
        if text is not None:
            (folder / file.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


@pytest.fixture
def library(root, tmp_path):
    return WeightsLibrary(root, tmp_path / "home")


def refused(library, name):
    with pytest.raises(BadInput) as caught:
        library.artifact(name)
    return caught.value


def test_folders_are_listed_by_name_with_kind_and_size(library, root):
    lay(root, "esm2-small")
    lay(root, "facebook/esmfold_v1", config__json='{"model_type": "esm", "is_folding_model": true}')
    lay(root, "openfold", config__json='{"kind": "alphafold"}')
    lay(root, "params", config__json=None, model__safetensors=None, params__npz="arrays")
    lay(root, ".hidden")
    (root / "README.md").write_text("not weights")
    (root / "empty").mkdir()
    found = [(entry.name, entry.kind, entry.size, entry.state) for entry in library.entries()]
    size = len('{"model_type": "esm"}') + len("tensors")
    assert found == [
        ("esm2-small", "esm", size, "waiting"),
        ("facebook/esmfold_v1", "esmfold", size + len(', "is_folding_model": true'), "waiting"),
        ("openfold", "alphafold", len('{"kind": "alphafold"}') + len("tensors"), "waiting"),
        ("params", None, len("arrays"), "waiting"),
    ]


def test_the_digest_is_that_of_the_same_files_in_the_store(library, root, tmp_path):
    folder = lay(root, "esm", vocab__txt="A C D")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("hidden files are no weights")
    found = library.read("esm")
    (folder / ".cache" / "lock").unlink()
    (folder / ".cache").rmdir()
    stored = BlobStore(tmp_path / "blobs").put_tree(folder, "weights", "esm")
    assert found == stored
    assert library.entries()[0].to_json() == {
        "name": "esm",
        "kind": "esm",
        "size": found.size,
        "state": "ready",
        "digest": found.digest,
        "progress": 1.0,
        "error": None,
    }


def test_a_digest_is_found_once_and_again_only_for_what_changed(library, root, tmp_path, monkeypatch):
    folder = lay(root, "esm")
    first = library.read("esm")
    later = WeightsLibrary(root, tmp_path / "home")
    hashed = []
    real = WeightsLibrary._hash
    monkeypatch.setattr(
        WeightsLibrary, "_hash", lambda self, name, file: hashed.append(file.path) or real(self, name, file)
    )
    assert later.artifact("esm") == first
    assert later.by_digest(first.digest) == first
    assert later.read("esm") == first
    assert hashed == []
    (folder / "config.json").write_text('{"model_type": "esm", "layers": 3}')
    with pytest.raises(Unavailable) as caught:
        later.artifact("esm")
    assert caught.value.code == "weights_not_ready"
    assert later.by_digest(first.digest) is None
    second = later.read("esm")
    assert hashed == ["config.json"]
    assert second.digest != first.digest
    # Back to what it was, but at another time: the same digest, found by reading.
    (folder / "config.json").write_text('{"model_type": "esm"}')
    assert later.read("esm").digest == first.digest


def test_new_weights_are_read_in_the_background(library, root):
    lay(root, "first")
    library.start()
    try:
        wait_until(lambda: library.entries()[0].state == "ready")
        lay(root, "second")
        with pytest.raises(Unavailable) as caught:
            library.artifact("second")
        assert "being read for the first time" in caught.value.message
        wait_until(lambda: all(entry.state == "ready" for entry in library.entries()))
        assert library.artifact("second").digest == library.artifact("first").digest
    finally:
        library.close()


def test_reading_tells_how_far_it_is_and_goes_on_where_it_was_stopped(library, root, tmp_path, monkeypatch):
    lay(root, "esm", config__json=None, a__safetensors="x" * 100, model__safetensors="y" * 300)
    monkeypatch.setattr("foldase.store.weights._CHUNK", 100)
    seen = []

    class Stop(type(library._closed)):
        def is_set(self):
            (entry,) = library.entries()
            seen.append((entry.state, entry.progress))
            return len(seen) > 3

    library._closed = Stop()
    assert library.read("esm") is None
    assert seen == [("reading", 0.0), ("reading", 0.25), ("reading", 0.5), ("reading", 0.75)]
    assert library.entries()[0].state == "waiting"
    later = WeightsLibrary(root, tmp_path / "home")
    monkeypatch.setattr(
        "foldase.store.weights.hashlib.sha256", counted(hashed := [], __import__("hashlib").sha256)
    )
    assert later.read("esm") is not None
    assert sum(hashed) == 300, "the first file was read to its end before"


def counted(sizes, real):
    """A sha256 that notes how many bytes of files it is fed."""

    class Counting:
        def __init__(self, start=b""):
            self.inner = real(start)

        def update(self, piece):
            sizes.append(len(piece))
            self.inner.update(piece)

        def hexdigest(self):
            return self.inner.hexdigest()

    return Counting


@pytest.mark.parametrize(
    "name", ["", "..", "../weights/esm", "/etc", "esm/../esm", "esm/", ".hidden", "a/b/c/d", "e sm", "esm\n"]
)
def test_a_name_is_no_path(library, root, name):
    lay(root, "esm")
    lay(root, ".hidden")
    assert refused(library, name).code == "bad_weights_name"


def test_an_unknown_name_gets_a_suggestion(library, root):
    lay(root, "esmfold_v1")
    error = refused(library, "esmfold-v1")
    assert (error.code, error.hint) == ("unknown_weights", "did you mean esmfold_v1?")
    assert "`foldase weights`" in refused(library, "af2").hint


def test_without_a_folder_there_are_no_weights(tmp_path):
    library = WeightsLibrary(None, tmp_path)
    assert library.entries() == []
    error = refused(library, "esm")
    assert error.code == "no_weights_folder"
    assert "--weights DIR" in error.hint


@pytest.mark.parametrize("file", ["pytorch_model.bin", "esmfold.pt", "last.CKPT"])
def test_pickle_is_refused_with_how_to_convert(library, root, file):
    folder = lay(root, "esm")
    (folder / file).write_bytes(b"\x80\x04")
    error = refused(library, "esm")
    assert error.code == "pickle_refused"
    assert file in error.message
    assert "safetensors.torch.save_file" in error.hint
    (entry,) = library.entries()
    assert (entry.state, entry.error["code"]) == ("refused", "pickle_refused")


def test_a_file_of_pickle_is_no_folder_of_weights(library, root):
    (root / "esmfold.pt").write_bytes(b"\x80\x04")
    assert refused(library, "esmfold.pt").code == "pickle_refused"


def test_a_folder_without_tensors_is_refused(library, root):
    lay(root, "esm", model__safetensors=None)
    error = refused(library, "esm")
    assert error.code == "no_safetensors"
    assert "safetensors.torch.save_file" in error.hint


def test_links_may_not_lead_out_of_the_folder(library, root, tmp_path):
    outside = lay(tmp_path, "elsewhere")
    (root / "all").symlink_to(outside)
    one = lay(root, "one", model__safetensors=None)
    (one / "model.safetensors").symlink_to(outside / "model.safetensors")
    deep = lay(root, "deep")
    (deep / "more").symlink_to(outside)
    store = lay(root, ".store", config__json=None)
    inside = lay(root, "inside", model__safetensors=None)
    (inside / "model.safetensors").symlink_to(store / "model.safetensors")
    states = {entry.name: (entry.state, (entry.error or {}).get("code")) for entry in library.entries()}
    assert states == {
        "all": ("refused", "weights_outside"),
        "deep": ("refused", "weights_outside"),
        "inside": ("waiting", None),
        "one": ("refused", "weights_outside"),
    }


def test_a_worker_finds_the_folder_itself_while_it_is_unchanged(library, root, tmp_path):
    folder = lay(root, "esm")
    artifact = library.read("esm")
    assert find_weights(tmp_path / "home", artifact) == folder
    other = BlobStore(tmp_path / "blobs").put_tree(lay(tmp_path, "made"), "weights", "made")
    assert find_weights(tmp_path / "nowhere", other) is None
    os.utime(folder / "config.json", ns=(1, 1))
    with pytest.raises(BadInput) as caught:
        find_weights(tmp_path / "home", artifact)
    assert caught.value.code == "weights_changed"


def test_notes_that_cannot_be_read_are_made_again(library, root, tmp_path):
    lay(root, "esm")
    first = library.read("esm")
    (note,) = (tmp_path / "home" / "weights").glob("*.json")
    note.write_text("{")
    assert library.entries()[0].state == "waiting"
    assert library.read("esm") == first


def wait_until(holds, seconds=10.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
