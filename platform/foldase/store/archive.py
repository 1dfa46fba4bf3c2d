"""Moves the logs of finished attempts into the blob store, and reads logs wherever they lie."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import bindparam, select, update

from foldase.store import schema
from foldase.store.artifacts import BlobStore
from foldase.store.database import Database
from foldase.store.faults import faultpoint
from foldase.store.logs import AttemptLogs, Kind, Page, read_page
from foldase_workflows.contracts.errors import NotFound

DEFAULT_PAGE_BYTES = 256 * 1024

_attempt = schema.attempt
_MARK = (
    update(_attempt)
    .where(
        _attempt.c.run == bindparam("of_run"),
        _attempt.c.step == bindparam("of_step"),
        _attempt.c.number == bindparam("of_number"),
    )
    .values(
        archived=True,
        log_digest=bindparam("log"),
        metrics_digest=bindparam("metrics"),
    )
)


class LogArchive:
    """Logs and metrics of attempts, live or archived."""

    def __init__(self, database: Database, blobs: BlobStore, logs: AttemptLogs) -> None:
        self._database = database
        self._blobs = blobs
        self._logs = logs

    def read(
        self,
        run: str,
        step: str,
        kind: Kind,
        *,
        attempt: int | None = None,
        offset: int = 0,
        limit: int = DEFAULT_PAGE_BYTES,
    ) -> tuple[int, Page]:
        """Lines of an attempt from a byte offset on.

        Args:
            run: the run.
            step: the id of the step.
            kind: ``log`` or ``metrics``.
            attempt: its number; the last one where nothing is given.
            offset: bytes to skip: 0, or ``next`` of the page before.
            limit: bytes of lines to return, about.

        Returns:
            The number of the attempt and a page; ``end`` is true when the attempt is over and no line is
            left. A step without attempts gives number 0 and an empty page.

        Raises:
            NotFound: there is no such run, step or attempt.
        """
        row = self._attempt_row(run, step, attempt)
        if row is None:
            return 0, Page((), 0, end=False)
        over = row.state != "running"
        file = self._open(row, kind)
        if file is None:
            return row.number, Page((), offset, end=over)
        with file:
            page = read_page(file, offset, limit)
        return row.number, Page(page.lines, page.next, end=page.end and over)

    def archive(self, *, limit: int = 64) -> int:
        """Move logs of attempts that have ended into the blob store; returns how many attempts.

        Only the process of the scheduler calls this, away from its decisions. A crash at any point leaves
        the lines readable: the file goes only after the digest is committed.

        Raises:
            StorageFull, Unavailable: what is left will be moved by a later call.
        """
        table = _attempt.c
        query = (
            select(table.run, table.step, table.number)
            .where(table.archived.is_(False), table.state != "running")
            .limit(limit)
        )
        with self._database.read() as connection:
            found = connection.execute(query).all()
        if not found:
            return 0
        marks = [self._store_files(row) for row in found]
        faultpoint("logs.archive.before")
        with self._database.write() as connection:
            connection.execute(_MARK, marks)
        faultpoint("logs.archive.after")
        for row in found:
            for path in self._paths(row):
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
                    path.parent.parent.rmdir()
        return len(found)

    def _store_files(self, row: Any) -> dict[str, Any]:
        log, metrics = (self._store(path) for path in self._paths(row))
        return {
            "of_run": row.run,
            "of_step": row.step,
            "of_number": row.number,
            "log": log,
            "metrics": metrics,
        }

    def _store(self, path: Path) -> str | None:
        if not path.is_file() or path.stat().st_size == 0:
            return None
        return self._blobs.copy(path)[0]

    def _paths(self, row: Any) -> tuple[Path, Path]:
        return (
            self._logs.path(row.run, row.step, row.number, "log"),
            self._logs.path(row.run, row.step, row.number, "metrics"),
        )

    def _attempt_row(self, run: str, step: str, attempt: int | None) -> Any:
        table = _attempt.c
        query = select(_attempt).where(table.run == run, table.step == step)
        if attempt is not None:
            query = query.where(table.number == attempt)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(table.number.desc()).limit(1)).one_or_none()
            if row is not None:
                return row
            known = schema.step.c
            exists = connection.execute(select(known.id).where(known.run == run, known.id == step)).first()
        if exists is None:
            raise NotFound(f"run {run} has no step {step}", code="unknown_step")
        if attempt is not None:
            raise NotFound(f"step {step} has no attempt {attempt}", code="unknown_attempt")
        return None

    def _open(self, row: Any, kind: Kind) -> BinaryIO | None:
        try:
            return self._logs.path(row.run, row.step, row.number, kind).open("rb")
        except FileNotFoundError:
            digest = row.log_digest if kind == "log" else row.metrics_digest
            if digest is None and not row.archived:
                # The file may just have been archived, between the row and the file.
                fresh = self._attempt_row(row.run, row.step, row.number)
                digest = fresh.log_digest if kind == "log" else fresh.metrics_digest
            return self._blobs.open(digest) if digest else None
