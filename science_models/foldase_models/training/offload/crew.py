"""Threads that work beside the one that trains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Crew:
    """A fixed number of threads that take work in the order in which it came.

    They are daemons: one that hangs in a device that no longer answers does not keep the process alive.
    """

    def __init__(self, name: str, size: int = 1) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Have it done; the result, or what it raised, comes with the future."""
        future: Future[ResultT] = Future()
        self._work.put((future, work))
        return future

    def close(self, seconds: float = 10.0) -> bool:
        """End the threads after what they were given; whether all ended, those that hang are left behind."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join(seconds)
        ended = not any(thread.is_alive() for thread in self._threads)
        self._threads = []
        return ended

    def _run(self) -> None:
        while (given := self._work.get()) is not None:
            future, work = given
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  # carried over to whoever waits
                future.set_exception(error)
            del given, future, work
