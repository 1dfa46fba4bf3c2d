"""Why a step ran: what differs from the nearest earlier one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, case, or_, select

from foldase.store import schema
from foldase.store.database import Database
from foldase.store.identity import flatten
from foldase.store.jsontext import loads
from foldase.store.records import Difference, Why
from foldase_workflows.contracts.errors import NotFound

_step = schema.step.c
_run = schema.run.c


class Explain:
    """Answers ``foldase why``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def why(self, run: str, step: str) -> Why:
        """Why a step ran, or did not.

        The nearest earlier one is the newest step of an earlier run with the same operator: of the same
        step of the same workflow where there is one, of any step otherwise; for an item of a scattered
        step, preferably the item with the same key.

        Raises:
            NotFound: there is no such run or step.
        """
        with self._database.read() as connection:
            row = connection.execute(
                select(schema.step, _run.workflow_name)
                .join(schema.run, _run.id == _step.run)
                .where(_step.run == run, _step.id == step)
            ).one_or_none()
            if row is None:
                raise NotFound(f"run {run} has no step {step}", code="unknown_step")
            settled = _without_comparison(row)
            if settled is not None:
                return settled
            other = _nearest(connection, row)
            if other is None:
                return Why(step, ran=True, reason="no step with this operator has run before")
            before, now = _components(connection, other.cache_key), _components(connection, row.cache_key)
        return _compared(row, other, before, now)


def _without_comparison(row: Any) -> Why | None:
    if row.item_count is not None:
        return Why(row.id, ran=False, reason=f"it gathers its {row.item_count} items; ask for one of them")
    if row.cached:
        source = (row.source_run, row.source_step) if row.source_run else None
        return Why(
            row.id,
            ran=False,
            reason=f"its result was taken from step {row.source_step} of run {row.source_run}",
            compared_with=source,
        )
    if row.state == "skipped":
        return Why(row.id, ran=False, reason=row.message or "it was skipped")
    if row.attempt == 0:
        return Why(row.id, ran=False, reason=row.waiting_for or f"it is {row.state} and has not run")
    return None


def _nearest(connection: Connection, row: Any) -> Any:
    operator = row.uses.partition("@")[0]
    same_step = and_(_step.name == row.name, _run.workflow_name == row.workflow_name)
    same_key = _step.key.is_(None) if row.key is None else _step.key == row.key
    query = (
        select(_step.run, _step.id, _step.state, _step.cache_key)
        .join(schema.run, _run.id == _step.run)
        .where(
            or_(_step.uses == row.uses, _step.uses.startswith(f"{operator}@", autoescape=True)),
            _step.cache_key.is_not(None),
            _step.run < row.run,
        )
        .order_by(
            case((same_step, 0), else_=1),
            case((same_key, 0), else_=1),
            _step.run.desc(),
            _step.item,
        )
        .limit(1)
    )
    return connection.execute(query).one_or_none()


def _components(connection: Connection, key: str | None) -> dict[str, Any]:
    table = schema.cache_entry.c
    text = connection.execute(select(table.components).where(table.key == key)).scalar()
    return flatten(loads(text)) if text is not None else {}


def _compared(row: Any, other: Any, before: dict[str, Any], now: dict[str, Any]) -> Why:
    names = [*now, *(name for name in before if name not in now)]
    differs = tuple(
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    )
    place = f"step {other.id} of run {other.run}"
    if differs:
        listed = ", ".join(difference.component for difference in differs)
        reason = f"{listed} changed since {place}"
    elif row.cache_policy == "refresh":
        reason = "`cache: refresh` asks for a new result"
    elif row.cache_policy == "off":
        reason = "its results are not reused (`cache: false`, or an operator that is not deterministic)"
    elif other.state != "succeeded":
        reason = f"nothing changed since {place}, which is {other.state} and left no result"
    else:
        reason = f"nothing changed since {place}, but its result was not in the store any more"
    return Why(row.id, ran=True, reason=reason, differs=differs, compared_with=(other.run, other.id))
