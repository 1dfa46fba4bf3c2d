"""A lease keeps the scheduler single: a named row with an owner, a fence and a beat.

Clocks of two machines cannot be compared, so nobody reads another's times: who wants the lease watches its
beat, and takes it once the beat has stood still for the whole term on the watcher's own monotonic clock.
An owner on the same machine whose process is gone is replaced at once.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from foldase.store import schema
from foldase.store.clock import Clock, milliseconds
from foldase.store.database import Database
from foldase.store.processes import alive, process_mark
from foldase_workflows.contracts.errors import Unavailable

TERM_SECONDS = 10.0

_lease = schema.lease
_RENEW = (
    update(_lease)
    .where(
        _lease.c.name == bindparam("of_name"),
        _lease.c.owner == bindparam("of_owner"),
        _lease.c.fence == bindparam("of_fence"),
    )
    .values(beat=_lease.c.beat + 1, renewed_at=bindparam("moment"))
)


class LeaseLost(Unavailable):
    """Somebody else holds the lease now; whoever gets this must stop deciding at once."""

    default_code = "lease_lost"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as held: writes are valid only while its row still says so."""

    name: str
    owner: str
    fence: int


class Leases:
    """Takes, keeps and gives back leases."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # What was seen of other owners: (fence, beat) and since when it has not changed (monotonic).
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def acquire(self, name: str, owner: str, *, term_seconds: float = TERM_SECONDS) -> Lease | None:
        """Try to take a lease; call again later after None.

        Args:
            name: of the lease.
            owner: unique to this try at life, for example a random id made at start.
            term_seconds: how long another owner's beat may stand still.
        """
        with self._database.write() as connection:
            moment = milliseconds(self._clock)
            row = connection.execute(select(_lease).where(_lease.c.name == name)).one_or_none()
            if row is None:
                fence = 1
                connection.execute(
                    insert(_lease), {"name": name, "beat": 0, **self._mine(owner, fence, moment)}
                )
                return Lease(name, owner, fence)
            if row.owner == owner:
                return Lease(name, owner, row.fence)
            if not self._abandoned(name, row.fence, row.beat, row.holder, term_seconds):
                return None
            fence = row.fence + 1
            connection.execute(
                update(_lease).where(_lease.c.name == name).values(**self._mine(owner, fence, moment))
            )
            return Lease(name, owner, fence)

    def release(self, lease: Lease) -> None:
        """Give a lease back, so that the next owner need not wait; a lost lease is no error."""
        with self._database.write() as connection:
            connection.execute(
                update(_lease)
                .where(_lease.c.name == lease.name, _lease.c.owner == lease.owner)
                .values(owner="", holder="")
            )

    def _mine(self, owner: str, fence: int, moment: int) -> dict[str, object]:
        return {
            "owner": owner,
            "fence": fence,
            "holder": f"{socket.gethostname()}~{process_mark()}",
            "acquired_at": moment,
            "renewed_at": moment,
        }

    def _abandoned(self, name: str, fence: int, beat: int, holder: str, term_seconds: float) -> bool:
        host, _, mark = holder.rpartition("~")
        if not holder or (host == socket.gethostname() and not alive(mark)):
            return True
        now = self._clock.monotonic()
        known, since = self._seen.get(name, ((-1, -1), now))
        if known != (fence, beat):
            self._seen[name] = ((fence, beat), now)
            return False
        return now - since >= term_seconds


def check_and_renew(connection: Connection, lease: Lease, moment: int) -> None:
    """Make sure inside a writing transaction that the lease is still held, and show a sign of life.

    Raises:
        LeaseLost: it is not; the transaction must not be committed.
    """
    held = connection.execute(
        _RENEW, {"of_name": lease.name, "of_owner": lease.owner, "of_fence": lease.fence, "moment": moment}
    ).rowcount
    if held != 1:
        raise LeaseLost(f"another process holds the lease {lease.name!r} now")
