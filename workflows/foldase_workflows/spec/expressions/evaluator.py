"""The value of an expression in a scope. Ends with a value or an ``ExpressionFault``, always and soon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.spec.expressions.functions import FUNCTIONS, ValueFault, bounded, number
from foldase_workflows.spec.expressions.nodes import (
    Binary,
    Call,
    Choice,
    EachRef,
    ExpressionFault,
    Field,
    Index,
    InputRef,
    ListOf,
    Literal,
    Node,
    StepRef,
    Unary,
)
from foldase_workflows.spec.faults import show

Scope = Mapping[str, Any]
"""``{"inputs": {name: value}, "steps": {name: {output: value}}, "each": {name: value}}``.

A scattered step holds ``{"each": {output: [values]}}``, a skipped one None. Artifacts are references.
"""

_CHECK = "check where the value comes from"


def compute(node: Node, scope: Scope) -> Any:
    """The value of a tree.

    Raises:
        ExpressionFault: with the code of the fault and the offset of the part.
    """
    return _HANDLERS[type(node)](node, scope)


def _input(node: InputRef, scope: Scope) -> Any:
    try:
        return scope["inputs"][node.name]
    except KeyError:
        raise _fault(node, "unknown_input", f"there is no input {node.name!r}", _CHECK) from None


def _each(node: EachRef, scope: Scope) -> Any:
    try:
        return scope["each"][node.name]
    except (KeyError, TypeError):
        raise _fault(node, "unknown_each", f"there is no item {node.name!r} here", _CHECK) from None


def _step(node: StepRef, scope: Scope) -> Any:
    try:
        outputs = scope["steps"][node.step]
    except KeyError:
        message = f"the step {node.step!r} has no outputs yet"
        raise _fault(node, "unavailable", message, "it has not finished") from None
    if outputs is None:
        return None
    try:
        return outputs["each"][node.output] if node.gathered else outputs[node.output]
    except (KeyError, TypeError):
        message = f"the step {node.step!r} gave no output {node.output!r}"
        raise _fault(node, "unknown_output", message, _CHECK) from None


def _list(node: ListOf, scope: Scope) -> Any:
    return [compute(item, scope) for item in node.items]


def _field(node: Field, scope: Scope) -> Any:
    base = compute(node.base, scope)
    if not isinstance(base, dict) or Artifact.is_json(base):
        raise _fault(node, "type", f"{show(base)} has no fields", "only mappings have fields")
    if node.name not in base:
        raise _fault(node, "unknown_field", f"the mapping has no field {node.name!r}", _CHECK)
    return base[node.name]


def _index(node: Index, scope: Scope) -> Any:
    base, index = compute(node.base, scope), compute(node.index, scope)
    if isinstance(base, list) and isinstance(index, int) and not isinstance(index, bool):
        if -len(base) <= index < len(base):
            return base[index]
        message = f"item {index} of a list of {len(base)}"
        raise _fault(node, "index_range", message, "the first item is [0], the last [-1]")
    if isinstance(base, dict) and isinstance(index, str) and not Artifact.is_json(base):
        if index in base:
            return base[index]
        raise _fault(node, "unknown_field", f"the mapping has no field {show(index)}", _CHECK)
    raise _fault(node, "type", f"{show(base)} cannot be indexed by {show(index)}", _CHECK)


def _unary(node: Unary, scope: Scope) -> Any:
    value = compute(node.operand, scope)
    if node.operator == "not":
        return not _truth(node.operand, value)
    return _guarded(node, lambda: bounded(-number(value)))


def _binary(node: Binary, scope: Scope) -> Any:
    left = compute(node.left, scope)
    if node.operator == "and":
        return _truth(node.left, left) and _truth(node.right, compute(node.right, scope))
    if node.operator == "or":
        return _truth(node.left, left) or _truth(node.right, compute(node.right, scope))
    right = compute(node.right, scope)
    return _guarded(node, lambda: _OPERATORS[node.operator](left, right))


def _choice(node: Choice, scope: Scope) -> Any:
    chosen = node.then if _truth(node.condition, compute(node.condition, scope)) else node.otherwise
    return compute(chosen, scope)


def _call(node: Call, scope: Scope) -> Any:
    function = FUNCTIONS.get(node.name)
    if function is None or not function.low <= len(node.arguments) <= function.high:
        raise _fault(node, "unknown_function", f"{node.name} cannot be called like this", _CHECK)
    values = [compute(argument, scope) for argument in node.arguments]
    return _guarded(node, lambda: bounded(function.apply(values)))


def _truth(node: Node, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _fault(node, "type", f"true or false is wanted, got {show(value)}", _CHECK)


def _guarded(node: Node, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ValueFault as fault:
        raise _fault(node, fault.code, fault.message, fault.hint) from None
    except ZeroDivisionError:
        raise _fault(node, "division_by_zero", "a division by zero", "test the divisor first") from None
    except OverflowError:
        raise _fault(node, "number_range", "a number is out of range", "use smaller numbers") from None


def _fault(node: Node, code: str, message: str, hint: str) -> ExpressionFault:
    return ExpressionFault(code, message, node.offset, hint)


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        return bounded(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return bounded(left + right)
    return bounded(number(left) + number(right))


def _equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    for value in (left, right):
        if isinstance(value, (list, dict)):
            raise ValueFault("type", f"{show(value)} cannot be compared", "compare numbers or texts")
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def apply(left: Any, right: Any) -> bool:
        if isinstance(left, str) and isinstance(right, str):
            return compare(left, right)
        return compare(number(left), number(right))

    return apply


def _contains(item: Any, container: Any) -> bool:
    if isinstance(container, list):
        return any(_equal(item, other) for other in container if not isinstance(other, (list, dict)))
    if isinstance(container, (str, dict)) and isinstance(item, str):
        return item in container
    message = f"{show(item)} cannot be looked for in {show(container)}"
    raise ValueFault("type", message, "the right side must be a list, a text or a mapping")


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": _add,
    "-": lambda left, right: bounded(number(left) - number(right)),
    "*": lambda left, right: bounded(number(left) * number(right)),
    "/": lambda left, right: bounded(number(left) / number(right)),
    "//": lambda left, right: bounded(number(left) // number(right)),
    "%": lambda left, right: bounded(number(left) % number(right)),
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _ordered(lambda left, right: left < right),
    "<=": _ordered(lambda left, right: left <= right),
    ">": _ordered(lambda left, right: left > right),
    ">=": _ordered(lambda left, right: left >= right),
    "in": _contains,
    "not in": lambda item, container: not _contains(item, container),
}

_HANDLERS: dict[type[Node], Callable[[Any, Scope], Any]] = {
    Literal: lambda node, _scope: node.value,
    InputRef: _input,
    EachRef: _each,
    StepRef: _step,
    ListOf: _list,
    Field: _field,
    Index: _index,
    Unary: _unary,
    Binary: _binary,
    Choice: _choice,
    Call: _call,
}
