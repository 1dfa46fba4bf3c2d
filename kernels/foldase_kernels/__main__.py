"""``python -m foldase_kernels build | doctor | list``: compile kernels, what is missing, what there is."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import NoReturn

from foldase_kernels.compiling import command, locks
from foldase_kernels.compiling.cache import Cache
from foldase_kernels.errors import KernelError
from foldase_kernels.operations import OPERATIONS, source_folder, sources

ENDED_BY_SIGTERM, ENDED_BY_SIGINT = 128 + signal.SIGTERM, 128 + signal.SIGINT


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def list_operations() -> int:
    """Print every operation with its backends, its sources and its built libraries."""
    cache = Cache()
    entries = cache.entries()
    for operation in OPERATIONS:
        _say(f"{operation.name}: {operation.summary}")
        _say(f"  backends: {', '.join(operation.backends)}")
        for path in sources(operation):
            _say(f"  source: {path}")
        for entry in entries:
            if entry.operation == operation.folder:
                _say(f"  library: {entry.arch}, built {entry.record.get('built')}: {entry.library}")
    folder = source_folder()
    _say(f"sources: {folder if folder is not None else 'not found'}")
    _say(f"built libraries: {len(entries)} in {cache.folder}")
    return 0 if folder is not None else 1


def doctor(as_json: bool) -> int:
    """Print what this machine offers; 1 when something is broken rather than absent."""
    from foldase_kernels.doctor import examine

    findings = examine()
    if as_json:
        _say(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        marks = {True: "ok", None: "--", False: "!!"}
        for finding in findings:
            _say(f"{marks[finding.fine]} {finding.topic}: {finding.text}")
    return 1 if any(finding.fine is False for finding in findings) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m foldase_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="operations, their backends, sources and built libraries")
    examine = commands.add_parser("doctor", help="what this machine offers and what is missing")
    examine.add_argument("--json", action="store_true", help="for programs")
    build = commands.add_parser("build", help="compile the sources for the GPUs and the processor here")
    build.add_argument("operations", nargs="*", metavar="OPERATION", help="a folder of csrc; default: all")
    build.add_argument(
        "--arch", default="", help="instead of the GPUs here: sm_80,sm_90a, or host for a build as C++"
    )
    build.add_argument(
        "--jobs", type=_at_least_one, default=command.default_jobs(), help="compilers at once (%(default)s)"
    )
    build.add_argument(
        "--wait",
        type=float,
        default=locks.WAIT_SECONDS,
        metavar="SECONDS",
        help="for another process that builds the same (%(default)s)",
    )
    build.add_argument("--force", action="store_true", help="compile also what is up to date")
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except KernelError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(given: argparse.Namespace) -> int:
    if given.command == "list":
        return list_operations()
    if given.command == "doctor":
        return doctor(given.json)
    archs = [arch for arch in given.arch.split(",") if arch]
    return command.run(command.Wishes(given.operations, archs, given.jobs, given.wait, given.force))


def run_as_program(arguments: list[str] | None = None) -> NoReturn:
    """:func:`main` as a process: a signal ends the compilers too, and nothing half is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED_BY_SIGTERM))
    try:
        status = main(arguments)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said, not even by the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(ENDED_BY_SIGINT)


if __name__ == "__main__":
    run_as_program()
