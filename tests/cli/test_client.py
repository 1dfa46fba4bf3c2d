"""``foldase.Client`` against the real server."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from cli_support import GREET, WAIT

import foldase
from foldase.client import Client
from foldase_workflows.contracts import Artifact, Conflict, DocumentErrors, NotFound


def test_the_whole_way_in_python(platform: Path, documents: Path) -> None:
    with foldase.Client() as client:
        run = client.run("folders.yaml", {"sequences": "two.fasta"}, name="from python")
        assert run.name == "from python"
        finished = client.wait(run.id, timeout_seconds=60)
        assert finished.state == "succeeded"
        assert finished.outputs is not None
        assert finished.outputs["records"] == client.get(run.id, "records") == 2
        folder = client.get(run.id, "folder", "tree")
        assert sorted(path.name for path in folder.iterdir()) == ["deep", "empty", "top.bin"]
        assert client.step(run.id, "make").attempts[0]["number"] == 1
        assert {item["output"] for item in client.artifacts(run.id)} == {"folder"}
        assert client.page(run.id) == f"{client.url}/runs/{run.id}"


def test_watch_gives_every_event_once_in_order_to_the_end(client: Client) -> None:
    run = client.run(WAIT, {"seconds": 1.0, "who": "watch"})
    events = list(client.watch(run.id))
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    assert {event.run for event in events} == {run.id}
    assert events[0].kind == "run.created"
    assert (events[-1].kind, events[-1].raw["state"]) == ("run.state", "succeeded")
    assert {"step.state", "step.progress", "step.log"} <= {event.kind for event in events}
    half = numbers[len(numbers) // 2]
    assert [event.seq for event in client.watch(run.id, after=half)] == [n for n in numbers if n > half]


def test_the_same_key_is_the_same_run(client: Client) -> None:
    first = client.run(GREET, {"name": "key"}, idempotency_key="client-test-1")
    assert client.run(GREET, {"name": "key"}, idempotency_key="client-test-1").id == first.id
    assert client.run(GREET, {"name": "key"}).id != first.id
    with pytest.raises(Conflict) as caught:
        client.run(GREET, {"name": "other"}, idempotency_key="client-test-1")
    assert caught.value.code == "idempotency_mismatch"


def test_uploads_are_content_addressed_and_can_be_given_again(client: Client, documents: Path) -> None:
    artifact = client.upload("two.fasta", "fasta")
    digest = hashlib.sha256(Path("two.fasta").read_bytes()).hexdigest()
    assert artifact == Artifact(f"sha256:{digest}", "fasta", 16, "two.fasta", "text/x-fasta")
    run = client.run("folders.yaml", {"sequences": artifact})
    assert client.wait(run.id, timeout_seconds=60).state == "succeeded"
    assert client.download(artifact, documents / "back.fasta").read_bytes() == Path("two.fasta").read_bytes()


def test_errors_are_those_of_the_tree(client: Client) -> None:
    with pytest.raises(NotFound) as unknown:
        client.get_run("rnothing00000")
    assert unknown.value.code == "unknown_run"
    with pytest.raises(DocumentErrors) as wrong:
        client.run(GREET.replace("cli.greet@1", "cli.greet@9"), {})
    assert [error.code for error in wrong.value.errors] == ["unknown_operator_version"] * 2
    first = wrong.value.errors[0]
    assert first.location is not None
    assert (first.location.line, first.location.column) == (8, 11)
    assert first.hint


def test_checks_plans_and_lists(client: Client) -> None:
    assert client.check(GREET)["ok"] is True
    assert client.check("version: 1")["ok"] is False
    assert [step["name"] for step in client.plan(GREET)["steps"]] == ["one", "two"]
    assert {"cli.greet@1", "cli.wait@1"} <= {operator["reference"] for operator in client.operators()}
    assert client.health()["cluster"]["state"] == "ready"
    assert client.cluster()["nodes"]
    assert isinstance(client.workflows(), list)
    assert client.is_reachable()


def test_runs_come_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [client.run(GREET, name="paged-run").id for _ in range(5)]
    get = client._get
    monkeypatch.setattr(client, "_get", lambda path, **params: get(path, **{**params, "limit": 2}))
    assert [run.id for run in client.runs(text="paged-run")] == made[::-1]


def test_metrics_and_logs(client: Client) -> None:
    run = client.run(GREET, {"name": "metrics", "times": 3})
    client.wait(run.id, timeout_seconds=60)
    points = client.metrics(run.id, "two")
    assert [(point["at"], point["values"]["loss"]) for point in points] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    lines = list(client.logs(run.id, "two"))
    assert [line.message for line in lines] == ["greeting 0", "greeting 1", "greeting 2"]
    assert {(line.step, line.attempt, line.level) for line in lines} == {("two", 1, "info")}


def test_wait_gives_up_and_the_run_goes_on(client: Client) -> None:
    run = client.run(WAIT, {"seconds": 30.0})
    with pytest.raises(TimeoutError, match=run.id):
        client.wait(run.id, timeout_seconds=0.2)
    assert not client.get_run(run.id).is_over
    client.cancel(run.id)
    assert client.wait(run.id, timeout_seconds=60).state == "cancelled"


def test_two_clients_do_not_disturb_each_other(platform: Path) -> None:
    names: list[str] = []

    def work(name: str) -> None:
        with Client() as own:
            run = own.run(GREET, {"name": name})
            own.wait(run.id, timeout_seconds=60)
            names.append(own.get(run.id, "one.text"))

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(names) == ["hello t0", "hello t1", "hello t2"]
