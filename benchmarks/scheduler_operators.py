"""The step that the scheduler benchmark runs: it does nothing."""

from typing import ClassVar

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.operator import Operator
from foldase_workflows.contracts.ports import Ports


class Number(Ports):
    """One number."""

    value: int = 0


class Nothing(Operator[Number, Number]):
    """Hands its number on."""

    name: ClassVar[str] = "benchmark.nothing"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "does nothing"
    Inputs = Number
    Outputs = Number

    def run(self, inputs: Number, context: StepContext) -> Number:
        """Give back what came in."""
        return inputs


OPERATORS = (Nothing(),)
