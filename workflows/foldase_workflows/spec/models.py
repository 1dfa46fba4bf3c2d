"""The documents of the language as pydantic models. The JSON Schema for editors is made from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from foldase_workflows.spec.faults import Nowhere, Places
from foldase_workflows.spec.limits import MAX_RETRIES, MAX_STEPS
from foldase_workflows.spec.values import (
    PRIORITIES,
    Allowance,
    Bytes,
    CachePolicy,
    Condition,
    Cores,
    Duration,
    DurationRange,
    FactorText,
    Gpus,
    ListOrExpression,
    Number,
    Priority,
    RankCount,
    RetryCause,
    TypeName,
    Value,
    WorkflowName,
)


class Section(BaseModel):
    """Base of all parts of a document: immutable, unknown fields are errors, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class InputSpec(Section):
    """A typed input of the workflow. It is required unless it has a default; ``default: null`` = optional."""

    type: TypeName = Field(
        description="int, float, bool, text, file, fasta, alignment ... or list[...] of one"
    )
    default: Value = Field(
        default=None, description="Used when nothing is given; null makes the input optional"
    )
    min: Number = Field(default=None, description="Smallest number allowed")
    max: Number = Field(default=None, description="Largest number allowed")
    choices: list[Any] | None = Field(default=None, description="The only values allowed", min_length=1)
    help: str = Field(default="", description="Shown beside the field in the form")
    min_length: int | None = Field(default=None, ge=0, description="Of a text or a list")
    max_length: int | None = Field(default=None, ge=0, description="Of a text or a list")

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return "default" not in self.model_fields_set


class RetrySpec(Section):
    """What happens when an attempt fails. Lost workers and nodes are always retried and do not count."""

    max: int = Field(default=2, ge=0, le=MAX_RETRIES, description="Further attempts after the first")
    backoff: DurationRange = Field(
        default="5s..2m", description="First and longest wait; it doubles between them"
    )
    on: list[RetryCause] | None = Field(
        default=None, description="Causes that are retried; without it oom, timeout and infrastructure"
    )
    on_oom: dict[str, FactorText] | None = Field(
        default=None, description="Changes after running out of memory: memory, or with.NAME of the step"
    )


class ResourcesSpec(Section):
    """What the step reserves. ``auto`` asks the operator's estimate; of a gang it is for each rank."""

    ranks: RankCount = Field(
        default=None, description="Processes that do the work together, of an operator that runs as a gang"
    )
    cpu: Cores = Field(default=None, description="Cores, 0.5 or 8")
    memory: Bytes = Field(default=None, description="Main memory with a unit, 16GiB")
    gpu: Gpus = Field(default=None, description="Accelerators, 1, or a share of one, 1/2")


class DefaultsSpec(Section):
    """What all steps share; a step's own fields win, one by one."""

    timeout: Duration = Field(default=None, description="Longest time of one attempt, 2h")
    retry: RetrySpec | None = None
    resources: ResourcesSpec | None = None
    cache: CachePolicy = Field(default=None, description="true, false, or refresh: compute and replace")


class StepSpec(Section):
    """One use of an operator. Where data comes from another step, that step runs first."""

    uses: str = Field(description="The operator and its version: name@1", examples=["contacts.train@1"])
    with_: dict[str, Value] | None = Field(default=None, alias="with", description="The operator's inputs")
    each: dict[str, ListOrExpression] | None = Field(
        default=None, min_length=1, description="Run once for each combination of the items of these lists"
    )
    if_: Condition = Field(default=None, alias="if")
    after: list[str] | None = Field(default=None, description="Steps to wait for without using their outputs")
    resources: ResourcesSpec | None = None
    retry: RetrySpec | None = None
    timeout: Duration = Field(default=None, description="Longest time of one attempt, 2h")
    cache: CachePolicy = Field(default=None, description="true, false, or refresh: compute and replace")
    allow_failures: Allowance = Field(
        default=None, description="Of a scattered step: how many items may fail, 3 or 5%"
    )


class WorkflowDocument(Section):
    """A workflow: typed inputs, steps joined by the data between them, outputs."""

    version: Literal[1] = Field(description="Of the language")
    name: WorkflowName = Field(description="Short and unique among the workflows of a lab")
    title: str = Field(default="", description="For people")
    description: str = Field(default="", description="For people")
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    defaults: DefaultsSpec | None = None
    steps: dict[str, StepSpec] = Field(min_length=1, max_length=MAX_STEPS)
    outputs: dict[str, Value] = Field(default_factory=dict, description="What the run hands back")

    _places: Places = PrivateAttr(default_factory=Nowhere)

    @property
    def places(self) -> Places:
        """Where the parts of the document stand in its text."""
        return self._places

    def placed(self, places: Places) -> WorkflowDocument:
        """The same document, knowing its text."""
        self._places = places
        return self

    def to_json(self) -> dict[str, Any]:
        """The canonical document: what was written, and nothing else."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ExperimentDocument(Section):
    """What a person submits: which workflow, with which inputs."""

    version: Literal[1] = Field(default=1, description="Of the language")
    workflow: str = Field(min_length=1, description="The name of a catalog workflow, or ./path.yaml")
    name: str = Field(default="", max_length=200, description="For people; without it the workflow's name")
    inputs: dict[str, Value] = Field(default_factory=dict, description="Values; a file is given by its path")
    priority: Priority = Field(default="normal", description="low, normal, high or -100 to 100")

    _places: Places = PrivateAttr(default_factory=Nowhere)

    @property
    def places(self) -> Places:
        """Where the parts of the document stand in its text."""
        return self._places

    def placed(self, places: Places) -> ExperimentDocument:
        """The same document, knowing its text."""
        self._places = places
        return self

    @property
    def is_path(self) -> bool:
        """Whether the workflow is named by a path rather than by its name in the catalog."""
        return "/" in self.workflow or self.workflow.endswith((".yaml", ".yml"))

    @property
    def priority_number(self) -> int:
        """The priority as a number; higher runs first."""
        named = PRIORITIES.get(self.priority) if isinstance(self.priority, str) else None
        return named if named is not None else int(self.priority)
