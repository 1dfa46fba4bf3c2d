"""``python -m foldase_models.training.checkpoints``: look at a run's checkpoints, take weights out of one."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints.commits import Commit, read_commit, steps_in, verify_file
from foldase_models.training.checkpoints.export import FILE_BYTES, export_weights, newest

_EVERY_SECONDS = 1.0
_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; 1 where it could not be done, which standard error explains."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "show":
            _show(given.folder, given.step, verify=given.verify, tensors=given.tensors)
        else:
            paths = export_weights(
                given.folder,
                given.target,
                averaged=not given.last,
                step=given.step,
                file_bytes=int(given.file_gb * 10**9),
                progress=_Line(),
            )
            _say("\n".join(map(str, paths)))
    except (ModelError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m foldase_models.training.checkpoints", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="list the checkpoints of a run, and what one of them holds")
    show.add_argument("--verify", action="store_true", help="read all files and compare their digests")
    show.add_argument("--tensors", action="store_true", help="name every tensor")
    export = commands.add_parser("export", help="write the weights of a checkpoint as plain safetensors")
    for command in (show, export):
        command.add_argument("folder", type=Path, help="where the training wrote its checkpoints")
        command.add_argument("--step", type=int, help="of the checkpoint; the newest if left out")
    export.add_argument("target", type=Path, help="folder for model.safetensors")
    export.add_argument("--last", action="store_true", help="the weights of the last step, not their average")
    export.add_argument(
        "--file-gb", type=float, default=FILE_BYTES / 10**9, help="size of a file, at most (%(default)s)"
    )
    return parser


def _show(folder: Path, step: int | None, *, verify: bool, tensors: bool) -> None:
    shown = newest(folder, step)
    for other in steps_in(folder):
        _say(f"step {other}: {_judged(folder, other, verify=verify)}")
    _say(f"\nstep {shown.step} holds")
    kinds: dict[str, list[str]] = {}
    for key in sorted(shown.tensors):
        kinds.setdefault(key.partition("/")[0], []).append(key)
    for kind, keys in kinds.items():
        numel = sum(math.prod(shown.tensors[key].shape) for key in keys)
        size = sum(shown.tensors[key].bytes for key in keys)
        _say(f"  {kind:<12} {len(keys):>6} tensors {numel:>16,} elements {_bytes(size):>10}")
        for key in keys if tensors else ():
            tensor = shown.tensors[key]
            _say(f"    {key} {list(tensor.shape)} {tensor.dtype} in {len(tensor.chunks)} chunks")
    for name, value in sorted(shown.values.items()):
        if isinstance(value, str | int | float):
            _say(f"  {name} = {value}")


def _judged(folder: Path, step: int, *, verify: bool) -> str:
    try:
        commit: Commit = read_commit(folder, step)
        for file in commit.files if verify else ():
            verify_file(folder, commit, file)
    except ModelError as error:
        return str(error)
    ranks = f"{len(commit.files)} rank{'s' if len(commit.files) > 1 else ''}"
    return f"{_bytes(commit.bytes)}, written by {ranks}{', whole' if verify else ''}"


class _Line:
    """Progress on standard error: one line over and over on a terminal, a line a second elsewhere."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, what: str, done: int, whole: int) -> None:
        now = time.monotonic()
        if now - self._said >= _EVERY_SECONDS or done == whole:
            self._said = now
            ends = "\r" if sys.stderr.isatty() and done < whole else "\n"
            sys.stderr.write(f"{what} {_bytes(done)} of {_bytes(whole)}{ends}")
            sys.stderr.flush()


def _bytes(size: int) -> str:
    unit, name = next((known for known in _UNITS if size >= known[0]), _UNITS[-1])
    return f"{size / unit:.3g} {name}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
