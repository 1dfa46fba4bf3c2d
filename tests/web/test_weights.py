"""Public weights over HTTP: the list, and names among the inputs of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from web_support import API, Running, problem, serving, wait_until

from foldase.store.weights import WeightsLibrary
from foldase_web.settings import Settings

WORKFLOW = """
version: 1
name: weigh
inputs:
  weights: {type: weights}
  more: {type: "list[weights]", default: null}
steps:
  look: {uses: web.weigh@1, with: {weights: "${{ inputs.weights }}"}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for name in ("esmfold_v1", "openfold"):
        lay(root / name)
    (root / "pickled").mkdir()
    (root / "pickled" / "model.ckpt").write_bytes(b"pickle")
    return root


def lay(folder: Path, tensors: bytes = b"tensors") -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": folder.name}))
    (folder / "model.safetensors").write_bytes(tensors)


@pytest.fixture(scope="module")
def weighing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("web") / "home", weights=folder) as found:
        yield found


@pytest.fixture
def client(weighing: Running) -> Iterator[httpx.Client]:
    with weighing.client() as found:
        yield found


def listed(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in client.get(f"{API}/weights").json()["items"]}


def submit(client: httpx.Client, **inputs: Any) -> httpx.Response:
    return client.post(f"{API}/runs", json={"source": WORKFLOW, "inputs": inputs})


def test_weights_are_digested_once_when_the_server_starts(client: httpx.Client) -> None:
    wait_until(lambda: listed(client)["openfold"]["state"] == "ready")
    found = listed(client)
    assert {name: item["kind"] for name, item in found.items()} == {
        "esmfold_v1": "esmfold_v1",
        "openfold": "openfold",
        "pickled": None,
    }
    assert found["esmfold_v1"]["digest"] != found["openfold"]["digest"]
    assert found["pickled"]["error"]["code"] == "pickle_refused"
    assert client.get(f"{API}/weights").json()["configured"] is True


def test_a_name_becomes_a_reference_that_can_be_given_again(client: httpx.Client) -> None:
    wait_until(lambda: listed(client)["openfold"]["state"] == "ready")
    answer = submit(client, weights="openfold", more=["esmfold_v1"])
    assert answer.status_code == 201, answer.text
    inputs = answer.json()["inputs"]
    digest = listed(client)["openfold"]["digest"]
    assert inputs["weights"]["$artifact"] == {
        "digest": digest,
        "type": "weights",
        "size": listed(client)["openfold"]["size"],
        "name": "openfold",
        "media_type": "application/vnd.foldase.tree+json",
    }
    assert inputs["more"][0]["$artifact"]["name"] == "esmfold_v1"
    again = submit(client, **inputs)
    assert again.status_code == 201, again.text
    assert again.json()["inputs"] == inputs
    # Nothing was put into the store, so there is nothing to download.
    problem(client.get(f"{API}/artifacts/{digest}"), 404, "unknown_artifact")


def test_every_name_that_is_wrong_is_told_at_once(client: httpx.Client) -> None:
    body = problem(submit(client, weights="esmfold-v1", more=["pickled"]), 422, "unknown_weights")
    faults = {error["location"]["path"]: error for error in body["errors"]}
    assert faults["inputs.weights"]["hint"] == "did you mean esmfold_v1?"
    assert faults["inputs.more.0"]["code"] == "pickle_refused"
    problem(submit(client, weights="../openfold"), 422, "bad_weights_name")


def test_new_weights_are_waited_for_and_planned_with_meanwhile(
    client: httpx.Client, weighing: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: listed(client)["openfold"]["state"] == "ready")
    ready: list[bool] = []
    real = WeightsLibrary._hash

    def slowly(self: WeightsLibrary, name: str, file: Any) -> str | None:
        wait_until(lambda: bool(ready))
        return real(self, name, file)

    monkeypatch.setattr(WeightsLibrary, "_hash", slowly)
    lay(folder / "new", b"other tensors")
    body = problem(submit(client, weights="new"), 503, "weights_not_ready")
    assert "for the first time: 0%" in body["detail"]
    planned = client.post(f"{API}/plan", json={"source": WORKFLOW, "inputs": {"weights": "new"}})
    assert planned.json()["steps"][0]["with"]["weights"] == "new"
    wait_until(lambda: listed(client)["new"]["state"] == "reading")
    ready.append(True)
    wait_until(lambda: listed(client)["new"]["state"] == "ready")
    assert submit(client, weights="new").status_code == 201


def test_without_a_folder_the_list_is_empty_and_says_why(running: Running) -> None:
    with running.client() as client:
        assert client.get(f"{API}/weights").json() == {"items": [], "configured": False}
        body = problem(submit(client, weights="openfold"), 422, "no_weights_folder")
        assert "--weights DIR" in body["hint"]


def test_a_folder_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is no folder"):
        Settings.load({"home": tmp_path}, {"FOLDASE_WEIGHTS": str(tmp_path / "nowhere")})
    assert Settings.load({"home": tmp_path}, {"FOLDASE_WEIGHTS": str(tmp_path)}).weights == tmp_path
