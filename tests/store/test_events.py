"""The event log: one sequence, in the order of the commits, whoever writes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from foldase.store import RUN_KINDS, Store
from foldase.store.events import NewEvent, append


def test_events_are_read_from_any_place_on(store, submit):
    first, second = submit(), submit()
    everything = store.events.after(0)
    assert [event.seq for event in everything] == list(range(1, 7))
    assert store.events.latest() == 6
    assert store.events.after(4) == everything[4:]
    assert store.events.after(0, limit=2) == everything[:2]
    assert {event.run for event in store.events.after(0, run=second)} == {second}
    kinds = store.events.after(0, kinds=RUN_KINDS)
    assert [(event.kind, event.run) for event in kinds] == [("run.created", first), ("run.created", second)]
    assert store.events.after(10_000) == []


def test_the_data_of_an_event_is_one_object(store, submit):
    submit()
    created, step = store.events.after(0, limit=2)
    assert created.to_json() | {"seq": 1, "run": created.run} == created.to_json()
    assert step.to_json()["step"] == "a"
    with store.database.write() as connection:
        append(connection, [NewEvent("cluster.state", None, None, "{}")], 1_700_000_000_123)
    last = store.events.after(0)[-1]
    assert last.to_json() == {"seq": store.events.latest(), "time": "2023-11-14T22:13:20.123Z"}


def test_a_transaction_that_fails_leaves_no_gap(store, submit):
    submit()
    before = store.events.latest()
    try:
        with store.database.write() as connection:
            append(connection, [NewEvent("cluster.state", None, None, "{}")], 0)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    submit()
    assert [event.seq for event in store.events.after(before)] == [before + 1, before + 2, before + 3]


def test_a_reader_that_follows_misses_nothing_while_many_write(home, clock, a_submission):
    """Readers ask for what comes after the last number they saw; a number must never appear later."""
    stores = [Store.at(home, clock=clock) for _ in range(4)]
    reader = Store.at(home, clock=clock)
    seen: list[int] = []

    def write(opened):
        for _ in range(10):
            opened.requests.submit(a_submission())

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write, opened) for opened in stores]
        while not all(writer.done() for writer in writers):
            seen += [event.seq for event in reader.events.after(seen[-1] if seen else 0)]
        for writer in writers:
            writer.result()
    seen += [event.seq for event in reader.events.after(seen[-1] if seen else 0)]
    assert seen == list(range(1, 4 * 10 * 3 + 1))
    for opened in (*stores, reader):
        opened.close()


def test_two_processes_share_one_sequence(home, store, submit):
    script = (
        "import sys; from pathlib import Path; from foldase.store import *\n"
        "store = Store.at(Path(sys.argv[1]))\n"
        "steps = (NewStep('a', 'x@1'),)\n"
        "for _ in range(20): store.requests.submit("
        "Submission('sha256:' + 'f' * 64, 'other', {}, steps, {}, ''))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(home)])
    for _ in range(20):
        submit()
    assert process.wait(timeout=120) == 0
    assert [event.seq for event in store.events.after(0)] == list(range(1, 20 * 2 + 20 * 3 + 1))
