"""What the API answers, as typed objects; ``raw`` keeps the whole answer with fields of newer servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from foldase_workflows.contracts.artifacts import Artifact

Json = dict[str, Any]

OVER = frozenset({"succeeded", "failed", "cancelled"})
"""States of a run that are never left."""

STEP_OVER = OVER | {"skipped"}
"""States of a step that are never left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Base: takes the fields it knows out of a JSON object."""

    raw: Json = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """The object; fields that are missing keep their default."""
        values = {
            item.name: raw[item.name] for item in fields(cls) if item.name != "raw" and item.name in raw
        }
        return cls(raw=raw, **cls._convert(values))

    @classmethod
    def _convert(cls, values: Json) -> Json:
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Answer):
    """A step of a run; ``id`` is its name, or ``name[key]`` for an item. Times are RFC 3339 in UTC."""

    id: str
    name: str
    uses: str
    state: str
    key: str | None = None
    cached: bool = False
    attempt: int = 0
    progress: float = 0.0
    message: str | None = None
    waiting_for: str | None = None
    after: list[str] = field(default_factory=list)
    started_at: str | None = None
    finished_at: str | None = None
    error: Json | None = None
    items: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in STEP_OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDetail(Step):
    """A step with its inputs, outputs (artifacts as JSON references) and attempts."""

    inputs: Json | None = None
    outputs: Json | None = None
    cache_key: str | None = None
    estimate: Json | None = None
    attempts: list[Json] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(Answer):
    """A run in a list. ``counts`` are steps by state, ``error`` has code, message, location and hint."""

    id: str
    name: str
    workflow: Json
    state: str
    priority: int = 0
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    resumed_from: str | None = None
    cancel_requested: bool = False
    error: Json | None = None
    progress: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunSummary):
    """A run with its steps, in the order of the workflow."""

    inputs: Json = field(default_factory=dict)
    outputs: Json | None = None
    source: str = ""
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def _convert(cls, values: Json) -> Json:
        return {**values, "steps": [Step.from_json(step) for step in values.get("steps", ())]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Answer):
    """Something that happened; ``seq`` orders all events, ``raw`` is the event's own content."""

    seq: int
    kind: str
    run: str | None = None
    step: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine(Answer):
    """One line of a log, and whose it is."""

    message: str
    level: str = "info"
    time: str | None = None
    step: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Why(Answer):
    """Why a step ran, or did not; ``differs`` lists components with their value before and now."""

    step: str
    ran: bool
    reason: str
    differs: list[Json] = field(default_factory=list)
    compared_with: Json | None = None


def artifact_from(fields_of_artifact: Mapping[str, Any]) -> Artifact:
    """An artifact from the API's object, with or without the ``$artifact`` around it."""
    inner = fields_of_artifact.get("$artifact", fields_of_artifact)
    return Artifact(
        digest=inner["digest"],
        type=inner["type"],
        size=inner["size"],
        name=inner["name"],
        media_type=inner["media_type"],
    )
