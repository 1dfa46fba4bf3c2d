"""Single values of a document, evaluated on their own."""

from __future__ import annotations

from typing import Any

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.spec.expressions.evaluator import Scope
from foldase_workflows.spec.expressions.nodes import ExpressionFault
from foldase_workflows.spec.expressions.template import read_value, resolve
from foldase_workflows.spec.faults import Path, dotted


def evaluate(value: Any, scope: Scope) -> Any:
    """A value of a document in a scope: expressions in its texts, lists and mappings are replaced.

    A text that is one expression keeps its type, ``"${{ 1 + 1 }}"`` is 2; one that holds several, or other
    text beside them, stays text. Total and without side effects.

    Raises:
        BadInput: an expression is wrong, or has no value in this scope; the column counts from the start
            of its text.
    """

    def report(path: Path, fault: ExpressionFault) -> None:
        raise _bad_input(path, fault)

    template = read_value(value, report)
    try:
        return resolve(template, scope)
    except ExpressionFault as fault:
        raise _bad_input((), fault) from None


def _bad_input(path: Path, fault: ExpressionFault) -> BadInput:
    location = Location(path=dotted(path) or None, column=fault.offset + 1)
    return BadInput(fault.message, code=fault.code, location=location, hint=fault.hint)
