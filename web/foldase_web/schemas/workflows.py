"""Operators, the catalog, checking and planning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from foldase_web.problems import Fault
from foldase_web.schemas.base import Answer, Body, Name, Text
from foldase_web.schemas.runs import Estimate


class Port(Answer):
    """One typed input or output."""

    name: str
    type: str
    required: bool = True
    help: str = ""
    default: Any = None
    choices: list[Any] | None = None
    limits: dict[str, float] | None = None


class Operator(Answer):
    """An operator as a document uses it."""

    reference: str = Field(description="`name@version`")
    name: str
    version: int
    help: str
    inputs: list[Port]
    outputs: list[Port]
    resources: dict[str, float]
    deterministic: bool
    gang: bool = Field(False, description="whether a step may ask for several ranks")


class Operators(Answer):
    """All operators of this installation."""

    items: list[Operator]


class Weights(Answer):
    """Weights that an input of type `weights` may name."""

    name: str
    kind: str | None = Field(None, description="of model, by its `config.json`")
    size: int = Field(description="in bytes, of all files")
    state: Literal["ready", "reading", "waiting", "refused"] = Field(
        description="whether they can be used: `waiting` and `reading` become `ready` by themselves"
    )
    digest: str | None = Field(None, description="of all files; part of the identity of results")
    progress: float = Field(0.0, description="0 to 1, how much was read to find the digest")
    error: Fault | None = Field(None, description="why they are refused")


class WeightsList(Answer):
    """All weights by name."""

    items: list[Weights]
    configured: bool = Field(description="whether the platform was started with a folder of weights")


class WorkflowSummary(Answer):
    """A workflow of the catalog in a list."""

    name: str
    title: str
    description: str
    digest: str


class Workflows(Answer):
    """The catalog."""

    items: list[WorkflowSummary]


class WorkflowStep(Answer):
    """A step as the document has it."""

    name: str
    uses: str
    after: list[str] = Field(default_factory=list, description="steps whose results or end it needs")
    each: bool = Field(False, description="runs once per item of a list")
    conditional: bool = Field(False, description="runs only where its `if` holds")


class WorkflowOutput(Answer):
    """What a run hands back."""

    name: str
    type: str


class Workflow(WorkflowSummary):
    """A workflow of the catalog."""

    source: str
    inputs: list[Port]
    steps: list[WorkflowStep]
    outputs: list[WorkflowOutput]


class CheckRequest(Body):
    """A document to check."""

    source: Text
    file: Name | None = Field(None, description="what to call the text in errors")


class CheckedWorkflow(Answer):
    """What a sound document describes."""

    name: str
    title: str
    description: str
    digest: str
    inputs: list[Port]
    steps: list[WorkflowStep]
    outputs: list[WorkflowOutput]


class CheckAnswer(Answer):
    """All faults of a document, or what it describes."""

    ok: bool
    errors: list[Fault]
    workflow: CheckedWorkflow | None = None


class PlannedStep(Answer):
    """A step as it would run."""

    name: str
    uses: str
    after: list[str]
    with_: dict[str, Any] = Field(
        alias="with", description="values where they are known, expressions as text elsewhere"
    )
    resources: dict[str, float]
    estimate: Estimate | None = None
    cached: bool | None = Field(None, description="whether a stored result is expected; null: not known yet")
    each: bool = False
    items: int | None = Field(None, description="of a scattered step, where it is known")
    runs: bool | None = Field(None, description="false where `if` says so already; null: not known yet")
    fits: bool = Field(True, description="whether the largest node has the memory it is expected to take")
    refusal: Fault | None = Field(None, description="why the operator would refuse these inputs")


class Plan(Answer):
    """What a run would do."""

    steps: list[PlannedStep]
    seconds: list[float] = Field(description="low and high")
    memory_bytes: int
    cached: int = Field(description="steps expected from the cache")
    unknown: int = Field(0, description="steps nothing can be said of")
    refused: int = Field(0, description="steps that would fail because of their inputs")
    warnings: list[str] = Field(default_factory=list)
