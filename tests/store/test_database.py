"""SQLite as it must be set up, its errors in our words, and schemas that are not ours."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from sqlalchemy import text

from foldase.store import Store, database, schema
from foldase.store.database import Database, sqlite_module
from foldase.store.migrate import HEAD, alembic_config, migrate
from foldase_workflows.contracts import Conflict, Damaged, StorageFull, Unavailable


def test_sqlite_is_durable_and_recent_enough(store):
    with store.database.read() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        version = connection.execute(text("SELECT sqlite_version()")).scalar_one()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    assert tuple(map(int, version.split("."))) >= (3, 51, 3)


def test_an_sqlite_that_loses_commits_is_refused(monkeypatch):
    old = SimpleNamespace(sqlite_version_info=(3, 40, 1), sqlite_version="3.40.1")
    monkeypatch.setattr(database.importlib, "import_module", lambda name: old)
    with pytest.raises(Unavailable) as caught:
        sqlite_module()
    assert caught.value.code == "sqlite_too_old"
    assert "3.40.1" in caught.value.message
    assert "pysqlite3" in caught.value.hint


def test_writers_wait_for_each_other_and_not_for_ever(home, monkeypatch, a_submission):
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 0.3)
    first, second = Store.at(home), Store.at(home)
    held = threading.Event()

    def hold(seconds):
        with first.database.write():
            held.set()
            time.sleep(seconds)

    for seconds, fine in ((0.1, True), (1.5, False)):
        held.clear()
        thread = threading.Thread(target=hold, args=(seconds,))
        thread.start()
        held.wait()
        if fine:
            second.requests.submit(a_submission())
        else:
            with pytest.raises(Unavailable) as caught:
                second.requests.submit(a_submission())
            assert caught.value.code == "database_busy"
            # Reading goes on meanwhile.
            assert len(second.queries.runs()[0]) == 1
        thread.join()


@pytest.mark.parametrize("how", ["scrambled", "no database"])
def test_a_damaged_database_is_called_damaged(home, store, submit, how):
    submit()
    store.close()
    path = home / "foldase.db"
    if how == "no database":
        path.write_bytes(b"this is no database, whatever its name says" * 100)
    else:
        content = bytearray(path.read_bytes())
        content[4096:] = bytes(index % 251 for index in range(len(content) - 4096))
        path.write_bytes(content)
    for beside in home.glob("foldase.db-*"):
        beside.unlink()
    with pytest.raises(Damaged):
        Store.at(home).queries.runs()


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path):
    with pytest.raises((Unavailable, OSError)):
        Store.at(Path("/proc/1/nowhere"))
    (tmp_path / "foldase.db").mkdir()
    with pytest.raises(Unavailable):
        Store.at(tmp_path)


# Schemas


def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    migrate(fresh, Store.at(tmp_path).clock)
    with fresh.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    assert differences == []
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_checks_and_references_are_in_the_database_itself(store, submit):
    run = submit()
    orphan = (
        "INSERT INTO step (run, id, name, position, item, uses, after, state, fence, attempt, failures,"
        " losses, cached, progress) VALUES ('r0', 'a', 'a', 0, -1, 'x@1', '[]', 'pending',"
        " 0, 0, 0, 0, 0, 0)"
    )
    for statement in (
        f"UPDATE run SET state = 'lost' WHERE id = '{run}'",
        f"UPDATE step SET state = 'lost' WHERE run = '{run}'",
        orphan,
    ):
        with pytest.raises(sqlalchemy.exc.IntegrityError), store.database.write() as connection:
            connection.execute(text(statement))


def test_a_database_of_a_newer_version_is_refused_untouched(home):
    with sqlite3.connect(home / "foldase.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    with pytest.raises(Conflict) as caught:
        Store.at(home)
    assert caught.value.code == "schema_newer"
    assert "r9999" in caught.value.message
    assert caught.value.hint


def test_a_database_of_somebody_else_is_refused_untouched(tmp_path):
    with sqlite3.connect(tmp_path / "foldase.db") as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    with pytest.raises(Conflict) as caught:
        Store.at(tmp_path)
    assert caught.value.code == "schema_unknown"
    with sqlite3.connect(tmp_path / "foldase.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


def test_an_older_database_is_copied_aside_and_upgraded(home, store, submit, monkeypatch, tmp_path):
    """A further migration is made up for the test."""
    run = submit()
    store.close()
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(database.__file__).parent / "migrations", scripts)
    (scripts / "versions" / "made_up.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = 'made_up', '{HEAD}', None, None\n"
        "def upgrade():\n    op.add_column('run', sa.Column('mood', sa.Text()))\n"
    )
    monkeypatch.setattr("foldase.store.migrate.HEAD", "made_up")
    monkeypatch.setattr("foldase.store.migrate.SCRIPTS", scripts)
    upgraded = Store.at(home)
    with upgraded.database.read() as connection:
        assert connection.execute(text("SELECT id, mood FROM run")).all() == [(run, None)]
    (backup,) = home.glob(f"foldase.db.{HEAD}.*.backup")
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT id FROM run").fetchall() == [(run,)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
    upgraded.close()


def test_a_database_of_the_first_version_gets_what_came_later(tmp_path):
    from alembic import command

    config = alembic_config()
    first = Database(f"sqlite:///{tmp_path / 'foldase.db'}")
    with first.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "r0001")
    first.close()
    upgraded = Store.at(tmp_path)
    assert upgraded.commits.corrections() == []
    with upgraded.database.read() as connection:
        assert connection.execute(text("SELECT plan, changes FROM attempt")).all() == []
    upgraded.close()


def test_a_migration_that_fails_leaves_the_old_schema(home, store, submit, monkeypatch, tmp_path):
    submit()
    store.close()
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(database.__file__).parent / "migrations", scripts)
    (scripts / "versions" / "made_up.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = 'made_up', '{HEAD}', None, None\n"
        "def upgrade():\n    op.add_column('run', sa.Column('mood', sa.Text()))\n    raise OSError('no')\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr("foldase.store.migrate.HEAD", "made_up")
        patch.setattr("foldase.store.migrate.SCRIPTS", scripts)
        with pytest.raises(OSError, match="no"):
            Store.at(home)
    again = Store.at(home)
    assert len(again.queries.runs()[0]) == 1
    again.close()


def test_many_processes_may_open_a_new_folder_at_once(tmp_path):
    script = (
        "import sys; from pathlib import Path; from foldase.store import Store\n"
        "store = Store.at(Path(sys.argv[1])); assert store.queries.runs() == ([], None)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "new")], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.wait(timeout=120) == 0, process.stderr.read().decode()


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB; mounting one needs privileges that not every machine gives."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_refuses_new_writes_loses_nothing_and_recovers(small_disk, a_submission):
    store = Store.at(small_disk)
    kept: list[str] = []

    def fill() -> None:
        while len(kept) < 10_000:
            kept.append(store.requests.submit(a_submission())[0].id)

    with pytest.raises(StorageFull):
        fill()
    assert len(kept) > 5
    with pytest.raises(StorageFull):
        store.blobs.put_stream([bytes(3 << 20)], type="file", name="large")
    assert list((small_disk / "blobs" / "tmp").iterdir()) == []
    # What was answered is there, and reading goes on.
    found, cursor = store.queries.runs(limit=1000)
    assert cursor is None
    assert [run.id for run in found] == kept[::-1]
    assert len(store.events.after(0, limit=100_000)) == 3 * len(kept)
    with store.database.read() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    subprocess.run(["mount", "-o", "remount,size=12m", str(small_disk)], check=True)
    assert store.requests.submit(a_submission())[1]
    assert store.blobs.put_stream([bytes(3 << 20)], type="file", name="large").size == 3 << 20
    store.close()
