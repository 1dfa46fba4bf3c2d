"""``python -m foldase_kernels list | doctor | build``: what there is, what is missing, compile it."""

from __future__ import annotations

import argparse
import sys

from foldase_kernels.operations import OPERATIONS, source_folder, sources


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def list_operations() -> int:
    """Print every operation with its backends, and where compiled sources lie."""
    for operation in OPERATIONS:
        _say(f"{operation.name}: {operation.summary}")
        _say(f"  backends: {', '.join(operation.backends)}")
        for path in sources(operation):
            _say(f"  source: {path}")
    folder = source_folder()
    _say(f"sources: {folder if folder is not None else 'not found'}")
    return 0 if folder is not None else 1


def doctor() -> int:
    """Print what this machine offers; 1 when something is broken rather than absent."""
    from foldase_kernels.doctor import examine

    findings = examine()
    marks = {True: "ok", None: "--", False: "!!"}
    for finding in findings:
        _say(f"{marks[finding.fine]} {finding.topic}: {finding.text}")
    return 1 if any(finding.fine is False for finding in findings) else 0


def build() -> int:
    """Say that there is nothing to compile; fails where sources lie that this version cannot build."""
    unknown = [operation.name for operation in OPERATIONS if sources(operation)]
    if unknown:
        _say(f"this version has no build rule for the sources of {', '.join(unknown)}")
        return 1
    _say("no operation of this version has compiled sources; the cpu backend needs no build")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m foldase_kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="operations, their backends and sources")
    commands.add_parser("doctor", help="what this machine offers and what is missing")
    commands.add_parser("build", help="compile the sources for this machine")
    chosen = parser.parse_args(arguments).command
    return {"list": list_operations, "doctor": doctor, "build": build}[chosen]()


if __name__ == "__main__":
    sys.exit(main())
