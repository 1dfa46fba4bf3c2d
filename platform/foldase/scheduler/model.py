"""Runs and steps as the scheduler holds them in memory: a copy of the rows, rebuilt from SQL at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foldase.scheduler.executor import TaskId
from foldase.scheduler.plan import RunPlan, StepPlan
from foldase.store.identity import Identity
from foldase.store.jsontext import dumps, dumps_or_none
from foldase.store.records import RunSummary, StepSummary
from foldase_workflows.contracts.operator import Resources

Json = dict[str, Any]

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})
UNSETTLED = frozenset({"pending", "ready", "running"})


@dataclass(frozen=True, slots=True)
class Shape:
    """Steps of one shape fit or do not fit together.

    ``depth`` is how many of them one slot may hold (see ``Executor.queue_depth``).
    """

    resources: Resources
    depth: int


@dataclass(slots=True, eq=False)
class Run:
    """A live run. ``steps`` are all rows by id; ``items`` those of a scattered step, in their order."""

    id: str
    plan: RunPlan
    name: str
    workflow_name: str
    workflow_digest: str
    priority: int
    inputs: Json
    created_at: int
    resumed_from: str | None
    state: str = "pending"
    outputs: Json | None = None
    error: Json | None = None
    started_at: int | None = None
    finished_at: int | None = None
    cancel_requested: bool = False
    cancelling: bool = False
    steps: dict[str, Step] = field(default_factory=dict)
    items: dict[str, list[Step]] = field(default_factory=dict)
    open_items: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    unsettled: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    running: dict[str, Step] = field(default_factory=dict)
    root: str = ""
    prior: Mapping[str, Any] = field(default_factory=dict)
    announced_at: float = float("-inf")
    announced_state: tuple[str, bool] = ("pending", False)

    @property
    def scope(self) -> Json:
        """What expressions of this run may refer to, apart from ``each``."""
        return {"inputs": self.inputs, "steps": self.visible}

    visible: Json = field(default_factory=dict)
    """Outputs of settled steps by name; of a scattered step ``{"each": {output: [values]}}``."""

    @property
    def progress(self) -> float:
        """The share of steps that are over, running ones counted by their own progress."""
        total = sum(self.counts.values())
        over = sum(self.counts[state] for state in TERMINAL)
        partial = sum(step.progress for step in self.running.values())
        return min(1.0, (over + partial) / total) if total else 0.0

    def summary(self) -> RunSummary:
        """The run as listed."""
        return RunSummary(
            id=self.id,
            name=self.name,
            workflow_name=self.workflow_name,
            workflow_digest=self.workflow_digest,
            state=self.state,
            priority=self.priority,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            resumed_from=self.resumed_from,
            cancel_requested=self.cancel_requested,
            error=self.error,
            progress=self.progress,
            counts={state: count for state, count in sorted(self.counts.items()) if count},
        )

    def row(self) -> Json:
        """What changes in the life of a run, as columns."""
        return {
            "of_run": self.id,
            "state": self.state,
            "outputs": dumps_or_none(self.outputs),
            "error": dumps_or_none(self.error),
            "progress": self.progress,
            "counts": dumps({state: count for state, count in sorted(self.counts.items()) if count}),
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }


@dataclass(slots=True, eq=False)
class Step:
    """One row of the table ``step``: an ordinary step, a scattered step, or one of its items."""

    run: Run
    plan: StepPlan
    id: str
    position: int
    key: str | None = None
    item: int = -1
    item_count: int | None = None
    state: str = "pending"
    fence: int = 0
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    cached: bool = False
    progress: float = 0.0
    message: str | None = None
    waiting_for: str | None = None
    error: Json | None = None
    resources: Resources | None = None
    changes: Json | None = None
    inputs: Json | None = None
    inputs_text: str | None = None
    outputs: Json | None = None
    outputs_text: str | None = None
    cache_key: str | None = None
    cache_policy: str | None = None
    estimate: Json | None = None
    source: tuple[str, str] | None = None
    retry_at: int | None = None
    ready_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    # What the database has, for the guard of the next update; None before the row exists.
    saved: tuple[str, int] | None = None
    # Only in memory:
    identity: Identity | None = None
    attempt_plan: Json | None = None
    begun: bool = False
    claimed_at: int = 0
    seen_at: float = 0.0
    deadline: float | None = None
    stopping: str | None = None
    shape: Shape | None = None
    blocked_since: float | None = None

    @property
    def name(self) -> str:
        """The name of the step in the document."""
        return self.plan.name

    @property
    def task_id(self) -> TaskId:
        """The present claim."""
        return TaskId(self.run.id, self.id, self.fence)

    @property
    def rank(self) -> tuple[int, str, int, int]:
        """Who comes first: priority, then age of the run, then place in it."""
        return (-self.run.priority, self.run.id, self.position, self.item)

    def take_novelty(self) -> Json | None:
        """What the next attempt has otherwise than the last, told once: ``{name: [before, after]}``."""
        changes = dict(self.changes or {})
        novelty: Json | None = changes.pop("novelty", None)
        self.changes = changes or None
        return novelty

    @property
    def counted(self) -> bool:
        """Whether the step is a piece of work of its own: a scattered step is not once it has items."""
        return not self.item_count

    def summary(self) -> StepSummary:
        """The step as listed."""
        return StepSummary(
            run=self.run.id,
            id=self.id,
            name=self.plan.name,
            key=self.key,
            uses=self.plan.uses,
            state=self.state,
            cached=self.cached,
            attempt=self.attempt,
            progress=self.progress,
            message=self.message,
            waiting_for=self.waiting_for,
            after=self.plan.needs,
            started_at=self.started_at,
            finished_at=self.finished_at,
            error=self.error,
            resources=self.resources.to_json() if self.resources else None,
            items=self.item_count,
        )

    def columns(self) -> Json:
        """What changes in the life of a step."""
        return {
            "item_count": self.item_count,
            "state": self.state,
            "fence": self.fence,
            "attempt": self.attempt,
            "failures": self.failures,
            "losses": self.losses,
            "cached": self.cached,
            "progress": self.progress,
            "message": self.message,
            "waiting_for": self.waiting_for,
            "error": dumps_or_none(self.error),
            "resources": dumps(self.resources.to_json()) if self.resources else None,
            "changes": dumps_or_none(self.changes),
            "inputs": self.inputs_text,
            "outputs": self.outputs_text,
            "cache_key": self.cache_key,
            "cache_policy": self.cache_policy,
            "estimate": dumps_or_none(self.estimate),
            "source_run": self.source[0] if self.source else None,
            "source_step": self.source[1] if self.source else None,
            "retry_at": self.retry_at,
            "ready_at": self.ready_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }

    def birth(self) -> Json:
        """What a step is born with."""
        return {
            "run": self.run.id,
            "id": self.id,
            "name": self.plan.name,
            "key": self.key,
            "position": self.position,
            "item": self.item,
            "uses": self.plan.uses,
            "after": dumps(list(self.plan.needs)),
        }


def gathered(run: Run, step: Step) -> Json:
    """What expressions see of a scattered step: for each output the values of the items that succeeded."""
    good = [item.outputs or {} for item in run.items[step.id] if item.state == "succeeded"]
    names = step.plan.signature.outputs
    return {"each": {name: [outputs.get(name) for outputs in good] for name in names}}
