"""What ranks tell each other of a save that goes on beside the training.

Collective operations belong to the thread that trains: another thread's would come between them, in another
order on every rank. Notes in the store that joined the ranks have no order. They reach rank 0 although a disk
is full, where a file with a note could not be written; no file system has to show one machine what another
one wrote; and they tell a slow disk, whose bytes go up, from a rank that is gone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from foldase_models.errors import ModelError
from foldase_models.training.collectives import Collectives

_POST_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_LAST_SECONDS = 5.0
"""For how long a save is still waited for once the training has failed."""


class Notices:
    """The notes of one save, by rank."""

    def __init__(self, collectives: Collectives, save: str) -> None:
        """``save``: a name that no other save of these ranks has."""
        self._ranks, self._save = collectives.ranks, save
        self._deadline_seconds = collectives.deadline_seconds
        self._local: dict[str, str] = {}
        self._posted = 0.0
        self._bytes = 0
        self._hurry = threading.Event()

    def told(self, size: int) -> None:
        """So many bytes more were written here."""
        self._bytes += size
        if time.monotonic() - self._posted >= _POST_SECONDS:
            self._posted = time.monotonic()
            self._post(self._ranks.rank, {"bytes": self._bytes})

    def done(self, result: Mapping[str, Any]) -> None:
        """This rank's part is written, or failed: what rank 0 must know of it."""
        self._post(self._ranks.rank, {"done": dict(result)})

    def decided(self, error: str | None) -> None:
        """Rank 0 has made the checkpoint count, or cannot."""
        self._post("all", {"done": {"error": error}})

    def decision(self) -> str | None:
        """Why rank 0 cannot make the checkpoint count; None while it has not said so."""
        error: str | None = self._look("all").get("done", {}).get("error")
        return error

    def hurry(self) -> None:
        """Let :meth:`wait_for` end soon: the training has failed, and others may never come."""
        self._hurry.set()

    def wait_for(self, who: int | str) -> Mapping[str, Any]:
        """What a rank said when it was done, or rank 0 (``all``) when it had decided.

        Raises:
            ModelError: ``checkpoint_failed``: it is gone, or wrote nothing for the deadline of this group.
        """
        rank = 0 if who == "all" else who
        seen, since, began = -1, time.monotonic(), time.monotonic()
        while True:
            note = self._look(who)
            if "done" in note:
                done: Mapping[str, Any] = note["done"]
                return done
            progress = int(self._look(rank).get("bytes", -1))
            if progress != seen:
                seen, since = progress, time.monotonic()
            now = time.monotonic()
            if now - since > self._deadline_seconds:
                raise _failed(f"rank {rank} wrote nothing for {now - since:.0f} s")
            if self._hurry.is_set() and now - began > _LAST_SECONDS:
                raise _failed(f"the training failed before rank {rank} had written its part")
            if who != "all":
                self.told(1)  # rank 0 is alive while it waits
            time.sleep(_LOOK_SECONDS)

    def _post(self, who: int | str, note: Mapping[str, Any]) -> None:
        text = json.dumps({"save": self._save, **note})
        if self._ranks.store is None:
            self._local[str(who)] = text
            return
        try:
            self._ranks.store.set(f"checkpoint/{who}", text)
        except RuntimeError as error:
            raise _failed("rank 0, which keeps the notes, is gone") from error

    def _look(self, who: int | str) -> Mapping[str, Any]:
        text: str | bytes = self._local.get(str(who), "{}")
        if self._ranks.store is not None:
            key = f"checkpoint/{who}"
            try:
                text = self._ranks.store.get(key) if self._ranks.store.check([key]) else "{}"
            except RuntimeError as error:
                raise _failed("rank 0, which keeps the notes, is gone") from error
        note: Mapping[str, Any] = json.loads(text)
        return note if note.get("save") == self._save else {}


def _failed(message: str) -> ModelError:
    return ModelError(message, code="checkpoint_failed", hint="the checkpoints before it are untouched")
