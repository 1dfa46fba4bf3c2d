"""Runs attempts in worker actors of a Ray cluster.

Ray starts processes and carries messages. It decides nothing here: what waits, waits in the fleet, and what
happened is told by reports and heartbeats. Nothing is ever repeated by Ray itself.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import ray
import ray.exceptions

from foldase.runtime.attempt import timeout_error
from foldase.runtime.cluster_view import ClusterNode, cluster_nodes, short_id
from foldase.runtime.crew import Adopted, CallFailed, Crew, Event, Gone, Ready, Recalled
from foldase.runtime.fleet import Assigned, Fleet, Kind, Node, Send, StartWorker, Worker
from foldase.runtime.inbox import Inbox
from foldase.runtime.losses import MemoryGuard, cause_of, how_it_ended, last_words, lost
from foldase.runtime.machine import OomCounter, this_machine
from foldase.runtime.pace import Pace
from foldase.runtime.processes import status_of
from foldase.runtime.settings import RuntimeSettings
from foldase.runtime.view import largest
from foldase.runtime.workbench import Beat, Delivery, Note, note_path, task_id
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Report, Started, Succeeded, Task, TaskId
from foldase_workflows.contracts.errors import Cancelled, Unsatisfiable
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources

logger = logging.getLogger(__name__)

ADOPT_SECONDS = 10.0
"""How long a worker may take to answer a new scheduler before it is taken for frozen."""

_TICK_SECONDS = 0.25
_NODES_SECONDS = 2.0
_KILL_AGAIN_SECONDS = 15.0
_MAX_START_FAILURES = 3
_START_PAUSE_SECONDS = 1.0
_BUSY_CPU_SECONDS = 0.5


class RayExecutor:
    """An executor whose workers are Ray actors. Ray must be connected.

    Args:
        settings: how workers are run.
        on_fault: called when a thread of this executor meets an error that nobody foresaw; must not return
            to a life in which nobody watches over the workers.
    """

    def __init__(self, settings: RuntimeSettings, on_fault: Callable[[BaseException], None]) -> None:
        self.pace = Pace()
        self.fleet = Fleet(self.pace, time.monotonic)
        self.nodes: tuple[ClusterNode, ...] = ()
        self.lock = threading.RLock()
        self._settings = settings
        self._workplace = Workplace(settings.home)
        self._inbox = Inbox()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._crew = Crew(settings, secrets.token_hex(8), self._events.put)
        self._oom = OomCounter()
        self._memory = MemoryGuard(this_machine().memory_bytes, settings.worker_memory_bytes)
        self._start_failures: dict[Kind, int] = {}
        self._on_fault = on_fault
        self._closed = threading.Event()
        self._see(cluster_nodes())
        self._adopt_all()
        for target in (self._watch_over, self._watch_nodes):
            threading.Thread(target=self._guarded, args=(target,), daemon=True).start()

    def total(self) -> Resources:
        """What all living nodes offer."""
        with self.lock:
            totals = [node.total for node in self.fleet.nodes.values() if node.alive]
        return Resources(
            cpu=sum(one.cpu for one in totals),
            memory_bytes=sum(one.memory_bytes for one in totals),
            gpu=sum(one.gpu for one in totals),
        )

    def largest_node(self) -> Hardware | None:
        """The living node with the most devices, then cores, then memory."""
        return largest([node.hardware for node in self.nodes if node.alive])

    def queue_depth(self, operator: str) -> int:
        """More than 1 for operators whose steps have been tiny so far."""
        return self.pace.depth(operator)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Send tasks to idle workers, start workers for others, or let them wait."""
        with self.lock:
            for task in tasks:
                if self.fleet.fits_somewhere(task):
                    self.fleet.add([task])
                else:
                    self._inbox.put([_unsatisfiable(task, self.fleet.ranks_that_fit(task))])
            self._act()

    def cancel(self, tasks: Iterable[TaskId], *, grace_seconds: float) -> None:
        """Ask tasks to stop; the worker of one that does not is killed after the grace."""
        wanted = set(tasks)
        with self.lock:
            self._inbox.put([_ended(task, Cause.CANCELLED) for task in self.fleet.drop(wanted)])
            for worker in self.fleet.workers.values():
                chosen = [assigned for key, assigned in worker.tasks.items() if key in wanted]
                self._ask_to_stop(worker, chosen, Cause.CANCELLED, grace_seconds)

    def poll(self, timeout_seconds: float) -> list[Report]:
        """What happened since the last call, whose reports are committed now."""
        return self._inbox.take(timeout_seconds)

    def running(self) -> frozenset[TaskId]:
        """Tasks that wait here or that a living worker has, and those whose end is not committed yet."""
        with self.lock:
            held = {key for worker in self.fleet.workers.values() for key in worker.tasks}
            waiting = {task_id(task) for task in self.fleet.waiting()}
        return self._inbox.ends() | held | waiting

    def deliver(self, delivery: Delivery) -> Future[None]:
        """Take in reports of a worker; the future ends when they are committed. Called in any thread."""
        with self.lock:
            for operator, (steps, seconds) in delivery.pace.items():
                self.pace.note(operator, steps, seconds)
            worker = self.fleet.workers.get(delivery.worker)
            if worker is None:
                self._crew.adopt(delivery.worker)
            else:
                worker.last_seen = time.monotonic()
                for report in delivery.reports:
                    self._note(worker, report)
            committed = self._inbox.put(delivery.reports, acknowledge=True)
            self._act()
        assert committed is not None
        return committed

    def beat(self, beat: Beat) -> None:
        """Take in a sign of life. Called in any thread."""
        with self.lock:
            worker = self.fleet.workers.get(beat.worker)
            if worker is None:
                self._crew.adopt(beat.worker)
                return
            now = worker.last_seen = time.monotonic()
            worker.memory_bytes, worker.cpu_seconds = beat.memory_bytes, beat.cpu_seconds
            worker.current, worker.ranks = beat.current, beat.ranks
            assigned = worker.tasks.get(beat.current) if beat.current else None
            if assigned is not None and assigned.began_at is None:
                assigned.began_at = now - beat.elapsed_seconds
        if beat.progress is not None:
            self._inbox.put([beat.progress])

    def close(self, *, within_seconds: float = 10.0) -> None:
        """End all workers with everything they started, and stop watching."""
        with self.lock:
            self._closed.set()
            names = list(self.fleet.workers)
        self._inbox.wake()
        deadline = time.monotonic() + within_seconds
        for act in (self._crew.kill, self._crew.bury):
            for thread in [act(name) for name in names]:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _note(self, worker: Worker, report: Report) -> None:
        key = TaskId(report.run, report.step, report.fence)
        assigned = worker.tasks.get(key)
        if assigned is None:
            return
        if isinstance(report, Started):
            assigned.began_at = assigned.began_at or time.monotonic()
        elif isinstance(report, Succeeded | Failed):
            del worker.tasks[key]
            worker.last_used = time.monotonic()
            if worker.current == key:
                worker.current = None

    def _act(self) -> None:
        for action in self.fleet.plan():
            if isinstance(action, Send):
                self._crew.send(action.worker, action.batch, action.tasks)
            elif isinstance(action, StartWorker):
                self._crew.start(action.name, action.kind, action.node, action.places)
            else:
                self._crew.kill(action.name)

    def _ask_to_stop(
        self, worker: Worker, chosen: Sequence[Assigned], cause: Cause, grace_seconds: float
    ) -> None:
        asked = [assigned for assigned in chosen if assigned.cancel is None]
        for assigned in asked:
            assigned.cancel = cause
            assigned.kill_at = time.monotonic() + grace_seconds
        if asked:
            self._crew.cancel(worker.name, [task_id(assigned.task) for assigned in asked], cause)
        waiting = [task_id(assigned.task) for assigned in asked if assigned.began_at is None]
        if waiting:
            self._crew.recall(worker.name, waiting, worker.batches)

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001  # handed on to whoever owns this executor
            self._on_fault(error)

    def _watch_over(self) -> None:
        looked = time.monotonic()
        while not self._closed.is_set():
            try:
                self._handle(self._events.get(timeout=_TICK_SECONDS))
                while True:
                    self._handle(self._events.get_nowait())
            except Empty:
                pass
            now = time.monotonic()
            if now - looked >= _TICK_SECONDS:
                with self.lock:
                    if now - looked > self._settings.lease_seconds / 2:
                        # It was this process that stood still; nobody else can be blamed for silence.
                        for worker in self.fleet.workers.values():
                            worker.last_seen = now
                    self._look_after(now)
                looked = now

    def _handle(self, event: Event) -> None:
        if isinstance(event, Gone):
            self._gone(event)
            return
        with self.lock:
            if isinstance(event, Ready):
                worker = self.fleet.workers.get(event.hello.config.name)
                if worker is not None and worker.state == "starting":
                    worker.state, worker.process = "ready", event.hello.process
                    worker.here = event.hello.here
                    worker.last_seen = worker.last_used = time.monotonic()
                    self._start_failures.pop(worker.kind, None)
            elif isinstance(event, Adopted):
                self._adopted(event)
            elif isinstance(event, CallFailed):
                worker = self.fleet.workers.get(event.worker)
                if worker is not None:
                    self._crew.recall(event.worker, event.tasks, worker.batches)
            elif isinstance(event, Recalled):
                self._recalled(event)
            self._act()

    def _look_after(self, now: float) -> None:
        for worker in list(self.fleet.workers.values()):
            if worker.state == "ending":
                if now - worker.last_seen > _KILL_AGAIN_SECONDS:
                    worker.last_seen = now
                    self._crew.kill(worker.name)
            elif worker.state == "starting":
                if now - worker.since > self._settings.start_seconds:
                    self._end(worker, "it did not start in time")
            elif now - worker.last_seen > self._settings.lease_seconds:
                self._silent(worker, now)
            else:
                self._look_at_tasks(worker, now)
        living = [worker for worker in self.fleet.workers.values() if worker.state != "ending"]
        large = self._memory.victim(living, now)
        if large is not None:
            self._end(large, "it was ended before it exhausted the node's memory", Cause.OOM_HOST)
        elif (beyond := self._memory.beyond_limit(living)) is not None:
            self._end(beyond, f"it held more than the {self._memory.limit:,} bytes it may", Cause.OOM_HOST)
        for recall in (*self.fleet.recalls(), *self.fleet.overdue()):
            self._crew.recall(recall.worker, recall.tasks, recall.last_batch)
        for stop in self.fleet.surplus(self._settings.idle_seconds):
            self._end(self.fleet.workers[stop.name], "it had nothing to do")
        self._act()

    def _look_at_tasks(self, worker: Worker, now: float) -> None:
        for assigned in list(worker.tasks.values()):
            if assigned.began_at is None:
                continue
            limit = assigned.task.timeout_seconds
            if limit is not None and now - assigned.began_at > limit:
                self._ask_to_stop(worker, [assigned], Cause.TIMEOUT, self._settings.timeout_grace_seconds)
            if assigned.kill_at is not None and now >= assigned.kill_at:
                self._end(worker, "it did not stop when it was asked to")
                return

    def _silent(self, worker: Worker, now: float) -> None:
        status = status_of(worker.process.pid) if worker.process and worker.here else None
        computes = (
            status is not None
            and status.id == worker.process
            and status.state != "T"
            and status.cpu_seconds > worker.cpu_seconds + _BUSY_CPU_SECONDS
        )
        if computes and status is not None:
            # C code that keeps the interpreter locked: silent, but not frozen. Its timeout still holds.
            worker.last_seen, worker.cpu_seconds = now, status.cpu_seconds
            self._look_at_tasks(worker, now)
        else:
            self._end(worker, f"no sign of life for {self._settings.lease_seconds:g} s")

    def _end(self, worker: Worker, why: str, cause: Cause | None = None) -> None:
        logger.info("worker %s is ended: %s", worker.name, why)
        worker.state = "ending"
        worker.ended_because, worker.ended_as = why, cause
        worker.last_seen = time.monotonic()
        self._crew.kill(worker.name)

    def _gone(self, event: Gone) -> None:
        noted = Note.read(note_path(self._settings.home, event.worker))
        with self.lock:
            worker = self.fleet.workers.pop(event.worker, None)
            starting = worker is not None and worker.process is None
            left = list(worker.tasks.values()) if worker else []
        if worker is not None:
            if worker.kind.ranks > 1:
                # The next attempt uses the same checkpoints: no rank of this one may still write there.
                self._crew.sweep(event.worker)
            self._settle(worker, left, _culprit(left, noted), event.error)
        self._crew.bury(event.worker)
        with self.lock:
            if worker is not None and starting:
                self._failed_to_start(worker, event.error)
            self._act()

    def _settle(self, worker: Worker, left: list[Assigned], current: TaskId | None, error: str) -> None:
        """Report the tasks of a lost worker that it had begun, and let others run them that it had not."""
        how = worker.ended_because or how_it_ended(error)
        logger.info("worker %s is gone: %s", worker.name, how)
        memory = sum(node.hardware.memory_bytes for node in self.nodes if node.id == worker.node)
        kernel_killed = self._oom.risen()
        cause = worker.ended_as or cause_of(worker, error, kernel_killed=kernel_killed, node_memory=memory)
        if any(node.id == worker.node and not node.alive for node in self.nodes):
            cause = Cause.NODE_LOST
        again = []
        for assigned in left:
            if assigned.cancel is not None:
                self._inbox.put([_ended(assigned.task, assigned.cancel, how)])
            elif task_id(assigned.task) == current:
                last_words(self._workplace, worker.name, assigned.task)
                # It may have died before it could say that it had begun.
                plan = Note.read_plan(note_path(self._settings.home, worker.name), task_id(assigned.task))
                failed = lost(assigned.task, cause, how, worker.memory_bytes, plan)
                self._inbox.put([_started(assigned.task, worker), failed])
            else:
                again.append(assigned.task)
        with self.lock:
            self.fleet.put_first(again)

    def _failed_to_start(self, worker: Worker, error: str) -> None:
        failures = self._start_failures[worker.kind] = self._start_failures.get(worker.kind, 0) + 1
        self.fleet.held_back[worker.kind] = time.monotonic() + _START_PAUSE_SECONDS * 2.0**failures
        if failures >= _MAX_START_FAILURES:
            how = worker.ended_because or how_it_ended(error)
            self._inbox.put([_no_worker(task, how) for task in self.fleet.drop_all(worker.kind)])

    def _recalled(self, event: Recalled) -> None:
        worker = self.fleet.workers.get(event.worker)
        if worker is None:
            return
        for key in event.tasks:
            assigned = worker.tasks.get(key)
            if assigned is not None and assigned.cancel is not None:
                del worker.tasks[key]
                self._inbox.put([_ended(assigned.task, assigned.cancel)])
        self.fleet.take_back(event.worker, event.tasks)

    def _adopt_all(self) -> None:
        names = set(self._crew.find())
        for name in names:
            self._crew.adopt(name)
        deadline = time.monotonic() + ADOPT_SECONDS
        while names and (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except Empty:
                break
            names.discard(event.worker if not isinstance(event, Ready | Adopted) else event.hello.config.name)
            self._handle(event)
        for name in names:
            self._crew.kill(name)

    def _adopted(self, event: Adopted) -> None:
        config, now = event.hello.config, time.monotonic()
        if config.name in self.fleet.workers:
            return
        worker = Worker(
            name=config.name,
            kind=Kind(config.family, config.cpu, config.gpu, config.ranks),
            node=event.hello.node,
            since=now,
            state="ready",
            process=event.hello.process,
            here=event.hello.here,
            last_seen=now,
            last_used=now,
            places=config.places,
        )
        for held in event.held:
            began = None if held.running_seconds is None else now - held.running_seconds
            worker.tasks[task_id(held.task)] = Assigned(held.task, 0, sent_at=now, began_at=began or now)
        self.fleet.workers[worker.name] = worker

    def _watch_nodes(self) -> None:
        while not self._closed.wait(_NODES_SECONDS):
            try:
                nodes = cluster_nodes()
            except ray.exceptions.RayError as error:
                logger.warning("Ray does not tell its nodes: %s", error)
                continue
            with self.lock:
                self._see(nodes)
                self._act()

    def _see(self, nodes: tuple[ClusterNode, ...]) -> None:
        self.nodes = nodes
        self.fleet.nodes = {
            node.id: Node(
                id=node.id,
                name=node.name,
                total=Resources(
                    node.hardware.cpus, node.hardware.memory_bytes, float(len(node.hardware.gpus))
                ),
                alive=node.alive,
            )
            for node in nodes
        }


def _culprit(left: list[Assigned], noted: str | None) -> TaskId | None:
    """The task that a lost worker was at: by its own note, or else the one that it began last."""
    if noted is not None:
        return next((key for key in (task_id(one.task) for one in left) if Note.name_of(key) == noted), None)
    begun = [one for one in left if one.began_at is not None]
    return task_id(max(begun, key=lambda one: one.began_at or 0.0).task) if begun else None


def _started(task: Task, worker: Worker) -> Started:
    pid = worker.process.pid if worker.process else 0
    return Started(task.run, task.step, task.fence, worker.name, short_id(worker.node), pid)


def _ended(task: Task, cause: Cause, how: str | None = None) -> Failed:
    if cause is Cause.TIMEOUT:
        error = timeout_error(task)
    else:
        error = Cancelled(f"step {task.step} was cancelled").to_json()
    return Failed(task.run, task.step, task.fence, cause, error, exit=how)


def _unsatisfiable(task: Task, ranks: int) -> Failed:
    wanted = task.resources
    each = f"{wanted.cpu:g} cores, {wanted.gpu:g} GPUs and {wanted.memory_bytes:,} bytes of memory"
    if ranks:
        message = f"the living nodes have room for {ranks} of {wanted.ranks} ranks with {each} each"
        hint = f"ask for at most {ranks} `ranks`, or for less for each"
    else:
        message, hint = f"no living node offers {each}", "lower `resources` of the step"
    error = Unsatisfiable(message, hint=hint)
    return Failed(task.run, task.step, task.fence, Cause.BAD_INPUT, error.to_json())


def _no_worker(task: Task, how: str) -> Failed:
    error = {
        "code": "worker_start_failed",
        "message": f"no worker process could be started: {how}",
        "hint": "the logs of the runtime in the state folder say more",
    }
    return Failed(task.run, task.step, task.fence, Cause.INFRASTRUCTURE, error)
