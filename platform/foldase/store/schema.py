"""The tables. Times are milliseconds since 1970 UTC; JSON lies in text columns, written by the store.

Nothing here depends on a dialect: sequence numbers come from a counter row that each writing transaction
updates, so that on every database the order of ``event.seq`` is the order of the commits.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

RUN_STATES = ("pending", "running", "succeeded", "failed", "cancelled")
STEP_STATES = ("pending", "ready", "running", "succeeded", "failed", "cancelled", "skipped")
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})


_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
"""An integer key; SQLite makes it the row id itself only when it is called INTEGER."""


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


counter = Table(
    "counter",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

project = Table(
    "project",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

user = Table(
    "user",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

token = Table(
    "token",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user", String(32), ForeignKey("user.id"), nullable=False),
    Column("kind", String(8), CheckConstraint("kind IN ('code', 'bearer')", name="kind"), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("used_at", BigInteger),
    Column("revoked_at", BigInteger),
)

session = Table(
    "session",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user", String(32), ForeignKey("user.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)

workflow = Table(
    "workflow",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("project", String(32), ForeignKey("project.id"), nullable=False),
    Column("owner", String(32), ForeignKey("user.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("workflow", String(71), ForeignKey("workflow.digest"), nullable=False),
    Column("workflow_name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", String(16), CheckConstraint(_one_of("state", RUN_STATES), name="state"), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("outputs", Text),
    Column("resumed_from", String(16), ForeignKey("run.id")),
    Column("cancel_requested_at", BigInteger),
    Column("error", Text),
    Column("progress", Float, nullable=False),
    Column("counts", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Index(None, "state"),
)

step = Table(
    "step",
    metadata,
    Column("run", String(16), ForeignKey("run.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key", Text),
    Column("position", Integer, nullable=False),
    Column("item", Integer, nullable=False),
    Column("item_count", Integer),
    Column("uses", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("state", String(16), CheckConstraint(_one_of("state", STEP_STATES), name="state"), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("progress", Float, nullable=False),
    Column("message", Text),
    Column("waiting_for", Text),
    Column("error", Text),
    Column("resources", Text),
    Column("changes", Text),
    Column("inputs", Text),
    Column("outputs", Text),
    Column("cache_key", String(71)),
    Column("cache_policy", String(8)),
    Column("estimate", Text),
    Column("source_run", String(16)),
    Column("source_step", Text),
    Column("retry_at", BigInteger),
    Column("ready_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Index(None, "name", "uses"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("run", String(16), primary_key=True),
    Column("step", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("fence", Integer, nullable=False),
    Column(
        "state",
        String(16),
        CheckConstraint(_one_of("state", ("running", "succeeded", "failed", "cancelled")), name="state"),
        nullable=False,
    ),
    Column("cause", String(16)),
    Column("error", Text),
    Column("resources", Text),
    Column("plan", Text),
    Column("changes", Text),
    Column("worker", Text),
    Column("node", Text),
    Column("pid", Integer),
    Column("exit", Text),
    Column("peak_memory_bytes", BigInteger),
    Column("cpu_seconds", Float),
    Column("log_bytes", BigInteger, nullable=False),
    Column("metrics_bytes", BigInteger, nullable=False),
    Column("log_digest", String(71)),
    Column("metrics_digest", String(71)),
    Column("archived", Boolean, nullable=False),
    Column("claimed_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    ForeignKeyConstraint(["run", "step"], ["step.run", "step.id"]),
    Index(None, "archived", "state"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

cache_entry = Table(
    "cache_entry",
    metadata,
    Column("key", String(71), primary_key=True),
    Column("operator", Text, nullable=False),
    Column("components", Text, nullable=False),
    Column("outputs", Text),
    Column("run", String(16)),
    Column("step", Text),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "run"),
)

correction = Table(
    "correction",
    metadata,
    Column("operator", Text, primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("ratios", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=False),
    Column("run", String(16)),
    Column("step", Text),
    Column("kind", String(24), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("data", Text, nullable=False),
    Index(None, "run", "seq"),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("node", Text),
    Column("pid", Integer),
    Column("run", String(16)),
    Column("step", Text),
    Column("since", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

cluster = Table(
    "cluster",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("details", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("user", String(32), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_digest", String(71), nullable=False),
    Column("run", String(16), ForeignKey("run.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
