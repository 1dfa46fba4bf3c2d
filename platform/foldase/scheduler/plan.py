"""What the scheduler asks a checked workflow: which step needs which, and what an attempt of it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foldase.store.identity import Identity, identify
from foldase.store.jsontext import dumps
from foldase_workflows.contracts.errors import BadInput, FoldaseError, Location
from foldase_workflows.contracts.operator import Estimate, Hardware, Resources, Signature
from foldase_workflows.spec import CheckedStep, CheckedWorkflow, Item, Retry, Scope
from foldase_workflows.spec.ports import ports_of_operator

Json = dict[str, Any]


class StepPlan:
    """One step of the document."""

    def __init__(self, workflow: CheckedWorkflow, step: CheckedStep, position: int) -> None:
        self._workflow = workflow
        self._step = step
        self.name = step.name
        self.uses = step.uses
        self.position = position
        self.needs: tuple[str, ...] = tuple(step.needs)
        self.order_only = frozenset(step.after)
        self.scattered = step.scattered
        self.cache = step.cache
        self.retry: Retry = step.retry
        self.timeout_seconds = step.timeout_seconds
        self.family = step.operator.family
        self.signature: Signature = ports_of_operator(step.operator).signature

    def wanted(self, scope: Scope) -> bool:
        """Whether the condition of the step holds; raises BadInput."""
        with _bad_input(self.name):
            return self._workflow.condition(self.name, scope)

    def items(self, scope: Scope) -> list[Item]:
        """The items of a scattered step; raises BadInput."""
        with _bad_input(self.name):
            return self._workflow.items(self.name, scope) or []

    def inputs(self, scope: Scope, item: Item | None) -> Json:
        """Complete, checked inputs; raises BadInput."""
        with _bad_input(self.name):
            return self._workflow.resolve_with(self.name, scope, item)

    def identity(self, inputs: Mapping[str, Any]) -> Identity:
        """The identity of the result for complete inputs; raises BadInput where a value is no JSON."""
        with _bad_input(self.name):
            return identify(self.signature, inputs)

    def checkpoint_key(self, inputs: Mapping[str, Any]) -> str:
        """What the checkpoints of the work belong to: as the result, but whatever is expected of the work."""
        judged = {name: value for name, value in inputs.items() if name not in self.signature.tolerances}
        return identify(self.signature, judged).key

    def allowed_failures(self, items: int) -> int:
        """How many of so many items may fail."""
        return self._step.failures_allowed(items)

    def resources(self, inputs: Json, hardware: Hardware) -> Resources:
        """What one attempt reserves; raises BadInput where the operator cannot estimate it."""
        with _bad_input(self.name):
            return self._step.resources(inputs, hardware)

    def estimate(self, inputs: Json, hardware: Hardware) -> Estimate | None:
        """What one attempt is expected to take; None where nothing can be said; raises BadInput."""
        with _bad_input(self.name):
            return self._step.estimate(inputs, hardware)


class RunPlan:
    """All steps of a checked workflow, in topological order, and who waits for whom."""

    def __init__(self, workflow: CheckedWorkflow) -> None:
        self._workflow = workflow
        self.steps = {
            step.name: StepPlan(workflow, step, position)
            for position, step in enumerate(workflow.steps.values())
        }
        self.downstream: dict[str, list[str]] = {name: [] for name in self.steps}
        for name, step in self.steps.items():
            for other in step.needs:
                self.downstream[other].append(name)

    def outputs(self, scope: Scope) -> Json:
        """The outputs of the run; raises BadInput."""
        with _bad_input("outputs"):
            found = self._workflow.resolve_outputs(scope)
            dumps(found)
            return found


@contextmanager
def _bad_input(where: str) -> Iterator[None]:
    """Operators bring code of their own, which may raise anything: it ends its step and nothing else."""
    try:
        yield
    except FoldaseError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        raise BadInput(message, code="operator_error", location=Location(path=where)) from error
