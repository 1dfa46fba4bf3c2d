"""From rows of the database to records."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from foldase.store import schema
from foldase.store.jsontext import loads, loads_or_none
from foldase.store.records import Attempt, RunSummary, StepSummary, WorkerRecord

_run = schema.run.c
_step = schema.step.c


def run_summary_columns() -> Select[Any]:
    """The SELECT that :func:`run_summary` reads."""
    return select(
        _run.id,
        _run.name,
        _run.workflow_name,
        _run.workflow,
        _run.state,
        _run.priority,
        _run.created_at,
        _run.started_at,
        _run.finished_at,
        _run.resumed_from,
        _run.cancel_requested_at,
        _run.error,
        _run.progress,
        _run.counts,
    )


def run_summary(row: Any) -> RunSummary:
    """A run as listed."""
    return RunSummary(
        id=row.id,
        name=row.name,
        workflow_name=row.workflow_name,
        workflow_digest=row.workflow,
        state=row.state,
        priority=row.priority,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        resumed_from=row.resumed_from,
        cancel_requested=row.cancel_requested_at is not None,
        error=loads_or_none(row.error),
        progress=row.progress,
        counts=loads(row.counts),
    )


def step_summary_columns() -> Select[Any]:
    """The SELECT that :func:`step_summary` reads."""
    return select(
        _step.run,
        _step.id,
        _step.name,
        _step.key,
        _step.uses,
        _step.state,
        _step.cached,
        _step.attempt,
        _step.progress,
        _step.message,
        _step.waiting_for,
        _step.after,
        _step.started_at,
        _step.finished_at,
        _step.error,
        _step.resources,
        _step.item_count,
    )


def step_summary(row: Any) -> StepSummary:
    """A step as listed."""
    return StepSummary(
        run=row.run,
        id=row.id,
        name=row.name,
        key=row.key,
        uses=row.uses,
        state=row.state,
        cached=bool(row.cached),
        attempt=row.attempt,
        progress=row.progress,
        message=row.message,
        waiting_for=row.waiting_for,
        after=tuple(loads(row.after)),
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=loads_or_none(row.error),
        resources=loads_or_none(row.resources),
        items=row.item_count,
    )


def attempt(row: Any) -> Attempt:
    """One try of a step; reads a whole row of the table."""
    return Attempt(
        number=row.number,
        state=row.state,
        cause=row.cause,
        error=loads_or_none(row.error),
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        node=row.node,
        pid=row.pid,
        exit=row.exit,
        peak_memory_bytes=row.peak_memory_bytes,
        cpu_seconds=row.cpu_seconds,
        resources=loads_or_none(row.resources),
        plan=loads_or_none(row.plan),
        changes=loads_or_none(row.changes),
    )


def worker(row: Any) -> WorkerRecord:
    """A worker process; reads a whole row of the table."""
    return WorkerRecord(
        id=row.id,
        name=row.name,
        state=row.state,
        node=row.node,
        pid=row.pid,
        run=row.run,
        step=row.step,
        since=row.since,
    )
