"""The language over HTTP: operators, catalog, schemas, checks, plans."""

from __future__ import annotations

import json

import httpx
import jsonschema
import pytest
from web_operators import ADD, COUNT, GREEDY, REGISTRY
from web_support import API, Running, problem

from foldase_workflows.contracts.registry import Registry
from foldase_workflows.spec import CatalogEntry, catalog


def check(client: httpx.Client, source: str, **fields: object) -> dict[str, object]:
    answer = client.post(f"{API}/check", json={"source": source, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_operators_with_their_ports(client: httpx.Client) -> None:
    items = client.get(f"{API}/operators").json()["items"]
    names = [item["reference"] for item in items]
    own = ("add", "count", "greedy", "together", "wait", "weigh")
    assert names == [f"web.{name}@1" for name in own]
    assert [item["reference"] for item in items if item["gang"]] == ["web.together@1"]
    ports = {port["name"]: port for port in items[0]["inputs"]}
    assert ports["a"]["required"] is True
    assert ports["b"] == {
        "name": "b",
        "type": "int",
        "required": False,
        "default": 1,
        "help": "the second number",
        "limits": {"min": 0, "max": 100},
        "choices": None,
    }
    assert items[0] == {**REGISTRY.signature("web.add@1").to_json(), **items[0]}, "nothing is lost"


def test_schemas_accept_what_check_accepts(client: httpx.Client) -> None:
    schema = client.get(f"{API}/schema/workflow-1.json").json()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "web.add@1" in json.dumps(schema)
    experiment = client.get(f"{API}/schema/experiment-1.json").json()
    jsonschema.validate({"workflow": "sums", "inputs": {"start": 3}}, experiment)


def test_a_sound_document(client: httpx.Client) -> None:
    found = check(client, ADD)
    assert found["ok"] is True
    assert found["errors"] == []
    workflow = found["workflow"]
    assert workflow["name"] == "sums"
    assert [(step["name"], step["after"]) for step in workflow["steps"]] == [("one", []), ("two", ["one"])]
    assert workflow["inputs"][0]["default"] == 2
    assert workflow["inputs"][0]["limits"] == {"min": 0, "max": 1000}
    assert workflow["outputs"] == [{"name": "total", "type": "int"}]
    assert workflow["digest"].startswith("sha256:")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("web.add@1", "web.ad@1"), "unknown_operator"),
        (("web.add@1", "web.add@7"), "unknown_operator_version"),
        (("steps.one.sum", "steps.oen.sum"), "unknown_step"),
        (("steps.one.sum", "steps.two.sum"), "cycle"),
        (("title:", "titel:"), "unknown_field"),
        (("b: 5", "b: x"), "type"),
        (("b: 5", "b: 500"), "number_range"),
        (("start: {", "start: [{"), "yaml_syntax"),
        (("  two:", "  one:"), "duplicate_step"),
        (("title: Sums", "name: other"), "yaml_duplicate_key"),
        (("title: Sums", "title: !!python/object:os.system x"), "yaml_tag"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_document_is_an_answer_with_places(
    client: httpx.Client, change: tuple[str, str], code: str
) -> None:
    found = check(client, ADD.replace(*change), file="mine.yaml")
    assert found["ok"] is False
    assert found["workflow"] is None
    fault = next(fault for fault in found["errors"] if fault["code"] == code)
    assert fault["location"]["file"] == "mine.yaml"
    assert fault["location"]["line"] >= 1
    assert fault["location"]["column"] >= 1
    assert fault["hint"]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "null",
        "[]",
        "x",
        "{",
        "\t",
        "a: b: c",
        BOMB,
        "[" * 10_000,
        "- " * 1000,
        "\ufeff",
        "%YAML 3.0\n---\n",
    ],
)
def test_anything_is_answered(client: httpx.Client, source: str) -> None:
    assert check(client, source)["ok"] is False


def test_a_huge_document_is_refused(client: httpx.Client) -> None:
    answer = client.post(f"{API}/check", json={"source": "# " + "x" * 1_100_000})
    body = problem(answer, 413, "body_too_large")
    assert "1 MiB" in body["detail"]
    answer = client.post(f"{API}/check", json={"source": "# " + "x" * 11_000_000})
    problem(answer, 413, "body_too_large")


def test_a_plan(client: httpx.Client) -> None:
    answer = client.post(f"{API}/plan", json={"source": ADD, "inputs": {"start": 7}})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    one, two = plan["steps"]
    assert one["with"] == {"a": 7, "b": 1}
    assert two["with"]["b"] == 5
    assert two["after"] == ["one"]
    assert one["estimate"]["seconds"] == [1.0, 2.0]
    assert one["resources"]["cpu"] == 1.0
    assert plan["seconds"] == [2.0, 4.0]
    assert (plan["cached"], plan["refused"]) == (0, 0)
    assert one["refusal"] is None


def test_a_plan_says_what_an_operator_would_refuse_and_where(client: httpx.Client) -> None:
    plan = client.post(f"{API}/plan", json={"source": ADD, "inputs": {"start": 666}}).json()
    assert (plan["refused"], plan["unknown"]) == (1, 0)
    one, two = plan["steps"]
    place = one["refusal"].pop("location")
    assert one["refusal"] == {"code": "bad_config", "message": "666 is not added", "hint": "take another"}
    assert (place["file"], place["path"]) == ("workflow.yaml", "steps.one.with.a")
    assert ADD.splitlines()[place["line"] - 1][place["column"] - 1 :].startswith('"${{ inputs.start }}"')
    assert two["refusal"] is None, "what it is given is not known yet"


@pytest.mark.parametrize("route", ["plan", "runs"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"source": ADD, "inputs": {"start": "x"}}, "type"),
        ({"source": ADD, "inputs": {"start": True}}, "number_range"),
        ({"source": ADD, "inputs": {"start": -1}}, "number_range"),
        ({"source": ADD, "inputs": {"start": 10**30}}, "number_range"),
        ({"source": ADD, "inputs": {"strat": 1}}, "unknown_input"),
        ({"source": COUNT, "inputs": {}}, "missing_input"),
        ({"source": COUNT, "inputs": {"sequences": "/etc/passwd"}}, "type"),
        ({"source": COUNT, "inputs": {"sequences": {"$artifact": {}}}}, "type"),
        ({"source": COUNT, "inputs": {"sequences": {"$artifact": None}}}, "type"),
        ({"source": COUNT, "inputs": {"sequences": {"$artifact": {"digest": "0" * 64}}}}, "unknown_artifact"),
        ({"source": COUNT, "inputs": {"sequences": {"$artifact": {"digest": "../x"}}}}, "unknown_artifact"),
        ({"source": "nonsense"}, None),
        ({"workflow": "no-such-workflow"}, "unknown_workflow"),
        ({"workflow": "../../etc/passwd"}, "unknown_workflow"),
        ({}, "type"),
        ({"source": ADD, "workflow": "sums"}, "type"),
        ({"source": ADD, "inputs": []}, "type"),
        ({"source": ADD, "extra": 1}, "unknown_field"),
        ({"source": ADD, "inputs": {"start": "\ud800"}}, "bad_characters"),
        ({"source": ADD, "inputs": {"a\0b": 1}}, "bad_characters"),
        ({"source": "name: \0"}, "bad_characters"),
        ({"source": 5}, "type"),
        ([], "type"),
        (None, None),
        ("x", "type"),
    ],
)
def test_bad_requests_are_422_with_places(
    client: httpx.Client, route: str, body: object, code: str | None
) -> None:
    content = json.dumps(body).encode()
    answer = client.post(f"{API}/{route}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    found = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert code is None or found["code"] == code, found
    assert found["location"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b"[" * 100_000, 400),
        (b'{"source": ' + b"1" * 5000 + b"}", 400),
        (b'{"source": "x", "inputs": {"a": NaN}}', 422),
        (b'{"source": "x", "inputs": {"a": 1e999}}', 422),
        (b'{"source": "x", "inputs": {"a": ' + b"[" * 60 + b"]" * 60 + b"}}", 422),
    ],
    ids=range(8),
)
def test_bodies_that_are_no_json_of_ours(client: httpx.Client, content: bytes, status: int) -> None:
    answer = client.post(f"{API}/runs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_that_no_node_can_meet(home: object, running: Running) -> None:
    with running.client() as client:
        assert client.post(f"{API}/runs", json={"source": GREEDY}).status_code == 201, "no cluster known yet"
        hardware = {"cpus": 4, "memory_bytes": 1 << 33, "gpus": []}
        running.store.cluster.record("ready", "ready", hardware=hardware)
        for route in ("plan", "runs"):
            answer = client.post(f"{API}/{route}", json={"source": GREEDY})
            body = problem(answer, 422, "unsatisfiable_resources")
            assert "1000" in body["detail"]
            assert body["location"]["line"] == 4


def test_ranks_that_no_cluster_has_room_for(running: Running) -> None:
    source = """
version: 1
name: gang
steps:
  s: {uses: web.together@1, with: {a: 1}, resources: {cpu: 2, ranks: 4}}
"""
    node = {"id": "n", "name": "n", "alive": True, "cpus": 4, "memory_bytes": 1 << 33, "gpus": []}
    nodes = [node, {**node, "cpus": 3}, {**node, "alive": False}]
    with running.client() as client:
        running.store.cluster.record("ready", "ready", nodes=nodes, hardware=node)
        for route in ("plan", "runs"):
            answer = client.post(f"{API}/{route}", json={"source": source})
            body = problem(answer, 422, "unsatisfiable_resources")
            assert "4 ranks, all nodes have room for 3" in body["detail"]
            assert body["location"]["line"] == 5
        planned = client.post(f"{API}/plan", json={"source": source.replace("4}", "3}")}).json()
        assert planned["steps"][0]["resources"]["ranks"] == 3


def test_kinds_and_sizes_are_never_taken_from_the_client(running: Running, client: httpx.Client) -> None:
    uploaded = client.post(
        f"{API}/blobs", params={"type": "fasta", "name": "a.fa"}, content=b">a\nMK\n"
    ).json()
    given = {**uploaded, "size": 10**12, "media_type": "text/html", "name": "renamed.fa"}
    answer = client.post(f"{API}/runs", json={"source": COUNT, "inputs": {"sequences": {"$artifact": given}}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["inputs"]["sequences"]["$artifact"] == {**uploaded, "name": "renamed.fa"}
    short = {"$artifact": {"digest": uploaded["digest"]}}
    answer = client.post(f"{API}/runs", json={"source": COUNT, "inputs": {"sequences": short}})
    assert answer.json()["inputs"]["sequences"]["$artifact"] == uploaded
    for kind in ("predictions", "nonsense", 5):
        wrong = {"$artifact": {**uploaded, "type": kind}}
        answer = client.post(f"{API}/runs", json={"source": COUNT, "inputs": {"sequences": wrong}})
        problem(answer, 422, "type")


def test_a_file_that_vanished(running: Running, client: httpx.Client) -> None:
    uploaded = client.post(f"{API}/blobs", params={"type": "fasta"}, content=b">gone\nMK\n").json()
    running.store.blobs.path(uploaded["digest"]).unlink()
    reference = {"$artifact": uploaded}
    answer = client.post(f"{API}/runs", json={"source": COUNT, "inputs": {"sequences": reference}})
    body = problem(answer, 422, "missing_file")
    assert body["location"]["path"] == "inputs.sequences"


def test_expected_cache_hits(running: Running, client: httpx.Client) -> None:
    """The key of the plan is the key of the scheduler: both come from ``identify``."""
    from sqlalchemy import insert

    from foldase.store import identify, schema

    key = identify(REGISTRY.signature("web.add@1"), {"a": 7, "b": 1}).key
    row = {"key": key, "operator": "web.add@1", "components": "{}", "outputs": '{"sum":8}', "created_at": 0}
    with running.store.database.write() as connection:
        connection.execute(insert(schema.cache_entry), row)
    plan = client.post(f"{API}/plan", json={"source": ADD, "inputs": {"start": 7}}).json()
    assert [step["cached"] for step in plan["steps"]] == [True, False]
    assert plan["cached"] == 1
    assert plan["steps"][1]["with"]["a"] == 8, "what comes from the cache is known"


def uses_known_operators(entry: CatalogEntry, registry: Registry) -> bool:
    return all(step.uses in registry for step in entry.load().steps.values())


def test_the_catalog(home: object, monkeypatch: pytest.MonkeyPatch, client: httpx.Client) -> None:
    """Through the real registry: every workflow that comes with the package can be looked at."""
    from foldase_workflows.contracts.registry import default_registry

    monkeypatch.setattr("foldase_web.context.default_registry", default_registry)
    listed = client.get(f"{API}/workflows").json()["items"]
    known = [entry.name for entry in catalog() if uses_known_operators(entry, default_registry())]
    assert [item["name"] for item in listed] == known
    for item in listed:
        found = client.get(f"{API}/workflows/{item['name']}").json()
        assert {key: found[key] for key in item} == item
        assert found["source"]
        assert found["steps"]
        checked = client.post(f"{API}/check", json={"source": found["source"]}).json()
        assert checked["ok"], checked
        assert checked["workflow"]["digest"] == item["digest"]


@pytest.mark.parametrize("name", ["nothing", "..%2fx", "%00", "a" * 3000])
def test_unknown_workflows(client: httpx.Client, name: str) -> None:
    assert client.get(f"{API}/workflows/{name}").status_code == 404
