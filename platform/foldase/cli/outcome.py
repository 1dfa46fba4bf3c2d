"""How a command ends: its exit status, and errors for people or for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.errors import (
    Damaged,
    DocumentErrors,
    FoldaseError,
    Location,
    NotSignedIn,
    StorageFull,
    Unavailable,
    UserError,
)


class Exit(IntEnum):
    """Exit statuses; ``foldase --help`` lists them."""

    OK = 0
    FAILED = 1
    WRONG = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def status_of(error: FoldaseError) -> Exit:
    """2 for what the caller can mend, 3 for a server that cannot be used, 1 for the rest."""
    if isinstance(error, Unavailable | NotSignedIn):
        return Exit.UNREACHABLE
    if isinstance(error, Damaged | StorageFull | UserError) or type(error) is FoldaseError:
        return Exit.FAILED
    return Exit.WRONG


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def report(error: FoldaseError, *, as_json: bool) -> Exit:
    """Say on stderr what went wrong, and return the exit status for it."""
    if as_json:
        sys.stderr.write(json.dumps(problem_of(error), ensure_ascii=False) + "\n")
    else:
        sys.stderr.write("\n".join(described(error)) + "\n")
    return status_of(error)


def problem_of(error: FoldaseError) -> dict[str, Any]:
    """The error in the shape of the API's problems."""
    fields = error.to_json()
    return {"type": "about:blank", "title": type(error).__name__, "detail": fields.pop("message"), **fields}


def described(error: FoldaseError) -> Iterator[str]:
    """The error as lines for people; every fault of a document with its place in the text."""
    faults = error.errors if isinstance(error, DocumentErrors) else (error,)
    for fault in faults:
        place = f"{fault.location}: " if fault.location and str(fault.location) else ""
        yield f"{place}error: {fault.message} [{fault.code}]"
        if fault.location is not None:
            yield from excerpt(fault.location)
        if fault.hint:
            yield f"  hint: {fault.hint}"
    if len(faults) > 1:
        yield f"{len(faults)} errors"


def excerpt(place: Location) -> Iterator[str]:
    """The line at fault with a caret below its column, where the file can still be read."""
    if place.file is None or place.line is None:
        return
    try:
        lines = Path(place.file).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return
    if place.line > len(lines):
        return
    text = lines[place.line - 1].rstrip("\r").replace("\t", " ")
    start = max((place.column or 1) - 60, 0)
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[start : start + 100])
    number = str(place.line)
    yield f"  {number} | {shown}"
    if place.column is not None:
        yield f"  {' ' * len(number)} | {' ' * (place.column - 1 - start)}^"
