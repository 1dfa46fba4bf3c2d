"""Which worker runs what: plain bookkeeping without Ray, so that every rule can be tested.

A worker is a warm process for one kind of step: a family, and the cores and devices it reserves. The fleet
reserves on each node what its workers reserve, so nothing that it starts ever waits for resources; idle
workers of other kinds make room, the one that was used longest ago first.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from foldase.runtime.pace import TINY_SECONDS, Pace
from foldase.runtime.processes import ProcessId
from foldase.runtime.workbench import task_id
from foldase.scheduler.executor import Task, TaskId
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Resources

CALLS_IN_FLIGHT = 2
"""Batches of tiny steps that a worker has at a time: one that runs and one that waits behind it."""

SPREAD_SECONDS = 0.5
"""Less waiting work than this is not worth another worker process."""

STUCK_SECONDS = 1.0
"""Tasks that wait behind one that has been running this long are taken back for other workers."""

OVERDUE_SECONDS = 10.0
"""A task that an idle worker has not begun after this long may never have reached it."""

MINIMAL_CPU = 0.01
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Kind:
    """Steps of one kind share workers: the family of the operator and the resources it reserves.

    The worker of a gang leads ``ranks`` other processes, and it is they who need the cores and devices.
    """

    family: str
    cpu: float
    gpu: float
    ranks: int = 1

    @classmethod
    def of(cls, task: Task) -> Kind:
        """The kind that a task needs."""
        wanted = task.resources
        return cls(task.family, max(MINIMAL_CPU, wanted.cpu), wanted.gpu, wanted.ranks)

    @property
    def name(self) -> str:
        """Short, for the name of a worker: ``cpu-2``, ``torch-1-gpu1`` or ``torch-0.5-x4``."""
        name = f"{self.family}-{self.cpu:g}" + (f"-gpu{self.gpu:g}" if self.gpu else "")
        return name if self.ranks == 1 else f"{name}-x{self.ranks}"

    def room(self, cpu: float, gpu: float) -> int:
        """How many of its ranks so many free cores and devices can hold."""
        by_cpu = int((cpu + _ROUNDING) / self.cpu)
        return min(by_cpu, int((gpu + _ROUNDING) / self.gpu)) if self.gpu else by_cpu


@dataclass(slots=True)
class Assigned:
    """A task that was sent to a worker. Times are of the monotonic clock."""

    task: Task
    batch: int
    sent_at: float
    began_at: float | None = None
    cancel: Cause | None = None
    kill_at: float | None = None


@dataclass(slots=True)
class Worker:
    """A worker process as the executor knows it."""

    name: str
    kind: Kind
    node: str
    since: float
    state: Literal["starting", "ready", "ending"] = "starting"
    process: ProcessId | None = None
    here: bool = True
    """Whether the process runs on this machine, where it can be looked at."""
    places: tuple[str, ...] = ()
    """The node of each rank, where the worker leads a gang."""
    ranks: tuple[ProcessId, ...] = ()
    """Processes of a gang that run beside their leader now."""
    tasks: dict[TaskId, Assigned] = field(default_factory=dict)
    batches: int = 0
    last_seen: float = 0.0
    last_used: float = 0.0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    current: TaskId | None = None
    ended_because: str | None = None
    ended_as: Cause | None = None

    @property
    def idle(self) -> bool:
        """Ready, with nothing to do."""
        return self.state == "ready" and not self.tasks

    def ranks_on(self, node: str) -> int:
        """How often what its kind reserves is reserved on a node."""
        return self.places.count(node) if self.kind.ranks > 1 else int(self.node == node)

    def takes_more(self, now: float) -> bool:
        """Whether tiny tasks may queue behind what it has: few batches, and none that hangs on long."""
        if self.state != "ready" or not self.tasks:
            return False
        began = min((one.began_at for one in self.tasks.values() if one.began_at is not None), default=now)
        in_flight = len({one.batch for one in self.tasks.values()})
        return in_flight < CALLS_IN_FLIGHT and now - began < STUCK_SECONDS / 2


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster and all that it offers."""

    id: str
    name: str
    total: Resources
    alive: bool = True


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process of a kind on a node; of a gang, with the nodes of its ranks."""

    name: str
    kind: Kind
    node: str
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End an idle worker process."""

    name: str


@dataclass(frozen=True, slots=True)
class Send:
    """Have a worker run tasks in order."""

    worker: str
    batch: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Take tasks back that a worker has not begun, sent in batches up to ``last_batch``."""

    worker: str
    tasks: tuple[TaskId, ...]
    last_batch: int


Action = StartWorker | StopWorker | Send


class Fleet:
    """The workers, what each has to do, and what waits for one."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self.workers: dict[str, Worker] = {}
        self.nodes: dict[str, Node] = {}
        self.held_back: dict[Kind, float] = {}
        """Kinds of which no worker is started before a moment, since the last ones failed to start."""
        self._waiting: dict[Kind, deque[Task]] = {}
        self._pace = pace
        self._clock = clock

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks to run, after those that wait already."""
        for task in tasks:
            self._waiting.setdefault(Kind.of(task), deque()).append(task)

    def waiting(self) -> Iterator[Task]:
        """Tasks that no worker has."""
        return chain.from_iterable(self._waiting.values())

    def drop(self, wanted: Collection[TaskId]) -> list[Task]:
        """Take those of these tasks out that wait; returns them."""
        dropped: list[Task] = []
        for kind, queue in self._waiting.items():
            found = [task for task in queue if task_id(task) in wanted]
            if found:
                dropped += found
                self._waiting[kind] = deque(task for task in queue if task_id(task) not in wanted)
        return dropped

    def drop_all(self, kind: Kind) -> list[Task]:
        """Take out all waiting tasks of a kind."""
        return list(self._waiting.pop(kind, ()))

    def fits_somewhere(self, task: Task) -> bool:
        """Whether the living nodes could run the task if nothing else ran there."""
        return self.ranks_that_fit(task) >= task.resources.ranks

    def ranks_that_fit(self, task: Task) -> int:
        """For how many of its ranks there is room if nothing else runs; a rank lies on one node."""
        kind, memory = Kind.of(task), task.resources.memory_bytes
        room = 0
        for node in self.nodes.values():
            if node.alive:
                here = kind.room(node.total.cpu, node.total.gpu)
                room += min(here, node.total.memory_bytes // memory) if memory else here
        return room

    def plan(self) -> list[Action]:
        """Decide what to do now, and take it as done."""
        actions: list[Action] = []
        for kind, queue in list(self._waiting.items()):
            actions += self._feed(kind, queue)
            if queue:
                actions += self._grow(kind, queue)
            else:
                del self._waiting[kind]
        return actions

    def recalls(self) -> list[Recall]:
        """Tasks that wait behind a long one although they were thought to be tiny."""
        now = self._clock()
        found = []
        for worker in self.workers.values():
            began = [one.began_at for one in worker.tasks.values() if one.began_at is not None]
            waits = [key for key, one in worker.tasks.items() if one.began_at is None]
            if began and waits and now - max(began) > STUCK_SECONDS:
                found.append(Recall(worker.name, tuple(waits), worker.batches))
        return found

    def overdue(self) -> list[Recall]:
        """Tasks that were sent to a worker which has nothing to do and yet did not begin them."""
        now = self._clock()
        found = []
        for worker in self.workers.values():
            late = tuple(
                key
                for key, one in worker.tasks.items()
                if one.began_at is None and now - one.sent_at > OVERDUE_SECONDS
            )
            if late and worker.state == "ready" and worker.current is None:
                found.append(Recall(worker.name, late, worker.batches))
        return found

    def surplus(self, idle_seconds: float) -> list[StopWorker]:
        """Workers that have been idle for long."""
        now = self._clock()
        return [
            StopWorker(worker.name)
            for worker in self.workers.values()
            if worker.idle and now - worker.last_used > idle_seconds
        ]

    def take_back(self, worker: str, tasks: Iterable[TaskId]) -> None:
        """Tasks that a worker will not run wait again, before all others."""
        known = self.workers.get(worker)
        if known is not None:
            back = [known.tasks.pop(key).task for key in tasks if key in known.tasks]
            self.put_first(back)

    def put_first(self, tasks: Sequence[Task]) -> None:
        """Tasks to run before all that wait."""
        for task in reversed(tasks):
            self._waiting.setdefault(Kind.of(task), deque()).appendleft(task)

    def _feed(self, kind: Kind, queue: deque[Task]) -> Iterator[Send]:
        now = self._clock()
        free = [worker for worker in self.workers.values() if worker.kind == kind and worker.idle]
        busy = [worker for worker in self.workers.values() if worker.kind == kind and worker.takes_more(now)]
        for position, worker in enumerate((*free, *busy)):
            share = math.ceil(len(queue) / (len(free) + len(busy) - position))
            batch = self._batch(queue, share, alone=not worker.tasks)
            if batch:
                worker.batches += 1
                worker.last_used = now
                worker.tasks.update(
                    {task_id(task): Assigned(task, worker.batches, sent_at=now) for task in batch}
                )
                yield Send(worker.name, worker.batches, tuple(batch))

    def _batch(self, queue: deque[Task], share: int, *, alone: bool) -> list[Task]:
        """The first waiting task, and more as long as all are tiny; nothing long goes behind other work."""
        batch: list[Task] = []
        while queue and len(batch) < share:
            depth = self._pace.depth(queue[0].operator)
            if depth == 1:
                if not batch and alone:
                    batch.append(queue.popleft())
                break
            if len(batch) >= max(1, depth // CALLS_IN_FLIGHT):
                break
            batch.append(queue.popleft())
        return batch

    def _grow(self, kind: Kind, queue: deque[Task]) -> Iterator[Action]:
        now = self._clock()
        if now < self.held_back.get(kind, 0.0):
            return
        hands = [worker for worker in self.workers.values() if worker.kind == kind]
        coming = sum(worker.state == "starting" for worker in hands)
        for _ in range(self._needed(queue, any(hand.takes_more(now) for hand in hands)) - coming):
            places, evicted = self._room(kind)
            if not places:
                return
            for worker in evicted:
                worker.state = "ending"
                yield StopWorker(worker.name)
            name = f"{kind.name}-{secrets.token_hex(3)}"
            node, places = places[0], places if kind.ranks > 1 else ()
            self.workers[name] = Worker(
                name, kind, node, since=now, last_seen=now, last_used=now, places=places
            )
            yield StartWorker(name, kind, node, places)

    def _needed(self, queue: deque[Task], served: bool) -> int:
        """How many more workers the waiting tasks are worth."""
        seconds = [self._pace.mean(task.operator) for task in queue]
        long = sum(mean is None or mean > TINY_SECONDS for mean in seconds)
        tiny = sum(mean for mean in seconds if mean is not None and mean <= TINY_SECONDS)
        enough = math.floor(tiny / SPREAD_SECONDS)
        return max(long + enough, 0 if served else 1)

    def _room(self, kind: Kind) -> tuple[tuple[str, ...], list[Worker]]:
        """A node for each rank of one more worker of a kind, and the idle workers that have to go for it.

        All ranks lie on one node where that is possible.
        """
        best: tuple[str, list[Worker]] | None = None
        for node in self.nodes.values():
            evicted = self._evictions(node, kind, kind.ranks, ())
            if evicted is not None and (best is None or len(evicted) < len(best[1])):
                best = node.id, evicted
        if best is not None:
            return (best[0],) * kind.ranks, best[1]
        return self._spread(kind) if kind.ranks > 1 else ((), [])

    def _spread(self, kind: Kind) -> tuple[tuple[str, ...], list[Worker]]:
        """The same over several nodes: those that hold most of the ranks first."""
        places: tuple[str, ...] = ()
        gone: list[Worker] = []
        room = {node.id: self._largest_room(node, kind) for node in self.nodes.values()}
        for node in sorted(self.nodes.values(), key=lambda node: -room[node.id]):
            count = min(room[node.id], kind.ranks - len(places))
            evicted = self._evictions(node, kind, count, gone) if count else None
            if evicted is not None:
                places += (node.id,) * count
                gone += evicted
        return (places, gone) if len(places) == kind.ranks else ((), [])

    def _largest_room(self, node: Node, kind: Kind) -> int:
        """For how many ranks a node has room when all idle workers of other kinds go."""
        if not node.alive:
            return 0
        stay = [one for one in self._here(node) if not one.idle or one.kind == kind]
        return kind.room(*self._free(node, stay))

    def _here(self, node: Node) -> list[Worker]:
        return [one for one in self.workers.values() if one.state != "ending" and one.ranks_on(node.id)]

    def _free(self, node: Node, workers: Iterable[Worker]) -> tuple[float, float]:
        """Cores and devices of a node beside what these workers reserve there."""
        cpu, gpu = node.total.cpu, node.total.gpu
        for worker in workers:
            count = worker.ranks_on(node.id)
            cpu, gpu = cpu - count * worker.kind.cpu, gpu - count * worker.kind.gpu
        return cpu, gpu

    def _evictions(self, node: Node, kind: Kind, count: int, gone: Collection[Worker]) -> list[Worker] | None:
        """The idle workers that have to go, besides those that go already, for so many ranks on a node."""
        if not node.alive:
            return None
        here = [worker for worker in self._here(node) if worker not in gone]
        cpu, gpu = self._free(node, here)
        idle = sorted((one for one in here if one.idle and one.kind != kind), key=lambda one: one.last_used)
        evicted: list[Worker] = []
        while kind.room(cpu, gpu) < count:
            if not idle:
                return None
            evicted.append(idle.pop(0))
            freed = evicted[-1].ranks_on(node.id)
            cpu, gpu = cpu + freed * evicted[-1].kind.cpu, gpu + freed * evicted[-1].kind.gpu
        return evicted
