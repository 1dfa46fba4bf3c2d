"""Operators, the catalog, checking and planning."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foldase_web.problems import Fault
from foldase_web.schemas.base import Answer, Body, Name, Text


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


class Operators(Answer):
    """All operators of this installation."""

    items: list[Operator]


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


class Workflow(WorkflowSummary):
    """A workflow of the catalog."""

    source: str
    inputs: list[Port]
    steps: list[WorkflowStep]


class CheckRequest(Body):
    """A document to check."""

    source: Text
    file: Name | None = Field(None, description="what to call the text in errors")


class CheckedWorkflow(Answer):
    """What a sound document describes."""

    name: str
    title: str
    inputs: list[Port]
    steps: list[WorkflowStep]
    outputs: list[str]


class CheckAnswer(Answer):
    """All faults of a document, or what it describes."""

    ok: bool
    errors: list[Fault]
    workflow: CheckedWorkflow | None = None
