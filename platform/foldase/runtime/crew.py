"""Worker actors as Ray knows them: starts, calls, watches and kills them, and tells what came of it.

Nothing here blocks for long and nothing is decided: what happens comes back as events, in any thread.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foldase.runtime.fleet import Kind
from foldase.runtime.processes import ProcessId, kill_all, kill_tree, with_environment
from foldase.runtime.settings import NAMESPACE, WORKER_PREFIX, WORKER_VARIABLE, RuntimeSettings
from foldase.runtime.workbench import PLAN_SUFFIX, Held, identity_path, note_path
from foldase.runtime.workers import Hello, WorkerActor, WorkerConfig
from foldase.runtime.workplace import remove_folder
from foldase.scheduler.executor import Task, TaskId
from foldase_workflows.contracts.failures import Cause

_KILL_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker can work."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker of an earlier scheduler answers to this one, with the tasks that it has."""

    hello: Hello
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker's process has ended, or never came to be. ``error`` is Ray's account of it."""

    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """A worker gave tasks back."""

    worker: str
    tasks: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A batch may not have reached its worker, which lives."""

    worker: str
    tasks: tuple[TaskId, ...]


Event = Ready | Adopted | Gone | Recalled | CallFailed


class Crew:
    """All worker actors of one scheduler.

    Args:
        settings: how workers are run.
        epoch: names this scheduler; workers leave alone what others have sent.
        tell: called with each event, from threads of Ray; must not block.
    """

    def __init__(self, settings: RuntimeSettings, epoch: str, tell: Callable[[Event], None]) -> None:
        self._settings = settings
        self._epoch = epoch
        self._tell = tell
        self._handles: dict[str, Any] = {}
        self._processes: dict[str, ProcessId] = {}

    def start(self, name: str, kind: Kind, node: str, places: tuple[str, ...] = ()) -> None:
        """Start a worker; ``Ready`` or ``Gone`` follows. Of a gang, Ray reserves for its ranks alone."""
        config = WorkerConfig(name, kind.family, kind.cpu, kind.gpu, self._epoch, self._settings, places)
        alone = kind.ranks == 1
        options = WorkerActor.options(  # type: ignore[attr-defined]
            name=WORKER_PREFIX + name,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=kind.cpu if alone else 0,
            num_gpus=kind.gpu if alone else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        self._handles[name] = options.remote(config)
        self._then(self._handles[name].hello.remote(), partial(self._ready, name), name)
        self._watch(name)

    def find(self) -> list[str]:
        """Names of all workers there are, also of earlier schedulers."""
        actors = ray.util.list_named_actors(all_namespaces=False)
        return [name.removeprefix(WORKER_PREFIX) for name in actors if name.startswith(WORKER_PREFIX)]

    def adopt(self, name: str) -> None:
        """Take over a worker of an earlier scheduler; ``Adopted`` or ``Gone`` follows if it is not frozen."""
        if name in self._handles:
            return
        try:
            self._handles[name] = ray.get_actor(WORKER_PREFIX + name, namespace=NAMESPACE)
        except ValueError as error:
            self._tell(Gone(name, str(error)))
            return
        self._then(self._handles[name].adopt.remote(self._epoch), partial(self._adopted, name), name)
        self._watch(name)

    def send(self, name: str, batch: int, tasks: Sequence[Task]) -> None:
        """Have a worker run tasks; ``CallFailed`` follows when they did not reach it."""
        first = tasks[0]
        more = f" +{len(tasks) - 1}" if len(tasks) > 1 else ""
        # The name is what a person finds in the Ray dashboard.
        call = self._handles[name].work.options(name=f"{first.run}/{first.step} #{first.attempt}{more}")
        ids = tuple(TaskId(task.run, task.step, task.fence) for task in tasks)
        answer = call.remote(self._epoch, batch, tuple(tasks)).future()
        answer.add_done_callback(partial(self._sent, name, ids))

    def cancel(self, name: str, tasks: Sequence[TaskId], cause: Cause) -> None:
        """Ask tasks to stop."""
        self._handles[name].cancel.remote(tuple(tasks), cause)

    def recall(self, name: str, tasks: Sequence[TaskId], last_batch: int) -> None:
        """Take tasks back that were sent up to this batch and have not begun; ``Recalled`` follows."""
        answer = self._handles[name].recall.remote(tuple(tasks), last_batch).future()
        answer.add_done_callback(partial(self._recalled, name))

    def kill(self, name: str) -> threading.Thread:
        """End a worker and everything it started; ``Gone`` follows. The thread ends when it is done."""
        thread = threading.Thread(target=self._kill, args=(name,), name=f"kill {name}", daemon=True)
        thread.start()
        return thread

    def sweep(self, name: str) -> None:
        """A worker is gone: end what it left running on this machine; returns when that is done."""
        kill_all(with_environment(WORKER_VARIABLE, name), within_seconds=_KILL_SECONDS)

    def bury(self, name: str) -> threading.Thread:
        """A worker is gone: end what it left running, remove its files; done when the thread ends."""
        self._handles.pop(name, None)
        process = self._processes.pop(name, None)
        thread = threading.Thread(target=self._bury, args=(name, process), name=f"bury {name}", daemon=True)
        thread.start()
        return thread

    def process_of(self, name: str) -> ProcessId | None:
        """The process of a worker of this machine, from its own note where it never answered."""
        known = self._processes.get(name)
        if known is None:
            with suppress(OSError, ValueError):
                noted = identity_path(self._settings.home, name).read_text(encoding="utf-8").split("\n")
                if noted[0] == socket.gethostname():
                    return ProcessId.parse(noted[1])
        return known

    def _kill(self, name: str) -> None:
        process = self.process_of(name)
        if process is not None:
            kill_tree(process, within_seconds=_KILL_SECONDS)
        handle = self._handles.get(name)
        if handle is not None:
            ray.kill(handle, no_restart=True)

    def _bury(self, name: str, process: ProcessId | None) -> None:
        self.sweep(name)
        home = self._settings.home
        if process is not None:
            remove_folder(home / "scratch" / process.mark)
        note = note_path(home, name)
        for path in (note, note.with_suffix(PLAN_SUFFIX), identity_path(home, name)):
            path.unlink(missing_ok=True)
        for stream in (1, 2):
            (home / "workers" / f"{name}.{stream}").unlink(missing_ok=True)

    def _watch(self, name: str) -> None:
        self._then(self._handles[name].watch.remote(), lambda _: None, name)

    def _ready(self, name: str, hello: Hello) -> None:
        self._know(hello)
        self._tell(Ready(hello))

    def _know(self, hello: Hello) -> None:
        # A pid of another machine means nothing here; there Ray alone ends a worker.
        if hello.here:
            self._processes[hello.config.name] = hello.process

    def _adopted(self, name: str, answer: tuple[Hello, list[Held]]) -> None:
        self._know(answer[0])
        self._tell(Adopted(answer[0], tuple(answer[1])))

    def _then(self, answer: Any, go_on: Callable[[Any], None], name: str) -> None:
        def done(future: Future[Any]) -> None:
            error = future.exception()
            if error is not None:
                self._tell(Gone(name, str(error)))
            else:
                go_on(future.result())

        answer.future().add_done_callback(done)

    def _sent(self, name: str, tasks: tuple[TaskId, ...], answer: Future[Any]) -> None:
        if answer.exception() is not None:
            self._tell(CallFailed(name, tasks))

    def _recalled(self, name: str, answer: Future[Any]) -> None:
        if answer.exception() is None:
            self._tell(Recalled(name, tuple(answer.result())))
