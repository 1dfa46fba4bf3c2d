"""The process that decides: ticks of the scheduler, the view of the cluster, and the archive of logs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from foldase.runtime.view import View, hardware_json
from foldase.scheduler.executor import Executor
from foldase.scheduler.scheduler import Scheduler
from foldase.store.store import Store
from foldase_workflows.contracts.errors import FoldaseError, StorageFull, Unavailable
from foldase_workflows.contracts.registry import Registry

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05
"""Reports wake the scheduler; what people ask for it finds by looking this often, for one small query."""

ARCHIVE_SECONDS = 5.0
_REPEAT_SECONDS = 15.0
_PATIENCE_SECONDS = 1.0


class ClosableExecutor(Executor, Protocol):
    """An executor that can end everything it runs."""

    def close(self, *, within_seconds: float = ...) -> None:
        """End all workers."""


class SchedulerLoop:
    """Runs a scheduler over an executor until it is stopped.

    Args:
        store: where everything is kept.
        registry: the operators.
        executor: who runs attempts.
        look: makes the view of the cluster; called from a thread of its own.
        view_seconds: how often that view is written where it has changed.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        executor: ClosableExecutor,
        look: Callable[[], View],
        *,
        view_seconds: float = 2.0,
    ) -> None:
        self._store = store
        self._executor = executor
        self._look = look
        self._view_seconds = view_seconds
        self.scheduler = Scheduler(store, registry, executor)
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._threads = [
            threading.Thread(target=self._show, name="foldase-view", daemon=True),
            threading.Thread(target=self._archive, name="foldase-archive", daemon=True),
        ]

    def run(self) -> None:
        """Tick until :meth:`stop` is called; then let go of everything in good order.

        Raises:
            Damaged: the database is corrupt.
        """
        for thread in self._threads:
            thread.start()
        while not self._stop.is_set():
            busy = self.scheduler.tick(TICK_SECONDS)
            if not busy and self.scheduler.trouble is not None:
                logger.warning("the scheduler cannot write: %s", self.scheduler.trouble)
                self._stop.wait(_PATIENCE_SECONDS)
        self._executor.close()
        self.scheduler.shut_down()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def stop(self) -> None:
        """Ask the loop to end; does not wait."""
        self._stop.set()

    def _show(self) -> None:
        shown: tuple[str, View] | None = None
        silent = 0.0
        while True:
            try:
                now = (self._message(), self._look())
                if now != shown or silent >= _REPEAT_SECONDS:
                    self._record(*now)
                    shown, silent = now, 0.0
            except (StorageFull, Unavailable) as error:
                logger.warning("the view of the cluster cannot be written: %s", error)
            if self._stop.wait(self._view_seconds):
                return
            silent += self._view_seconds

    def _message(self) -> str:
        trouble = self.scheduler.trouble
        return f"nothing can be recorded: {trouble.message}" if trouble else "ready"

    def _record(self, message: str, view: View) -> None:
        hardware = view.hardware
        self._store.cluster.record(
            "ready",
            message,
            nodes=view.nodes,
            hardware=hardware_json(hardware) if hardware else None,
            workers=view.workers,
        )

    def _archive(self) -> None:
        while not self._stop.wait(ARCHIVE_SECONDS):
            try:
                while self._store.logs.archive() and not self._stop.is_set():
                    continue
            except (FoldaseError, OSError) as error:
                logger.warning("logs stay where they are for now: %s", error)
