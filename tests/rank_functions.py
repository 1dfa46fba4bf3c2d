"""Rank functions that only tests use; most join each other by plain sockets: torch takes long to load."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from foldase_workflows.contracts import BadInput, Location, RankContext
from foldase_workflows.contracts.gangs import check_cancelled

JOIN_SECONDS = 30.0


class Circle:
    """Adds numbers over the ranks through rank 0, which the others find where the environment says."""

    def __init__(self, context: RankContext) -> None:
        self.rank, self.size = context.rank, context.size
        self._peers: list[socket.socket] = []
        if self.size == 1:
            return
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if self.rank == 0:
            with socket.create_server(place) as server:
                server.settimeout(JOIN_SECONDS)
                self._peers = [server.accept()[0] for _ in range(self.size - 1)]
        else:
            self._peers = [_reach(place)]

    def sum(self, number: float) -> float:
        """Of all ranks; raises ``ConnectionError`` where one is gone."""
        if self.rank:
            self._peers[0].sendall(struct.pack("d", number))
            return _receive(self._peers[0])
        total = number + sum(_receive(peer) for peer in self._peers)
        for peer in self._peers:
            peer.sendall(struct.pack("d", total))
        return total


def add(context: RankContext, *, number: float = 1.0) -> dict[str, Any]:
    """What all ranks have, added, and what each finds in its environment."""
    circle = Circle(context)
    total = circle.sum(number * (context.rank + 1))
    sys.stdout.write(f"printed by {context.rank}\n")
    context.log(f"has {total:g}")
    context.metrics({"total": total}, at=context.rank)
    context.progress(1.0, f"told by {context.rank}")
    (context.scratch / "own").write_text(str(context.rank))
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {
        "total": total,
        "size": context.size,
        "environment": {name: os.environ.get(name) for name in names},
        "has": [context.cpus, context.memory_bytes],
    }


def count(
    context: RankContext,
    *,
    to: int,
    seconds: float = 0.05,
    label: str = "",
    die: dict[str, int] | None = None,
    freeze: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Count together, with a checkpoint at each number; ``die`` and ``freeze`` say which rank does so where.

    Both happen once, in the first life, unless ``always`` is set.
    """
    circle = Circle(context)
    state = _state(context)
    began = state["number"]
    _note(context, f"{os.getpid()} {context.rank} {context.size}")
    while state["number"] < to:
        for fate, what in ((die, signal.SIGKILL), (freeze, signal.SIGSTOP)):
            meant = fate is not None and (context.rank, state["number"]) == (fate["rank"], fate["at"])
            if fate is not None and meant and (began == 0 or fate.get("always")):
                os.kill(os.getpid(), what)
        # Agreed by the sum, so that no rank leaves the others alone.
        if circle.sum(float(context.cancelled)):
            check_cancelled(context)
            raise RuntimeError("another rank was asked to stop")
        state = {"number": state["number"] + 1, "sizes": [*state["sizes"], context.size]}
        if context.rank == 0:
            fresh = context.checkpoints / "state.new"
            fresh.write_text(json.dumps(state))
            fresh.replace(context.checkpoints / "state.json")
        context.metrics({"number": state["number"]}, at=state["number"])
        context.progress(state["number"] / to)
        time.sleep(seconds)
    return {"counted": state["number"], "began_at": began, "sizes": state["sizes"]}


def fail(context: RankContext, *, rank: int, how: str) -> None:
    """One rank fails in the way it is told; the others wait for it until they notice."""
    circle = Circle(context)
    circle.sum(0.0)
    if context.rank == rank:
        if how == "bad input":
            raise BadInput("row 7 is empty", code="empty_row", location=Location(record="seq7"))
        if how == "model":
            from foldase_models.errors import ModelError

            raise ModelError("width 7 is odd", code="odd_width", location="width", hint="use 8")
        if how == "unknown":
            raise _Local("first line\nsecond line")
        if how == "exit":
            sys.exit(3)
        if how == "hang":
            time.sleep(600)
        raise ValueError(how)
    circle.sum(0.0)


def wait(context: RankContext, *, heed: bool = True, children: bool = False) -> None:
    """Run until it is asked to stop, or for ever; may leave children behind."""
    if children:
        subprocess.Popen(["sleep", "603"])
        subprocess.Popen(["sh", "-c", "setsid sleep 604 & exit"]).wait()
    _note(context, str(os.getpid()))
    context.log(f"waits in {os.getpid()}")
    while True:
        if heed:
            check_cancelled(context)
        time.sleep(0.02)


def wait_in_vain(context: RankContext) -> None:
    """Rank 1 is busy for ever; rank 0 gives up waiting for it."""
    if context.rank:
        time.sleep(600)
    from foldase_models.errors import ModelError

    raise ModelError("rank 0 waited for 'weights'", code="collective_failed")


def reduce_tensors(context: RankContext, *, width: int) -> dict[str, list[float]]:
    """An all-reduce of torch over gloo."""
    from foldase_models.training.collectives import Collectives
    from foldase_models.training.ranks import Ranks

    with Ranks.from_environment(deadline_seconds=60) as ranks:
        import torch

        tensor = torch.full((width,), float(ranks.rank + 1))
        Collectives(ranks).all_reduce("test", tensor).wait()
        assert (ranks.rank, ranks.size) == (context.rank, context.size)
        return {"values": [float(value) for value in tensor]}


def pids_noted(checkpoints: Path) -> list[int]:
    """The processes of all ranks that ran :func:`count` or :func:`wait`, the last lives last."""
    return [int(line.split()[0]) for line in notes(checkpoints)]


def notes(checkpoints: Path) -> list[str]:
    """One line a rank and life."""
    path = checkpoints / "notes"
    return path.read_text().splitlines() if path.exists() else []


class _Local(Exception):
    """Not to be found by those who would unpickle it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.handle = Path("/dev/null").open()  # noqa: SIM115  # what cannot be pickled

    __reduce__ = None  # type: ignore[assignment]


def _note(context: RankContext, line: str) -> None:
    with (context.checkpoints / "notes").open("a") as file:
        file.write(f"{line}\n")


def _state(context: RankContext) -> dict[str, Any]:
    path = context.checkpoints / "state.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"number": 0, "sizes": []}
    return found


def _reach(place: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return socket.create_connection(place, timeout=None)
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _receive(peer: socket.socket) -> float:
    data = b""
    while len(data) < 8:
        chunk = peer.recv(8 - len(data))
        if not chunk:
            raise ConnectionError("another rank is gone")
        data += chunk
    return float(struct.unpack("d", data)[0])
