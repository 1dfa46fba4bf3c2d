"""The scheduler: one ``tick`` takes in what happened, decides, commits once, and only then acts.

Its memory is a copy of the database that can be thrown away at any time: when a commit fails, or another
scheduler took over, it is, and made anew from SQL.
"""

from __future__ import annotations

import heapq
import secrets
import time
from dataclasses import replace

from foldase.scheduler.attempts import Attempts
from foldase.scheduler.cache import CacheDesk
from foldase.scheduler.capacity import Capacity, ReadyQueue, shortfall
from foldase.scheduler.corrections import Corrections
from foldase.scheduler.executor import Executor, Report, Task
from foldase.scheduler.flow import Flow, error_json
from foldase.scheduler.journal import Journal
from foldase.scheduler.loading import load_run
from foldase.scheduler.model import Run, Shape, Step
from foldase.store import Store
from foldase.store.commits import CacheConnection, Diverged
from foldase.store.faults import faultpoint
from foldase.store.leases import Lease, LeaseLost
from foldase_workflows.contracts.errors import FoldaseError, StorageFull, Unavailable
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources
from foldase_workflows.contracts.registry import Registry

LEASE_NAME = "scheduler"
RENEW_SECONDS = 2.5
"""A tick without anything to write still shows a sign of life this often."""
CLAIMS_PER_TICK = 512
REASONS_SECONDS = 2.0
"""How often the steps near the head of the queue are told what they wait for."""
REASONS_SHOWN = 50


class Scheduler:
    """Decides about all runs of a store.

    Args:
        store: where everything is kept.
        registry: the operators.
        executor: who runs attempts. Nobody else calls its methods.
    """

    def __init__(self, store: Store, registry: Registry, executor: Executor) -> None:
        self.trouble: FoldaseError | None = None
        """What kept the last tick from being committed, until one is."""
        self._store = store
        self._registry = registry
        self._executor = executor
        self._clock = store.clock
        self._owner = secrets.token_hex(8)
        self._lease: Lease | None = None
        self._renewed_at = float("-inf")
        self._reasons_at = float("-inf")
        self._inbox: list[Report] = []
        self._forget()

    @property
    def leads(self) -> bool:
        """Whether this scheduler holds the lease, as far as it knows."""
        return self._lease is not None

    @property
    def live_runs(self) -> int:
        """How many runs are in its care."""
        return len(self._runs)

    def tick(self, timeout_seconds: float = 0.0) -> bool:
        """Do whatever can be done now; call it again and again.

        Args:
            timeout_seconds: how long to wait for reports when there is nothing else to do.

        Returns:
            Whether anything happened. False also while another scheduler leads or the database cannot
            write, see :attr:`trouble`; nothing is lost then.

        Raises:
            Damaged: the database is corrupt; going on makes no sense.
        """
        try:
            if self._lease is None and not self._take_lease(timeout_seconds):
                return False
            busy = self._turn(timeout_seconds)
        except LeaseLost as error:
            self._lease, self.trouble = None, error
            self._forget()
            return False
        except (StorageFull, Unavailable, Diverged) as error:
            self.trouble = error
            self._forget()
            return False
        except BaseException:
            # Whatever it was, the memory may be half-way between two states.
            self._forget()
            raise
        self.trouble = None
        return busy

    def shut_down(self) -> None:
        """Let go in good order: running steps become ready again, and the lease is free.

        The executor is to be stopped first, so that no worker goes on. What cannot be written is left to
        the next start, which treats it like a crash.
        """
        if self._lease is None:
            return
        lease, self._lease = self._lease, None
        try:
            self._begin_turn()
            self._attempts.apply(self._inbox, self._clock.monotonic())
            self._attempts.release_all()
            changes = self._flow.journal.changes(self._clock.monotonic())
            self._store.commits.commit(lease, changes, self._flow.moment)
            self._store.leases.release(lease)
        except FoldaseError as error:
            self.trouble = error
        self._forget()

    def _take_lease(self, timeout_seconds: float) -> bool:
        self._lease = self._store.leases.acquire(LEASE_NAME, self._owner)
        if self._lease is None and timeout_seconds > 0:
            time.sleep(timeout_seconds)
        return self._lease is not None

    def _forget(self) -> None:
        """Throw the memory away; the next tick makes it anew. Reports that are not committed stay."""
        self._runs: dict[str, Run] = {}
        self._desk = CacheDesk(self._store.blobs)
        self._flow = Flow(self._desk, self._admit)
        corrections = Corrections(self._store.commits.corrections)
        self._attempts = Attempts(self._runs, self._flow, self._desk, self._executor, corrections)
        self._queue = ReadyQueue()
        self._unsized: list[Step] = []
        self._delayed: list[tuple[float, int, Step]] = []
        self._count = 0
        self._active = True

    def _begin_turn(self) -> None:
        self._flow.journal = Journal()
        self._flow.moment = int(self._clock.now() * 1000)
        self._flow.finished = []

    def _turn(self, timeout_seconds: float) -> bool:
        assert self._lease is not None
        # Polling says that the last reports are committed, so it waits until they are.
        if not self._inbox:
            self._inbox = self._executor.poll(0.0 if self._active else timeout_seconds)
        self._begin_turn()
        now = self._clock.monotonic()
        with self._store.commits.cache() as cache:
            self._take_up_runs(now)
            self._attempts.apply(self._inbox, now)
            self._attempts.watch(now)
            self._flow.advance(cache)
            tasks = self._claim(now, cache)
        self._explain_waiting(now)
        changes = self._flow.journal.changes(now)
        if changes or now - self._renewed_at >= RENEW_SECONDS:
            self._store.commits.commit(self._lease, changes, self._flow.moment)
            self._renewed_at = now
        self._flow.journal.committed()
        self._active = bool(self._inbox or tasks or changes)
        self._inbox = []
        self._act(tasks)
        for run in self._flow.finished:
            self._runs.pop(run.id, None)
        return self._active

    def _act(self, tasks: list[Task]) -> None:
        """Tell the executor, now that everything is durable."""
        if tasks:
            faultpoint("scheduler.submit.before")
            self._executor.submit(tasks)
            faultpoint("scheduler.submit.after")
        stops, self._attempts.to_stop = self._attempts.to_stop, []
        for grace in sorted({grace for _, grace in stops}):
            self._executor.cancel(
                [task_id for task_id, wanted in stops if wanted == grace], grace_seconds=grace
            )

    def _take_up_runs(self, now: float) -> None:
        """Load runs that are new (or all of them, after a start), and see who asked for an end."""
        fresh: list[Run] = []
        for live in self._store.commits.live():
            run = self._runs.get(live.id)
            if run is None:
                loaded = load_run(self._store.commits, live.id, self._registry)
                if isinstance(loaded, FoldaseError):
                    self._refuse(live.id, loaded)
                    continue
                self._runs[live.id] = run = loaded
                fresh.append(run)
            if live.cancel_requested and not run.cancelling:
                run.cancel_requested = True
                if run not in fresh:
                    self._attempts.cancel_run(run)
        if not fresh:
            return
        held = self._executor.running()
        for run in fresh:
            for step in run.running.values():
                self._attempts.adopt(step, now, held)
                step.shape = self._shape(step)
        for run in fresh:
            self._flow.take_up(run)
            if run.cancel_requested:
                self._attempts.cancel_run(run)

    def _refuse(self, run_id: str, error: FoldaseError) -> None:
        """End a run whose workflow cannot be understood (any more)."""
        assert self._lease is not None
        described = {"cause": str(Cause.BAD_INPUT), **error_json(error)}
        self._store.commits.refuse(self._lease, run_id, described, self._flow.moment)

    def _admit(self, step: Step) -> None:
        """A step has to run: it is ready from now on."""
        if step.retry_at is None:
            step.waiting_for = None
        if step.state != "ready":
            step.ready_at = self._flow.moment
            self._flow.move(step, "ready")
        else:
            self._flow.journal.step(step)
        self._unsized.append(step)

    def _claim(self, now: float, cache: CacheConnection) -> list[Task]:
        hardware = self._executor.largest_node()
        while hardware is not None and self._unsized:
            waiting, self._unsized = self._unsized, []
            for step in waiting:
                if step.state == "ready":
                    self._size(step, hardware, now)
            # A step that fits nowhere has failed, and others may follow from that.
            self._flow.advance(cache)
        while self._delayed and self._delayed[0][0] <= now:
            _, _, step = heapq.heappop(self._delayed)
            if step.state == "ready":
                step.waiting_for = None
                self._queue.push(step, self._shape(step))
        capacity = self._capacity()
        tasks = []
        for step, shape in self._queue.claimable(capacity, now, CLAIMS_PER_TICK):
            if step.state != "ready":
                continue
            capacity.take(shape)
            step.shape = shape
            tasks.append(self._attempts.claim(step, now))
        return tasks

    def _size(self, step: Step, hardware: Hardware, now: float) -> None:
        """Find out what a ready step needs, and let it wait for that."""
        assert step.inputs is not None
        self._flow.journal.step(step)
        try:
            step.resources = _resources(step, hardware, self._executor.total())
            estimate = step.plan.estimate(step.inputs, hardware)
        except FoldaseError as fault:
            self._flow.fail(step, Cause.BAD_INPUT, error_json(fault))
            return
        step.estimate = estimate.to_json() if estimate else None
        lacking = shortfall(step.resources, hardware, self._executor.total())
        if lacking is not None:
            error = {
                "code": "unsatisfiable_resources",
                "message": f"no node can hold the step: {lacking}",
                "hint": "ask for less under `resources`, or add a larger node",
            }
            self._flow.fail(step, Cause.BAD_INPUT, error)
        elif step.retry_at is not None and step.retry_at > self._flow.moment:
            # Wall time in the database, monotonic time in memory; a clock set back must not delay a retry.
            longest = max(step.plan.retry.backoff[1], 30.0)
            wait = min(longest, (step.retry_at - self._flow.moment) / 1000)
            self._count += 1
            heapq.heappush(self._delayed, (now + wait, self._count, step))
        else:
            self._queue.push(step, self._shape(step))

    def _capacity(self) -> Capacity:
        running = self._attempts.running.values()
        return Capacity(self._executor.total(), (step.shape for step in running if step.shape))

    def _shape(self, step: Step) -> Shape:
        return Shape(step.resources or Resources(), max(1, self._executor.queue_depth(step.plan.uses)))

    def _explain_waiting(self, now: float) -> None:
        """Say what ready steps wait for, where it is not said yet."""
        if now - self._reasons_at < REASONS_SECONDS or not (self._queue or self._unsized):
            return
        self._reasons_at = now
        capacity = self._capacity()
        for step in self._unsized[:REASONS_SHOWN]:
            self._say(step, "the cluster, which is starting")
        for step, shape in list(self._queue.waiting(REASONS_SHOWN)):
            self._say(step, capacity.lacking(shape))

    def _say(self, step: Step, reason: str | None) -> None:
        if step.state == "ready" and step.waiting_for != reason:
            step.waiting_for = reason
            self._flow.journal.step(step)


def _resources(step: Step, hardware: Hardware, cluster: Resources) -> Resources:
    """What an attempt reserves: what the document asks for, or what running out of memory made of it.

    A gang that has run before goes on with fewer ranks where a node is gone since.
    """
    assert step.inputs is not None
    wanted = step.plan.resources(step.inputs, hardware)
    changed = step.changes or {}
    wanted = replace(
        wanted,
        cpu=changed.get("cpu", wanted.cpu),
        memory_bytes=changed.get("memory_bytes", wanted.memory_bytes),
    )
    if wanted.ranks > 1 and step.attempt > 0 and (room := wanted.ranks_within(cluster)) >= 1:
        return replace(wanted, ranks=room)
    return wanted
