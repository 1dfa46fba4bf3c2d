"""Functions on several ranks of one training: processes of this machine, joined by gloo.

Processes are forked from one that imported torch before, so that a rank costs a fraction of a second.
``pytestmark = SAME_WORKER`` keeps test files that use this in one worker of pytest-xdist.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType, TracebackType
from typing import Any

import pytest

SAME_WORKER = pytest.mark.xdist_group("training ranks")
DEADLINE_SECONDS = 30.0
"""Of the collective operations, unless a test has its own."""
_TRACE_SECONDS = 0.3
_PRELOADED = [
    "pytest",
    "hypothesis",
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "foldase_models.training.trainer",
    "training_ranks",
]


@dataclass(frozen=True)
class Outcome:
    """How a function ended on a rank.

    Attributes:
        rank: which.
        value: what it returned.
        error: what it raised, with the rank and its traceback as a note.
        exit_code: of a process that ended without a word; negative for a signal.
        late: whether it was killed because it took too long.
    """

    rank: int
    value: Any = None
    error: BaseException | None = None
    exit_code: int | None = None
    late: bool = False

    @property
    def good(self) -> bool:
        """Whether it returned."""
        return self.error is None and self.exit_code is None and not self.late


class Gang:
    """Ranks that stay for several functions; those after a failure get new processes."""

    def __init__(
        self,
        size: int,
        *,
        deadline: float = DEADLINE_SECONDS,
        environment: Mapping[str, str] | None = None,
        enter: Callable[[int], object] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            size: how many ranks.
            deadline: of their collective operations, in seconds.
            environment: of the ranks, beside and instead of what joins them over the loopback.
            enter: called with its rank first thing in each process, while it has a single thread; can be
                pickled.
        """
        self.size, self.deadline = size, deadline
        self._prepared = (dict(environment or {}), enter)
        self._members: list[tuple[Any, Connection]] = []

    def __enter__(self) -> Gang:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Any]:
        """Call ``function(ranks, *args)`` on every rank; what they return, in order.

        What a rank raises is raised here, that of a rank that waited in vain for another only where there
        is no other; a rank that died or takes longer than ``timeout`` seconds fails the test.
        """
        outcomes = self.outcomes(function, *args, timeout=timeout)
        silent = [_told(outcome) for outcome in outcomes if not outcome.good and outcome.error is None]
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        if errors and not any(outcome.late for outcome in outcomes):
            raise min(errors, key=lambda error: getattr(error, "code", None) == "collective_failed")
        if silent:
            pytest.fail("; ".join([*silent, *map(str, errors)]))
        return [outcome.value for outcome in outcomes]

    def outcomes(self, function: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Outcome]:
        """The same, telling how each rank ended whatever it was."""
        if "<locals>" in function.__qualname__:
            raise ValueError(f"{function.__qualname__} must be a function of its module")
        if not self._members:
            self._start()
        home = (function.__module__, inspect.getfile(function), function.__qualname__)
        for _, pipe in self._members:
            with suppress(BrokenPipeError):  # one that has ended already is told of below
                pipe.send((home, pickle.dumps(args)))
        outcomes = self._wait(time.monotonic() + timeout)
        if not all(outcome.good for outcome in outcomes):
            self.close()
        return outcomes

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._members:
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._members = []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        port = _free_port()
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            given = (theirs, rank, self.size, port, self.deadline, *self._prepared)
            process = context.Process(target=_serve, args=given)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def _wait(self, until: float) -> list[Outcome]:
        found: dict[int, Outcome] = {}
        waiting = {pipe: rank for rank, (_, pipe) in enumerate(self._members)}
        while waiting and time.monotonic() < until:
            for ready in wait(list(waiting), timeout=max(0.0, until - time.monotonic())):
                assert isinstance(ready, Connection)
                rank = waiting.pop(ready)
                found[rank] = self._outcome(rank, ready)
        for rank in waiting.values():
            process = self._members[rank][0]
            os.kill(process.pid, signal.SIGUSR1)  # it says where it hangs
            time.sleep(_TRACE_SECONDS)
            process.kill()
            found[rank] = Outcome(rank, late=True)
        return [found[rank] for rank in sorted(found)]

    def _outcome(self, rank: int, pipe: Connection) -> Outcome:
        try:
            value, error = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionResetError):  # reset where it ended before it read what to do
            process = self._members[rank][0]
            process.join()
            return Outcome(rank, exit_code=process.exitcode)
        return Outcome(rank, value, error)


def run_ranks(
    function: Callable[..., Any],
    size: int,
    *args: Any,
    timeout: float = 60,
    deadline: float = DEADLINE_SECONDS,
) -> list[Any]:
    """Call ``function(ranks, *args)`` on so many new ranks, see :meth:`Gang.run`."""
    with Gang(size, deadline=deadline) as gang:
        return gang.run(function, *args, timeout=timeout)


def rank_outcomes(
    function: Callable[..., Any],
    size: int,
    *args: Any,
    timeout: float = 60,
    deadline: float = DEADLINE_SECONDS,
) -> list[Outcome]:
    """How ``function(ranks, *args)`` ended on each of so many new ranks."""
    with Gang(size, deadline=deadline) as gang:
        return gang.outcomes(function, *args, timeout=timeout)


def _serve(
    pipe: Connection,
    rank: int,
    size: int,
    port: int,
    deadline: float,
    environment: Mapping[str, str],
    enter: Callable[[int], object] | None,
) -> None:
    """What a rank's process does: functions, one after the other, until one fails or no more come."""
    if enter is not None:
        enter(rank)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        **environment,
    }
    import torch

    from foldase_models.training.ranks import Ranks

    torch.set_num_threads(1)
    error: BaseException | None = None
    with Ranks.from_environment(deadline_seconds=deadline) as ranks:
        while error is None:
            try:
                home, packed = pipe.recv()
            except EOFError:
                return
            value = None
            try:
                function = _function(*home)
                value = function(ranks, *pickle.loads(packed))
            except BaseException as raised:  # noqa: BLE001  # it is raised again where the test is
                error = raised
                error.add_note(f"on rank {rank}:\n{''.join(traceback.format_exception(raised))}")
            pipe.send_bytes(_packed(value, error))


def _function(module: str, path: str, name: str) -> Callable[..., Any]:
    """Test files belong to no package: they are found by their path, and keep the name pytest gave them."""
    found: Any = sys.modules.get(module) or _loaded(module, path)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _loaded(module: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    spec.loader.exec_module(made)
    return made


def _packed(value: Any, error: BaseException | None) -> bytes:
    try:
        packed = pickle.dumps((value, error))
        pickle.loads(packed)
    except Exception as unpicklable:  # noqa: BLE001  # whatever a class does when it is copied
        told = repr(value) if error is None else "\n".join([repr(error), *error.__notes__])
        packed = pickle.dumps((None, RuntimeError(f"{unpicklable}: {told}")))
    return packed


def _told(outcome: Outcome) -> str:
    if outcome.late:
        return f"rank {outcome.rank} took too long and was killed"
    return f"rank {outcome.rank} ended with exit code {outcome.exit_code}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
