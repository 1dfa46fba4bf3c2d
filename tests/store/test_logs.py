"""Logs by byte offset, before and after they were moved into the blob store."""

from __future__ import annotations

import io
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from foldase.store import AttemptLogs, schema
from foldase.store.jsontext import dumps
from foldase.store.logs import MAX_LINE_BYTES, read_page
from foldase_workflows.contracts import NotFound


def open_attempt(store, run, step="a", number=1, state="running"):
    row = {"run": run, "step": step, "number": number, "fence": number, "state": state}
    with store.database.write() as connection:
        connection.execute(
            insert(schema.attempt),
            {**row, "log_bytes": 0, "metrics_bytes": 0, "archived": False, "claimed_at": 0},
        )


def end_attempt(store, number=1):
    with store.database.write() as connection:
        connection.execute(text("UPDATE attempt SET state = 'failed' WHERE number = :n"), {"n": number})


def write(store, run, lines, kind="log", step="a", number=1):
    with store.attempt_logs.writer(run, step, number, kind) as writer:
        return [writer.write(line) for line in lines]


def test_lines_are_read_by_offset_while_they_are_written(store, submit):
    run = submit()
    open_attempt(store, run)
    offsets = write(store, run, [{"message": "one"}, {"message": "two"}])
    number, page = store.logs.read(run, "a", "log")
    assert number == 1
    assert [line["message"] for line in page.lines] == ["one", "two"]
    assert page.next == offsets[-1]
    assert not page.end
    assert store.logs.read(run, "a", "log", offset=page.next)[1].lines == ()
    write(store, run, [{"message": "three"}])
    assert [line["message"] for line in store.logs.read(run, "a", "log", offset=page.next)[1].lines] == [
        "three"
    ]


def test_offsets_mean_the_same_after_archiving(store, submit):
    run = submit()
    open_attempt(store, run)
    offsets = write(store, run, [{"message": str(number)} for number in range(10)])
    write(store, run, [{"at": 1, "values": {"loss": 0.5}}], kind="metrics")
    assert store.logs.archive() == 0
    end_attempt(store)
    before = store.logs.read(run, "a", "log", offset=offsets[3])
    assert before[1].end
    path = store.attempt_logs.path(run, "a", 1, "log")
    assert store.logs.archive() == 1
    assert not path.exists()
    assert not path.parent.exists()
    assert store.logs.read(run, "a", "log", offset=offsets[3]) == before
    assert store.logs.read(run, "a", "metrics")[1].lines[0]["values"] == {"loss": 0.5}
    assert store.logs.archive() == 0


def test_the_last_attempt_unless_another_is_named(store, submit):
    run = submit()
    open_attempt(store, run, number=1, state="failed")
    open_attempt(store, run, number=2)
    write(store, run, [{"message": "first"}], number=1)
    write(store, run, [{"message": "second"}], number=2)
    assert store.logs.read(run, "a", "log")[0] == 2
    assert store.logs.read(run, "a", "log", attempt=1)[1].lines[0]["message"] == "first"
    assert store.logs.read(run, "a", "metrics") == (2, store.logs.read(run, "a", "metrics")[1])


def test_unknown_places_and_steps_without_attempts(store, submit):
    run = submit()
    number, page = store.logs.read(run, "a", "log")
    assert (number, page.lines, page.end) == (0, (), False)
    for step, attempt in (("missing", None), ("a", 3)):
        with pytest.raises(NotFound):
            store.logs.read(run, step, "log", attempt=attempt)


def test_strange_step_ids_stay_inside_the_folder(tmp_path):
    logs = AttemptLogs(tmp_path / "logs")
    paths = set()
    for step in ("a", "a[1]", "a[../../x]", "..", "a[%2F]", "x" * 500, "x" * 501, "a[ü]"):
        with logs.writer("r1", step, 1, "log") as writer:
            writer.write({"message": step})
        path = logs.path("r1", step, 1, "log")
        assert path.resolve().is_relative_to(tmp_path / "logs" / "r1")
        assert len(path.relative_to(tmp_path / "logs").parts) == 3
        paths.add(path)
    assert len(paths) == 8


def test_a_line_that_is_too_long_is_cut_and_stays_json(tmp_path):
    with AttemptLogs(tmp_path).writer("r", "s", 1, "log") as writer:
        end = writer.write({"time": "now", "message": "ü" * 10 * MAX_LINE_BYTES})
    assert end <= MAX_LINE_BYTES
    page = read_page(AttemptLogs(tmp_path).path("r", "s", 1, "log").open("rb"), 0, 1000)
    assert page.lines[0]["time"] == "now"
    assert page.lines[0]["message"].endswith("(cut)")


def test_a_reader_beside_a_writer_sees_whole_lines_once_and_in_order(tmp_path):
    logs = AttemptLogs(tmp_path)
    writer = logs.writer("r", "s", 1, "log")
    thread = threading.Thread(
        target=lambda: [writer.write({"n": number, "pad": "x" * (number % 300)}) for number in range(3000)]
    )
    thread.start()
    seen, offset = [], 0
    while thread.is_alive() or not seen or seen[-1] < 2999:
        with logs.path("r", "s", 1, "log").open("rb") as file:
            page = read_page(file, offset, 4096)
        seen += [line["n"] for line in page.lines]
        offset = page.next
    assert seen == list(range(3000))


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ENTRY = st.dictionaries(st.text(max_size=5), st.text() | NUMBERS, max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTRY, max_size=30), st.integers(1, 400), st.binary(max_size=40))
def test_pages_of_any_size_give_every_line_once(entries, limit, torn):
    whole = b"".join(dumps(entry).encode("utf-8", "replace") + b"\n" for entry in entries)
    file = io.BytesIO(whole + torn.replace(b"\n", b""))
    seen, offset = [], 0
    for _ in range(len(entries) + 1):
        page = read_page(file, offset, limit)
        seen += page.lines
        if page.next == offset:
            break
        offset = page.next
    assert offset == len(whole)
    assert len(seen) == len(entries)
    assert [dumps(entry) for entry in seen] == [dumps(entry) for entry in entries]


def test_offsets_beyond_the_end_and_lines_that_are_no_json():
    file = io.BytesIO(b'{"message":"a"}\nnot json\n[1]\n')
    assert read_page(file, 10_000, 100).lines == ()
    assert read_page(file, -5, 1000).lines == (
        {"message": "a"},
        {"message": "not json"},
        {"message": "[1]"},
    )
