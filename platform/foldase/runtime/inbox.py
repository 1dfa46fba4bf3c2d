"""Reports on their way from workers to the scheduler, each acknowledged when it is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from foldase.scheduler.executor import Failed, Report, Succeeded, TaskId


@dataclass(frozen=True, slots=True)
class _Parcel:
    reports: tuple[Report, ...]
    committed: Future[None] | None


class Inbox:
    """Collects reports from any thread; ``take`` hands them out and so acknowledges those taken before."""

    def __init__(self) -> None:
        self._parcels: list[_Parcel] = []
        self._taken: list[_Parcel] = []
        self._changed = threading.Condition()
        self._closed = False

    def put(self, reports: Sequence[Report], *, acknowledge: bool = False) -> Future[None] | None:
        """Add reports; with ``acknowledge`` the future ends when they are committed."""
        committed: Future[None] | None = Future() if acknowledge else None
        if not reports and committed is None:
            return None
        with self._changed:
            self._parcels.append(_Parcel(tuple(reports), committed))
            self._changed.notify_all()
        return committed

    def take(self, timeout_seconds: float) -> list[Report]:
        """All reports since the last call, waiting for the first; those of the last call are committed."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            taken, self._taken = self._taken, []
        for parcel in taken:
            if parcel.committed is not None:
                parcel.committed.set_result(None)
        with self._changed:
            while not self._parcels and not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._taken, self._parcels = self._parcels, []
            return [report for parcel in self._taken for report in parcel.reports]

    def ends(self) -> frozenset[TaskId]:
        """Tasks whose end lies here and is not committed yet."""
        with self._changed:
            return frozenset(
                TaskId(report.run, report.step, report.fence)
                for parcel in (*self._parcels, *self._taken)
                for report in parcel.reports
                if isinstance(report, Succeeded | Failed)
            )

    def wake(self) -> None:
        """Let a waiting ``take`` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
