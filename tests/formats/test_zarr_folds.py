"""The folds tree: what is written comes back, in whole and in tiles, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from foldase_models.folding import prediction
from foldase_workflows.contracts import BadInput, Damaged
from foldase_workflows.formats.atom_names import RESIDUE_ATOMS
from foldase_workflows.formats.fold_alignments import SideBySide
from foldase_workflows.formats.pair_tiles import (
    DISTANCE_EDGES,
    PAE_STEP,
    block_means,
    deep_tile_shapes,
    pae_bytes,
    pae_of_bytes,
    tile_shapes,
)
from foldase_workflows.formats.predicted import PredictedStructure, Provenance
from foldase_workflows.formats.zarr_folds import KIND, FoldSet, FoldsWriter
from foldase_workflows.formats.zarr_tree import TreeWriter

HALF_STEP = PAE_STEP / 2 + 1e-6
HALF_PROBABILITY = 0.5 / 255 + 1e-6
WEIGHTS = hashlib.sha256(b"weights").hexdigest()


def structure(
    chains: tuple[str, ...], *, seed: int, sample: int = 0, extras: bool = False
) -> PredictedStructure:
    rng = np.random.default_rng([seed, sample])
    length = sum(map(len, chains))
    mask = np.zeros((length, 37), dtype=bool)
    mask[:, : len(RESIDUE_ATOMS["A"])] = True
    told = {}
    if extras:
        told["distogram"] = rng.dirichlet(np.ones(64), (length, length)).astype(np.float16)
        told["frames"] = rng.normal(size=(length, 4, 4)).astype(np.float32)
    return PredictedStructure(
        name="my protein",
        chains=chains,
        positions=rng.normal(size=(length, 37, 3)).astype(np.float32),
        atom_mask=mask,
        plddt=rng.uniform(20, 100, length).astype(np.float32),
        pae=rng.uniform(0, 35, (length, length)).astype(np.float32),
        ptm=0.5,
        iptm=None if len(chains) == 1 else 0.25,
        contact_probability=rng.random((length, length)).astype(np.float32),
        recycle_alpha=rng.normal(size=(3, length, 3)).astype(np.float32),
        provenance=Provenance(
            model="esmfold",
            weights=WEIGHTS,
            seed=seed,
            sample=sample,
            predicted_peak_bytes=1 << 30,
            plan={"table": [1, 2]},
            versions={"torch": "2.13.0"},
        ),
        numbers={"clashes": 3.0},
        **told,
    )


def write(folder: Path, chains: tuple[str, ...] = ("ARND" * 80, "MKV")) -> list[PredictedStructure]:
    writer = FoldsWriter(folder)
    msa = np.arange(2 * sum(map(len, chains)), dtype=np.uint8).reshape(2, -1) % 21
    aligned = SideBySide(msa, msa.astype(np.int32) * 40, np.ones(msa.shape, dtype=bool))
    writer.add_record("my_protein", "my protein", chains, aligned)
    made = [structure(chains, seed=seed, sample=sample) for seed in (1, 2) for sample in (0, 1)]
    for one in made:
        writer.add("my_protein", one, one.mean_plddt / 100)
    writer.complete({"weights": WEIGHTS})
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folds") / "t"
    write(folder)
    return folder


def test_structures_come_back(tree):
    found = FoldSet(tree)
    assert [entry.path for entry in found.entries] == [
        f"models/my_protein/esmfold/{seed}/{sample}" for seed in (1, 2) for sample in (0, 1)
    ]
    assert found.attributes["weights"] == WEIGHTS
    chains = ("ARND" * 80, "MKV")
    wanted = structure(chains, seed=2, sample=0)
    one = found.read(found.entries[2])
    assert (one.chains, one.provenance, one.name) == (chains, wanted.provenance, "my protein")
    for array in ("positions", "atom_mask", "plddt", "recycle_alpha"):
        np.testing.assert_array_equal(getattr(one, array), getattr(wanted, array))
    assert one.pae is not None
    np.testing.assert_allclose(one.pae, np.minimum(wanted.pae, 31.75), atol=HALF_STEP)
    np.testing.assert_allclose(one.contact_probability, wanted.contact_probability, atol=HALF_PROBABILITY)
    assert (one.ptm, one.iptm, dict(one.numbers)) == (0.5, 0.25, {"clashes": 3.0})
    assert found.read(found.entries[2], maps=False).pae is None


def test_inputs_features_and_the_summary_come_back(tree):
    found = FoldSet(tree)
    assert found.chains("my_protein") == ("ARND" * 80, "MKV")
    aligned = found.alignment("my_protein")
    assert aligned.msa.shape == aligned.deletion.shape == aligned.mask.shape == (2, 323)
    np.testing.assert_array_equal(aligned.deletion, np.minimum(aligned.msa.astype(int) * 40, 255))
    assert aligned.mask.all()
    root = zarr.open_group(tree, mode="r", zarr_format=3)
    assert root["inputs/my_protein/sequence"][:4].tolist() == [0, 1, 2, 3]
    assert root["inputs/my_protein/residue_index"][-4:].tolist() == [320, 1, 2, 3]
    assert root["inputs/my_protein/chain_index"][-4:].tolist() == [0, 1, 1, 1]
    summary = found.summary()
    np.testing.assert_allclose(summary["iptm"], 0.25)
    np.testing.assert_allclose(summary["plddt"], [entry.scores["plddt"] for entry in found.entries])


def test_the_layout_is_the_promised_one(tree):
    metadata = json.loads((tree / "zarr.json").read_text())
    listed = metadata["consolidated_metadata"]["metadata"]
    group = "models/my_protein/esmfold/1/0"
    assert listed[f"{group}/coords"]["shape"] == [323, 37, 3]
    pae = listed[f"{group}/pae"]
    assert (pae["data_type"], pae["shape"]) == ("uint8", [323, 323])
    (sharding,) = pae["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["chunk_shape"] == [256, 256]
    packing = {codec["name"]: codec.get("configuration") for codec in sharding["configuration"]["codecs"]}
    assert packing["blosc"]["cname"] == "zstd"
    assert packing["blosc"]["shuffle"] == "bitshuffle"
    assert "crc32c" in packing
    assert listed[f"{group}/pae_lod1"]["shape"] == [81, 81]
    assert listed[f"{group}/pae_lod2"]["shape"] == [21, 21]
    assert listed[group]["attributes"]["provenance"]["weights"] == WEIGHTS
    assert tile_shapes(4096) == ((256, 256), (2048, 2048))
    assert tile_shapes(300) == ((256, 256), (512, 512))
    assert deep_tile_shapes(4096, 64) == ((64, 64, 64), (512, 512, 64))
    assert deep_tile_shapes(70, 64) == ((64, 64, 64), (128, 128, 64))


def test_a_tile_is_read_alone(tree):
    found = FoldSet(tree)
    entry = found.entries[0]
    whole = found.read(entry).pae
    assert whole is not None
    np.testing.assert_array_equal(found.pae_tile(entry, slice(250, 260), slice(0, 5)), whole[250:260, :5])
    overview = found.pae_tile(entry, slice(None), slice(None), lod=2)
    assert overview[0, 0] == pytest.approx(float(whole[:16, :16].mean()), abs=HALF_STEP)
    with pytest.raises(IndexError):
        found.pae_tile(entry, slice(-1, 5), slice(0, 5))


def test_the_mask_of_an_alignment_is_packed_into_bits(tmp_path):
    chains, rng = ("ARND" * 4, "MKV"), np.random.default_rng(3)
    mask = rng.random((300, 19)) < 0.5
    writer = FoldsWriter(tmp_path / "t")
    msa, deletions = (np.zeros(mask.shape, dtype=dtype) for dtype in (np.uint8, np.int32))
    writer.add_record("a", "a", chains, SideBySide(msa, deletions, mask))
    writer.add_record("b", "b", ("AR",))
    writer.add("a", structure(chains, seed=1), 0.5)
    writer.complete()
    found = FoldSet(tmp_path / "t")
    np.testing.assert_array_equal(found.alignment("a").mask, mask)
    assert found.alignment("b") is None
    stored = zarr.open_array(tmp_path / "t" / "features/a/msa_mask", mode="r")
    assert (stored.shape, stored.chunks) == ((300, 3), (256, 3))
    np.testing.assert_array_equal(stored[:], np.packbits(mask, axis=1))


def test_distances_and_frames_are_kept_where_they_were_asked_for(tmp_path, monkeypatch):
    chains = ("ARND" * 36,)
    wanted = structure(chains, seed=1, extras=True)
    written: list[str] = []
    real = LocalStore.set

    async def remembered(self, key, value):
        written.append(key)
        await real(self, key, value)

    monkeypatch.setattr("foldase_workflows.formats.pair_tiles.DEEP_SHARD", 128)
    monkeypatch.setattr(LocalStore, "set", remembered)
    writer = FoldsWriter(tmp_path / "t")
    writer.add_record("a", "a", chains)
    writer.add("a", wanted, 0.5)
    writer.add("a", structure(chains, seed=2), 0.5)
    writer.complete()
    group = "models/a/esmfold/1/0"
    shards = [key for key in written if key.startswith(f"{group}/distogram/c/")]
    assert sorted(shards) == [f"{group}/distogram/c/{row}/{column}/0" for row in (0, 1) for column in (0, 1)]
    assert written[-1] == "zarr.json", "the attributes of the root come last"
    assert json.loads((tmp_path / "t/zarr.json").read_text())["attributes"]["complete"] is True
    found = FoldSet(tmp_path / "t")
    np.testing.assert_array_equal(found.distogram(found.entries[0]), wanted.distogram)
    part = found.distogram(found.entries[0], slice(100, 140), slice(3, 9))
    np.testing.assert_array_equal(part, wanted.distogram[100:140, 3:9])
    np.testing.assert_array_equal(found.read(found.entries[0]).frames, wanted.frames)
    assert found.distogram(found.entries[1]) is None
    assert found.read(found.entries[1]).frames is None
    stored = zarr.open_array(tmp_path / "t" / group / "distogram", mode="r")
    assert (stored.dtype, stored.chunks, stored.shards) == (np.float16, (64, 64, 64), (128, 128, 64))
    (tmp_path / "t" / group / "distogram/c/0/1/0").unlink()
    with pytest.raises(Damaged, match="distogram"):
        found.distogram(found.entries[0], slice(0, 2), slice(130, 140))


def test_both_floors_mean_the_same_distances():
    np.testing.assert_array_equal(DISTANCE_EDGES, prediction.DISTANCE_EDGES)


def test_equal_structures_are_equal_trees(tree, tmp_path):
    write(tmp_path / "again")
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tree)).read_bytes()


LONG = pytest.mark.verify


@pytest.mark.parametrize(
    ("array", "damage"),
    [
        ("pae/c/0/0", "change"),
        ("coords/c/0/0/0", "remove"),
        pytest.param("pae/c/0/0", "remove", marks=LONG),
        pytest.param("pae/c/0/0", "shorten", marks=LONG),
        pytest.param("coords/c/0/0/0", "change", marks=LONG),
        pytest.param("coords/c/0/0/0", "shorten", marks=LONG),
        pytest.param("pae/zarr.json", "change", marks=LONG),
        pytest.param("pae/zarr.json", "remove", marks=LONG),
    ],
)
def test_damage_is_noticed_and_named(tmp_path, array, damage):
    write(tmp_path / "t", ("ARND", "MKV"))
    path = tmp_path / "t" / "models/my_protein/esmfold/1/0" / array
    raw = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "shorten":
        path.write_bytes(raw[:-1])
    else:
        path.write_bytes(raw[:20] + bytes([raw[20] ^ 1]) + raw[21:])
    found = FoldSet(tmp_path / "t")
    with pytest.raises(Damaged) as caught:
        found.read(found.entries[0])
    assert array.split("/")[0] in caught.value.message
    found.read(found.entries[1])
    if array == "pae/c/0/0":
        with pytest.raises(Damaged):
            found.pae_tile(found.entries[0], slice(0, 3), slice(0, 3))


def test_a_tree_that_was_not_completed_does_not_count(tmp_path):
    writer = FoldsWriter(tmp_path / "t")
    writer.add_record("a", "a", ("AR",))
    writer.add("a", structure(("AR",), seed=1), 0.5)
    with pytest.raises(Damaged, match="never completed"):
        FoldSet(tmp_path / "t")
    with pytest.raises(BadInput, match="no folds tree"):
        FoldSet(tmp_path)


def test_what_does_not_fit_is_refused(tmp_path):
    writer = FoldsWriter(tmp_path / "t")
    writer.add_record("a", "a", ("AR",))
    with pytest.raises(ValueError, match="taken"):
        writer.add_record("a", "a", ("AR",))
    wide = np.zeros((2, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="alignment"):
        writer.add_record("b", "b", ("AR",), SideBySide(wide, wide.astype(np.int32), wide == 0))
    with pytest.raises(ValueError, match="chains"):
        writer.add("a", structure(("ARN",), seed=1), 0.5)
    writer.add("a", structure(("AR",), seed=1), 0.5)
    with pytest.raises(ValueError, match="before"):
        writer.add("a", structure(("AR",), seed=1), 0.5)


@given(st.integers(1, 70), st.sampled_from([4, 16]), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_block_means_are_means(length, size, seed):
    rng = np.random.default_rng(seed)
    pae = rng.uniform(0, 31, (length, length))
    pae[rng.random((length, length)) < 0.2] = np.nan
    packed = pae_bytes(pae)
    means = pae_of_bytes(block_means(packed, size))
    values = pae_of_bytes(packed)
    for i in range(len(means)):
        for j in range(len(means)):
            block = values[i * size : (i + 1) * size, j * size : (j + 1) * size]
            known = block[~np.isnan(block)]
            if known.size:
                assert means[i, j] == pytest.approx(known.mean(), abs=HALF_STEP)
            else:
                assert np.isnan(means[i, j])


def test_long_maps_are_averaged_in_bands():
    packed = np.random.default_rng(0).integers(0, 255, (2100, 2100)).astype(np.uint8)
    means = block_means(packed, 4)
    exact = packed.reshape(525, 4, 525, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(means, exact, atol=0.5 + 1e-6)


def test_a_list_of_structures_with_other_fields_is_refused(tmp_path):
    TreeWriter(tmp_path / "t", KIND, consolidate=True).complete({"structures": [{"colour": "red"}]})
    with pytest.raises(BadInput, match="colour") as caught:
        FoldSet(tmp_path / "t")
    assert caught.value.code == "bad_attribute"
