"""The process that is a local rank; apart from who starts it, so that it has little to import."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from foldase.runtime.processes import die_with_parent
from foldase.runtime.rank_work import RankJob, RankWork


def main() -> None:
    """Be a rank: one job, told through the file descriptor that the command names."""
    descriptor, parent = map(int, sys.argv[1:])
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    connection = Connection(descriptor)
    work = RankWork()
    calls: dict[str, Callable[..., Any]] = {"hello": work.hello, "choose_port": work.choose_port}
    lock = threading.Lock()
    jobs: list[RankJob] = []
    given = threading.Event()

    def answer(value: Any) -> None:
        with lock:
            connection.send(value)

    def listen() -> None:
        while True:
            try:
                name, *arguments = connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if name == "cancel":
                work.cancel()
            elif name == "run":
                jobs.extend(arguments)
                given.set()
            else:
                answer(calls[name]())

    threading.Thread(target=listen, daemon=True).start()
    given.wait()
    # In the main thread, where signal handlers may be set.
    answer(work.run(jobs[0]))
    threading.Event().wait()


if __name__ == "__main__":
    main()
