"""The field types of the documents: each checks itself, says how it is written and describes its schema.

A field keeps what the person wrote (``16GiB``); whoever needs the number reads it with ``quantities``. So
the canonical form of a document is readable, and stays valid input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from foldase_workflows.contracts.failures import (
    RETRYABLE_BY_REQUEST,
    RETRYABLE_BY_THE_PLATFORM,
    Cause,
)
from foldase_workflows.contracts.types import parse_type, type_names
from foldase_workflows.spec import quantities
from foldase_workflows.spec.faults import did_you_mean, show
from foldase_workflows.spec.limits import MAX_NAME, MAX_RANKS

EXPRESSION_PATTERN = r"\$\{\{[\s\S]*\}\}"
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}", re.ASCII)
_WORKFLOW_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}", re.ASCII)

RETRY_CAUSES: dict[str, tuple[Cause, ...]] = {
    "oom": (Cause.OOM_HOST, Cause.OOM_GPU),
    **{str(cause): (cause,) for cause in sorted(RETRYABLE_BY_REQUEST | RETRYABLE_BY_THE_PLATFORM)},
}
"""What may stand under ``retry.on``; ``oom`` is short for both kinds."""

PRIORITIES = {"low": -10, "normal": 0, "high": 10}


def fault(code: str, message: str, hint: str) -> PydanticCustomError:
    """A fault that pydantic carries to the place it belongs to."""
    # Braces in the message would be read as fields of a template.
    return PydanticCustomError("foldase", "{text}", {"code": code, "text": message, "hint": hint})


def is_name(text: str) -> bool:
    """Whether a step, an input or an output may be called so."""
    return _NAME.fullmatch(text) is not None


def name_hint(text: str) -> str:
    """How to turn a text into such a name."""
    mended = re.sub(r"[^A-Za-z0-9_]+", "_", text[:MAX_NAME]).strip("_")
    if mended[:1].isdigit():
        mended = f"n{mended}"[:MAX_NAME]
    rule = f"a letter, then letters, digits and _, at most {MAX_NAME}"
    return f"write {mended}; {rule}" if is_name(mended) else rule


def _wants(kinds: type | tuple[type, ...], value: object, wanted: str, hint: str) -> None:
    """Refuse a value of another kind; a bool is no number."""
    if isinstance(value, bool) and bool not in (kinds if isinstance(kinds, tuple) else (kinds,)):
        raise fault(
            "number_range" if kinds is not str else "type", f"{wanted} is wanted, got {show(value)}", hint
        )
    if not isinstance(value, kinds):
        raise fault("type", f"{wanted} is wanted, got {show(value)}", hint)


def _text_quantity(read: Callable[[str], object], wanted: str, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            try:
                read(value)
            except ValueError as error:
                raise fault("quantity", str(error), f"write it like {example}") from None
            return value
        raise fault("quantity", f"{wanted}, got {show(value)}", f"write it like {example}")

    return check


def _or_auto(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: value if value == "auto" else check(value)


def _check_cpu(value: Any) -> Any:
    hint = "write a number of cores like 2 or 0.5"
    _wants((int, float), value, "a number of cores", hint)
    if not 0 < value <= 100_000:
        raise fault("number_range", f"{show(value)} cores cannot be reserved", hint)
    return value


def _check_gpu(value: Any) -> Any:
    try:
        quantities.parse_gpu(value)
    except ValueError as error:
        hint = (
            f"write 1/{round(1 / value)}"
            if isinstance(value, float) and 0.04 < value < 1
            else "write 1 or 1/2"
        )
        code = "number_range" if isinstance(value, (int, float)) else "quantity"
        raise fault(code, str(error), hint) from None
    return value


def _check_ranks(value: Any) -> Any:
    hint = "write a whole number like 4"
    _wants(int, value, "a number of ranks", hint)
    if not 1 <= value <= MAX_RANKS:
        raise fault("number_range", f"{show(value)} ranks cannot be started, 1 to {MAX_RANKS} can", hint)
    return value


def _check_allowance(value: Any) -> Any:
    try:
        quantities.parse_allowance(value, 100)
    except ValueError as error:
        code = "number_range" if isinstance(value, (int, float)) else "quantity"
        raise fault(code, str(error), "write a count like 3 or a share like 5%") from None
    return value


def _check_type(value: Any) -> Any:
    _wants(str, value, "the name of a type", f"one of {', '.join(_TYPE_NAMES)}, or list[...] of one")
    try:
        found = parse_type(value[:100])
    except ValueError:
        found = None
    innermost = found
    while innermost is not None and innermost.item is not None:
        innermost = innermost.item
    if innermost is None or innermost.name == "any":
        raise fault("unknown_type", f"there is no type {show(value)}", did_you_mean(value, _TYPE_NAMES))
    return str(found)


def _check_cause(value: Any) -> Any:
    if not isinstance(value, str) or value not in RETRY_CAUSES:
        hint = (
            did_you_mean(value, RETRY_CAUSES)
            if isinstance(value, str)
            else f"one of {', '.join(RETRY_CAUSES)}"
        )
        raise fault("invalid_choice", f"{show(value)} is no cause that can be retried", hint)
    return value


def _check_cache(value: Any) -> Any:
    if value is True or value is False or value == "refresh":
        return value
    raise fault("invalid_choice", f"cache cannot be {show(value)}", "write true, false or refresh")


def _check_priority(value: Any) -> Any:
    hint = "write low, normal, high or a number from -100 to 100"
    if isinstance(value, str) and value in PRIORITIES:
        return value
    if isinstance(value, str):
        raise fault("invalid_choice", f"there is no priority {show(value)}", hint)
    _wants(int, value, "a priority", hint)
    if not -100 <= value <= 100:
        raise fault("number_range", f"the priority {value} is out of range", hint)
    return value


def _check_number(value: Any) -> Any:
    _wants((int, float), value, "a number", "write a number without quotes")
    return value


def _check_workflow_name(value: Any) -> Any:
    hint = f"letters, digits, dots, hyphens and underscores, at most {MAX_NAME}"
    _wants(str, value, "a name", f'quote it: "{value}"')
    if not _WORKFLOW_NAME.fullmatch(value):
        raise fault("bad_name", f"{show(value)} cannot be the name of a workflow", hint)
    return value


def _check_condition(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and "${{" in value):
        return value
    hint = "write ${{ inputs.NAME }} or another expression that gives true or false"
    raise fault("type", f"a condition is wanted, got {show(value)}", hint)


def _check_list_or_expression(value: Any) -> Any:
    if isinstance(value, list) or (isinstance(value, str) and "${{" in value):
        return value
    raise fault("type", f"a list is wanted, got {show(value)}", "write [a, b] or ${{ inputs.NAME }}")


_TYPE_NAMES = tuple(name for name in type_names() if name != "any")
_AUTO = {"const": "auto"}
_BYTES_SCHEMA = {"type": "string", "pattern": r"^[0-9.]+ ?(B|[kMGT]B|[KMGT]iB)$", "examples": ["16GiB"]}
_DURATION_PATTERN = r"([0-9.]+(ms|s|m|h|d))+"

Bytes = Annotated[
    Any,
    BeforeValidator(_or_auto(_text_quantity(quantities.parse_bytes, "memory needs a unit", "16GiB"))),
    WithJsonSchema({"anyOf": [_BYTES_SCHEMA, _AUTO]}),
]
Cores = Annotated[
    Any,
    BeforeValidator(_or_auto(_check_cpu)),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _AUTO]}),
]
RankCount = Annotated[
    Any,
    BeforeValidator(_check_ranks),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_RANKS}),
]
Gpus = Annotated[
    Any,
    BeforeValidator(_or_auto(_check_gpu)),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^1/[0-9]+$"}, _AUTO]}
    ),
]
Duration = Annotated[
    Any,
    BeforeValidator(_text_quantity(quantities.parse_duration, "a duration needs a unit", "90s, 2h or 1h30m")),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION_PATTERN}$", "examples": ["2h", "90s"]}),
]
DurationRange = Annotated[
    Any,
    BeforeValidator(_text_quantity(quantities.parse_duration_range, "a wait needs units", "5s..2m")),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^{_DURATION_PATTERN}(\.\.{_DURATION_PATTERN})?$",
            "examples": ["5s..2m"],
        }
    ),
]
FactorText = Annotated[
    Any,
    BeforeValidator(_text_quantity(quantities.parse_factor, "a factor needs its x or /", "x2 or /2")),
    WithJsonSchema({"type": "string", "pattern": "^[x/] ?[0-9.]+$", "examples": ["x2", "/2"]}),
]
Allowance = Annotated[
    Any,
    BeforeValidator(_check_allowance),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.]+ ?%$"}]}
    ),
]
TypeName = Annotated[
    Any,
    BeforeValidator(_check_type),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*_TYPE_NAMES, *(f"list[{name}]" for name in _TYPE_NAMES)]},
                {"type": "string", "pattern": r"^list\[.+\]$"},
            ]
        }
    ),
]
RetryCause = Annotated[Any, BeforeValidator(_check_cause), WithJsonSchema({"enum": [*RETRY_CAUSES]})]
CachePolicy = Annotated[
    Any, BeforeValidator(_check_cache), WithJsonSchema({"enum": [True, False, "refresh"]})
]
Priority = Annotated[
    Any,
    BeforeValidator(_check_priority),
    WithJsonSchema(
        {"anyOf": [{"enum": [*PRIORITIES]}, {"type": "integer", "minimum": -100, "maximum": 100}]}
    ),
]
Number = Annotated[Any, BeforeValidator(_check_number), WithJsonSchema({"type": "number"})]
WorkflowName = Annotated[
    Any,
    BeforeValidator(_check_workflow_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_WORKFLOW_NAME.pattern}$"}),
]
Value = Annotated[
    Any,
    WithJsonSchema({"description": "A value, or ${{ an expression }}; lists and mappings may hold both."}),
]
ListOrExpression = Annotated[
    Any,
    BeforeValidator(_check_list_or_expression),
    WithJsonSchema(
        {
            "description": "A list, or ${{ an expression }} that gives one: one item of the step each.",
            "anyOf": [{"type": "array"}, {"type": "string", "pattern": EXPRESSION_PATTERN}],
        }
    ),
]
Condition = Annotated[
    Any,
    BeforeValidator(_check_condition),
    WithJsonSchema(
        {
            "description": "Whether the step runs: true, false or ${{ an expression }}.",
            "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": EXPRESSION_PATTERN}],
        }
    ),
]
