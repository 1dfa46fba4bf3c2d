"""The actor that a worker process is. It only joins Ray to the workbench."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from foldase.runtime.capture import ProcessCapture
from foldase.runtime.context import RunningStep
from foldase.runtime.gang_life import GangLimits, GangUsage
from foldase.runtime.gang_worker import RayHosts
from foldase.runtime.gangs import Gang
from foldase.runtime.processes import (
    ProcessId,
    become_subreaper,
    end_children,
    prefer_to_die,
    this_process,
)
from foldase.runtime.settings import (
    NAMESPACE,
    SCHEDULER,
    SECRET_VARIABLES,
    WORKER_VARIABLE,
    RuntimeSettings,
)
from foldase.runtime.workbench import Beat, Delivery, Held, Workbench, identity_path
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Task, TaskId
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.registry import default_registry

ACKNOWLEDGE_SECONDS = 60.0
"""A delivery that is not acknowledged by then is repeated."""

_BEAT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker is born with; a new scheduler learns it from the worker."""

    name: str
    family: str
    cpu: float
    gpu: float
    epoch: str
    settings: RuntimeSettings
    places: tuple[str, ...] = ()
    """The node of each rank, where the worker leads a gang."""

    @property
    def ranks(self) -> int:
        """Processes that do the work."""
        return max(1, len(self.places))


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker introduces itself."""

    config: WorkerConfig
    process: ProcessId
    node: str
    host: str

    @property
    def here(self) -> bool:
        """Whether the worker runs on the machine of whoever asks."""
        return self.host == socket.gethostname()


class SchedulerLine:
    """The way to the scheduler's actor, found by name; it may die and come back at any time."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last_beat: tuple[Any, float] | None = None
        self._lock = threading.Lock()

    def deliver(self, delivery: Delivery) -> None:
        """Hand over reports and wait until they are committed."""
        answer = self._scheduler().deliver.remote(delivery)
        try:
            # Not ray.get: it would tell Ray that this worker gives its cores away while it waits.
            answer.future().result(timeout=ACKNOWLEDGE_SECONDS)
        except RayActorError:
            self._handle = None
            raise

    def beat(self, beat: Beat) -> None:
        """Show a sign of life, unless an earlier one is still on its way."""
        now = time.monotonic()
        with self._lock:
            if self._last_beat is not None:
                answer, sent = self._last_beat
                if now - sent < _BEAT_SECONDS and not ray.wait([answer], timeout=0)[0]:
                    return
            try:
                self._last_beat = (self._scheduler().beat.remote(beat), now)
            except (RayActorError, ValueError):
                self._last_beat = None

    def _scheduler(self) -> Any:
        if self._handle is None:
            self._handle = ray.get_actor(SCHEDULER, namespace=NAMESPACE)
        return self._handle


@ray.remote(concurrency_groups={"control": 2, "watch": 1, "work": 1})  # type: ignore[call-overload]
class WorkerActor:
    """A warm process that runs steps of one kind. ``control`` answers while ``work`` computes."""

    def __init__(self, config: WorkerConfig) -> None:
        become_subreaper()
        prefer_to_die()
        for variable in SECRET_VARIABLES:
            os.environ.pop(variable, None)
        os.environ[WORKER_VARIABLE] = config.name
        self._config = config
        self._node = ray.get_runtime_context().get_node_id()
        workplace = Workplace(config.settings.home)
        registry = default_registry()
        # What an operator writes to a relative path goes with the worker.
        os.chdir(workplace.scratch)
        self._bench = Workbench(
            config.name,
            self._node[:12],
            workplace,
            registry,
            SchedulerLine(),
            capture=ProcessCapture(config.settings.home / "workers", config.name),
            tidy=end_children,
            epoch=config.epoch,
            heartbeat_seconds=config.settings.heartbeat_seconds,
            gangs=self._lead,
        )
        identity = f"{socket.gethostname()}\n{this_process().mark}"
        identity_path(config.settings.home, config.name).write_text(identity, encoding="utf-8")

    def __repr__(self) -> str:
        return self._config.name

    @ray.method(concurrency_group="control")
    def hello(self) -> Hello:
        """Say who this is; answered as soon as the worker can work."""
        return self._hello()

    @ray.method(concurrency_group="control")
    def adopt(self, epoch: str) -> tuple[Hello, list[Held]]:
        """A new scheduler takes this worker over."""
        return self._hello(), self._bench.adopt(epoch)

    @ray.method(concurrency_group="control")
    def cancel(self, tasks: Sequence[TaskId], cause: Cause) -> None:
        """Ask tasks to stop."""
        self._bench.cancel(tasks, cause)

    @ray.method(concurrency_group="control")
    def recall(self, tasks: Sequence[TaskId], last_batch: int) -> list[TaskId]:
        """Take back tasks that have not begun."""
        return self._bench.recall(tasks, last_batch)

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Never answer: the call fails at the moment this process dies."""
        threading.Event().wait()

    @ray.method(concurrency_group="work")
    def work(self, epoch: str, batch: int, tasks: Sequence[Task]) -> None:
        """Run tasks; their reports go to the scheduler's actor, not back to the caller."""
        self._bench.perform(epoch, batch, tasks)

    def _lead(self, step: RunningStep, usage: GangUsage, function: str, arguments: Mapping[str, Any]) -> Any:
        config = self._config
        hosts = RayHosts(config.name, config.cpu, config.gpu, config.places)
        limits = GangLimits(
            start_seconds=config.settings.start_seconds,
            silence_seconds=config.settings.lease_seconds,
            heartbeat_seconds=config.settings.heartbeat_seconds,
        )
        return Gang(step, hosts, limits, usage).run(function, arguments)

    def _hello(self) -> Hello:
        return Hello(self._config, this_process(), self._node, socket.gethostname())
