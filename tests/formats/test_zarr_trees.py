"""Trees of zarr arrays: what is written comes back, and every kind of damage is noticed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput, Damaged
from foldase_workflows.formats.zarr_families import FamiliesWriter, FamilySet
from foldase_workflows.formats.zarr_msa import NAMES_KEPT, read_msa, write_msa
from foldase_workflows.formats.zarr_predictions import Prediction, PredictionSet, PredictionsWriter
from foldase_workflows.formats.zarr_tree import CHUNK_BYTES, TreeReader, TreeWriter, chunk_shape


def _families(path: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(0)
    writer = FamiliesWriter(path)
    for k in range(count):
        upper = np.triu(rng.random((6, 6)) < 0.5, 1)
        writer.add(
            f"f{k:04d}",
            msa=rng.integers(0, 4, size=(5, 6)).astype(np.uint8),
            coords=rng.normal(size=(6, 3)).astype(np.float32),
            contacts=(upper | upper.T).astype(np.uint8),
            attributes={"seed": 7, "index": k},
        )
    writer.complete(letters="ARND", contact_cutoff=7, min_separation=4, attributes={"energy_seed": 3})
    return path


def test_families_come_back_as_they_were_written(tmp_path):
    families = FamilySet(_families(tmp_path / "t"))
    assert (len(families), families.names, families.alphabet) == (2, ["f0000", "f0001"], 4)
    assert (families.letters, families.contact_cutoff, families.min_separation) == ("ARND", 7.0, 4)
    assert families.attributes["energy_seed"] == 3
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((6, 6)) < 0.5, 1)
    first = next(iter(families))
    np.testing.assert_array_equal(first.contacts, upper | upper.T)
    np.testing.assert_array_equal(first.msa, rng.integers(0, 4, size=(5, 6)))
    np.testing.assert_array_equal(first.coords, rng.normal(size=(6, 3)).astype(np.float32))
    assert first.attributes == {"seed": 7, "index": 0}


def test_an_alignment_comes_back_and_its_names_are_capped(tmp_path):
    rows = NAMES_KEPT + 5
    msa = np.random.default_rng(1).integers(0, 21, size=(rows, 7)).astype(np.uint8)
    deletions = np.zeros((rows, 7), dtype=np.uint16)
    deletions[3, 2] = 300
    weights = np.random.default_rng(2).uniform(0.1, 1, rows).astype(np.float32)
    names = [f"s{k}" for k in range(rows)]
    letters = "ARNDCQEGHILKMFPSTWYV-"
    write_msa(
        tmp_path / "m",
        msa=msa,
        deletions=deletions,
        weights=weights,
        letters=letters,
        names=names,
        identity=0.8,
    )
    found = read_msa(tmp_path / "m")
    np.testing.assert_array_equal(found.msa, msa)
    np.testing.assert_array_equal(found.deletions, deletions)
    np.testing.assert_array_equal(found.weights, weights)
    assert (found.query, len(found.names)) == ("s0", NAMES_KEPT)
    assert found.attributes["rows"] == rows
    assert found.attributes["neff"] == pytest.approx(float(weights.sum()), rel=1e-6)
    assert found.sequence == "".join(letters[k] for k in msa[0])


def test_predictions_come_back_with_and_without_their_optional_parts(tmp_path):
    rng = np.random.default_rng(3)
    full = Prediction(
        "b-1.2",
        rng.random((5, 5)).astype(np.float32),
        truth=rng.integers(0, 2, (5, 5)).astype(np.uint8),
        coords=rng.normal(size=(5, 3)).astype(np.float32),
        confidence=rng.uniform(0, 100, 5).astype(np.float32),
        distance=rng.random((5, 5)).astype(np.float32),
        coupling_score=rng.normal(size=(5, 5)).astype(np.float32),
        sequence="ARNDC",
        scores={"lddt": 0.5},
    )
    bare = Prediction("a", rng.random((4, 4)).astype(np.float32))
    writer = PredictionsWriter(tmp_path / "p")
    writer.add(full)
    writer.add(bare)
    writer.complete(method="made up", contact_cutoff=8.0, min_separation=6)
    found = PredictionSet(tmp_path / "p")
    assert (found.targets, found.method, found.min_separation) == (["b-1.2", "a"], "made up", 6)
    first, second = found
    for name in ("contact_probability", "truth", "coords", "confidence", "distance", "coupling_score"):
        np.testing.assert_array_equal(getattr(first, name), getattr(full, name))
    assert (first.sequence, first.scores, first.length) == ("ARNDC", {"lddt": 0.5}, 5)
    assert (second.truth, second.coords, second.sequence, second.scores) == (None, None, None, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"coords": np.zeros((4, 3), np.float32)},
        {"confidence": np.full(5, np.nan, np.float32)},
        {"truth": np.zeros((5, 4), np.uint8)},
    ],
)
def test_predictions_that_do_not_fit_are_never_written(tmp_path, wrong):
    writer = PredictionsWriter(tmp_path / "p")
    with pytest.raises(ValueError, match="want finite values"):
        writer.add(Prediction("a", np.zeros((5, 5), np.float32), **wrong))


def test_every_array_is_compressed_and_carries_a_checksum(tmp_path):
    _families(tmp_path / "t")
    for metadata in tmp_path.rglob("zarr.json"):
        described = json.loads(metadata.read_text())
        if described["node_type"] == "array":
            assert [codec["name"] for codec in described["codecs"]] == ["bytes", "gzip", "crc32c"]
            assert described["zarr_format"] == 3
    # plain zarr reads it too: the tree is no format of our own
    group = zarr.open_group(tmp_path / "t", mode="r")
    np.testing.assert_array_equal(group["f0001/msa"][...], FamilySet(tmp_path / "t").read("f0001").msa)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _read_everything(path: Path) -> None:
    for _ in FamilySet(path):
        pass


@pytest.mark.parametrize("damage", ["remove", "truncate", "empty", "flip"])
def test_every_file_lost_cut_or_changed_is_noticed(tmp_path, damage):
    count = len(_files(_families(tmp_path / "whole")))
    assert count == 2 + 2 * 7
    for k in range(count):
        path = _families(tmp_path / f"{damage}{k}")
        file = _files(path)[k]
        raw = file.read_bytes()
        if damage == "remove":
            file.unlink()
        elif damage == "truncate":
            file.write_bytes(raw[: len(raw) // 2])
        elif damage == "empty":
            file.write_bytes(b"")
        else:
            middle = len(raw) // 2
            file.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
        with pytest.raises((Damaged, BadInput)) as caught:
            _read_everything(path)
        if "/c/" in file.as_posix():
            assert isinstance(caught.value, Damaged)
            assert caught.value.location.record == file.relative_to(path).as_posix().partition("/c/")[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_noticed_or_changes_no_number(tmp_path_factory, data):
    path = _families(tmp_path_factory.mktemp("flip") / "t", count=1)
    expected = FamilySet(path).read("f0000")
    file = data.draw(st.sampled_from(_files(path)))
    raw = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    try:
        found = FamilySet(path).read("f0000")
    except (Damaged, BadInput):
        return
    for name in ("msa", "coords", "contacts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_tree_that_was_never_completed_is_refused(tmp_path):
    writer = FamiliesWriter(tmp_path / "t")
    writer.add(
        "f0",
        msa=np.zeros((2, 3), np.uint8),
        coords=np.zeros((3, 3), np.float32),
        contacts=np.zeros((3, 3), np.uint8),
        attributes={},
    )
    with pytest.raises(Damaged, match="never completed"):
        FamilySet(tmp_path / "t")


def test_the_same_arrays_are_the_same_bytes_whenever_they_are_written(tmp_path, monkeypatch):
    first = _families(tmp_path / "first")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    second = _families(tmp_path / "second")
    assert [file.relative_to(first) for file in _files(first)] == [
        file.relative_to(second) for file in _files(second)
    ]
    for a, b in zip(_files(first), _files(second), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_what_is_no_tree_or_another_tree_is_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as caught:
        FamilySet(tmp_path / "empty")
    assert caught.value.code == "not_a_tree"
    with pytest.raises(BadInput) as caught:
        PredictionSet(_families(tmp_path / "t"))
    assert caught.value.code == "wrong_kind"
    empty = FamiliesWriter(tmp_path / "none")
    empty.complete(letters="AR", contact_cutoff=7.0, min_separation=4)
    with pytest.raises(BadInput) as caught:
        FamilySet(tmp_path / "none")
    assert caught.value.code == "empty"


@pytest.mark.parametrize(
    ("change", "record"),
    [
        ({"msa": np.full((5, 6), 4, np.uint8)}, "f0/msa"),
        ({"coords": np.full((6, 3), np.inf, np.float32)}, "f0/coords"),
        ({"contacts": np.triu(np.ones((6, 6), np.uint8))}, "f0/contacts"),
        ({"contacts": np.zeros((5, 5), np.uint8)}, "f0/contacts"),
    ],
)
def test_families_that_make_no_sense_are_named(tmp_path, change, record):
    arrays = {
        "msa": np.zeros((5, 6), np.uint8),
        "coords": np.zeros((6, 3), np.float32),
        "contacts": np.zeros((6, 6), np.uint8),
    }
    writer = FamiliesWriter(tmp_path / "t")
    writer.add("f0", **{**arrays, **change}, attributes={})
    writer.complete(letters="ARND", contact_cutoff=7.0, min_separation=4)
    with pytest.raises(BadInput) as caught:
        FamilySet(tmp_path / "t").read("f0")
    assert (caught.value.code, caught.value.location.record) == ("bad_array", record)


def test_attributes_of_another_type_are_named(tmp_path):
    TreeWriter(tmp_path / "t", "families").complete({"letters": 3})
    with pytest.raises(BadInput) as caught:
        FamilySet(tmp_path / "t")
    assert (caught.value.code, caught.value.location.record) == ("bad_attribute", "letters")


def test_long_arrays_are_cut_into_chunks_that_all_must_exist(tmp_path):
    values = np.random.default_rng(4).random((1500, 1100)).astype(np.float32)
    writer = TreeWriter(tmp_path / "t", "tree")
    writer.array("map", values)
    writer.array("zeros", np.zeros((1500, 1100), np.float32))
    writer.complete({})
    reader = TreeReader(tmp_path / "t", "tree")
    assert (reader.groups, reader.arrays("")) == ([], ["map", "zeros"])
    np.testing.assert_array_equal(reader.array("map", np.float32, (None, 1100)), values)
    chunks = [file for file in _files(tmp_path / "t" / "zeros") if file.name != "zarr.json"]
    assert len(chunks) == 2
    chunks[0].unlink()
    with pytest.raises(Damaged) as caught:
        reader.array("zeros", np.float32, (1500, 1100))
    assert caught.value.location.record == "zeros"
    with pytest.raises(BadInput, match="not float64"):
        reader.array("map", np.float64, (1500, 1100))
    with pytest.raises(Damaged, match="not in the tree"):
        reader.array("missing", np.float32, (1,))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=3), st.sampled_from([1, 2, 4, 8]))
def test_chunks_fit_the_limit_and_the_array(shape, itemsize):
    chunk = chunk_shape(tuple(shape), itemsize)
    assert np.prod(chunk) * itemsize <= CHUNK_BYTES
    assert all(1 <= size <= whole for size, whole in zip(chunk, shape, strict=True))


@pytest.mark.parametrize("name", ["", "..", "a/b/../c", "c", ".hidden", "a b", "ä", "x" * 101])
def test_names_unfit_for_paths_are_refused(tmp_path, name):
    writer = TreeWriter(tmp_path / "t", "tree")
    with pytest.raises(ValueError, match="no name"):
        writer.group(name, {})
    with pytest.raises(ValueError, match="no name"):
        writer.array(name, np.ones(3))


def test_arrays_without_values_and_attributes_that_json_does_not_know_are_refused(tmp_path):
    writer = TreeWriter(tmp_path / "t", "tree")
    with pytest.raises(ValueError, match="no values"):
        writer.array("a", np.zeros((0, 3)))
    with pytest.raises(ValueError, match="JSON"):
        writer.group("g", {"score": float("nan")})
