"""Finds operators: the entry-point group ``foldase.operators`` and the modules in ``FOLDASE_OPERATORS``.

Both name modules that hold a tuple ``OPERATORS`` of operator instances. Workers inherit the environment
variable, so a lab's own operators need no installation.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from foldase_workflows.contracts.errors import NotFound
from foldase_workflows.contracts.operator import Operator, Signature

ENTRY_POINT_GROUP = "foldase.operators"
ENVIRONMENT_VARIABLE = "FOLDASE_OPERATORS"

AnyOperator = Operator[Any, Any]


class Registry:
    """Operators by ``name@version``."""

    def __init__(self, operators: Iterable[AnyOperator] = ()) -> None:
        self._operators: dict[str, AnyOperator] = {}
        for operator in operators:
            self.add(operator)

    def add(self, operator: AnyOperator) -> None:
        """Register one operator.

        Raises:
            ValueError: another operator has that name and version, its ``frugality`` is not an integer
                input with a default and a maximum, its ``tolerances`` are not inputs, what it ``added`` are
                not inputs with a default, or it asks for several ranks without being a gang.
        """
        if operator.frugality is not None:
            port = operator.signature.inputs.get(operator.frugality)
            if port is None or str(port.type) != "int" or port.required or "max" not in port.limits:
                raise ValueError(
                    f"{operator.reference}: frugality names {operator.frugality!r}, which is no integer "
                    "input with a default and a maximum"
                )
        for name in operator.tolerances - operator.signature.inputs.keys():
            raise ValueError(f"{operator.reference}: tolerances name {name!r}, which is no input")
        optional = {name for name, port in operator.signature.inputs.items() if not port.required}
        for name in operator.added - optional:
            raise ValueError(f"{operator.reference}: added names {name!r}, which is no input with a default")
        if operator.resources.ranks != 1 and not operator.gang:
            raise ValueError(f"{operator.reference}: it asks for several ranks and is no gang")
        known = self._operators.setdefault(operator.reference, operator)
        if type(known) is not type(operator):
            raise ValueError(
                f"two operators are called {operator.reference}: {type(known)}, {type(operator)}"
            )

    def __contains__(self, reference: str) -> bool:
        return reference in self._operators

    def __iter__(self) -> Iterator[AnyOperator]:
        return iter(self._operators[reference] for reference in sorted(self._operators))

    def get(self, reference: str) -> AnyOperator:
        """The operator called ``name@version``.

        Raises:
            NotFound: with code ``unknown_operator`` or ``unknown_operator_version`` and a suggestion.
        """
        if reference in self._operators:
            return self._operators[reference]
        name, _, version = reference.partition("@")
        versions = sorted(operator.version for operator in self if operator.name == name)
        if versions:
            listed = ", ".join(f"{name}@{known}" for known in versions)
            raise NotFound(
                f"operator {name!r} has no version {version or '(none given)'}",
                code="unknown_operator_version",
                hint=f"use {listed}",
            )
        close = difflib.get_close_matches(name, sorted({operator.name for operator in self}), n=1)
        raise NotFound(
            f"unknown operator {reference!r}",
            code="unknown_operator",
            hint=f"did you mean {close[0]!r}?" if close else "`foldase schema operators` lists them",
        )

    def signature(self, reference: str) -> Signature:
        """The ports of an operator; raises like :meth:`get`."""
        return self.get(reference).signature


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """All operators that are installed or named in the environment, found once per process.

    Raises:
        ImportError: a named module cannot be imported or has no ``OPERATORS``.
    """
    registry = Registry()
    modules = [entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)]
    named = os.environ.get(ENVIRONMENT_VARIABLE, "")
    modules += [importlib.import_module(name.strip()) for name in named.split(",") if name.strip()]
    for module in modules:
        operators = getattr(module, "OPERATORS", None)
        if operators is None:
            raise ImportError(f"module {module.__name__} of {ENTRY_POINT_GROUP} has no OPERATORS")
        for operator in operators:
            registry.add(operator)
    return registry
