"""Results that exist already, and equal work that is on its way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from foldase.scheduler.model import Step
from foldase.store.artifacts import BlobStore
from foldase.store.commits import CacheConnection
from foldase.store.jsontext import loads
from foldase_workflows.contracts.artifacts import artifacts_in

Json = dict[str, Any]

_KEYS_KEPT = 100_000
_BYTES_KEPT = 64 << 20
"""Keys and outputs remembered at most; then all are forgotten, which costs further queries."""
_FEW = 64
"""A batch of so few keys is worth a look at what else the run of a hit made."""


class Result(NamedTuple):
    """Outputs as JSON text, and the step that made them."""

    outputs: str
    run: str
    step: str


class CacheDesk:
    """Answers for keys; remembers what it asked the database."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: set[str] = set()
        self._results: dict[str, Result] = {}
        self._prefetched: set[str] = set()
        self._bytes = 0
        self._leaders: dict[str, Step] = {}
        self._followers: dict[str, list[Step]] = {}

    def knows(self, key: str) -> bool:
        """Whether the database has a row for a key, with or without a result."""
        return key in self._known

    def learn(self, key: str, result: Result | None = None) -> None:
        """The database will have a row for a key."""
        self._known.add(key)
        if result is not None:
            self._keep(key, result)

    def look_up(self, keys: Iterable[str], cache: CacheConnection) -> None:
        """Ask the database about all keys that are not yet answered, in one query."""
        missing = {key for key in keys if key not in self._results}
        if not missing:
            return
        if len(self._known) > _KEYS_KEPT or self._bytes > _BYTES_KEPT:
            self._known.clear()
            self._results.clear()
            self._prefetched.clear()
            self._bytes = 0
        rows = cache.reader.find(missing)
        self._remember(rows)
        if len(missing) <= _FEW:
            # A chain of steps asks for one key at a time. Where the first comes from, the next often do.
            for run in {row.run for row in rows if row.run} - self._prefetched:
                self._prefetched.add(run)
                self._remember(cache.reader.siblings(run))

    def hit(self, key: str) -> tuple[Result, Json] | None:
        """The result under a key and its outputs, when all of its artifacts are there."""
        result = self._results.get(key)
        if result is None:
            return None
        outputs: Json = loads(result.outputs)
        if not self.whole(outputs):
            del self._results[key]
            return None
        return result, outputs

    def whole(self, outputs: Json) -> bool:
        """Whether all artifacts among outputs are there."""
        return all(self._blobs.complete(artifact) for artifact in artifacts_in(outputs))

    def lead(self, step: Step, key: str) -> Step | None:
        """Make ``step`` the one that works for its key, or return the step that already does."""
        leader = self._leaders.setdefault(key, step)
        if leader is step:
            return None
        self._followers.setdefault(key, []).append(step)
        return leader

    def release(self, step: Step, key: str) -> list[Step]:
        """The work of a step is over, whichever way; returns the steps that waited for it."""
        if self._leaders.get(key) is not step:
            return []
        del self._leaders[key]
        return [waiting for waiting in self._followers.pop(key, []) if waiting.state == "ready"]

    def _remember(self, rows: Iterable[Any]) -> None:
        for row in rows:
            self._known.add(row.key)
            if row.outputs is not None:
                self._keep(row.key, Result(row.outputs, row.run, row.step))

    def _keep(self, key: str, result: Result) -> None:
        self._results[key] = result
        self._bytes += len(result.outputs)
