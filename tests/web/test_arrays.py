"""Arrays of zarr trees over HTTP: the right numbers, and never made-up ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from web_support import API, Running, problem, serving

from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.formats.zarr_tree import TreeWriter

GENERATOR = np.random.default_rng(7)
MAP = GENERATOR.random((40, 40), dtype=np.float32)
LETTERS = GENERATOR.integers(0, 21, (5, 40), dtype=np.uint8)
LARGE = GENERATOR.random((1500, 1500), dtype=np.float32)
BIG_ENDIAN = np.arange(6, dtype=">i4").reshape(2, 3)


def write_tree(folder: Path) -> Path:
    writer = TreeWriter(folder, "predictions")
    writer.group("target", {"length": 40, "sequence": "MK", "scores": {"L": 0.5}})
    writer.array("target/contact_probability", MAP)
    writer.array("target/letters", LETTERS)
    writer.array("large", LARGE)
    writer.array("big_endian", BIG_ENDIAN)
    writer.complete({"targets": ["target"], "method": "model"})
    return folder


def store_tree(running: Running, folder: Path) -> Artifact:
    artifact = running.store.blobs.put_tree(folder, "predictions", "result")
    return running.store.requests.register_artifact(artifact)


@pytest.fixture(scope="module")
def tree(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return store_tree(running, write_tree(tmp_path_factory.mktemp("zarr") / "tree"))


def array_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    shape = tuple(int(length) for length in answer.headers["x-shape"].split(","))
    return np.frombuffer(answer.content, np.dtype(answer.headers["x-dtype"]).newbyteorder("<")).reshape(shape)


def test_the_root_and_a_group(client: httpx.Client, tree: Artifact) -> None:
    for path in ("attributes", "attributes/"):
        root = client.get(f"{API}/artifacts/{tree.digest}/{path}").json()
        assert root["attributes"]["kind"] == "predictions"
        assert root["attributes"]["complete"] is True
        assert root["attributes"]["targets"] == ["target"]
        assert root["groups"] == ["target"]
        assert {array["name"]: array["shape"] for array in root["arrays"]} == {
            "large": [1500, 1500],
            "big_endian": [2, 3],
        }
    group = client.get(f"{API}/artifacts/{tree.digest}/attributes/target").json()
    assert group["attributes"]["scores"] == {"L": 0.5}
    assert {"name": "contact_probability", "shape": [40, 40], "dtype": "float32"} in group["arrays"]
    assert {"name": "letters", "shape": [5, 40], "dtype": "uint8"} in group["arrays"]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("target/contact_probability", MAP),
        ("target/letters", LETTERS),
        ("large", LARGE),
        ("big_endian", BIG_ENDIAN),
    ],
)
def test_whole_arrays(client: httpx.Client, tree: Artifact, path: str, values: np.ndarray) -> None:
    answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/{path}")
    assert answer.headers["content-type"] == "application/octet-stream"
    np.testing.assert_array_equal(array_of(answer), values)


def test_parts_of_arrays(client: httpx.Client, tree: Artifact) -> None:
    query = {"start": "100,1490", "stop": "900,1500"}
    answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/large", params=query)
    np.testing.assert_array_equal(array_of(answer), LARGE[100:900, 1490:1500])
    answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/target/letters", params={"stop": "1,40"})
    np.testing.assert_array_equal(array_of(answer), LETTERS[:1])


@pytest.mark.parametrize(
    "query",
    [
        "start=0",
        "start=0,0,0",
        "stop=41,41",
        "start=5,5&stop=5,6",
        "start=-1,0",
        "start=a,b",
        "start=",
        "stop=,",
        "start=" + "9" * 30 + ",0",
        "start=1.5,0",
        "start=0,٣",
    ],
)
def test_parts_that_are_none(client: httpx.Client, tree: Artifact, query: str) -> None:
    answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/target/contact_probability?{query}")
    problem(answer, 422, "bad_slice")


@pytest.mark.parametrize("path", ["target", "nothing", "target/nothing", "zarr.json", "large/c/0/0", "LARGE"])
def test_what_is_no_array(client: httpx.Client, tree: Artifact, path: str) -> None:
    assert client.get(f"{API}/artifacts/{tree.digest}/arrays/{path}").status_code == 404


def test_an_array_is_no_group(client: httpx.Client, tree: Artifact) -> None:
    problem(client.get(f"{API}/artifacts/{tree.digest}/attributes/large"), 404, "unknown_group")
    problem(client.get(f"{API}/artifacts/{tree.digest}/attributes/nothing"), 404, "unknown_group")


def test_large_answers_are_asked_for_in_parts(home: Path, tmp_path: Path) -> None:
    with serving(home, slice_limit_bytes=100_000) as running, running.client() as client:
        tree = store_tree(running, write_tree(tmp_path / "tree"))
        body = problem(client.get(f"{API}/artifacts/{tree.digest}/arrays/large"), 413, "slice_too_large")
        assert "start=" in body["hint"]
        answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/large", params={"stop": "10,1500"})
        np.testing.assert_array_equal(array_of(answer), LARGE[:10])


def test_a_missing_chunk_is_damage_and_not_zeros(
    running: Running, client: httpx.Client, tmp_path: Path
) -> None:
    """Also where the tree was stored without it: zarr by itself would answer with fill values."""
    folder = write_tree(tmp_path / "tree")
    shutil.rmtree(folder / "target" / "letters" / "c")
    tree = store_tree(running, folder)
    problem(client.get(f"{API}/artifacts/{tree.digest}/arrays/target/letters"), 500, "damaged")
    answer = client.get(f"{API}/artifacts/{tree.digest}/arrays/target/contact_probability")
    np.testing.assert_array_equal(array_of(answer), MAP)


def test_a_flipped_bit_and_a_lost_blob(home: Path, tmp_path: Path) -> None:
    with serving(home) as running, running.client() as client:
        tree = store_tree(running, write_tree(tmp_path / "tree"))
        files = {file.path: file.sha256 for file in running.store.blobs.manifest(tree.digest)}
        path = running.store.blobs.path(files["target/letters/c/0/0"])
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        problem(client.get(f"{API}/artifacts/{tree.digest}/arrays/target/letters"), 500, "damaged")
        path.unlink()
        problem(client.get(f"{API}/artifacts/{tree.digest}/arrays/target/letters"), 500, "damaged")
        running.store.blobs.path(files["target/zarr.json"]).unlink()
        problem(client.get(f"{API}/artifacts/{tree.digest}/attributes/target"), 500, "damaged")


def test_bytes_stored_under_a_wrong_chunk(running: Running, client: httpx.Client, tmp_path: Path) -> None:
    """What cannot be decoded is damage too: the digest is right, the content is not."""
    folder = write_tree(tmp_path / "tree")
    (folder / "target" / "letters" / "c" / "0" / "0").write_bytes(b"not a chunk")
    tree = store_tree(running, folder)
    problem(client.get(f"{API}/artifacts/{tree.digest}/arrays/target/letters"), 500, "damaged")


def test_a_part_that_the_client_has_is_not_sent_again(client: httpx.Client, tree: Artifact) -> None:
    address = f"{API}/artifacts/{tree.digest}/arrays/large"
    asked = {"start": "0,0", "stop": "256,256"}
    first = client.get(address, params=asked)
    again = client.get(address, params=asked, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get(
        address, params={**asked, "stop": "256,255"}, headers={"If-None-Match": first.headers["etag"]}
    )
    np.testing.assert_array_equal(array_of(other), LARGE[:256, :255])
