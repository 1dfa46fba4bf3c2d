"""The event log: append-only, with one sequence that rises in the order of the commits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from foldase.store import schema
from foldase.store.database import Database
from foldase.store.records import Event

RUN_KINDS = frozenset({"run.created", "run.state", "cluster.state"})
"""The kinds that concern everybody, not only those who look at one run."""

_counter = schema.counter
_event = schema.event
_ADVANCE = (
    update(_counter)
    .where(_counter.c.name == "event")
    .values(value=_counter.c.value + bindparam("by"))
    .returning(_counter.c.value)
)
_INSERT = insert(_event)


class NewEvent(NamedTuple):
    """An event to append; ``text`` is a JSON object without seq, run, step and time."""

    kind: str
    run: str | None
    step: str | None
    text: str


def append(connection: Connection, events: Sequence[NewEvent], moment: int) -> int:
    """Append events inside a writing transaction and return the sequence number of the last one.

    The counter row is updated first: its lock makes writers queue, so numbers are given in commit order.
    """
    if not events:
        raise ValueError("no events to append")
    last: int = connection.execute(_ADVANCE, {"by": len(events)}).scalar_one()
    first = last - len(events) + 1
    connection.execute(
        _INSERT,
        [
            {"seq": seq, "run": run, "step": step, "kind": kind, "time": moment, "data": text}
            for seq, (kind, run, step, text) in enumerate(events, first)
        ],
    )
    return last


class Events:
    """Reads the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self) -> int:
        """The sequence number of the newest event, 0 when there is none. Cheap enough to poll."""
        with self._database.read() as connection:
            value: int = connection.execute(
                select(_counter.c.value).where(_counter.c.name == "event")
            ).scalar_one()
        return value

    def after(
        self,
        seq: int,
        *,
        run: str | None = None,
        kinds: Collection[str] | None = None,
        limit: int = 500,
    ) -> list[Event]:
        """Events with a higher sequence number, oldest first.

        Args:
            seq: the last number that the reader has seen; 0 for all.
            run: only events of this run.
            kinds: only these kinds, for example :data:`RUN_KINDS` for a list of runs.
            limit: at most so many.
        """
        query = select(_event).where(_event.c.seq > seq).order_by(_event.c.seq).limit(limit)
        if run is not None:
            query = query.where(_event.c.run == run)
        if kinds is not None:
            query = query.where(_event.c.kind.in_(sorted(kinds)))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Event(row.seq, row.kind, row.time, row.run, row.step, row.data) for row in rows]
