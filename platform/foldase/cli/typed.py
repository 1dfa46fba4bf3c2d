"""``--input name=value`` to values of the types that a workflow wants."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.contracts.types import PortType

_WORDS = {"true": True, "false": False}


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """``name=value`` by name.

    Raises:
        BadInput: ``usage``, there is no ``=``, or a name comes twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(
                f"{text!r} is no input", code="usage", hint="write --input name=value, for a file name=@path"
            )
        if name in given:
            raise BadInput(f"the input {name!r} is given twice", code="usage", hint="give it once")
        given[name] = value
    return given


def typed_inputs(given: Mapping[str, str], types: Mapping[str, PortType]) -> dict[str, Any]:
    """Values of the wished types; names that the workflow does not have stay texts, for it to refuse.

    Raises:
        BadInput: ``type``, a text cannot be read as its type; the path names the input.
    """
    return {
        name: typed(text, types[name], f"inputs.{name}") if name in types else text
        for name, text in given.items()
    }


def typed(text: str, kind: PortType, place: str) -> Any:
    """One value. ``@path`` names a file: its content for lists and json, the file itself for files."""
    if kind.item is not None:
        return _items(text, kind.item, place)
    if kind.name == "weights":
        return text
    if kind.is_artifact:
        return Path(text.removeprefix("@"))
    if kind.name in ("json", "any"):
        return _structured(text, kind, place)
    try:
        if kind.name == "int":
            return int(text)
        if kind.name == "float":
            return _finite(float(text))
        if kind.name == "bool":
            return _WORDS[text.lower()]
    except (ValueError, KeyError):
        hint = "write true or false" if kind.name == "bool" else f"write {kind.help}"
        raise _wrong(text, kind, place, hint) from None
    return text


def _items(text: str, kind: PortType, place: str) -> list[Any]:
    if not kind.is_artifact and (text.startswith("@") or text.lstrip().startswith("[")):
        parts = _json(text, place)
        if not isinstance(parts, list):
            raise _wrong(text, kind, place, "a list is written [1, 2] or 1,2")
        return parts
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    return [typed(part, kind, f"{place}[{index}]") for index, part in enumerate(parts)]


def _structured(text: str, kind: PortType, place: str) -> Any:
    if kind.name == "any" and not text.startswith("@"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return _json(text, place)


def _json(text: str, place: str) -> Any:
    source, where = text, Location(path=place)
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        where = Location(file=str(path), path=place)
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"{path} cannot be read: {error}", code="file_missing", location=where, hint="check the path"
            ) from None
    try:
        return json.loads(source)
    except ValueError as error:
        raise BadInput(
            f"this is no JSON: {error}", code="type", location=where, hint='JSON is written {"a": [1, "b"]}'
        ) from None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _wrong(text: str, kind: PortType, place: str, hint: str) -> BadInput:
    return BadInput(f"{text[:80]!r} is no {kind}", code="type", location=Location(path=place), hint=hint)
