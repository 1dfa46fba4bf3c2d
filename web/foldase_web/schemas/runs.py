"""Runs, steps, attempts, logs and metrics."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from foldase_web.problems import Place
from foldase_web.schemas.artifacts import Artifact
from foldase_web.schemas.base import Answer, Body, Name, Text, Values

RunState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
StepState = Literal["pending", "ready", "running", "succeeded", "failed", "cancelled", "skipped"]
AttemptState = Literal["running", "succeeded", "failed", "cancelled"]


class Failure(Answer):
    """Why a run, a step or an attempt failed."""

    cause: str | None = Field(None, description="`bad_input`, `oom_host`, `timeout`, `worker_lost`, …")
    code: str | None = None
    message: str | None = None
    location: Place | None = None
    hint: str | None = None
    step: str | None = Field(None, description="the step at fault, in the error of a run")


class WorkflowReference(Answer):
    """Which workflow a run carries out."""

    name: str
    digest: str


class RunSummary(Answer):
    """A run in a list."""

    id: str
    name: str
    workflow: WorkflowReference
    state: RunState
    priority: int
    created_at: str = Field(description="RFC 3339, UTC")
    started_at: str | None = None
    finished_at: str | None = None
    resumed_from: str | None = Field(None, description="the run that this one goes on from")
    cancel_requested: bool = False
    error: Failure | None = None
    progress: float = Field(0.0, description="0 to 1")
    counts: dict[str, int] = Field(default_factory=dict, description="steps by state")


class StepSummary(Answer):
    """A step in a list."""

    id: str = Field(description="the step's name, or `name[key]` for one item of a scattered step")
    name: str
    key: str | None = None
    uses: str
    state: StepState
    cached: bool = False
    attempt: int = 0
    attempts: int = Field(0, description="how many there were so far")
    progress: float = 0.0
    message: str | None = None
    waiting_for: str | None = None
    after: list[str] = Field(default_factory=list)
    started_at: str | None = None
    finished_at: str | None = None
    error: Failure | None = None
    resources: dict[str, Any] | None = None
    items: int | None = Field(None, description="how many items a scattered step has, once known")


class Run(RunSummary):
    """A run with its steps."""

    inputs: dict[str, Any]
    outputs: dict[str, Any] | None = None
    source: str = Field(description="the YAML as it was submitted")
    steps: list[StepSummary]


class RunPage(Answer):
    """Some runs, newest first."""

    items: list[RunSummary]
    next: str | None = Field(None, description="cursor of the next page")


class AttemptPlan(Answer):
    """How an attempt meant to fit into memory; further fields are the operator's own."""

    model_config = ConfigDict(extra="allow")

    predicted_peak_bytes: int | None = Field(None, description="above what its process held before")
    measured_peak_bytes: int | None = Field(None, description="the same, as the operator counted it")
    process_bytes: int | None = Field(None, description="what its process held when the plan was made")
    correction: float | None = Field(None, description="measured over predicted of earlier attempts, applied")
    key: str | None = Field(None, description="what the error of the prediction depends on")


class Attempt(Answer):
    """One try of a step."""

    number: int
    state: AttemptState
    cause: str | None = None
    error: Failure | None = None
    started_at: str | None = None
    finished_at: str | None = None
    worker: str | None = None
    node: str | None = None
    pid: int | None = None
    exit: str | None = None
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    resources: dict[str, Any] | None = None
    plan: AttemptPlan | None = Field(None, description="how it meant to fit into memory, as it told itself")
    changes: dict[str, list[Any]] | None = Field(
        None, description="what is otherwise than in the attempt before: name to `[before, after]`"
    )


class Estimate(Answer):
    """What a step is expected to take."""

    seconds: list[float] = Field(description="low and high")
    memory_bytes: int
    gpu_memory_bytes: int = 0
    disk_bytes: int = 0
    basis: str = ""
    plan: dict[str, Any] | None = Field(
        None, description="of one rank of a training: bytes by tier and owner, seconds of a step, and more"
    )


class StepDetail(Answer):
    """A step with everything known of it."""

    id: str
    name: str
    key: str | None = None
    uses: str
    state: StepState
    cached: bool = False
    attempt: int = 0
    progress: float = 0.0
    message: str | None = None
    waiting_for: str | None = None
    after: list[str] = Field(default_factory=list)
    started_at: str | None = None
    finished_at: str | None = None
    error: Failure | None = None
    resources: dict[str, Any] | None = None
    items: int | None = None
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    cache_key: str | None = None
    estimate: Estimate | None = None
    attempts: list[Attempt] = Field(default_factory=list)


class Difference(Answer):
    """One component of an identity that changed."""

    component: str
    before: Any = None
    now: Any = None


class RunStep(Answer):
    """Names a step of a run."""

    run: str
    step: str


class Why(Answer):
    """Why a step ran, or did not."""

    step: str
    ran: bool
    reason: str
    differs: list[Difference] = Field(default_factory=list)
    compared_with: RunStep | None = None


class LogLine(Answer):
    """One line of a log."""

    time: str | None = None
    level: str = "info"
    message: str


class LogPage(Answer):
    """Some lines of an attempt's log; offsets are bytes of the stored log."""

    attempt: int
    offset: int
    next: int = Field(description="where the next page begins")
    end: bool = Field(description="the attempt is over and everything was read")
    lines: list[LogLine]


class MetricPoint(Answer):
    """Numbers reported at once."""

    at: float | None = Field(None, description="position on the x axis, for example the training step")
    time: str | None = None
    values: dict[str, float | None]


class MetricPage(Answer):
    """Some points of an attempt's curves; offsets are bytes of the stored points."""

    attempt: int
    next: int
    end: bool = Field(False, description="the attempt is over and everything was read")
    points: list[MetricPoint]


class RunArtifact(Answer):
    """An artifact that a run made."""

    step: str | None = None
    output: str
    artifact: Artifact
    run_output: bool = False


class RunArtifacts(Answer):
    """The artifacts of a run, its outputs first."""

    items: list[RunArtifact]


class Submitted(Body):
    """A workflow, as text or by its name in the catalog, and values for its inputs."""

    source: Text | None = Field(None, description="the YAML text of a workflow")
    workflow: Name | None = Field(None, description="the name of a workflow in the catalog")
    inputs: Values = Field(default_factory=dict)
    file: Name | None = Field(None, description="what to call the text in errors")

    @model_validator(mode="after")
    def _one_workflow(self) -> Submitted:
        if (self.source is None) == (self.workflow is None):
            raise ValueError("give either `source` or `workflow`")
        return self


class PlanRequest(Submitted):
    """What `POST /plan` takes."""


class RunRequest(Submitted):
    """What `POST /runs` takes."""

    name: Name | None = Field(None, description="for people; default: the workflow's name")
    priority: int = Field(0, ge=-100, le=100, description="greater runs first")
