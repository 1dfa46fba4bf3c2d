"""What the scheduler writes and reads: all that one tick decided, in one transaction.

Every update of a step names the state and the fence that the scheduler believes the row to have. A row that
is otherwise proves that somebody else decided, and voids the whole transaction: a result is committed
once, by the holder of the current fence, and a terminal state is never left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Update, bindparam, delete, insert, or_, select, update

from foldase.store import events, rows, schema
from foldase.store.database import Database
from foldase.store.events import NewEvent
from foldase.store.jsontext import dumps, loads
from foldase.store.leases import Lease, check_and_renew
from foldase.store.requests import record_artifacts
from foldase.store.schema import TERMINAL
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import Unavailable

Row = dict[str, Any]

LIVE = ("pending", "running")
_IN_LIMIT = 500

STEP_COLUMNS = (
    "item_count", "state", "fence", "attempt", "failures", "losses", "cached", "progress", "message",
    "waiting_for", "error", "resources", "changes", "inputs", "outputs", "cache_key", "cache_policy",
    "estimate", "source_run", "source_step", "retry_at", "ready_at", "started_at", "finished_at",
)  # fmt: skip
"""What changes in the life of a step; a row for :attr:`Changes.steps` has all of them."""

STEP_KEYS = ("run", "id", "name", "key", "position", "item", "uses", "after")
"""What a step is born with; a row for :attr:`Changes.new_steps` has these besides."""


class Diverged(Unavailable):
    """The database is not as the scheduler remembers it: forget everything and load it again."""

    default_code = "diverged"


@dataclass(slots=True)
class Changes:
    """All that one tick writes.

    Rows are dictionaries of columns, JSON already as text. ``steps`` and ``progress`` carry ``of_run``,
    ``of_step``, ``of_state`` and ``of_fence``, what the row must be before; ``attempts``, ``begun``
    and ``plans`` carry ``of_run``, ``of_step`` and ``of_number``; ``runs`` carries ``of_run``; ``results``
    ``of_key``. ``corrections`` replace what was under their operator and key.
    """

    new_steps: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    progress: list[Row] = field(default_factory=list)
    new_attempts: list[Row] = field(default_factory=list)
    begun: list[Row] = field(default_factory=list)
    plans: list[Row] = field(default_factory=list)
    corrections: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    identities: list[Row] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run that has not ended."""

    id: str
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run as the scheduler takes it up: rows of the tables, and its workflow's document as text."""

    run: Any
    document: str
    steps: Sequence[Any]
    attempts: Sequence[Any]


class CacheReader:
    """Looks up results by key, over one connection for all the look-ups of a tick."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, keys: Collection[str]) -> list[Any]:
        """Rows (key, outputs, run, step) of those keys that are known; outputs is None without a result."""
        wanted = list(keys)
        found: list[Any] = []
        for start in range(0, len(wanted), _IN_LIMIT):
            found += self._connection.execute(_FIND, {"keys": wanted[start : start + _IN_LIMIT]}).all()
        return found

    def siblings(self, run: str) -> list[Any]:
        """All rows like those of :meth:`find` whose results one run made: likely to be wanted next."""
        return list(self._connection.execute(_SIBLINGS, {"of_run": run}).all())


class Commits:
    """The scheduler's half of the two writers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(self, lease: Lease, changes: Changes, moment: int) -> None:
        """Write everything, or nothing.

        Args:
            lease: the caller's right to decide.
            changes: what to write; may be empty, to keep the lease.
            moment: milliseconds since 1970.

        Raises:
            LeaseLost: somebody else holds the lease.
            Diverged: a row is not what the caller believes.
            StorageFull, Unavailable, Damaged: the database cannot write now.
        """
        with self._database.write() as connection:
            check_and_renew(connection, lease, moment)
            _many(connection, _NEW_STEP, changes.new_steps)
            _guarded(connection, _STEP, changes.steps)
            _guarded(connection, _PROGRESS, changes.progress)
            _many(connection, _NEW_ATTEMPT, changes.new_attempts)
            _guarded(connection, _BEGUN, changes.begun)
            _guarded(connection, _PLAN, changes.plans)
            _guarded(connection, _ATTEMPT, changes.attempts)
            _many(connection, _IDENTITY, changes.identities)
            _guarded(connection, _RESULT, changes.results)
            _many(connection, _OLD_CORRECTION, [_of_correction(row) for row in changes.corrections])
            _many(connection, _CORRECTION, changes.corrections)
            record_artifacts(connection, changes.artifacts, moment)
            _guarded(connection, _RUN, changes.runs)
            if changes.events:
                events.append(connection, changes.events, moment)

    def refuse(self, lease: Lease, run: str, error: Row, moment: int) -> None:
        """End a run that cannot be taken up; all of its open steps are skipped.

        Raises:
            LeaseLost, StorageFull, Unavailable, Damaged: nothing was written.
        """
        reason: str = error["message"]
        with self._database.write() as connection:
            check_and_renew(connection, lease, moment)
            connection.execute(_REFUSE_STEPS, {"of_run": run, "message": reason, "finished_at": moment})
            connection.execute(
                _REFUSE_RUN, {"of_run": run, "error": dumps(error), "finished_at": moment, "progress": 1.0}
            )
            row = connection.execute(rows.run_summary_columns().where(_run.c.id == run)).one()
            summary = rows.run_summary(row)
            skipped = connection.execute(
                rows.step_summary_columns().where(_step.c.run == run, _step.c.finished_at == moment)
            )
            new = [
                NewEvent("step.state", run, step.id, dumps(step.to_json()))
                for step in map(rows.step_summary, skipped)
            ]
            new.append(NewEvent("run.state", run, None, dumps(summary.to_json())))
            events.append(connection, new, moment)

    def live(self) -> list[LiveRun]:
        """All runs that have not ended, oldest first."""
        with self._database.read() as connection:
            found = connection.execute(_LIVE).all()
        return [LiveRun(row.id, row.cancel_requested_at is not None) for row in found]

    def load(self, run: str) -> LoadedRun:
        """Everything of one run, as of one moment."""
        with self._database.read() as connection:
            row = connection.execute(select(schema.run).where(schema.run.c.id == run)).one()
            table = schema.workflow.c
            document = connection.execute(
                select(table.document).where(table.digest == row.workflow)
            ).scalar_one()
            steps = connection.execute(
                select(schema.step)
                .where(schema.step.c.run == run)
                .order_by(schema.step.c.position, schema.step.c.item)
            ).all()
            attempts = connection.execute(
                select(schema.attempt).where(schema.attempt.c.run == run, schema.attempt.c.state == "running")
            ).all()
        return LoadedRun(row, document, steps, attempts)

    def finished_before(self, run: str) -> tuple[str, dict[str, Any]]:
        """What a run that is resumed from ``run`` may reuse.

        Returns:
            The first run of the line of resumptions, and by step id the newest succeeded row
            (run, id, cache_key, outputs) of that line.
        """
        table = schema.step.c
        columns = (table.run, table.id, table.cache_key, table.outputs)
        newest: dict[str, Any] = {}
        current: str | None = run
        first = run
        with self._database.read() as connection:
            while current is not None:
                first = current
                query = select(*columns).where(
                    table.run == current, table.state == "succeeded", table.cache_key.is_not(None)
                )
                for row in connection.execute(query):
                    newest.setdefault(row.id, row)
                current = connection.execute(
                    select(schema.run.c.resumed_from).where(schema.run.c.id == current)
                ).scalar()
        return first, newest

    def corrections(self) -> list[tuple[str, str, list[float]]]:
        """Operator, key and ratios of all that is known of predictions."""
        with self._database.read() as connection:
            found = connection.execute(_CORRECTIONS).all()
        return [(row.operator, row.key, loads(row.ratios)) for row in found]

    def cache(self) -> CacheConnection:
        """A :class:`CacheReader` for a ``with`` block."""
        return CacheConnection(self._database)


class CacheConnection:
    """Opens its connection at the first look-up: a tick that asks nothing costs nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._context: Any = None
        self._reader: CacheReader | None = None

    def __enter__(self) -> CacheConnection:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*error)

    @property
    def reader(self) -> CacheReader:
        """The reader, over one open connection."""
        if self._reader is None:
            self._context = self._database.read()
            self._reader = CacheReader(self._context.__enter__())
        return self._reader


def _many(connection: Connection, statement: Any, values: list[Row]) -> None:
    if values:
        connection.execute(statement, values)


def _guarded(connection: Connection, statement: Any, values: list[Row]) -> None:
    """Update one row for each dictionary, or find out that the database is otherwise than believed."""
    if values and connection.execute(statement, values).rowcount != len(values):
        raise Diverged("the database is not as this scheduler remembers it")


def _of_correction(row: Row) -> Row:
    return {"of_operator": row["operator"], "of_key": row["key"]}


def _set(columns: Iterable[str]) -> dict[str, Any]:
    return {column: bindparam(column) for column in columns}


_step, _attempt, _cache, _run = schema.step, schema.attempt, schema.cache_entry, schema.run
_correction = schema.correction


def _of_step() -> Update:
    return update(_step).where(
        _step.c.run == bindparam("of_run"),
        _step.c.id == bindparam("of_step"),
        _step.c.fence == bindparam("of_fence"),
        _step.c.state == bindparam("of_state"),
    )


def _of_attempt() -> Update:
    return update(_attempt).where(
        _attempt.c.run == bindparam("of_run"),
        _attempt.c.step == bindparam("of_step"),
        _attempt.c.number == bindparam("of_number"),
        _attempt.c.state == "running",
    )


_NEW_STEP = insert(_step)
_STEP = _of_step().values(_set(STEP_COLUMNS))
_PROGRESS = _of_step().values(_set(("progress", "message")))
_NEW_ATTEMPT = insert(_attempt)
_BEGUN = _of_attempt().values(_set(("worker", "node", "pid", "started_at")))
_PLAN = _of_attempt().values(_set(("plan",)))
_ATTEMPT = _of_attempt().values(
    _set(
        (
            "state", "cause", "error", "exit", "peak_memory_bytes", "cpu_seconds", "log_bytes",
            "metrics_bytes", "archived", "finished_at",
        )
    )
)  # fmt: skip
_CORRECTIONS = select(_correction.c.operator, _correction.c.key, _correction.c.ratios)
_OLD_CORRECTION = delete(_correction).where(
    _correction.c.operator == bindparam("of_operator"), _correction.c.key == bindparam("of_key")
)
_CORRECTION = insert(_correction)
_IDENTITY = insert(_cache)
_RESULT = (
    update(_cache)
    .where(_cache.c.key == bindparam("of_key"))
    .values(_set(("outputs", "run", "step", "created_at")))
)
_RUN = (
    update(_run)
    # Not IN: its list is expanded per execution, which many rows at once do not allow.
    .where(_run.c.id == bindparam("of_run"), or_(*(_run.c.state == state for state in LIVE)))
    .values(_set(("state", "outputs", "error", "progress", "counts", "started_at", "finished_at")))
)
_REFUSE_STEPS = (
    update(_step)
    .where(_step.c.run == bindparam("of_run"), _step.c.state.not_in(sorted(TERMINAL)))
    .values(state="skipped", **_set(("message", "finished_at")))
)
_REFUSE_RUN = (
    update(_run)
    .where(_run.c.id == bindparam("of_run"), _run.c.state.in_(LIVE))
    .values(state="failed", **_set(("error", "finished_at", "progress")))
)
_LIVE = select(_run.c.id, _run.c.cancel_requested_at).where(_run.c.state.in_(LIVE)).order_by(_run.c.id)
_FIND = select(_cache.c.key, _cache.c.outputs, _cache.c.run, _cache.c.step).where(
    _cache.c.key.in_(bindparam("keys", expanding=True))
)
_SIBLINGS = (
    select(_cache.c.key, _cache.c.outputs, _cache.c.run, _cache.c.step)
    .where(_cache.c.run == bindparam("of_run"))
    .limit(5_000)
)
