"""The actor that holds the scheduler. It restarts for ever and finds everything it needs in the store.

Its event loop takes in what workers say; a thread of its own decides. A fault that nobody foresaw ends the
process: Ray starts it anew, and the new one rebuilds itself from the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import ray

from foldase.runtime.cluster_view import Viewer
from foldase.runtime.failures import first_line
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.processes import this_process
from foldase.runtime.ray_executor import RayExecutor
from foldase.runtime.settings import SECRET_VARIABLES, RuntimeSettings
from foldase.runtime.view import View
from foldase.runtime.workbench import Beat, Delivery
from foldase.store.store import Store
from foldase_workflows.contracts.errors import FoldaseError
from foldase_workflows.contracts.registry import default_registry

logger = logging.getLogger(__name__)

_LOG_BYTES = 8 << 20
_READY_POLL_SECONDS = 0.05
_CRASH_PAUSE_SECONDS = 1.0
_SWITCH_SECONDS = 0.001
"""Two threads share the work here; the default of 5 ms would be felt in every step of a chain."""


class SchedulerActor:
    """Named, detached, single: workers call ``deliver`` and ``beat``, the head ``ping`` and ``stop``."""

    def __init__(self, settings: RuntimeSettings) -> None:
        _log_to(settings.home / "scheduler.log")
        sys.setswitchinterval(_SWITCH_SECONDS)
        for variable in SECRET_VARIABLES:
            os.environ.pop(variable, None)
        self._settings = settings
        self._executor: RayExecutor | None = None
        self._loop: SchedulerLoop | None = None
        self._ended = threading.Event()
        self._viewer = Viewer()
        threading.Thread(target=self._run, name="foldase-scheduler", daemon=True).start()

    async def deliver(self, delivery: Delivery) -> None:
        """Reports of a worker; the answer says that they are committed."""
        executor = await self._ready()
        await asyncio.wrap_future(executor.deliver(delivery))

    async def beat(self, beat: Beat) -> None:
        """A sign of life of a worker."""
        (await self._ready()).beat(beat)

    async def ping(self) -> tuple[str, bool]:
        """The mark of this process, and whether it decides."""
        return this_process().mark, self._loop is not None and self._loop.scheduler.leads

    async def stop(self) -> None:
        """End all workers and let go of everything; returns when that is done."""
        loop = self._loop
        if loop is not None:
            loop.stop()
            while not self._ended.is_set():
                await asyncio.sleep(_READY_POLL_SECONDS)

    async def _ready(self) -> RayExecutor:
        while self._executor is None:
            await asyncio.sleep(_READY_POLL_SECONDS)
        return self._executor

    def _run(self) -> None:
        try:
            store = Store.at(self._settings.home)
            self._executor = RayExecutor(self._settings, self._crash)
            self._loop = SchedulerLoop(
                store,
                default_registry(),
                self._executor,
                self._look,
                view_seconds=self._settings.view_seconds,
            )
            self._loop.run()
            store.close()
            self._ended.set()
        except BaseException as error:  # noqa: BLE001  # it ends the process
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        """End this process, so that Ray starts another; say why where people look."""
        logger.error("the scheduler ends and is started anew", exc_info=error)
        with suppress(FoldaseError):
            store = Store.at(self._settings.home)
            store.cluster.record("lost", f"the scheduler ended: {first_line(error)}")
        time.sleep(_CRASH_PAUSE_SECONDS)
        os._exit(1)

    def _look(self) -> View:
        executor = self._executor
        assert executor is not None
        with executor.lock:
            return self._viewer.view(executor.nodes, list(executor.fleet.workers.values()))


def _log_to(path: Path) -> None:
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


def start_scheduler(settings: RuntimeSettings, *, name: str, namespace: str) -> Any:
    """The one scheduler of a cluster: started, or found where it already runs."""
    actor = ray.remote(SchedulerActor)
    return actor.options(
        name=name,
        namespace=namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=1000,
    ).remote(settings)
