"""The store as one object."""

from __future__ import annotations

from pathlib import Path

from foldase.store.accounts import Accounts
from foldase.store.archive import LogArchive
from foldase.store.artifacts import BlobStore
from foldase.store.clock import Clock, SystemClock
from foldase.store.cluster import ClusterView
from foldase.store.commits import Commits
from foldase.store.database import Database
from foldase.store.events import Events
from foldase.store.explain import Explain
from foldase.store.leases import Leases
from foldase.store.logs import AttemptLogs
from foldase.store.migrate import migrate
from foldase.store.queries import Queries
from foldase.store.requests import Requests


class Store:
    """Everything durable: one database, one blob store, the logs of attempts.

    Several processes may have the same store open. Only the API uses ``requests`` and ``accounts``; only
    the scheduler's process uses ``commits``, ``leases``, ``cluster.record`` and ``logs.archive``.

    Args:
        url: a SQLAlchemy URL; the schema is made or brought up to date.
        blobs_path: the folder of the blob store.
        logs_path: the folder of live logs; ``logs`` beside the blobs where nothing is given.
        clock: the machine's, unless a test turns its own.

    Raises:
        Conflict: the database was made by a newer version (``schema_newer``), or is none of ours
            (``schema_unknown``).
        Unavailable: the database cannot be opened, or no safe SQLite library exists.
        Damaged: the database file is corrupt.
        StorageFull: there is no space to begin with.
    """

    def __init__(
        self,
        url: str,
        blobs_path: Path,
        *,
        logs_path: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.database = Database(url)
        migrate(self.database, self.clock)
        self.blobs = BlobStore(Path(blobs_path))
        self.blobs.remove_litter(now=self.clock.now())
        self.attempt_logs = AttemptLogs(logs_path or Path(blobs_path).parent / "logs")
        self.requests = Requests(self.database, self.clock)
        self.accounts = Accounts(self.database, self.clock)
        self.queries = Queries(self.database)
        self.explain = Explain(self.database)
        self.events = Events(self.database)
        self.logs = LogArchive(self.database, self.blobs, self.attempt_logs)
        self.cluster = ClusterView(self.database, self.clock)
        self.leases = Leases(self.database, self.clock)
        self.commits = Commits(self.database)

    @classmethod
    def at(cls, home: Path, *, clock: Clock | None = None) -> Store:
        """The store of a state folder: ``foldase.db``, ``blobs/`` and ``logs/`` below ``home``."""
        root = Path(home).resolve()
        return cls(f"sqlite:///{root / 'foldase.db'}", root / "blobs", clock=clock)

    def close(self) -> None:
        """Close all connections to the database."""
        self.database.close()
