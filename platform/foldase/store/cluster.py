"""The cluster as the runtime last saw it, for the API: state, nodes, workers, and what waits."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from foldase.store import events, rows, schema
from foldase.store.clock import Clock, milliseconds, rfc3339
from foldase.store.database import Database
from foldase.store.events import NewEvent
from foldase.store.jsontext import dumps, loads
from foldase.store.records import ClusterRecord, Json, QueueEntry, WorkerRecord

CLUSTER_STATES = frozenset({"starting", "ready", "lost", "stopped"})
_NAME = "default"
_QUEUE_SHOWN = 500


class ClusterView:
    """One row that the runtime writes and the API reads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(
        self,
        state: str,
        message: str,
        *,
        nodes: Sequence[Json] = (),
        hardware: Json | None = None,
        workers: Sequence[WorkerRecord] = (),
    ) -> None:
        """Write what the cluster looks like now; called by the runtime every few seconds and on changes.

        An event is appended only when ``state`` or ``message`` changed.

        Args:
            state: one of :data:`CLUSTER_STATES`.
            message: a few words for people.
            nodes: ``{id, name, alive, cpus, cpus_used, memory_bytes, memory_used, gpus, labels}`` each.
            hardware: the largest node, ``{cpus, memory_bytes, gpus: [{name, memory_bytes}]}``.
            workers: all worker processes; they replace those recorded before.

        Raises:
            ValueError: there is no such state.
        """
        if state not in CLUSTER_STATES:
            raise ValueError(f"no cluster state {state!r}")
        with self._database.write() as connection:
            moment = milliseconds(self._clock)
            old = connection.execute(
                select(schema.cluster).where(schema.cluster.c.name == _NAME)
            ).one_or_none()
            changed = old is None or (old.state, old.message) != (state, message)
            since: int = moment if old is None or old.state != state else old.since
            values = {
                "state": state,
                "message": message,
                "since": since,
                "details": dumps({"nodes": list(nodes), "hardware": hardware}),
                "updated_at": moment,
            }
            if old is None:
                connection.execute(insert(schema.cluster), {"name": _NAME, **values})
            else:
                connection.execute(
                    update(schema.cluster).where(schema.cluster.c.name == _NAME).values(**values)
                )
            _replace_workers(connection, workers, moment)
            if changed:
                data = dumps({"state": state, "message": message, "since": rfc3339(since)})
                events.append(connection, [NewEvent("cluster.state", None, None, data)], moment)

    def read(self) -> ClusterRecord:
        """The last record with its workers, and the steps that are ready and wait.

        Before the runtime has written anything the state is ``starting``.
        """
        with self._database.read() as connection:
            row = connection.execute(
                select(schema.cluster).where(schema.cluster.c.name == _NAME)
            ).one_or_none()
            workers = connection.execute(select(schema.worker).order_by(schema.worker.c.name)).all()
            queue = _queue(connection)
        if row is None:
            return ClusterRecord("starting", "the runtime has not reported yet", 0, 0, queue=queue)
        details = loads(row.details)
        return ClusterRecord(
            state=row.state,
            message=row.message,
            since=row.since,
            updated_at=row.updated_at,
            nodes=tuple(details["nodes"]),
            hardware=details["hardware"],
            workers=tuple(rows.worker(found) for found in workers),
            queue=queue,
        )


def _replace_workers(connection: Connection, workers: Sequence[WorkerRecord], moment: int) -> None:
    connection.execute(delete(schema.worker))
    if workers:
        connection.execute(
            insert(schema.worker),
            [
                {
                    "id": worker.id,
                    "name": worker.name,
                    "state": worker.state,
                    "node": worker.node,
                    "pid": worker.pid,
                    "run": worker.run,
                    "step": worker.step,
                    "since": worker.since or moment,
                    "seen_at": moment,
                }
                for worker in workers
            ],
        )


def _queue(connection: Connection) -> tuple[QueueEntry, ...]:
    run, step = schema.run.c, schema.step.c
    query = (
        select(step.run, step.id, step.waiting_for, step.ready_at, run.created_at)
        .join(schema.run, run.id == step.run)
        .where(run.state.in_(("pending", "running")), step.state == "ready")
        .order_by(run.priority.desc(), run.id, step.position, step.item)
        .limit(_QUEUE_SHOWN)
    )
    return tuple(
        QueueEntry(row.run, row.id, row.waiting_for or "waiting for its turn", row.ready_at or row.created_at)
        for row in connection.execute(query)
    )
