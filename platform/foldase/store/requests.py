"""What the API writes: the wishes of people. The scheduler writes everything else."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from foldase.store import events, schema
from foldase.store.clock import Clock, milliseconds
from foldase.store.database import Database
from foldase.store.events import NewEvent
from foldase.store.ids import new_run_id
from foldase.store.jsontext import dumps, loads
from foldase.store.queries import read_run
from foldase.store.records import NewStep, Run, RunSummary, StepSummary, Submission
from foldase.store.rows import run_summary, run_summary_columns
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import Conflict, NotFound

DEFAULT_PROJECT = "default"
LOCAL_USER = "local"

_run = schema.run
_step = schema.step


class Requests:
    """The API's half of the two writers. Every method is one short transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def submit(
        self,
        submission: Submission,
        *,
        user: str = LOCAL_USER,
        idempotency_key: str | None = None,
        body_digest: str = "",
    ) -> tuple[Run, bool]:
        """Make a run, or find the one that the same request made before.

        Args:
            submission: a checked workflow with complete inputs.
            user: who asks.
            idempotency_key: the same key of the same user gives the same run.
            body_digest: of the request, so that a changed request under an old key is noticed.

        Returns:
            The run, and whether it is new.

        Raises:
            Conflict: ``idempotency_mismatch``, the key was used for another request.
            StorageFull, Unavailable: nothing was written.
        """
        with self._database.write() as connection:
            known = self._known(connection, user, idempotency_key, body_digest)
            if known is not None:
                return read_run(connection, known), False
            moment = milliseconds(self._clock)
            _insert_workflow(connection, submission, moment)
            run = self._insert_run(connection, submission, user, moment, resumed_from=None)
            self._remember(connection, user, idempotency_key, body_digest, run, moment)
            return read_run(connection, run), True

    def resume(
        self,
        run: str,
        *,
        user: str = LOCAL_USER,
        idempotency_key: str | None = None,
    ) -> tuple[Run, bool]:
        """Make a new run that goes on where a failed or cancelled one stopped.

        Returns:
            The new run, and whether it is new (see :meth:`submit`).

        Raises:
            NotFound: there is no such run.
            Conflict: the run has not finished, or succeeded; or the key was used for another request.
        """
        with self._database.write() as connection:
            known = self._known(connection, user, idempotency_key, f"resume:{run}")
            if known is not None:
                return read_run(connection, known), False
            old = read_run(connection, run)
            if old.summary.state not in ("failed", "cancelled"):
                raise Conflict(
                    f"run {run} is {old.summary.state}; only a failed or cancelled run can be resumed",
                    code="not_resumable",
                )
            moment = milliseconds(self._clock)
            new = self._insert_run(connection, _again(connection, old), user, moment, resumed_from=run)
            self._remember(connection, user, idempotency_key, f"resume:{run}", new, moment)
            return read_run(connection, new), True

    def request_cancel(self, run: str) -> RunSummary:
        """Ask the scheduler to end a run; asking twice is no error.

        Raises:
            NotFound: there is no such run.
            Conflict: the run has finished; the message says how.
        """
        with self._database.write() as connection:
            changed = connection.execute(
                update(_run)
                .where(
                    _run.c.id == run,
                    _run.c.state.in_(("pending", "running")),
                    _run.c.cancel_requested_at.is_(None),
                )
                .values(cancel_requested_at=milliseconds(self._clock))
            ).rowcount
            row = connection.execute(run_summary_columns().where(_run.c.id == run)).one_or_none()
            if row is None:
                raise NotFound(f"there is no run {run}", code="unknown_run")
            summary = run_summary(row)
            if summary.finished:
                raise Conflict(f"run {run} is already {summary.state}", code="run_finished")
            if changed:
                event = NewEvent("run.state", run, None, dumps(summary.to_json()))
                events.append(connection, [event], milliseconds(self._clock))
            return summary

    def register_artifact(self, artifact: Artifact) -> Artifact:
        """Remember name and type of bytes that were just put into the blob store; the first name stays.

        Returns:
            The artifact as given: a second name for known bytes is fine and lives with its user.
        """
        with self._database.write() as connection:
            record_artifacts(connection, [artifact], milliseconds(self._clock))
        return artifact

    def _known(self, connection: Connection, user: str, key: str | None, body_digest: str) -> str | None:
        if key is None:
            return None
        table = schema.idempotency.c
        row = connection.execute(
            select(table.run, table.body_digest).where(table.user == user, table.key == key)
        ).one_or_none()
        if row is None:
            return None
        if row.body_digest != body_digest:
            raise Conflict(
                "this Idempotency-Key was used for another request",
                code="idempotency_mismatch",
                hint="use a new key for a new request",
            )
        known: str = row.run
        return known

    def _remember(
        self, connection: Connection, user: str, key: str | None, body_digest: str, run: str, moment: int
    ) -> None:
        if key is not None:
            connection.execute(
                insert(schema.idempotency),
                {"user": user, "key": key, "body_digest": body_digest, "run": run, "created_at": moment},
            )

    def _insert_run(
        self,
        connection: Connection,
        submission: Submission,
        user: str,
        moment: int,
        *,
        resumed_from: str | None,
    ) -> str:
        run = new_run_id(moment)
        summary = RunSummary(
            id=run,
            name=submission.name or submission.title or submission.workflow,
            workflow_name=submission.workflow,
            workflow_digest=submission.digest,
            state="pending",
            priority=submission.priority,
            created_at=moment,
            resumed_from=resumed_from,
            counts={"pending": len(submission.steps)},
        )
        connection.execute(insert(_run), _run_row(summary, submission, user))
        if submission.steps:
            connection.execute(
                insert(_step),
                [_step_row(run, position, step) for position, step in enumerate(submission.steps)],
            )
        new = [NewEvent("run.created", run, None, dumps(summary.to_json()))]
        for step in submission.steps:
            described = StepSummary(run, step.name, step.name, None, step.uses, "pending", after=step.after)
            new.append(NewEvent("step.state", run, step.name, dumps(described.to_json())))
        events.append(connection, new, moment)
        return run


def record_artifacts(connection: Connection, artifacts: list[Artifact], moment: int) -> None:
    """Insert the artifacts that are not yet known."""
    unknown = {artifact.digest: artifact for artifact in artifacts}
    digests = list(unknown)
    for start in range(0, len(digests), 500):
        known = schema.artifact.c.digest
        for row in connection.execute(select(known).where(known.in_(digests[start : start + 500]))):
            unknown.pop(row.digest, None)
    if unknown:
        connection.execute(
            insert(schema.artifact),
            [
                {
                    "digest": artifact.digest,
                    "type": artifact.type,
                    "size": artifact.size,
                    "name": artifact.name,
                    "media_type": artifact.media_type,
                    "created_at": moment,
                }
                for artifact in unknown.values()
            ],
        )


def _insert_workflow(connection: Connection, submission: Submission, moment: int) -> None:
    table = schema.workflow
    if connection.execute(select(table.c.digest).where(table.c.digest == submission.digest)).first():
        return
    connection.execute(
        insert(table),
        {
            "digest": submission.digest,
            "name": submission.workflow,
            "title": submission.title,
            "document": dumps(submission.document),
            "created_at": moment,
        },
    )


def _again(connection: Connection, old: Run) -> Submission:
    """The submission of an old run, from its rows."""
    table = schema.workflow.c
    digest = old.summary.workflow_digest
    kept = connection.execute(select(table.title, table.document).where(table.digest == digest)).one()
    return Submission(
        digest=digest,
        workflow=old.summary.workflow_name,
        document=loads(kept.document),
        steps=tuple(NewStep(step.name, step.uses, step.after) for step in old.steps if step.key is None),
        inputs=old.inputs,
        source=old.source,
        title=kept.title,
        name=old.summary.name,
        priority=old.summary.priority,
    )


def _run_row(summary: RunSummary, submission: Submission, user: str) -> dict[str, Any]:
    return {
        "id": summary.id,
        "project": DEFAULT_PROJECT,
        "owner": user,
        "name": summary.name,
        "workflow": summary.workflow_digest,
        "workflow_name": summary.workflow_name,
        "source": submission.source,
        "state": summary.state,
        "priority": summary.priority,
        "inputs": dumps(submission.inputs),
        "resumed_from": summary.resumed_from,
        "progress": 0.0,
        "counts": dumps(summary.counts),
        "created_at": summary.created_at,
    }


def _step_row(run: str, position: int, step: NewStep) -> dict[str, Any]:
    return {
        "run": run,
        "id": step.name,
        "name": step.name,
        "position": position,
        "item": -1,
        "uses": step.uses,
        "after": dumps(list(step.after)),
        "state": "pending",
        "fence": 0,
        "attempt": 0,
        "failures": 0,
        "losses": 0,
        "cached": False,
        "progress": 0.0,
    }
