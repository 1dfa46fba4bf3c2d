"""What the store hands out: frozen records with the JSON of the API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from foldase.store.clock import rfc3339
from foldase.store.jsontext import dumps, loads
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.spec.checked import CheckedWorkflow

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step of a workflow as it stands before anything ran."""

    name: str
    uses: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """Everything that makes a run. ``inputs`` are complete and checked; ``document`` is canonical.

    ``digest`` is ``sha256:<64 hex>`` of the canonical document. ``source`` is the text a person wrote.
    ``steps`` are all steps of the document (unexpanded), in the order they are shown.
    """

    digest: str
    workflow: str
    document: Json
    steps: tuple[NewStep, ...]
    inputs: Json
    source: str
    title: str = ""
    name: str = ""
    priority: int = 0

    @classmethod
    def of(
        cls,
        checked: CheckedWorkflow,
        inputs: Json,
        *,
        source: str,
        name: str = "",
        priority: int = 0,
    ) -> Submission:
        """The submission of a checked workflow with inputs from ``bind_inputs``."""
        steps = tuple(NewStep(step.name, step.uses, step.needs) for step in checked.steps.values())
        return cls(
            digest=checked.digest,
            workflow=checked.name,
            document=checked.to_json(),
            steps=steps,
            inputs=inputs,
            source=source,
            title=checked.document.title,
            name=name,
            priority=priority,
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list."""

    id: str
    name: str
    workflow_name: str
    workflow_digest: str
    state: str
    priority: int
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    resumed_from: str | None = None
    cancel_requested: bool = False
    error: Json | None = None
    progress: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run reached a state that it never leaves."""
        return self.state in ("succeeded", "failed", "cancelled")

    def to_json(self) -> Json:
        """RunSummary of the API."""
        described: Json = {
            "id": self.id,
            "name": self.name,
            "workflow": {"name": self.workflow_name, "digest": self.workflow_digest},
            "state": self.state,
            "priority": self.priority,
            "created_at": rfc3339(self.created_at),
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at),
            "resumed_from": self.resumed_from,
            "cancel_requested": self.cancel_requested,
            "progress": round(self.progress, 4),
            "counts": self.counts,
        }
        if self.error is not None:
            described["error"] = self.error
        return described


@dataclass(frozen=True, slots=True)
class StepSummary:
    """A step in a list. ``items`` is the number of items of a scattered step, None before it is known.

    ``id`` is the step's name, or ``name[key]`` for one item of a scattered step. The scattered step itself
    stays as a row of its own that gathers its items.
    """

    run: str
    id: str
    name: str
    key: str | None
    uses: str
    state: str
    cached: bool = False
    attempt: int = 0
    progress: float = 0.0
    message: str | None = None
    waiting_for: str | None = None
    after: tuple[str, ...] = ()
    started_at: int | None = None
    finished_at: int | None = None
    error: Json | None = None
    resources: Json | None = None
    items: int | None = None

    def to_json(self) -> Json:
        """StepSummary of the API; ``attempts`` is the number of attempts so far."""
        described: Json = {
            "id": self.id,
            "name": self.name,
            "key": self.key,
            "uses": self.uses,
            "state": self.state,
            "cached": self.cached,
            "attempt": self.attempt,
            "attempts": self.attempt,
            "progress": round(self.progress, 4),
            "message": self.message,
            "after": list(self.after),
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at),
            "resources": self.resources,
        }
        if self.waiting_for is not None:
            described["waiting_for"] = self.waiting_for
        if self.error is not None:
            described["error"] = self.error
        if self.items is not None:
            described["items"] = self.items
        return described


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a step."""

    number: int
    state: str
    cause: str | None = None
    error: Json | None = None
    started_at: int | None = None
    finished_at: int | None = None
    worker: str | None = None
    node: str | None = None
    pid: int | None = None
    exit: str | None = None
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    resources: Json | None = None
    plan: Json | None = None
    changes: Json | None = None

    def to_json(self) -> Json:
        """An entry of StepDetail's ``attempts``."""
        return {
            "number": self.number,
            "state": self.state,
            "cause": self.cause,
            "error": self.error,
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at),
            "worker": self.worker,
            "node": self.node,
            "pid": self.pid,
            "exit": self.exit,
            "peak_memory_bytes": self.peak_memory_bytes,
            "cpu_seconds": self.cpu_seconds,
            "resources": self.resources,
            "plan": self.plan,
            "changes": self.changes,
        }


@dataclass(frozen=True, slots=True)
class StepDetail:
    """A step with everything known of it."""

    summary: StepSummary
    inputs: Json | None
    outputs: Json | None
    cache_key: str | None
    estimate: Json | None
    attempts: tuple[Attempt, ...]

    def to_json(self) -> Json:
        """StepDetail of the API: like StepSummary, with ``attempts`` as a list."""
        return {
            **self.summary.to_json(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "cache_key": self.cache_key,
            "estimate": self.estimate,
            "attempts": [attempt.to_json() for attempt in self.attempts],
        }


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its steps."""

    summary: RunSummary
    inputs: Json
    outputs: Json | None
    source: str
    steps: tuple[StepSummary, ...]

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.summary.id

    def to_json(self) -> Json:
        """Run of the API."""
        return {
            **self.summary.to_json(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "source": self.source,
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; ``text`` is its JSON as stored, without seq, run, step and time."""

    seq: int
    kind: str
    time: int
    run: str | None
    step: str | None
    text: str

    @property
    def json_text(self) -> str:
        """The data of the event as JSON text, made without parsing: for streams."""
        head: Json = {"seq": self.seq, "time": rfc3339(self.time)}
        if self.run is not None:
            head["run"] = self.run
        if self.step is not None:
            head["step"] = self.step
        rest = self.text[1:]
        return dumps(head)[:-1] + ("" if rest == "}" else ",") + rest

    def to_json(self) -> Json:
        """The data of the event: ``{seq, run, step?, time, ...}``."""
        data: Json = loads(self.json_text)
        return data


@dataclass(frozen=True, slots=True)
class RunArtifact:
    """An artifact that a run made; ``run_output`` marks the outputs of the run itself (step is then None)."""

    step: str | None
    output: str
    artifact: Artifact
    run_output: bool = False

    def to_json(self) -> Json:
        """An item of ``GET /runs/{id}/artifacts``."""
        return {
            "step": self.step,
            "output": self.output,
            "artifact": artifact_json(self.artifact),
            "run_output": self.run_output,
        }


def artifact_json(artifact: Artifact) -> Json:
    """The inner object of an artifact: digest, type, size, name, media_type."""
    inner: Json = artifact.to_json()["$artifact"]
    return inner


@dataclass(frozen=True, slots=True)
class Difference:
    """One component of an identity that changed; None where it did not exist."""

    component: str
    before: Any
    now: Any

    def to_json(self) -> Json:
        """An item of ``differs``."""
        return {"component": self.component, "before": self.before, "now": self.now}


@dataclass(frozen=True, slots=True)
class Why:
    """Why a step ran, or did not. ``compared_with`` is (run, step) of the nearest earlier one."""

    step: str
    ran: bool
    reason: str
    differs: tuple[Difference, ...] = ()
    compared_with: tuple[str, str] | None = None

    def to_json(self) -> Json:
        """The answer of ``GET /runs/{id}/steps/{step}/why``."""
        other = self.compared_with
        return {
            "step": self.step,
            "ran": self.ran,
            "reason": self.reason,
            "differs": [difference.to_json() for difference in self.differs],
            "compared_with": {"run": other[0], "step": other[1]} if other else None,
        }


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process as the cluster page shows it; ``since`` is when ``state`` began."""

    id: str
    name: str
    state: str
    node: str | None = None
    pid: int | None = None
    run: str | None = None
    step: str | None = None
    since: int = 0

    def to_json(self) -> Json:
        """An item of ``workers``."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "node": self.node,
            "pid": self.pid,
            "run": self.run,
            "step": self.step,
            "since": rfc3339(self.since),
        }


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A step that waits, and for what."""

    run: str
    step: str
    reason: str
    since: int

    def to_json(self) -> Json:
        """An item of ``queue``."""
        return {"run": self.run, "step": self.step, "reason": self.reason, "since": rfc3339(self.since)}


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """The cluster as last written by the runtime: ``state`` is starting, ready, lost or stopped.

    ``nodes`` are JSON objects as in the API; ``hardware`` describes the largest node
    (``{cpus, memory_bytes, gpus: [{name, memory_bytes}]}``) once it is known.
    """

    state: str
    message: str
    since: int
    updated_at: int
    nodes: tuple[Json, ...] = ()
    hardware: Json | None = None
    workers: tuple[WorkerRecord, ...] = ()
    queue: tuple[QueueEntry, ...] = ()

    def to_json(self) -> Json:
        """``GET /cluster`` without the address of the dashboard."""
        return {
            "state": self.state,
            "message": self.message,
            "since": rfc3339(self.since),
            "nodes": list(self.nodes),
            "workers": [worker.to_json() for worker in self.workers],
            "queue": [entry.to_json() for entry in self.queue],
        }


@dataclass(frozen=True, slots=True)
class User:
    """A person who may use the platform."""

    id: str
    name: str

    def to_json(self) -> Json:
        """The ``user`` of ``GET /session``."""
        return {"id": self.id, "name": self.name}
