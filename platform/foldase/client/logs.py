"""Logs of steps, page by page, and live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from foldase.client.models import LogLine, StepDetail
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
            yield from self._follow(attempt)
            return
        number = attempt if attempt is not None else max(self._step_now().attempt, 1)
        offset = -1
        while (page := self.page(number, max(offset, 0))).next != offset:
            yield from page.lines
            offset = page.next

    def _follow(self, attempt: int | None) -> Iterator[LogLine]:
        number, offset = attempt or 1, 0
        while True:
            # Asked before the log, so that what was over then is whole in the page.
            now = self._step_now()
            page = self.page(number, offset)
            yield from page.lines
            if page.next > offset:
                offset = page.next
                continue
            if attempt is None and now.attempt > number:
                number, offset = number + 1, 0
                continue
            if (now.is_over and (page.end or now.attempt < number)) or now.attempt > number:
                return
            time.sleep(_POLL_SECONDS)

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

    def _step_now(self) -> StepDetail:
        return StepDetail.from_json(self._transport.json("GET", self._path))
