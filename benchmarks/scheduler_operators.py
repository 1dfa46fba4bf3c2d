"""The step that the scheduler benchmark runs: it does nothing."""

from typing import ClassVar

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.operator import Operator
from foldase_workflows.contracts.ports import Ports


class Number(Ports):
    """One number."""

    value: int = 0


class Nothing(Operator[Number, Number]):
    """Hands its number on, plus one: equal numbers would be one cached result."""

    name: ClassVar[str] = "benchmark.nothing"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "does next to nothing"
    Inputs = Number
    Outputs = Number

    def run(self, inputs: Number, context: StepContext) -> Number:
        """Give back what came in, plus one."""
        return Number(value=inputs.value + 1)


OPERATORS = (Nothing(),)
