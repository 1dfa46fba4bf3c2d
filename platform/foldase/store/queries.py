"""What the API reads. Every method sees one moment of the database."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, or_, select

from foldase.store import rows, schema
from foldase.store.database import Database
from foldase.store.jsontext import loads, loads_or_none
from foldase.store.records import (
    Json,
    Run,
    RunArtifact,
    RunSummary,
    StepDetail,
    StepSummary,
)
from foldase_workflows.contracts.artifacts import Artifact, artifacts_in
from foldase_workflows.contracts.errors import NotFound

_run = schema.run.c
_step = schema.step.c
_attempt = schema.attempt.c


class Queries:
    """Reads of runs, steps and artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(
        self,
        *,
        cursor: str | None = None,
        limit: int = 50,
        states: Collection[str] = (),
        text: str = "",
    ) -> tuple[list[RunSummary], str | None]:
        """A page of runs, newest first, and the cursor of the next page (None on the last).

        Args:
            cursor: what the page before returned.
            limit: runs on a page.
            states: only runs in one of these states; empty for all.
            text: only runs whose id, name or workflow's name contains it.
        """
        query = rows.run_summary_columns().order_by(_run.id.desc()).limit(limit + 1)
        if cursor:
            query = query.where(_run.id < cursor)
        if states:
            query = query.where(_run.state.in_(sorted(states)))
        if text:
            query = query.where(
                or_(
                    _run.id.icontains(text, autoescape=True),
                    _run.name.icontains(text, autoescape=True),
                    _run.workflow_name.icontains(text, autoescape=True),
                )
            )
        with self._database.read() as connection:
            found = [rows.run_summary(row) for row in connection.execute(query)]
        page = found[:limit]
        return page, (page[-1].id if len(found) > limit else None)

    def run_summary(self, run: str) -> RunSummary:
        """One run as in a list.

        Raises:
            NotFound: there is no such run.
        """
        with self._database.read() as connection:
            return read_run_summary(connection, run)

    def run(self, run: str) -> Run:
        """One run with its steps, in the order of the document, items in theirs.

        Raises:
            NotFound: there is no such run.
        """
        with self._database.read() as connection:
            return read_run(connection, run)

    def document(self, digest: str) -> Json:
        """The canonical document of a workflow that was submitted.

        Raises:
            NotFound: no run was made from such a workflow.
        """
        table = schema.workflow.c
        with self._database.read() as connection:
            text = connection.execute(select(table.document).where(table.digest == digest)).scalar()
        if text is None:
            raise NotFound(f"there is no workflow {digest}", code="unknown_workflow")
        document: Json = loads(text)
        return document

    def step(self, run: str, step: str) -> StepDetail:
        """One step with its attempts, oldest first.

        Raises:
            NotFound: there is no such run or step.
        """
        with self._database.read() as connection:
            row = connection.execute(
                select(schema.step).where(_step.run == run, _step.id == step)
            ).one_or_none()
            if row is None:
                raise _unknown_step(run, step)
            attempts = connection.execute(
                select(schema.attempt)
                .where(_attempt.run == run, _attempt.step == step)
                .order_by(_attempt.number)
            ).all()
        return StepDetail(
            summary=rows.step_summary(row),
            inputs=loads_or_none(row.inputs),
            outputs=loads_or_none(row.outputs),
            cache_key=row.cache_key,
            estimate=loads_or_none(row.estimate),
            attempts=tuple(rows.attempt(found) for found in attempts),
        )

    def artifacts(self, run: str) -> list[RunArtifact]:
        """The artifacts that a run made: the outputs of the run first, then those of its steps.

        Raises:
            NotFound: there is no such run.
        """
        with self._database.read() as connection:
            outputs = connection.execute(select(_run.outputs).where(_run.id == run)).one_or_none()
            if outputs is None:
                raise _unknown_run(run)
            steps = connection.execute(
                select(_step.id, _step.outputs)
                .where(_step.run == run, _step.outputs.contains('"$artifact"'), _step.item_count.is_(None))
                .order_by(_step.position, _step.item)
            ).all()
        found = [
            RunArtifact(None, name, artifact, run_output=True)
            for name, artifact in _by_output(outputs.outputs)
        ]
        for row in steps:
            found += [RunArtifact(row.id, name, artifact) for name, artifact in _by_output(row.outputs)]
        return found

    def artifact(self, digest: str) -> Artifact:
        """What is known of an artifact, by its digest with or without ``sha256:``.

        Raises:
            NotFound: nobody made or uploaded such bytes.
        """
        wanted = digest if digest.startswith("sha256:") else f"sha256:{digest}"
        table = schema.artifact.c
        with self._database.read() as connection:
            row = connection.execute(select(schema.artifact).where(table.digest == wanted)).one_or_none()
        if row is None:
            raise NotFound(f"there is no artifact {digest}", code="unknown_artifact")
        return Artifact(row.digest, row.type, row.size, row.name, row.media_type)

    def cached_keys(self, keys: Collection[str]) -> frozenset[str]:
        """Which of these cache keys have a stored result; for showing expected hits in a plan."""
        table = schema.cache_entry.c
        wanted = sorted(set(keys))
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(wanted), 500):
                query = select(table.key).where(
                    table.key.in_(wanted[start : start + 500]), table.outputs.is_not(None)
                )
                found.update(connection.execute(query).scalars())
        return frozenset(found)

    def cached_outputs(self, key: str) -> Json | None:
        """The outputs stored under a cache key, None without any; for planning with expected hits."""
        table = schema.cache_entry.c
        with self._database.read() as connection:
            text = connection.execute(select(table.outputs).where(table.key == key)).scalar()
        outputs: Json | None = loads_or_none(text)
        return outputs


def read_run_summary(connection: Connection, run: str) -> RunSummary:
    """One run as in a list, inside a transaction; raises NotFound."""
    row = connection.execute(rows.run_summary_columns().where(_run.id == run)).one_or_none()
    if row is None:
        raise _unknown_run(run)
    return rows.run_summary(row)


def read_run(connection: Connection, run: str) -> Run:
    """One run with its steps, inside a transaction; raises NotFound."""
    summary = read_run_summary(connection, run)
    rest = connection.execute(select(_run.inputs, _run.outputs, _run.source).where(_run.id == run)).one()
    return Run(
        summary=summary,
        inputs=loads(rest.inputs),
        outputs=loads_or_none(rest.outputs),
        source=rest.source,
        steps=tuple(read_steps(connection, run)),
    )


def read_steps(connection: Connection, run: str) -> list[StepSummary]:
    """The steps of a run in order, inside a transaction."""
    query = rows.step_summary_columns().where(_step.run == run).order_by(_step.position, _step.item)
    return [rows.step_summary(row) for row in connection.execute(query)]


def _by_output(text: str | None) -> list[tuple[str, Artifact]]:
    outputs = loads_or_none(text) or {}
    return [(name, artifact) for name, value in outputs.items() for artifact in artifacts_in(value)]


def _unknown_run(run: str) -> NotFound:
    return NotFound(f"there is no run {run}", code="unknown_run")


def _unknown_step(run: str, step: str) -> NotFound:
    return NotFound(f"run {run} has no step {step}", code="unknown_step")
