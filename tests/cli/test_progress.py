"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from foldase.cli import render
from foldase.cli.progress import Board, PlainLines, table_of
from foldase.client import Event, Step


def event(kind: str, seq: int = 1, **content: Any) -> Event:
    base = {"seq": seq, "kind": kind, "run": "r1", "time": "2026-01-02T03:04:05.678Z"}
    return Event.from_json({**base, **content})


def step(name: str, state: str = "running", **content: Any) -> dict[str, Any]:
    return {"id": name, "name": name.split("[")[0], "uses": "x@1", "state": state, "attempt": 1, **content}


def shown(*events: Event) -> list[str]:
    """The plain lines, without their clock."""
    text = io.StringIO()
    board, lines = Board(), PlainLines(Console(file=text, width=200, markup=False, highlight=False))
    for one in events:
        board.take(one)
        lines.show(one, board.steps)
    return [line.split(" ", 1)[1] for line in text.getvalue().splitlines()]


def test_plain_lines_say_each_change_once() -> None:
    assert shown(
        event("step.state", **step("train", "pending")),
        event("step.state", **step("train", "ready")),
        event("step.state", **step("train")),
        event("step.state", **step("train", progress=0.1)),
        event("run.state", state="running"),
        event("run.state", state="running"),
        event("step.state", **step("train", attempt=2)),
        event("step.state", **step("train", "failed", error={"message": "no memory"})),
        event("step.state", **step("read", "succeeded", cached=True)),
        event("run.state", state="failed"),
    ) == [
        "train running",
        "run running",
        "train running (attempt 2)",
        "train failed: no memory",
        "read cached",
        "run failed",
    ]


def test_plain_lines_thin_progress_out() -> None:
    events = [event("step.state", **step("train"))]
    events += [
        event("step.progress", step="train", progress=i / 1000, message=f"step {i}") for i in range(1001)
    ]
    lines = shown(*events)
    assert 10 <= len(lines) <= 14
    assert lines[-1].startswith("train 9") or lines[-1].startswith("train 100%")


def test_the_board_takes_progress_for_known_steps_only() -> None:
    board = Board()
    board.take(event("step.progress", step="later", progress=0.5))
    assert board.steps == {}
    board.take(event("step.state", **step("train", message="begins")))
    board.take(event("step.progress", step="train", progress=0.5))
    assert (board.steps["train"].progress, board.steps["train"].message) == (0.5, "begins")


def drawn(steps: list[dict[str, Any]], height: int = 20) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(table_of([Step.from_json(one) for one in steps], height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_items_of_a_scattered_step_share_a_row() -> None:
    items = [step(f"fold[{i}]", "succeeded" if i < 40 else "running", key=str(i)) for i in range(100)]
    text = drawn([step("fold", items=100), *items])
    assert len(text.splitlines()) == 1
    assert "40 of 100 items done, 60 running" in text


def test_with_little_room_the_running_steps_are_shown() -> None:
    steps = [step(f"s{i}", "running" if i == 50 else "pending") for i in range(100)]
    lines = drawn(steps, height=5).splitlines()
    assert len(lines) == 5
    assert "s50" in lines[0]


def test_names_are_never_markup() -> None:
    console = render.console()
    with console.capture() as captured:
        console.print("[red]not red[/red] :smile:")
    assert captured.get() == "[red]not red[/red] :smile:\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (3, "3"),
        ([1, 2], "[1, 2]"),
        ("x" * 500, "x" * 196 + " ..."),
        (
            {"$artifact": {"digest": "d", "type": "msa", "size": 2048, "name": "a", "media_type": "m"}},
            "a (msa, 2.0 KiB)",
        ),
    ],
)
def test_values_in_one_line(content: Any, text: str) -> None:
    assert render.value(content) == text


def test_failures_say_where_and_how_to_mend() -> None:
    error = {"step": "read", "code": "c", "message": "m", "location": {"line": 3, "record": "x"}, "hint": "h"}
    assert list(render.failure(error)) == ["step read: m [c]", "  at: line 3, record x", "  hint: h"]
    assert list(render.failure({})) == ["failed [error]"]
