"""Whether a plain value is of a type of the language and within its limits; used wherever values come in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foldase_workflows.contracts.artifacts import ARTIFACT_KEY, Artifact
from foldase_workflows.contracts.types import PortType, Storage, parse_type
from foldase_workflows.contracts.weights import is_weights_name
from foldase_workflows.spec.document.characters import first_unstorable, name_of
from foldase_workflows.spec.faults import Path, did_you_mean, show
from foldase_workflows.spec.limits import INT_MAX, INT_MIN, MAX_DEPTH, MAX_NODES, MAX_TEXT

Refuse = Callable[[Path, str, str, str], None]
"""Called with the path below the value, the code, the message and the hint of each fault."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FIELDS = {"digest": str, "type": str, "size": int, "name": str, "media_type": str}


def conform(
    value: Any,
    kind: PortType,
    refuse: Refuse,
    *,
    limits: Mapping[str, float] | None = None,
    choices: Sequence[Any] = (),
) -> Any:
    """The value, with whole numbers made floats where floats are wanted; faults go to ``refuse``.

    ``limits`` has ``min``, ``max``, ``above``, ``below`` for numbers (of a list: for each of them) and
    ``min_length``, ``max_length`` for texts and lists.
    """
    return _Conformer(refuse, limits or {}, choices).of(value, kind, ())


class _Conformer:
    def __init__(self, refuse: Refuse, limits: Mapping[str, float], choices: Sequence[Any]) -> None:
        self._refuse = refuse
        self.refused = 0
        self.limits = limits
        self.choices = choices
        self.nodes = 0

    def refuse(self, path: Path, code: str, message: str, hint: str) -> None:
        self.refused += 1
        self._refuse(path, code, message, hint)

    def of(self, value: Any, kind: PortType, path: Path) -> Any:
        if kind.item is not None:
            return self._list(value, kind.item, path)
        if kind.is_artifact:
            return self._artifact(value, kind, path)
        if kind.name in ("any", "json"):
            return self._anything(value, kind, path)
        before = self.refused
        if kind.name in ("int", "float"):
            value = self._number(value, kind.name, path)
        elif kind.name == "bool":
            if not isinstance(value, bool):
                self.refuse(
                    path, "type", f"true or false is wanted, got {show(value)}", "write true or false"
                )
        elif self._text(value, path) and not path:
            self._length(value, path, "characters")
        if (
            self.choices
            and self.refused == before
            and not any(_same(value, choice) for choice in self.choices)
        ):
            listed = ", ".join(show(choice) for choice in self.choices[:12])
            texts = [choice for choice in self.choices if isinstance(choice, str)]
            hint = did_you_mean(value, texts) if isinstance(value, str) and texts else f"one of {listed}"
            self.refuse(path, "invalid_choice", f"{show(value)} is not one of {listed}", hint)
        return value

    def _list(self, value: Any, item: PortType, path: Path) -> Any:
        if not isinstance(value, list):
            self.refuse(path, "type", f"a list is wanted, got {show(value)}", "write [a, b]")
            return value
        if not path:
            self._length(value, path, "items")
        if not self._room(len(value), path):
            return value
        return [self.of(part, item, (*path, place)) for place, part in enumerate(value)]

    def _room(self, more: int, path: Path) -> bool:
        self.nodes += more
        if self.nodes <= MAX_NODES and len(path) <= MAX_DEPTH:
            return True
        message = f"more than {MAX_NODES} values, or nested more than {MAX_DEPTH} deep"
        self.refuse(path, "too_large", message, "give data as a file")
        return False

    def _number(self, value: Any, name: str, path: Path) -> Any:
        wanted = "a whole number" if name == "int" else "a number"
        hint = "write digits without quotes"
        if isinstance(value, bool) or says_not_finite(value):
            self.refuse(
                path, "number_range", f"{wanted} is wanted, got {show(value)}", "give a finite number"
            )
            return value
        if not isinstance(value, (int, float)) or (name == "int" and isinstance(value, float)):
            if isinstance(value, float) and value.is_integer():
                hint = f"write {int(value)}"
            self.refuse(path, "type", f"{wanted} is wanted, got {show(value)}", hint)
            return value
        if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            # Python refuses to print numbers of many thousand digits, so the value is not shown.
            self.refuse(path, "number_range", "a whole number of more than 64 bits", "use a smaller number")
            return value
        self._limit(value, path)
        return float(value) if name == "float" else value

    def _limit(self, value: float, path: Path) -> None:
        for name, fine, words in _LIMITS:
            limit = self.limits.get(name)
            if limit is not None and not fine(value, limit):
                message = f"{show(value)} is out of range: it must be {words} {limit:g}"
                self.refuse(path, "number_range", message, f"use a number {words} {limit:g}")

    def _text(self, value: Any, path: Path) -> bool:
        if not isinstance(value, str):
            hint = f'quote it: "{show(value)}"' if isinstance(value, (bool, int, float)) else "write a text"
            self.refuse(path, "type", f"a text is wanted, got {show(value)}", hint)
            return False
        at = first_unstorable(value)
        if at is not None:
            self.refuse(
                path, "bad_characters", f"the text holds {name_of(value[at])}", "delete the character"
            )
            return False
        if len(value) > MAX_TEXT:
            message = f"a text of {len(value)} characters, the limit is {MAX_TEXT}"
            self.refuse(path, "too_large", message, "give it as a file")
            return False
        return True

    def _length(self, value: str | list[Any], path: Path, unit: str) -> None:
        low, high = self.limits.get("min_length"), self.limits.get("max_length")
        if low is not None and len(value) < low:
            message = f"{len(value)} {unit}, at least {low:g} are wanted"
            self.refuse(path, "length_range", message, f"give at least {low:g} {unit}")
        if high is not None and len(value) > high:
            message = f"{len(value)} {unit}, at most {high:g} are allowed"
            self.refuse(path, "length_range", message, f"give at most {high:g} {unit}")

    def _artifact(self, value: Any, kind: PortType, path: Path) -> Any:
        if kind.name == "weights" and isinstance(value, str):
            self._weights_name(value, path)
            return value
        if not Artifact.is_json(value):
            if kind.name == "weights":
                message = f"the name of weights is wanted, got {show(value)}"
                self.refuse(path, "type", message, "`foldase weights` lists them")
                return value
            hint = "the command line uploads a path by itself; through the API, upload the file first"
            self.refuse(path, "type", f"a file of type {kind} is wanted, got {show(value)}", hint)
            return value
        fields = value[ARTIFACT_KEY]
        if not _is_artifact(fields):
            hint = "give back what the upload answered"
            self.refuse(path, "type", "the reference to the file is not complete", hint)
            return value
        given = parse_type(fields["type"])
        # What a person uploaded as a plain file may turn out to be any kind of file.
        if not kind.accepts(given) and not (given.name == "file" and kind.storage is Storage.FILE):
            self.refuse(
                path, "type", f"a file of type {kind} is wanted, got one of type {given}", "upload another"
            )
        return value

    def _weights_name(self, name: str, path: Path) -> None:
        """Of the name only the form; whether there are such weights is for the platform to say."""
        if not is_weights_name(name):
            hint = "give a name that `foldase weights` lists; the administrator chose the folder"
            self.refuse(path, "bad_weights_name", f"{show(name)} is no name of weights", hint)

    def _anything(self, value: Any, kind: PortType, path: Path) -> Any:
        if kind.name == "json" and not isinstance(value, dict):
            self.refuse(path, "type", f"a mapping is wanted, got {show(value)}", "write {name: value}")
            return value
        self._check_deep(value, path)
        return value

    def _check_deep(self, value: Any, path: Path) -> None:
        """Bounds and characters of a value of any type."""
        if isinstance(value, str):
            self._text(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            self.refuse(path, "number_range", f"{show(value)} is not finite", "give a finite number")
        elif isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            self.refuse(path, "number_range", "a whole number of more than 64 bits", "use a smaller number")
        elif isinstance(value, list) and self._room(len(value), path):
            for place, item in enumerate(value):
                self._check_deep(item, (*path, place))
        elif isinstance(value, dict) and self._room(len(value), path):
            for name, item in value.items():
                if self._text(name, path):
                    self._check_deep(item, (*path, name))


def _is_artifact(fields: Any) -> bool:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
        return False
    if not all(type(fields[name]) is kind for name, kind in _FIELDS.items()):
        return False
    try:
        parse_type(fields["type"])
    except ValueError:
        return False
    return fields["size"] >= 0 and _DIGEST.fullmatch(fields["digest"]) is not None


def says_not_finite(value: Any) -> bool:
    """Whether a value is, or spells, NaN or infinity."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-.") in ("nan", "inf", "infinity")
    return isinstance(value, float) and not math.isfinite(value)


def _same(value: Any, choice: Any) -> bool:
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)


_LIMITS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("min", lambda value, limit: value >= limit, "at least"),
    ("max", lambda value, limit: value <= limit, "at most"),
    ("above", lambda value, limit: value > limit, "more than"),
    ("below", lambda value, limit: value < limit, "less than"),
)
