"""Watching a run: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foldase.cli import render
from foldase.client import Client
from foldase.client.models import Event, Json, Run, Step
from foldase_workflows.spec.quantities import show_bytes

_REFRESH_PER_SECOND = 4
_PLAIN_STEP = 0.1
_PLAIN_SECONDS = 30.0
_ROWS_LEFT_FREE = 6


class Reporter(Protocol):
    """Shows what happens."""

    def show(self, event: Event, steps: dict[str, Step]) -> None:
        """After an event; ``steps`` by id, up to date."""


class Board:
    """The steps of a run, kept up to date by its events."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}

    def take(self, event: Event) -> None:
        """Note what an event says."""
        if event.kind == "step.state" and "id" in event.raw:
            self.steps[event.raw["id"]] = Step.from_json(event.raw)
        elif event.kind == "step.progress" and event.step in self.steps:
            known = self.steps[event.step].raw
            news = {name: event.raw.get(name) for name in ("progress", "message")}
            fresh = {name: value for name, value in news.items() if value is not None}
            self.steps[event.step] = Step.from_json({**known, **fresh})


def watch(client: Client, run: Run, *, quiet: bool = False) -> Run:
    """Show a run until it is over; the run as it ended."""
    board = Board()
    for step in run.steps:
        board.steps[step.id] = step
    with _reporter(quiet=quiet) as reporter:
        for event in client.watch(run.id):
            board.take(event)
            reporter.show(event, board.steps)
    return client.get_run(run.id)


@contextlib.contextmanager
def _reporter(*, quiet: bool) -> Iterator[Reporter]:
    if quiet:
        yield _Silent()
        return
    console = render.console(to_stderr=True)
    if not console.is_terminal:
        yield PlainLines(console)
        return
    table = _LiveTable(console)
    with Live(console=console, refresh_per_second=_REFRESH_PER_SECOND, get_renderable=table.draw):
        yield table


class _Silent:
    def show(self, event: Event, steps: dict[str, Step]) -> None:
        """Nothing."""


class PlainLines:
    """One line a change: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, tuple[Any, ...]] = {}
        self._progress: dict[str, tuple[float, float]] = {}

    def show(self, event: Event, steps: dict[str, Step]) -> None:
        """Write a line where there is news."""
        if event.kind == "run.state" and self._said.get("") != (event.raw["state"],):
            self._said[""] = (event.raw["state"],)
            self._line(event, "run", event.raw["state"], "")
        elif event.kind == "step.state":
            self._state(event, event.raw)
        elif event.kind == "step.progress" and event.step in steps:
            self._advance(event, steps[event.step])
        elif event.kind == "step.plan" and event.step and event.raw.get("predicted_peak_bytes"):
            self._line(
                event, event.step, "plan", f"{show_bytes(event.raw['predicted_peak_bytes'])} of memory"
            )

    def _state(self, event: Event, step: Json) -> None:
        shown = (step["state"], step.get("attempt"), step.get("cached"))
        if step["state"] in ("pending", "ready") or self._said.get(step["id"]) == shown:
            return
        self._said[step["id"]] = shown
        word = "cached" if step.get("cached") and step["state"] == "succeeded" else step["state"]
        attempt = f" (attempt {step['attempt']})" if step.get("attempt", 0) > 1 else ""
        error = step.get("error") or {}
        # What led to another attempt is said where that begins.
        again = step.get("message") if attempt and step["state"] == "running" else None
        self._line(event, step["id"], word + attempt, error.get("message") or again or "")

    def _advance(self, event: Event, step: Step) -> None:
        before, when = self._progress.get(step.id, (0.0, 0.0))
        now = time.monotonic()
        if step.progress - before < _PLAIN_STEP and now - when < _PLAIN_SECONDS:
            return
        self._progress[step.id] = (step.progress, now)
        self._line(event, step.id, f"{step.progress:.0%}", step.message or "")

    def _line(self, event: Event, who: str, what: str, message: str) -> None:
        clock = render.parsed(event.time).astimezone().strftime("%H:%M:%S") if event.time else ""
        self._console.print(f"{clock} {who} {what}{': ' if message else ''}{message}")
        sys.stderr.flush()


class _LiveTable:
    """Drawn by the clock, not by events: elapsed times go on while nothing else happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[Step] = []

    def show(self, event: Event, steps: dict[str, Step]) -> None:
        self._steps = list(steps.values())

    def draw(self) -> Table:
        height = max(self._console.size.height - _ROWS_LEFT_FREE, 5)
        return table_of(self._steps, height)


def table_of(steps: list[Step], height: int) -> Table:
    """The steps that matter now: items of scattered steps in one row, running ones first if rows are few."""
    rows = _rows(steps)
    if len(rows) > height:
        order = {"running": 0, "failed": 1, "ready": 2}
        rows = sorted(rows, key=lambda row: order.get(row[0].state, 3))[:height]
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    for width in (None, 14, 24, 9):
        table.add_column(width=width, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for step, done, message in rows:
        bar: Any = ""
        if step.state == "running" or 0 < done < 1:
            bar = ProgressBar(total=1.0, completed=done, width=22)
        table.add_row(
            Text(step.name if step.key is None else step.id),
            render.state(step.state, cached=step.cached),
            bar,
            render.elapsed(step.started_at, step.finished_at),
            Text(message, style="dim"),
        )
    return table


def _rows(steps: list[Step]) -> list[tuple[Step, float, str]]:
    items: dict[str, list[Step]] = {}
    for step in steps:
        if step.key is not None:
            items.setdefault(step.name, []).append(step)
    rows = []
    for step in steps:
        if step.key is not None:
            continue
        own = items.get(step.name, [])
        message = step.message or step.waiting_for or ""
        if step.error:
            message = str(step.error.get("message") or message)
        done = step.progress
        if own:
            over = sum(item.is_over for item in own)
            total = step.items or len(own)
            done = over / max(total, 1)
            running = sum(item.state == "running" for item in own)
            message = f"{over} of {total} items done, {running} running"
        rows.append((step, done, message))
    return rows
