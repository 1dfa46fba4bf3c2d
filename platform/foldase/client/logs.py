"""Logs of steps, page by page, and live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from foldase.client.models import LogLine, Run, Step, StepDetail
from foldase.client.transport import Transport
from foldase_workflows.contracts.errors import NotFound

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines, the offset of the next, and whether the attempt is over and everything was read."""

    lines: list[LogLine]
    next: int
    end: bool


class LogReader:
    """The log of one step; ``path`` is that of the step in the API."""

    def __init__(self, transport: Transport, path: str, step: str) -> None:
        self._transport = transport
        self._path = path
        self._step = step

    def lines(self, *, attempt: int | None = None, follow: bool = False) -> Iterator[LogLine]:
        """All lines so far; with ``follow`` also those to come, attempt after attempt, until the end."""
        if follow:
            yield from _until_over(Follower(self, attempt))
            return
        number = attempt if attempt is not None else max(self.step_now().attempt, 1)
        offset = -1
        while (page := self.page(number, max(offset, 0))).next != offset:
            yield from page.lines
            offset = page.next

    def page(self, attempt: int, offset: int) -> LogPage:
        """Some lines from an offset in bytes; none where there is no such attempt yet."""
        try:
            page = self._transport.json(
                "GET", f"{self._path}/logs", params={"attempt": attempt, "offset": offset}
            )
        except NotFound as error:
            if error.code in ("unknown_run", "unknown_step"):
                raise
            return LogPage([], offset, end=True)
        lines = [
            LogLine.from_json({**line, "step": self._step, "attempt": page["attempt"]})
            for line in page["lines"]
        ]
        return LogPage(lines, page["next"], end=page["end"])

    def step_now(self) -> StepDetail:
        """The step as it is now."""
        return StepDetail.from_json(self._transport.json("GET", self._path))


class Follower:
    """Reads on in the log of a step, from one attempt to the next; of one attempt only where it is given."""

    def __init__(self, reader: LogReader, attempt: int | None = None) -> None:
        self._reader = reader
        self._only = attempt
        self._number = attempt or 1
        self._offset = 0
        self.over = False

    def poll(self) -> list[LogLine]:
        """What is new; nothing more will come once ``over`` is set."""
        # Asked before the log, so that what was over then is whole in the page.
        now = self._reader.step_now()
        page = self._reader.page(self._number, self._offset)
        if page.next > self._offset:
            self._offset = page.next
        elif self._only is None and now.attempt > self._number:
            self._number, self._offset = self._number + 1, 0
        else:
            ended = now.is_over and (page.end or now.attempt < self._number)
            self.over = ended or now.attempt > self._number
        return page.lines


def _until_over(follower: Follower) -> Iterator[LogLine]:
    while True:
        lines = follower.poll()
        yield from lines
        if follower.over:
            return
        if not lines:
            time.sleep(_POLL_SECONDS)


def lines_of_run(
    run_now: Callable[[], Run], reader: Callable[[str], LogReader], *, follow: bool
) -> Iterator[LogLine]:
    """The logs of all steps of a run: one after the other, or with ``follow`` side by side as they come."""
    if not follow:
        for step in _with_logs(run_now()):
            yield from reader(step.id).lines()
        return
    followers: dict[str, Follower] = {}
    while True:
        now = run_now()
        for step in _with_logs(now):
            if step.id not in followers:
                followers[step.id] = Follower(reader(step.id))
        news = [line for follower in followers.values() if not follower.over for line in follower.poll()]
        yield from news
        if now.is_over and all(follower.over for follower in followers.values()):
            return
        if not news:
            time.sleep(_POLL_SECONDS)


def _with_logs(run: Run) -> list[Step]:
    """Steps that have been attempted; those that gather items have no log of their own."""
    return [step for step in run.steps if step.attempt > 0 and step.items is None]
