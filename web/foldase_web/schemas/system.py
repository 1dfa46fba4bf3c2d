"""Health, sign-in and the cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foldase_web.schemas.base import Answer, Body

ClusterState = Literal["starting", "ready", "lost", "stopped"]


class ClusterHealth(Answer):
    """The cluster in one line."""

    state: ClusterState
    message: str
    since: str | None = None


class Health(Answer):
    """Whether the server can work."""

    status: Literal["ok", "degraded"]
    version: str
    cluster: ClusterHealth
    database: Literal["ok", "unavailable"]


class Credentials(Body):
    """Either a one-time code or a token."""

    code: str | None = Field(None, max_length=200, description="from the link that `foldase up` prints")
    token: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _exactly_one(self) -> Credentials:
        if (self.code is None) == (self.token is None):
            raise ValueError("give either `code` or `token`")
        return self


class User(Answer):
    """A person."""

    name: str


class SessionAnswer(Answer):
    """Who is signed in."""

    user: User


class CodeAnswer(Answer):
    """A link that signs one browser in, once."""

    code: str
    path: str = Field(description="to be appended to the server's address")
    expires_in: float = Field(description="seconds")


class ClusterGpu(Answer):
    """An accelerator of a node."""

    name: str
    memory_bytes: int = 0
    memory_used: int | None = None


class ClusterNode(Answer):
    """A machine of the cluster."""

    id: str
    name: str
    alive: bool = True
    cpus: float = 0
    cpus_used: float | None = None
    memory_bytes: int = 0
    memory_used: int | None = None
    gpus: list[ClusterGpu] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)


class ClusterWorker(Answer):
    """A worker process."""

    id: str
    name: str
    state: str
    node: str | None = None
    pid: int | None = None
    run: str | None = None
    step: str | None = None
    since: str | None = None


class QueueEntry(Answer):
    """A step that waits, and for what."""

    run: str
    step: str
    reason: str
    since: str | None = None


class Cluster(Answer):
    """What the cluster page shows."""

    state: ClusterState
    message: str
    since: str | None = None
    nodes: list[ClusterNode]
    workers: list[ClusterWorker]
    queue: list[QueueEntry]
    dashboard: str = Field("/ray/", description="address of the Ray dashboard, behind our sign-in")
