"""Brings the schema of a database up to date when it is opened, or refuses clearly.

Alembic is imported only when there is something to do: it costs a good part of a second.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from foldase.store.clock import Clock, milliseconds
from foldase.store.database import Database
from foldase_workflows.contracts.errors import Conflict

HEAD = "r0002"
"""The revision this version of foldase works with; a test compares it with the newest migration."""

SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database, clock: Clock) -> None:
    """Make or upgrade the schema; an old SQLite database is copied aside first.

    Raises:
        Conflict: ``schema_newer``, a newer foldase made this database; ``schema_unknown``, it holds tables
            that are not ours.
    """
    if _revision(database) == HEAD:
        return
    with _alone(database):
        found = _revision(database)
        if found == HEAD:
            return
        if found is not None:
            if found not in _known_revisions():
                raise Conflict(
                    f"the database has the schema {found}, this version of foldase knows up to {HEAD}",
                    code="schema_newer",
                    hint="install the version of foldase that last used this folder, or a newer one",
                )
            _back_up(database, found, milliseconds(clock))
        _upgrade(database)


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        tables = inspect(connection).get_table_names()
        if "alembic_version" not in tables:
            if tables:
                raise Conflict(
                    f"the database holds tables that are not of foldase: {', '.join(sorted(tables)[:5])}",
                    code="schema_unknown",
                    hint="choose another folder with --home",
                )
            return None
        found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return found


def _upgrade(database: Database) -> None:
    from alembic import command

    config = alembic_config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> Any:
    """The configuration of our migrations, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def _known_revisions() -> frozenset[str]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def _back_up(database: Database, revision: str, moment: int) -> None:
    if database.path is None:
        return
    copy = database.path.with_name(f"{database.path.name}.{revision}.{moment}.backup")
    with database.engine.connect() as connection:
        # Not inside a transaction: VACUUM INTO refuses to be.
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute("VACUUM INTO ?", (str(copy),))


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Two processes that open a new SQLite database at once must not both make its tables."""
    if database.path is None:
        with database.write() as connection:
            _lock_others_out(connection)
            yield
        return
    descriptor = os.open(f"{database.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock_others_out(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7365746)"))
