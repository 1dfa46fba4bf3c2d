"""Static types of expressions: finds before a run what would fail during it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from foldase_workflows.contracts.types import PortType, list_of
from foldase_workflows.spec.expressions.functions import FUNCTIONS, TypeMismatch
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
from foldase_workflows.spec.expressions.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    JSON,
    NULL,
    TEXT,
    is_list,
    is_number,
    is_scalar,
    item_of,
    join,
    type_of,
)
from foldase_workflows.spec.faults import did_you_mean


@dataclass(frozen=True, slots=True)
class StepType:
    """What other steps see of a step. ``outputs`` is None where its operator is not known."""

    outputs: Mapping[str, PortType] | None
    scattered: bool


@dataclass(frozen=True, slots=True)
class Names:
    """What an expression may refer to. ``each`` is None where there is no present item."""

    inputs: Mapping[str, PortType] = field(default_factory=dict)
    steps: Mapping[str, StepType] = field(default_factory=dict)
    each: Mapping[str, PortType] | None = None


Report = Callable[[ExpressionFault], None]


def infer(node: Node, names: Names, report: Report) -> PortType:
    """The type of an expression. Each fault is reported, and its part counts as ``any`` from there on."""
    return _Inference(names, report).of(node)


class _Inference:
    def __init__(self, names: Names, report: Report) -> None:
        self.names = names
        self.report = report

    def of(self, node: Node) -> PortType:
        """The type of any part."""
        match node:
            case Literal():
                return type_of(node.value)
            case InputRef() | StepRef() | EachRef():
                return self._reference(node)
            case ListOf():
                return self._list(node)
            case Field():
                return self._field(node)
            case Index():
                return self._index(node)
            case Unary():
                return self._unary(node)
            case Binary():
                return self._binary(node)
            case Choice():
                return self._choice(node)
            case Call():
                return self._call(node)
        raise AssertionError(f"a part without a type: {node}")

    def _fault(self, node: Node, code: str, message: str, hint: str) -> PortType:
        self.report(ExpressionFault(code, message, node.offset, hint))
        return ANY

    def _reference(self, node: InputRef | StepRef | EachRef) -> PortType:
        if isinstance(node, InputRef):
            if node.name in self.names.inputs:
                return self.names.inputs[node.name]
            hint = did_you_mean(node.name, self.names.inputs)
            return self._fault(node, "unknown_input", f"the workflow has no input {node.name!r}", hint)
        if isinstance(node, EachRef):
            if self.names.each is None:
                hint = "`each` can be used under `with` of a step that has `each`"
                return self._fault(node, "unknown_each", "there is no item here", hint)
            if node.name in self.names.each:
                return self.names.each[node.name]
            hint = did_you_mean(node.name, self.names.each)
            return self._fault(node, "unknown_each", f"the step does not scatter over {node.name!r}", hint)
        return self._output(node)

    def _output(self, node: StepRef) -> PortType:
        step = self.names.steps.get(node.step)
        if step is None:
            hint = did_you_mean(node.step, self.names.steps)
            return self._fault(node, "unknown_step", f"there is no step {node.step!r}", hint)
        if step.scattered and not node.gathered:
            hint = f"write steps.{node.step}.each.{node.output} for the list over all items"
            self._fault(node, "scattered_step", f"the step {node.step!r} runs once per item", hint)
        elif node.gathered and not step.scattered:
            hint = f"write steps.{node.step}.{node.output}"
            self._fault(node, "not_scattered", f"the step {node.step!r} has no `each`", hint)
        if step.outputs is None:
            return ANY
        if node.output not in step.outputs:
            hint = did_you_mean(node.output, step.outputs)
            message = f"the step {node.step!r} has no output {node.output!r}"
            return self._fault(node, "unknown_output", message, hint)
        return list_of(step.outputs[node.output]) if node.gathered else step.outputs[node.output]

    def _list(self, node: ListOf) -> PortType:
        found: PortType | None = None
        for item in node.items:
            kind = self.of(item)
            found = kind if found is None else join(found, kind)
            if found is None:
                hint = "the items of a list have one type"
                return list_of(self._fault(item, "type", f"{kind} among other values in a list", hint))
        return list_of(found or ANY)

    def _field(self, node: Field) -> PortType:
        base = self.of(node.base)
        if base in (JSON, ANY):
            return ANY
        return self._fault(node, "type", f"a value of type {base} has no fields", "only mappings have fields")

    def _index(self, node: Index) -> PortType:
        base, index = self.of(node.base), self.of(node.index)
        if base.item:
            if index not in (INT, ANY):
                self._fault(
                    node.index, "type", f"a list is indexed by whole numbers, not {index}", "write [0]"
                )
            return base.item
        if base == JSON and index not in (TEXT, ANY):
            self._fault(node.index, "type", f"a mapping is indexed by texts, not {index}", "write ['name']")
        elif base not in (JSON, ANY):
            message = f"a value of type {base} cannot be indexed"
            return self._fault(node, "type", message, "only lists and mappings can")
        return ANY

    def _unary(self, node: Unary) -> PortType:
        operand = self.of(node.operand)
        if node.operator == "not":
            self._want_bool(node.operand, operand, "`not`")
            return BOOL
        if not is_number(operand):
            return self._fault(node.operand, "type", f"`-` wants a number, got {operand}", "check the types")
        return operand

    def _want_bool(self, node: Node, kind: PortType, who: str) -> None:
        if kind not in (BOOL, ANY):
            hint = "compare it, for example with `> 0` or `!= null`"
            self._fault(node, "type", f"{who} wants true or false, got {kind}", hint)

    def _binary(self, node: Binary) -> PortType:
        left, right = self.of(node.left), self.of(node.right)
        if node.operator in ("and", "or"):
            self._want_bool(node.left, left, f"`{node.operator}`")
            self._want_bool(node.right, right, f"`{node.operator}`")
            return BOOL
        if node.operator in ("in", "not in"):
            return self._membership(node, left, right)
        if node.operator in ("==", "!=", "<", "<=", ">", ">="):
            return self._comparison(node, left, right)
        return self._arithmetic(node, left, right)

    def _membership(self, node: Binary, left: PortType, right: PortType) -> PortType:
        if is_list(right):
            if not is_scalar(left) or join(left, item_of(right)) is None:
                hint = "look for a value of the type of the items"
                self._fault(node, "type", f"{left} is never in {right}", hint)
        elif right in (TEXT, JSON):
            if left not in (TEXT, ANY):
                self._fault(node, "type", f"{left} is never in {right}", "look for a text")
        else:
            hint = "the right side must be a list, a text or a mapping"
            self._fault(node, "type", f"nothing is in {right}", hint)
        return BOOL

    def _comparison(self, node: Binary, left: PortType, right: PortType) -> PortType:
        both = (left, right)
        if node.operator in ("==", "!="):
            # Any value may be compared with null, to see whether it was given.
            if NULL not in both and (not all(map(is_scalar, both)) or join(left, right) is None):
                message = f"{left} and {right} cannot be compared"
                self._fault(node, "type", message, "compare values of the same type")
        elif not (all(map(is_number, both)) or all(kind in (TEXT, ANY) for kind in both)):
            message = f"`{node.operator}` cannot order {left} and {right}"
            self._fault(node, "type", message, "compare two numbers or two texts")
        return BOOL

    def _arithmetic(self, node: Binary, left: PortType, right: PortType) -> PortType:
        if is_number(left) and is_number(right):
            if node.operator == "/":
                return FLOAT
            return FLOAT if FLOAT in (left, right) else ANY if ANY in (left, right) else INT
        if node.operator == "+":
            both = join(left, right)
            if both is not None and (both in (TEXT, ANY) or both.item) and NULL not in (left, right):
                return both
        hint = (
            "put text together as 'a' + text(b), or as a ${{ b }} text"
            if TEXT in (left, right)
            else "use numbers"
        )
        message = f"`{node.operator}` cannot work on {left} and {right}"
        return self._fault(node, "type", message, hint)

    def _choice(self, node: Choice) -> PortType:
        self._want_bool(node.condition, self.of(node.condition), "a choice")
        then, otherwise = self.of(node.then), self.of(node.otherwise)
        both = join(then, otherwise)
        if both is None:
            message = f"the two branches have different types, {then} and {otherwise}"
            return self._fault(node, "type", message, "give both the same type")
        return both

    def _call(self, node: Call) -> PortType:
        kinds = [self.of(argument) for argument in node.arguments]
        function = FUNCTIONS.get(node.name)
        if function is None:
            hint = did_you_mean(node.name, FUNCTIONS)
            return self._fault(node, "unknown_function", f"there is no function {node.name!r}", hint)
        if not function.low <= len(kinds) <= function.high:
            hint = f"write {function.usage}"
            return self._fault(node, "wrong_arguments", f"{node.name} got {len(kinds)} values", hint)
        try:
            return function.infer(kinds)
        except TypeMismatch as mismatch:
            argument = node.arguments[mismatch.argument]
            message = f"{node.name} wants {mismatch.wanted}, got {kinds[mismatch.argument]}"
            return self._fault(argument, "type", message, f"write {function.usage}")
