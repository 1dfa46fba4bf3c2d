"""The engine, transactions, and what database errors mean.

SQLite runs in WAL mode with ``synchronous=FULL``; a writing transaction starts with ``BEGIN IMMEDIATE`` so
that it waits for its turn at the beginning and never fails half-way with a stale snapshot.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from foldase.store.faults import faultpoint
from foldase_workflows.contracts.errors import Damaged, FoldaseError, StorageFull, Unavailable

SAFE_SQLITE = (3, 51, 3)
"""The first SQLite without the WAL-reset bug, which can lose commits of concurrent connections."""

LOCK_WAIT_SECONDS = 5.0
_FULL, _BUSY, _LOCKED, _CORRUPT, _NOT_A_DATABASE, _READ_ONLY, _CANT_OPEN, _IO = 13, 5, 6, 11, 26, 8, 14, 10


class Database:
    """One database: hands out read and write transactions.

    Args:
        url: a SQLAlchemy URL, for example ``sqlite:////srv/foldase/foldase.db``.

    Raises:
        Unavailable: no SQLite library on this machine is safe to use.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.path = Path(parsed.database) if self.is_sqlite and parsed.database else None
        self.engine = self._sqlite(url) if self.is_sqlite else sqlalchemy.create_engine(url)
        self._writer = self.engine.execution_options(foldase_write=True)

    def _sqlite(self, url: str) -> Engine:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        engine = sqlalchemy.create_engine(
            url, module=sqlite_module(), connect_args={"timeout": LOCK_WAIT_SECONDS}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database.

        Raises:
            Unavailable, Damaged: the database cannot answer.
        """
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable once the block is left without an error, and void otherwise.

        Raises:
            StorageFull: the disk is full; nothing was written.
            Unavailable: another writer held the database for too long; nothing was written.
            Damaged: the database file is corrupt.
        """
        with _translated(), self._writer.connect() as connection:
            with connection.begin():
                yield connection
                faultpoint("commit.before")
            faultpoint("commit.after")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def sqlite_module() -> ModuleType:
    """The SQLite driver to use: pysqlite3, or the standard library where its SQLite is new enough.

    Raises:
        Unavailable: neither is safe.
    """
    seen = []
    for name in ("pysqlite3.dbapi2", "sqlite3"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if module.sqlite_version_info >= SAFE_SQLITE:
            return module
        seen.append(f"{name} has {module.sqlite_version}")
    raise Unavailable(
        f"no SQLite library of at least {'.'.join(map(str, SAFE_SQLITE))} was found ({', '.join(seen)})",
        code="sqlite_too_old",
        hint="pip install pysqlite3",
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # SQLAlchemy's begin event below starts transactions, not the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(LOCK_WAIT_SECONDS * 1000)}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("foldase_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise translate(error) from error
    except PoolTimeout as error:
        raise Unavailable("the database is too busy to answer", code="database_busy") from error


def translate(error: DBAPIError) -> FoldaseError | DBAPIError:
    """The error of our tree that a driver's error stands for, or the error itself where it is a bug."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    # The lower byte is the kind of the fault, the upper ones say more about it.
    kind = code & 0xFF if isinstance(code, int) else None
    detail = str(error.orig)
    if kind == _FULL:
        return StorageFull("the disk that holds the database is full", hint="free some space and try again")
    if kind in (_BUSY, _LOCKED):
        return Unavailable(
            "another process kept the database locked for too long", code="database_busy", hint="try again"
        )
    if kind in (_CORRUPT, _NOT_A_DATABASE):
        return Damaged(f"the database file is damaged: {detail}", code="database_damaged")
    if kind in (_READ_ONLY, _CANT_OPEN, _IO):
        return Unavailable(f"the database cannot be used: {detail}", code="database_unavailable")
    if error.connection_invalidated or (isinstance(error, OperationalError) and kind is None):
        return Unavailable(f"the database does not answer: {detail}", code="database_unavailable")
    if isinstance(error, DatabaseError) and "malformed" in detail:
        return Damaged(f"the database file is damaged: {detail}", code="database_damaged")
    return error
