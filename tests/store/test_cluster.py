"""The cluster as the runtime last wrote it."""

from __future__ import annotations

import pytest

from foldase.store import WorkerRecord


def test_before_the_runtime_speaks_the_cluster_is_starting(store):
    assert store.cluster.read().to_json()["state"] == "starting"


def test_what_was_recorded_is_read_and_announced_when_it_changed(store, clock):
    worker = WorkerRecord("w1", "cpu-1", "idle", "n1", 42, since=1_700_000_000_000)
    node = {"id": "n1", "name": "laptop", "alive": True, "cpus": 2}
    hardware = {"cpus": 2.0, "memory_bytes": 2**33, "gpus": []}
    store.cluster.record("starting", "starting Ray")
    clock.advance(20)
    store.cluster.record("ready", "1 node", nodes=[node], hardware=hardware, workers=[worker])
    began = store.cluster.read().since
    clock.advance(5)
    store.cluster.record("ready", "1 node", nodes=[node], hardware=hardware, workers=[worker])
    found = store.cluster.read()
    assert (found.state, found.since, found.hardware) == ("ready", began, hardware)
    assert found.updated_at > began
    assert found.workers == (worker,)
    shown = found.to_json()
    assert shown["nodes"] == [node]
    assert shown["workers"][0] == worker.to_json()
    assert shown["workers"][0]["since"] == "2023-11-14T22:13:20.000Z"
    events = [event.to_json() for event in store.events.after(0)]
    assert [(event["state"], event["message"]) for event in events] == [
        ("starting", "starting Ray"),
        ("ready", "1 node"),
    ]
    store.cluster.record("stopped", "")
    assert store.cluster.read().workers == ()


def test_there_are_four_states(store):
    with pytest.raises(ValueError, match="sleepy"):
        store.cluster.record("sleepy", "")
