"""From pydantic's errors to faults with a place, a stable code and a hint."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from foldase_workflows.spec.conform import says_not_finite
from foldase_workflows.spec.document.tree import Source
from foldase_workflows.spec.faults import Faults, Path, did_you_mean, show

_LATER = {
    "sweep": "start one run per value for now",
    "profile": "site settings are given to the server",
    "labels": "every node may run the step for now",
    "budget": "set `timeout` for now",
    "notify": "follow the run on its page for now",
    "secrets": "set environment variables of the server for now",
}
"""Fields of the language that this version does not know yet."""

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_RANGE = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "finite_number"}
)
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_LENGTH = frozenset({"too_short", "too_long", "string_too_short", "string_too_long"})


def add_shape_faults(
    model: type[BaseModel], error: ValidationError, source: Source | None, faults: Faults
) -> None:
    """Translate all of ``error``, which came from validating a whole document against ``model``."""
    for detail in error.errors(include_url=False):
        path: Path = tuple(part for part in detail["loc"] if part != "[key]")
        kind = detail["type"]
        given = detail["input"]
        if isinstance(given, str) and "${{" in given and kind != "extra_forbidden":
            message = "expressions are read under with, each, if and outputs only"
            faults.add("expression_not_allowed", message, path, hint="write the value itself")
        elif kind == "foldase":
            context = detail["ctx"]
            faults.add(context["code"], context["text"], path, hint=context["hint"])
        elif kind == "extra_forbidden":
            _unknown_field(model, path, faults)
        elif kind == "missing":
            field = path[-1]
            message = f"the field {field!r} is missing"
            faults.add("missing_field", message, path, key=True, hint=_hint_for_missing(field))
        elif kind in _WANTED:
            _wrong_type(detail, path, source, faults)
        elif kind == "literal_error":
            _wrong_literal(detail, path, faults)
        else:
            message, hint = in_words(detail)
            faults.add(code_of(kind), message, path, hint=hint)


def in_words(detail: ErrorDetails) -> tuple[str, str]:
    """Message and hint for an error of range or length; of another kind, pydantic's own."""
    context, given = detail.get("ctx", {}), detail["input"]
    for name, words in _BOUNDS.items():
        if name in context and code_of(detail["type"]) == "number_range":
            wanted = f"{words} {context[name]}"
            return f"{show(given)} is out of range: it must be {wanted}", f"use a number {wanted}"
    for name, words in (("min_length", "at least"), ("max_length", "at most")):
        if name in context:
            return f"{len(given)} given, {words} {context[name]} wanted", f"give {words} {context[name]}"
    return detail["msg"], f"got {show(given)}"


def code_of(kind: str) -> str:
    """Our code for one of pydantic's kinds of error."""
    if kind in _RANGE:
        return "number_range"
    if kind in _LENGTH:
        return "length_range"
    if kind in _WANTED:
        return "type"
    return "invalid_choice" if kind == "literal_error" else "invalid_value"


def _unknown_field(model: type[BaseModel], path: Path, faults: Faults) -> None:
    name = str(path[-1])
    if name in _LATER:
        faults.add("not_supported_yet", f"`{name}` is not supported yet", path, key=True, hint=_LATER[name])
        return
    known = _fields_at(model, path[:-1])
    faults.add("unknown_field", f"unknown field {show(name)}", path, key=True, hint=did_you_mean(name, known))


def _fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """The fields of the section at ``path``."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is None:
            break
        for name, info in current.model_fields.items():
            if part == (info.alias or name):
                current = _section_of(info.annotation)
                break
    return [info.alias or name for name, info in current.model_fields.items()] if current else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``Model``, ``Model | None`` or ``dict[str, Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _section_of(argument)
        if found is not None:
            return found
    return None


def _hint_for_missing(field: str | int) -> str:
    examples = {
        "version": "start with `version: 1`",
        "uses": "name an operator, like `uses: contacts.train@1`",
        "type": "give the input a type, like `type: int`",
        "workflow": "name a workflow of the catalog, or ./path.yaml",
    }
    return examples.get(str(field), f"add `{field}:`")


def _wrong_type(detail: ErrorDetails, path: Path, source: Source | None, faults: Faults) -> None:
    wanted, given = _WANTED[detail["type"]], detail["input"]
    code = "type"
    if wanted == "a text" and isinstance(given, (dict, list)):
        hint = "write one text, in quotes where it holds brackets"
    elif wanted == "a text":
        raw = (source.raw(path) if source else None) or show(given)
        hint = f'quote it: "{raw[:40]}"' if given is not None else 'write "" for an empty text'
    elif wanted in ("a whole number", "a number"):
        # A document that says `true`, NaN or inf where a number belongs holds no number at all.
        if isinstance(given, bool) or says_not_finite(given):
            code = "number_range"
        hint = "write digits without quotes"
    elif wanted == "true or false":
        hint = "yes, no, on and off are texts; write true or false"
    elif wanted == "a list":
        hint = "write [a, b], or one `- item` a line"
    else:
        hint = "write `name: value` lines below it, indented"
    faults.add(code, f"{wanted} is wanted, got {show(given)}", path, hint=hint)


def _wrong_literal(detail: ErrorDetails, path: Path, faults: Faults) -> None:
    given = detail["input"]
    if path == ("version",):
        message = f"version {show(given)} of the language is not known"
        faults.add("unsupported_version", message, path, hint="write `version: 1`")
        return
    message = f"{show(given)} is not possible here"
    faults.add("invalid_choice", message, path, hint=f"use {detail['ctx']['expected']}")
