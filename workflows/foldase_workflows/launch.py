"""Runs a rank function without the platform: as plain Python, or once a rank under ``torchrun``.

    python -m foldase_workflows.launch module:function arguments.json --checkpoints DIR
    torchrun --nproc-per-node 4 -m foldase_workflows.launch module:function arguments.json --checkpoints DIR

``arguments.json`` holds the keyword arguments. Progress, metrics and log come as lines, the result of rank 0
as JSON at the end. The first Ctrl-C asks the function to stop, which it does after its checkpoint; started
again, it goes on from there. Another one, two seconds later, ends it at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.errors import BadInput, FoldaseError, Location
from foldase_workflows.contracts.gangs import RankContext, rank_function

EXIT_STOPPED = 130
"""As of a shell whose command was interrupted."""

_PROGRESS_SECONDS = 0.5
_REPEAT_SECONDS = 2.0


class LaunchedRank(RankContext):
    """One rank among those that the variables of torch.distributed name; this process alone without them."""

    def __init__(self, scratch: Path, checkpoints: Path, environment: Mapping[str, str]) -> None:
        self.rank = int(environment.get("RANK", "0"))
        self.size = int(environment.get("WORLD_SIZE", "1"))
        neighbours = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        self.cpus = max(1.0, len(os.sched_getaffinity(0)) / neighbours)
        self.memory_bytes = 0
        self.scratch, self.checkpoints = scratch, checkpoints
        self._asked = threading.Event()
        self._told_at = -_PROGRESS_SECONDS

    def progress(self, fraction: float, message: str = "") -> None:
        """A line of rank 0, at most two a second; the last of all is never left out."""
        now = time.monotonic()
        if self.rank == 0 and (fraction >= 1 or now - self._told_at >= _PROGRESS_SECONDS):
            self._told_at = now
            _say(f"{fraction:6.1%}  {message}".rstrip())

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """A line of rank 0 with all the numbers."""
        if self.rank == 0:
            numbers = "  ".join(f"{name} {value:.6g}" for name, value in values.items())
            _say(numbers if at is None else f"at {at:g}:  {numbers}")

    def log(self, message: str, *, level: str = "info") -> None:
        """A line; to standard error from ``warning`` on."""
        whose = f"rank {self.rank}: " if self.rank else ""
        file = sys.stderr if level in ("warning", "error") else sys.stdout
        _say(f"{whose}{message}", file=file)

    @property
    def cancelled(self) -> bool:
        """Whether the person has asked to stop, or torchrun has."""
        return self._asked.is_set()

    def ask_to_stop(self) -> None:
        """Have ``cancelled`` say so from now on."""
        self._asked.set()


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; returns 0, 1 after an error, 2 for wrong arguments, 130 when it was asked to stop."""
    options = _parser().parse_args(arguments)
    try:
        function = rank_function(options.function)
        given = _read_arguments(options.arguments)
        checkpoints = options.checkpoints.resolve()
        checkpoints.mkdir(parents=True, exist_ok=True)
    except (FoldaseError, OSError) as error:
        _say(str(error), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="foldase-rank-") as scratch:
        context = LaunchedRank(Path(scratch), checkpoints, os.environ)
        try:
            with _asking_at_signals(context):
                result = function(context, **given)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told and becomes the exit status
            return _explain(error, context)
        if context.rank == 0:
            _say(json.dumps(result, default=str))
    return EXIT_STOPPED if context.cancelled else 0


@contextmanager
def _asking_at_signals(context: LaunchedRank) -> Iterator[None]:
    """The first signal asks; one that comes later ends the process as it always does."""
    first = 0.0

    def ask(number: int, _: object) -> None:
        nonlocal first
        # torchrun hands on the Ctrl-C that the terminal has sent to every process already.
        if context.cancelled and time.monotonic() - first > _REPEAT_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not context.cancelled:
            first = time.monotonic()
            context.ask_to_stop()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(error: Exception, context: LaunchedRank) -> int:
    if context.cancelled:
        context.log(f"stopped: {error}")
        return EXIT_STOPPED
    if isinstance(error, FoldaseError) or (isinstance(error, ValueError) and hasattr(error, "code")):
        context.log(str(error), level="error")
    else:
        context.log("".join(traceback.format_exception(error)), level="error")
    return 1


def _read_arguments(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"it is no JSON: {error}", location=Location(file=str(path))) from None
    if not isinstance(found, dict):
        hint = "write an object with the arguments of the function"
        raise BadInput("it holds no arguments by name", location=Location(file=str(path)), hint=hint)
    return found


def _say(text: str, *, file: Any = None) -> None:
    # One write a line: those of several ranks share a terminal.
    stream = file or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m foldase_workflows.launch", description="Runs a rank function without the platform."
    )
    parser.add_argument("function", help="module:function, called with the context and the arguments")
    parser.add_argument("arguments", type=Path, help="a JSON file with the arguments by name")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("checkpoints"),
        help="a folder that all ranks see; ./checkpoints by default",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
