"""Runs over HTTP: durable, idempotent, pageable."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update
from web_operators import ADD
from web_support import API, Running, problem, serving, submit_bare_run

from foldase.store import schema


def create(client: httpx.Client, key: str | None = None, **fields: object) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"{API}/runs", json={"source": ADD, **fields}, headers=headers)


def finish(running: Running, run: str, state: str) -> None:
    with running.store.database.write() as connection:
        connection.execute(update(schema.run).where(schema.run.c.id == run).values(state=state))


def test_a_run_is_durable_when_it_is_answered(home: Path) -> None:
    with serving(home) as running, running.client() as client:
        answer = create(client, name="my sums", priority=3, inputs={"start": 5})
        assert answer.status_code == 201
        run = answer.json()
        assert answer.headers["location"] == f"{API}/runs/{run['id']}"
        assert run["name"] == "my sums"
        assert run["state"] == "pending"
        assert run["priority"] == 3
        assert run["inputs"] == {"start": 5}
        assert run["source"] == ADD
        assert run["workflow"]["name"] == "sums"
        assert [(step["id"], step["after"], step["state"]) for step in run["steps"]] == [
            ("one", [], "pending"),
            ("two", ["one"], "pending"),
        ]
    with serving(home) as running, running.client() as client:
        assert client.get(f"{API}/runs/{run['id']}").json() == run


def test_no_field_of_the_store_is_lost(running: Running, client: httpx.Client) -> None:
    run = create(client).json()["id"]
    stored = running.store.queries
    for path, record in [
        (f"runs/{run}", stored.run(run)),
        (f"runs/{run}/steps/one", stored.step(run, "one")),
        (f"runs/{run}/steps/one/why", running.store.explain.why(run, "one")),
    ]:
        answer = client.get(f"{API}/{path}").json()
        assert answer == {**answer, **record.to_json()} or path.endswith(run), path
        for name, value in record.to_json().items():
            if name != "steps":
                assert answer[name] == value, (path, name)


def test_the_same_key_gives_the_same_run(client: httpx.Client) -> None:
    first = create(client, "key-1", inputs={"start": 5})
    second = create(client, "key-1", inputs={"start": 5})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = create(client, "key-2", inputs={"start": 5})
    assert other.status_code == 201
    assert other.json()["id"] != first.json()["id"]


def test_a_changed_request_under_an_old_key(client: httpx.Client) -> None:
    create(client, "key-3", inputs={"start": 5}).raise_for_status()
    for change in ({"inputs": {"start": 6}}, {"inputs": {"start": 5}, "name": "x"}, {"source": ADD + "\n"}):
        problem(create(client, "key-3", **change), 409, "idempotency_mismatch")


def test_spacing_of_the_request_does_not_matter(client: httpx.Client) -> None:
    body = {"source": ADD, "inputs": {"start": 5}}
    headers = {"Idempotency-Key": "key-4", "Content-Type": "application/json"}
    answers = [
        client.post(f"{API}/runs", content=json.dumps(body, indent=indent), headers=headers)
        for indent in (None, 4)
    ]
    assert [answer.status_code for answer in answers] == [201, 200]


def test_many_at_once_with_one_key_make_one_run(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: create(client, "key-5"), range(16)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_keys_that_are_none(client: httpx.Client, key: str) -> None:
    answer = client.post(f"{API}/runs", json={"source": ADD}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422


def test_pages_of_runs(home: Path) -> None:
    with serving(home) as running, running.client() as client:
        made = [submit_bare_run(running.store, name=f"run {number}").id for number in range(7)]
        assert client.get(f"{API}/runs").json()["next"] is None
        found, cursor = [], ""
        while True:
            page = client.get(
                f"{API}/runs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}
            ).json()
            assert len(page["items"]) <= 3
            found += [item["id"] for item in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert found == made[::-1], "newest first, each once"
        finish(running, made[2], "failed")
        finish(running, made[4], "succeeded")
        listed = client.get(f"{API}/runs", params={"state": ["failed", "succeeded"]}).json()["items"]
        assert [item["id"] for item in listed] == [made[4], made[2]]
        listed = client.get(f"{API}/runs", params={"q": "RUN 3"}).json()["items"]
        assert [item["name"] for item in listed] == ["run 3"]
        assert client.get(f"{API}/runs", params={"q": "%_"}).json()["items"] == []
        assert "steps" not in listed[0]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=99999999999999999999", "state=lost", "q=" + "x" * 201],
)
def test_bad_queries(client: httpx.Client, query: str) -> None:
    answer = client.get(f"{API}/runs?{query}")
    assert answer.status_code == 422
    assert answer.json()["location"]["path"].startswith("query.")


@pytest.mark.parametrize("query", ["cursor=%00", "cursor=..%2f", "q=%00", "q=%27%3B--", "unknown=1"])
def test_odd_queries(client: httpx.Client, query: str) -> None:
    assert client.get(f"{API}/runs?{query}").status_code == 200


def test_cancel(running: Running, client: httpx.Client) -> None:
    run = create(client).json()["id"]
    for _ in range(2):
        answer = client.post(f"{API}/runs/{run}/cancel")
        assert answer.status_code == 202
        assert answer.json()["cancel_requested"] is True
    finish(running, run, "cancelled")
    body = problem(client.post(f"{API}/runs/{run}/cancel"), 409, "run_finished")
    assert "cancelled" in body["detail"]


def test_resume(running: Running, client: httpx.Client) -> None:
    run = create(client).json()["id"]
    for state in ("pending", "running", "succeeded"):
        finish(running, run, state)
        problem(client.post(f"{API}/runs/{run}/resume"), 409, "not_resumable")
    finish(running, run, "failed")
    answer = client.post(f"{API}/runs/{run}/resume", headers={"Idempotency-Key": "again"})
    assert answer.status_code == 201
    assert answer.json()["resumed_from"] == run
    assert answer.json()["id"] != run
    repeated = client.post(f"{API}/runs/{run}/resume", headers={"Idempotency-Key": "again"})
    assert repeated.status_code == 200
    assert repeated.json()["id"] == answer.json()["id"]


@pytest.mark.parametrize("run", ["r000000000000", "nothing", "%00", "a" * 300, "r%20", "%F0%9F%98%80"])
@pytest.mark.parametrize(
    "rest",
    ["", "/events", "/artifacts", "/steps/one", "/steps/one/why", "/steps/one/logs", "/steps/one/metrics"],
)
def test_unknown_runs(client: httpx.Client, run: str, rest: str) -> None:
    answer = client.get(f"{API}/runs/{run}{rest}")
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("verb", ["cancel", "resume"])
def test_unknown_runs_cannot_be_changed(client: httpx.Client, verb: str) -> None:
    problem(client.post(f"{API}/runs/r000000000000/{verb}"), 404, "unknown_run")


@pytest.mark.parametrize("rest", ["", "/why", "/logs", "/metrics"])
@pytest.mark.parametrize("step", ["three", "%00", "one[x]", "a" * 2000])
def test_unknown_steps(running: Running, client: httpx.Client, step: str, rest: str) -> None:
    run = submit_bare_run(running.store).id
    problem(client.get(f"{API}/runs/{run}/steps/{step}{rest}"), 404, "unknown_step")


def test_logs_and_metrics_page_by_page(running: Running, client: httpx.Client) -> None:
    run = submit_bare_run(running.store).id
    with running.store.database.write() as connection:
        connection.execute(
            schema.attempt.insert(),
            {
                "run": run,
                "step": "one",
                "number": 1,
                "fence": 1,
                "state": "running",
                "log_bytes": 0,
                "metrics_bytes": 0,
                "archived": False,
                "claimed_at": 0,
            },
        )
    empty = client.get(f"{API}/runs/{run}/steps/two/logs").json()
    assert empty == {"attempt": 0, "offset": 0, "next": 0, "end": False, "lines": []}
    with running.store.attempt_logs.writer(run, "one", 1, "log") as log:
        for number in range(100):
            log.write({"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": f"line {number}"})
        log.write({"level": "error", "message": "\x1b[31mred\x1b[0m \x1b]0;title\x07<b>not html</b>"})
    lines, offset, calls = [], 0, 0
    while True:
        page = client.get(f"{API}/runs/{run}/steps/one/logs", params={"offset": offset, "limit": 1000}).json()
        if not page["lines"]:
            break
        lines += page["lines"]
        assert page["offset"] == offset
        offset, calls = page["next"], calls + 1
    assert calls > 3
    assert [line["message"] for line in lines[:-1]] == [f"line {number}" for number in range(100)]
    assert lines[-1]["message"] == "red <b>not html</b>"
    assert page["end"] is False, "the attempt still runs"
    with running.store.attempt_logs.writer(run, "one", 1, "metrics") as metrics:
        metrics.write({"at": 1.0, "time": "2026-01-01T00:00:00.000Z", "values": {"loss": 0.5, "lr": None}})
        metrics.write({"values": "broken"})
        metrics.write({"at": 2, "values": {"loss": 0.25}})
    points = client.get(f"{API}/runs/{run}/steps/one/metrics").json()["points"]
    assert [(point["at"], point["values"]) for point in points] == [
        (1.0, {"loss": 0.5, "lr": None}),
        (2.0, {"loss": 0.25}),
    ]
    beyond = client.get(f"{API}/runs/{run}/steps/one/logs", params={"offset": 10**12}).json()
    assert beyond["lines"] == []
    for query in ("offset=-1", "offset=x", "limit=0", "attempt=0", f"offset={2**64}", "limit=99999999999"):
        assert client.get(f"{API}/runs/{run}/steps/one/logs?{query}").status_code == 422, query
    problem(client.get(f"{API}/runs/{run}/steps/one/logs?attempt=7"), 404, "unknown_attempt")


def test_names_may_hold_markup_and_come_back_as_text(client: httpx.Client) -> None:
    name = "<script>alert(1)</script> & ümläut 🧬"
    assert create(client, name=name).json()["name"] == name
    for bad in ("a\nb", "\x1b[31m", "\u202egpj.exe", "x" * 201):
        answer = create(client, name=bad)
        assert answer.status_code == 422, bad
