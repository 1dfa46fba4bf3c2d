"""Collective operations that have a name, a deadline and a count of their bytes.

All ranks call the same operations in the same order. When one does not come within the deadline, or is gone,
those that wait for it end with an error that says which rank is where.

Bytes are those that the ring algorithms send through each of N ranks (Patarasuk and Yuan 2009): (N - 1) / N
of the whole tensor for a gather, a scatter or a broadcast, twice that for an all-reduce.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from foldase_models.errors import ModelError
from foldase_models.training.clock import Clock
from foldase_models.training.ranks import Ranks

POST_SECONDS = 0.5
"""How often a rank tells the others where it is, while that changes."""
_SILENT_SECONDS = 5.0
_LAST_WORDS_SECONDS = 2.0
# Since torch 2.13 they have the first names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Waitable(Protocol):
    """Something under way."""

    def wait(self) -> Any:
        """Return when it is done; raises where it failed."""
        ...


@dataclass(slots=True)
class Traffic:
    """What went through this rank: operations and bytes, in all and by the kind of operation."""

    operations: int = 0
    bytes: float = 0.0
    by_kind: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, size: float) -> None:
        """Count one operation."""
        self.operations += 1
        self.bytes += size
        self.by_kind[kind] = self.by_kind.get(kind, 0.0) + size


class Work(Waitable, Protocol):
    """What torch.distributed gives for an operation under way."""

    def is_completed(self) -> bool:
        """Whether it is over."""
        ...


class Pending:
    """An operation under way."""

    def __init__(self, owner: Collectives, name: str, work: Work | None) -> None:
        self._owner, self._name, self._work = owner, name, work

    @property
    def done(self) -> bool:
        """Whether :meth:`wait` would return, or raise, at once."""
        return self._work is None or self._work.is_completed()

    def wait(self) -> None:
        """Return when this rank may use the result.

        Raises:
            ModelError: ``collective_failed``, saying which rank is where.
        """
        if self._work is not None:
            work, self._work = self._work, None
            self._owner.finish(self._name, work)


class Collectives:
    """The operations of one group of ranks. With one rank all of them are copies or nothing."""

    def __init__(
        self, ranks: Ranks, clock: Clock | None = None, *, deadline_seconds: float | None = None
    ) -> None:
        """For a group of ranks.

        Args:
            ranks: the group.
            clock: for the time it takes.
            deadline_seconds: from now on the deadline of every operation of the group; as it was joined where
                it is left out.
        """
        self.ranks = ranks
        self.clock = clock or Clock()
        self.traffic = Traffic()
        self.deadline_seconds = deadline_seconds or ranks.deadline_seconds
        self._lock = threading.Lock()
        self._number = 0
        self._pending: dict[str, float] = {}
        self._posted = ""
        self._closed = threading.Event()
        self._poster: threading.Thread | None = None
        if ranks.size > 1 and deadline_seconds is not None:
            _set_deadline(deadline_seconds)
        if ranks.size > 1:
            self._poster = threading.Thread(
                target=_keep_posting, args=(weakref.ref(self), self._closed), daemon=True, name="whereabouts"
            )
            self._poster.start()

    def all_reduce(self, name: str, tensor: torch.Tensor, *, largest: bool = False) -> Pending:
        """Sum ``tensor`` over the ranks in place, or take the largest of each element."""
        kind = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
        return self._start(
            "all_reduce", name, 2 * _size(tensor), lambda: dist.all_reduce(tensor, kind, async_op=True)
        )

    def reduce_scatter(self, name: str, own: torch.Tensor, whole: torch.Tensor) -> Pending:
        """Sum ``whole`` [ranks * n] over the ranks; ``own`` [n] takes this rank's part of it."""
        if self.ranks.size == 1:
            own.copy_(whole)
        return self._start(
            "reduce_scatter",
            name,
            _size(whole),
            lambda: _reduce_scatter(own, whole, async_op=True),
        )

    def all_gather(self, name: str, whole: torch.Tensor, own: torch.Tensor) -> Pending:
        """Put the ``own`` [n] of all ranks in order into ``whole`` [ranks * n]; ``own`` may lie inside it."""
        if self.ranks.size == 1 and whole.data_ptr() != own.data_ptr():
            whole.copy_(own)
        return self._start(
            "all_gather",
            name,
            _size(whole),
            lambda: _all_gather(whole, own, async_op=True),
        )

    def all_to_all(self, name: str, received: torch.Tensor, sent: torch.Tensor) -> Pending:
        """Send each rank its part of ``sent`` [ranks * n]; ``received`` gets this one's, in order."""
        if self.ranks.size == 1:
            received.copy_(sent)
        return self._start(
            "all_to_all",
            name,
            _size(sent),
            lambda: dist.all_to_all_single(received, sent, async_op=True),
        )

    def broadcast(self, name: str, tensor: torch.Tensor, *, source: int = 0) -> Pending:
        """Give every rank what ``source`` has."""
        return self._start(
            "broadcast", name, _size(tensor), lambda: dist.broadcast(tensor, source, async_op=True)
        )

    def gather_objects(self, name: str, own: Any) -> list[Any]:
        """Plain values of all ranks, in order; small ones, seldom."""
        found: list[Any] = [None] * self.ranks.size
        if self.ranks.size == 1:
            return [own]
        self._start("objects", name, 0, lambda: _Now(lambda: dist.all_gather_object(found, own))).wait()
        return found

    def barrier(self, name: str) -> None:
        """Wait until all ranks are here."""
        flag = torch.zeros(1)
        self.all_reduce(name, flag).wait()

    def agree(self, name: str, own: Any) -> None:
        """Make sure that all ranks have the same plain value.

        Raises:
            ModelError: ``ranks_disagree``, naming those that differ from rank 0 and in what.
        """
        found = self.gather_objects(f"agree on {name}", own)
        others = [rank for rank, value in enumerate(found) if value != found[0]]
        if others:
            raise ModelError(
                f"{_ranks(others)} {'differs' if len(others) == 1 else 'differ'} from rank 0 in {name}: "
                f"{_difference(found[0], found[others[0]])}",
                code="ranks_disagree",
                location=name,
                hint="start all ranks with the same configuration, model and versions",
            )

    def finish(self, name: str, work: Waitable) -> None:
        """Wait for an operation; for :class:`Pending`."""
        began = time.monotonic()
        try:
            with self.clock.waiting("communication"):
                work.wait()
        except RuntimeError as error:
            raise self._failed(name, began, error) from error
        finally:
            with self._lock:
                started = self._pending.pop(name, began)
            self.clock.add_busy("communication", time.monotonic() - started)

    def close(self) -> None:
        """Stop telling where this rank is."""
        self._closed.set()
        if self._poster is not None:
            self._poster.join(POST_SECONDS)

    def _start(self, kind: str, name: str, size: float, start: Callable[[], Work | None]) -> Pending:
        ranks = self.ranks.size
        if ranks == 1:
            return Pending(self, name, None)
        with self._lock:
            self._number += 1
            name = f"{self._number}. {name}"
            self._pending[name] = time.monotonic()
        self.traffic.add(kind, size * (ranks - 1) / ranks)
        try:
            return Pending(self, name, start())
        except RuntimeError as error:
            raise self._failed(name, time.monotonic(), error) from error

    def _failed(self, name: str, began: float, error: RuntimeError) -> ModelError:
        waited = time.monotonic() - began
        self.post()
        time.sleep(min(_LAST_WORDS_SECONDS, self.deadline_seconds / 4))
        return ModelError(
            f"rank {self.ranks.rank} waited {waited:.0f} s for {name!r}; {'; '.join(self._whereabouts())}",
            code="collective_failed",
            location=f"rank {self.ranks.rank}",
            hint="a rank that is gone or busy elsewhere is the cause, not those that wait; torch said: "
            + str(error).splitlines()[0],
        )

    def _whereabouts(self) -> list[str]:
        said = []
        for rank in range(self.ranks.size):
            if rank == self.ranks.rank:
                continue
            try:
                assert self.ranks.store is not None
                key = f"where/{rank}"
                known = json.loads(self.ranks.store.get(key)) if self.ranks.store.check([key]) else None
            except (RuntimeError, ValueError):
                said.append(f"rank {rank}: nothing known, the process that keeps the notes is gone")
                continue
            said.append(f"rank {rank} {_told(known, self._number)}")
        return said

    def post(self) -> bool:
        """Tell the others where this rank is; whether that was possible."""
        with self._lock:
            waits = min(self._pending, key=self._pending.__getitem__, default=None)
            note = {"number": self._number, "waits_for": waits, "at": time.time()}
        try:
            assert self.ranks.store is not None
            self.ranks.store.set(f"where/{self.ranks.rank}", json.dumps(note))
        except RuntimeError:
            return False
        return True


def _set_deadline(seconds: float) -> None:
    for device in ("cpu", "cuda"):
        try:
            backend = dist.group.WORLD._get_backend(torch.device(device))  # type: ignore[union-attr]
        except RuntimeError:
            continue
        backend._set_default_timeout(timedelta(seconds=seconds))


def _keep_posting(owner: weakref.ref[Collectives], closed: threading.Event) -> None:
    """Until they are closed, or forgotten."""
    while not closed.wait(POST_SECONDS):
        collectives = owner()
        if collectives is None or not collectives.post():
            return
        del collectives


class _Now:
    """An operation that is carried out when it is waited for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def is_completed(self) -> bool:
        return False

    def wait(self) -> None:
        self._work()


def _told(known: Mapping[str, Any] | None, own_number: int) -> str:
    if known is None:
        return "never said anything"
    silent = time.time() - known["at"]
    where = (
        f"waits for {known['waits_for']!r}"
        if known["waits_for"]
        else f"computes after {known['number']} operations, of which this rank started {own_number}"
    )
    return f"is gone, last heard of {silent:.0f} s ago: {where}" if silent > _SILENT_SECONDS else where


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _ranks(numbers: list[int]) -> str:
    return ("rank " if len(numbers) == 1 else "ranks ") + ", ".join(map(str, numbers))


def _difference(wanted: Any, found: Any) -> str:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if wanted.get(key) != found.get(key):
                return f"{key!r} is {found.get(key)!r} instead of {wanted.get(key)!r}"
    return f"{found!r} instead of {wanted!r}"
