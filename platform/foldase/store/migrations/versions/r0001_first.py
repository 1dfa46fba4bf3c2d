"""The first schema."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Text,
)

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables and the rows that must exist."""
    _bookkeeping()
    _people()
    _runs()
    _steps()
    _results()
    _first_rows()


def _bookkeeping() -> None:
    op.create_table(
        "counter",
        Column("name", String(32), primary_key=True),
        Column("value", BigInteger, nullable=False),
    )
    op.create_table(
        "lease",
        Column("name", String(32), primary_key=True),
        Column("owner", Text, nullable=False),
        Column("fence", Integer, nullable=False),
        Column("beat", BigInteger, nullable=False),
        Column("holder", Text, nullable=False),
        Column("acquired_at", BigInteger, nullable=False),
        Column("renewed_at", BigInteger, nullable=False),
    )
    op.create_table(
        "worker",
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
    op.create_table(
        "cluster",
        Column("name", String(32), primary_key=True),
        Column("state", String(16), nullable=False),
        Column("message", Text, nullable=False),
        Column("since", BigInteger, nullable=False),
        Column("details", Text, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
    )
    op.create_table(
        "event",
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("run", String(16)),
        Column("step", Text),
        Column("kind", String(24), nullable=False),
        Column("time", BigInteger, nullable=False),
        Column("data", Text, nullable=False),
    )
    op.create_index("ix_event_run_seq", "event", ["run", "seq"])


def _people() -> None:
    op.create_table(
        "project",
        Column("id", String(32), primary_key=True),
        Column("name", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_table(
        "user",
        Column("id", String(32), primary_key=True),
        Column("name", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_table(
        "token",
        Column("hash", String(64), primary_key=True),
        Column("user", String(32), ForeignKey("user.id"), nullable=False),
        Column("kind", String(8), CheckConstraint("kind IN ('code', 'bearer')", name="kind"), nullable=False),
        Column("name", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
        Column("used_at", BigInteger),
        Column("revoked_at", BigInteger),
    )
    op.create_table(
        "session",
        Column("hash", String(64), primary_key=True),
        Column("user", String(32), ForeignKey("user.id"), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("ended_at", BigInteger),
    )


def _runs() -> None:
    op.create_table(
        "workflow",
        Column("digest", String(71), primary_key=True),
        Column("name", Text, nullable=False),
        Column("title", Text, nullable=False),
        Column("document", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_table(
        "run",
        Column("id", String(16), primary_key=True),
        Column("project", String(32), ForeignKey("project.id"), nullable=False),
        Column("owner", String(32), ForeignKey("user.id"), nullable=False),
        Column("name", Text, nullable=False),
        Column("workflow", String(71), ForeignKey("workflow.digest"), nullable=False),
        Column("workflow_name", Text, nullable=False),
        Column("source", Text, nullable=False),
        Column(
            "state",
            String(16),
            CheckConstraint(
                "state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')", name="state"
            ),
            nullable=False,
        ),
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
    )
    op.create_index("ix_run_state", "run", ["state"])
    op.create_table(
        "idempotency",
        Column("user", String(32), primary_key=True),
        Column("key", String(255), primary_key=True),
        Column("body_digest", String(71), nullable=False),
        Column("run", String(16), ForeignKey("run.id"), nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )


def _steps() -> None:
    op.create_table(
        "step",
        Column("run", String(16), ForeignKey("run.id"), primary_key=True),
        Column("id", Text, primary_key=True),
        Column("name", Text, nullable=False),
        Column("key", Text),
        Column("position", Integer, nullable=False),
        Column("item", Integer, nullable=False),
        Column("item_count", Integer),
        Column("uses", Text, nullable=False),
        Column("after", Text, nullable=False),
        Column(
            "state",
            String(16),
            CheckConstraint(
                "state IN ('pending', 'ready', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')",
                name="state",
            ),
            nullable=False,
        ),
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
    )
    op.create_index("ix_step_name_uses", "step", ["name", "uses"])


def _results() -> None:
    op.create_table(
        "attempt",
        Column("run", String(16), primary_key=True),
        Column("step", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("fence", Integer, nullable=False),
        Column(
            "state",
            String(16),
            CheckConstraint("state IN ('running', 'succeeded', 'failed', 'cancelled')", name="state"),
            nullable=False,
        ),
        Column("cause", String(16)),
        Column("error", Text),
        Column("resources", Text),
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
    )
    op.create_index("ix_attempt_archived_state", "attempt", ["archived", "state"])
    op.create_table(
        "artifact",
        Column("digest", String(71), primary_key=True),
        Column("type", Text, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("name", Text, nullable=False),
        Column("media_type", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_table(
        "cache_entry",
        Column("key", String(71), primary_key=True),
        Column("operator", Text, nullable=False),
        Column("components", Text, nullable=False),
        Column("outputs", Text),
        Column("run", String(16)),
        Column("step", Text),
        Column("created_at", BigInteger, nullable=False),
    )
    op.create_index("ix_cache_entry_run", "cache_entry", ["run"])


def _first_rows() -> None:
    moment = int(time.time() * 1000)
    project = sa.table("project", sa.column("id"), sa.column("name"), sa.column("created_at"))
    user = sa.table("user", sa.column("id"), sa.column("name"), sa.column("created_at"))
    counter = sa.table("counter", sa.column("name"), sa.column("value"))
    op.bulk_insert(project, [{"id": "default", "name": "Default", "created_at": moment}])
    op.bulk_insert(user, [{"id": "local", "name": "local", "created_at": moment}])
    op.bulk_insert(counter, [{"name": "event", "value": 0}])
