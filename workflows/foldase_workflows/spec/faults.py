"""Collecting everything that is wrong with a document before saying so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Protocol

from foldase_workflows.contracts.errors import DocumentError, DocumentErrors, Location
from foldase_workflows.spec.limits import MAX_FAULTS

Path = tuple[str | int, ...]
"""From the root of a document to a value: ``("steps", "fold", "with", "seed")``."""

_LAST = 1 << 40
_MANY_NAMES = 200


class Places(Protocol):
    """Knows where in a text the values of a document stand."""

    def locate(self, path: Path, *, key: bool = False, offset: int | None = None) -> Location:
        """The place of the value at ``path``, of its key, or of the character ``offset`` in its text."""


class Nowhere:
    """The places of a document that has no text, for instance one rebuilt from the database."""

    def locate(self, path: Path, *, key: bool = False, offset: int | None = None) -> Location:
        """The path alone."""
        return Location(path=dotted(path) or None)


class Faults:
    """The faults found so far. Adding the hundredth raises, so that no document costs more than that.

    Repetitions are kept away: a code is reported once per place, and nothing is reported at or below a path
    that an earlier stage poisoned.
    """

    def __init__(self, places: Places | None = None) -> None:
        self.places: Places = places or Nowhere()
        self._errors: dict[tuple[object, ...], tuple[int, DocumentError]] = {}
        self._stage = 0
        self._poisoned: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(
        self,
        code: str,
        message: str,
        path: Path = (),
        *,
        hint: str,
        key: bool = False,
        offset: int | None = None,
    ) -> None:
        """Note a fault at the value at ``path`` (or its key, or a character of its text)."""
        if any(path[:length] in self._poisoned for length in range(len(path) + 1)):
            return
        self.add_at(self.places.locate(path, key=key, offset=offset), code, message, hint=hint)

    def add_at(self, location: Location, code: str, message: str, *, hint: str) -> None:
        """Note a fault at a known place.

        Raises:
            DocumentErrors: there are as many as a person would read.
        """
        same = (location.line, location.column, location.path, code)
        error = DocumentError(_shortened(message), code=code, location=location, hint=hint)
        self._errors.setdefault(same, (self._stage, error))
        if len(self._errors) >= MAX_FAULTS:
            message = "there may be more faults; looking stopped here"
            last = DocumentError(message, code="too_many_faults", hint="mend these first")
            self._errors[("more",)] = (_LAST, last)
            self.raise_if_any()

    def next_stage(self) -> None:
        """Faults from here on are listed after those found so far: they may follow from them."""
        self._stage += 1

    def poison(self, path: Path) -> None:
        """Report nothing more at or below ``path``; its value could not be read."""
        self._poisoned.add(path)

    def raise_if_any(self) -> None:
        """Raise ``DocumentErrors`` in reading order when anything was found."""
        if not self._errors:
            return
        found = sorted(self._errors.values(), key=_reading_order)
        raise DocumentErrors(error for _, error in found)


def _reading_order(found: tuple[int, DocumentError]) -> tuple[int, int, int]:
    stage, error = found
    place = error.location or Location()
    return (stage, place.line or 0, place.column or 0)


def _shortened(message: str) -> str:
    return message if len(message) <= 400 else message[:396] + " ..."


def dotted(path: Path) -> str:
    """``steps.fold.with.seed``, cut to a readable length."""
    text = ".".join(str(part) for part in path[:12])
    return text if len(text) <= 200 else text[:196] + " ..."


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """A hint that names the closest known name, or lists what there is."""
    names = list(known)
    if len(names) > _MANY_NAMES:
        names = [other for other in names if other[:1] == name[:1]][:_MANY_NAMES]
    close = difflib.get_close_matches(name[:80], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if otherwise:
        return otherwise
    if not names:
        return "there is none"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {listed}"


def show(value: object, limit: int = 60) -> str:
    """A value as YAML people write it, cut to a readable length."""
    if value is None:
        text = "nothing"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "a mapping"
    elif isinstance(value, list):
        text = "a list"
    elif isinstance(value, str):
        text = repr(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > 200:
        # Python refuses to write out numbers of many thousand digits.
        text = "a huge number"
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 4] + " ..."
