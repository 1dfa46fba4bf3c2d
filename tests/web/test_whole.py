"""From the request to the result: server, scheduler and steps together, seen only through HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_operators import ADD, COUNT, REGISTRY, WAIT
from web_support import API, Running, serving, wait_until

from foldase.runtime.in_process import InProcessExecutor
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.view import View
from foldase.store import Store


@contextlib.contextmanager
def scheduling(home: Path) -> Iterator[None]:
    """The scheduler of a state folder, with a store of its own as in its own process."""
    store = Store.at(home)
    executor = InProcessExecutor(home, registry=REGISTRY)

    def look() -> View:
        return View(nodes=(), hardware=executor.largest_node())

    loop = SchedulerLoop(store, REGISTRY, executor, look, view_seconds=0.2)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(20)
        store.close()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("whole") / "home"
    with serving(home) as running, scheduling(home):
        yield running


@pytest.fixture
def client(platform: Running) -> Iterator[httpx.Client]:
    with platform.client() as found:
        yield found


def submit(client: httpx.Client, source: str, **inputs: object) -> str:
    answer = client.post(f"{API}/runs", json={"source": source, "inputs": inputs})
    assert answer.status_code == 201, answer.text
    run: str = answer.json()["id"]
    return run


def watch(client: httpx.Client, run: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a run up to its end."""
    seen = []
    with client.stream("GET", f"{API}/runs/{run}/events", timeout=30) as answer:
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                seen.append((kind, json.loads(line[6:])))
                if kind == "run.state" and seen[-1][1]["state"] in ("succeeded", "failed", "cancelled"):
                    return seen
    raise AssertionError("the stream ended before the run")


def test_a_run_from_end_to_end(client: httpx.Client) -> None:
    run = submit(client, ADD, start=30)
    events = watch(client, run)
    kinds = {kind for kind, _ in events}
    assert {"run.created", "run.state", "step.state", "step.log", "step.metrics", "run.outputs"} <= kinds
    assert events[-1][1]["state"] == "succeeded"
    states = [data["state"] for kind, data in events if kind == "step.state" and data["id"] == "two"]
    assert states[0] == "pending"
    assert states[-1] == "succeeded"
    found = client.get(f"{API}/runs/{run}").json()
    assert found["outputs"] == {"total": 36}
    assert found["counts"] == {"succeeded": 2}
    assert found["progress"] == 1.0
    detail = client.get(f"{API}/runs/{run}/steps/one").json()
    assert detail["inputs"] == {"a": 30, "b": 1}
    assert detail["outputs"] == {"sum": 31}
    assert [attempt["state"] for attempt in detail["attempts"]] == ["succeeded"]
    assert detail["estimate"]["basis"] == "counted"
    log = client.get(f"{API}/runs/{run}/steps/one/logs").json()
    assert log["end"] is True
    assert "adding 30" in [line["message"] for line in log["lines"]]
    curve = client.get(f"{API}/runs/{run}/steps/one/metrics").json()
    assert [(point["at"], point["values"]) for point in curve["points"]] == [(1.0, {"loss": 0.5})]


def test_the_second_time_comes_from_the_cache(client: httpx.Client) -> None:
    first = submit(client, ADD, start=40)
    watch(client, first)
    plan = client.post(f"{API}/plan", json={"source": ADD, "inputs": {"start": 40}}).json()
    assert plan["cached"] == 2, "the plan knows before"
    second = submit(client, ADD, start=40)
    watch(client, second)
    steps = client.get(f"{API}/runs/{second}").json()["steps"]
    assert [step["cached"] for step in steps] == [True, True]
    why = client.get(f"{API}/runs/{second}/steps/one/why").json()
    assert why["ran"] is False
    third = submit(client, ADD, start=41)
    watch(client, third)
    why = client.get(f"{API}/runs/{third}/steps/one/why").json()
    assert why["ran"] is True
    assert [difference["component"] for difference in why["differs"]] == ["parameters.a"]
    assert (why["differs"][0]["before"], why["differs"][0]["now"]) == (40, 41)


def test_a_file_goes_in_and_a_file_comes_out(client: httpx.Client) -> None:
    uploaded = client.post(
        f"{API}/blobs", params={"type": "fasta", "name": "two.fa"}, content=b">a\nM\n>b\nK\n"
    )
    run = submit(client, COUNT, sequences={"$artifact": uploaded.json()})
    watch(client, run)
    items = client.get(f"{API}/runs/{run}/artifacts").json()["items"]
    assert [(item["run_output"], item["step"], item["output"]) for item in items] == [
        (True, None, "text"),
        (False, "count", "text"),
    ]
    digest = items[0]["artifact"]["digest"]
    assert client.get(f"{API}/artifacts/{digest}/content").text == "2\n"


def test_bad_input_ends_the_run_and_says_why(client: httpx.Client) -> None:
    uploaded = client.post(f"{API}/blobs", params={"type": "fasta"}, content=b"no header here\n")
    run = submit(client, COUNT, sequences={"$artifact": uploaded.json()})
    assert watch(client, run)[-1][1]["state"] == "failed"
    found = client.get(f"{API}/runs/{run}").json()
    (step,) = found["steps"]
    assert step["error"]["cause"] == "bad_input"
    assert step["error"]["code"] == "fasta_no_header"
    assert found["error"]["code"] == "fasta_no_header"
    answer = client.post(f"{API}/runs/{run}/resume")
    assert answer.status_code == 201
    assert answer.json()["resumed_from"] == run
    watch(client, answer.json()["id"])


def test_cancelling_a_run(client: httpx.Client) -> None:
    run = submit(client, WAIT)
    wait_until(lambda: client.get(f"{API}/runs/{run}").json()["state"] == "running")
    assert client.post(f"{API}/runs/{run}/cancel").status_code == 202
    assert watch(client, run)[-1][1]["state"] == "cancelled"
    assert client.post(f"{API}/runs/{run}/cancel").status_code == 409


def test_the_cluster_page(client: httpx.Client, platform: Running) -> None:
    wait_until(lambda: client.get(f"{API}/cluster").json()["state"] == "ready")
    health = client.get(f"{API}/health").json()
    assert health["cluster"]["state"] == "ready"
    assert health["cluster"]["since"].endswith("Z")
    body = client.get(f"{API}/cluster").json()
    assert body["dashboard"] == "/ray/"
    assert body["queue"] == []


def test_a_runtime_that_fell_silent(platform: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = platform.store.clock
    now = clock.now()
    monkeypatch.setattr(type(clock), "now", lambda _: now + 60.0)
    found = platform.client().get(f"{API}/cluster").json()
    assert found["state"] == "lost"
    assert "reported nothing" in found["message"]
