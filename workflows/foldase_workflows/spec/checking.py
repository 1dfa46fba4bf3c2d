"""From a document to a checked workflow: operators, ports, types, order. Needs no inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase_workflows.contracts.errors import NotFound
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.contracts.types import PortType
from foldase_workflows.spec.checked import CheckedWorkflow
from foldase_workflows.spec.expressions.inference import Names, StepType
from foldase_workflows.spec.expressions.nodes import ExpressionFault, StepRef
from foldase_workflows.spec.expressions.template import (
    Constant,
    Template,
    infer_template,
    nodes_in,
    read_value,
)
from foldase_workflows.spec.expressions.types import ANY, BOOL, FLOAT, INT, TEXT, fits, item_of
from foldase_workflows.spec.faults import Faults, Path, did_you_mean, show
from foldase_workflows.spec.graph import circles, topological
from foldase_workflows.spec.inputs import input_type
from foldase_workflows.spec.load import workflow_from_json
from foldase_workflows.spec.models import StepSpec, WorkflowDocument
from foldase_workflows.spec.ports import OperatorPorts, ports_of_operator
from foldase_workflows.spec.steps import (
    AnyOperator,
    CheckedStep,
    cache_of,
    request_of,
    retry_of,
    timeout_of,
)


def check(document: WorkflowDocument, registry: Registry) -> CheckedWorkflow:
    """Check a document against the operators there are.

    Raises:
        DocumentErrors: everything that is wrong, each fault with its place.
    """
    return _Checker(document, registry).workflow()


def from_json(data: Any, registry: Registry) -> CheckedWorkflow:
    """The workflow that ``CheckedWorkflow.to_json`` gave.

    Raises:
        DocumentErrors: it is no such document, or an operator it uses is gone.
    """
    return check(workflow_from_json(data), registry)


class _Checker:
    def __init__(self, document: WorkflowDocument, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.faults = Faults(document.places)
        self.operators: dict[str, AnyOperator] = {}
        self.input_types = {name: input_type(spec) for name, spec in document.inputs.items()}
        self.step_types: dict[str, StepType] = {}
        self.needs: dict[str, tuple[str, ...]] = {}

    def workflow(self) -> CheckedWorkflow:
        steps = self.document.steps
        for name, step in steps.items():
            self._find_operator(name, step)
            operator = self.operators.get(name)
            outputs = None
            if operator is not None:
                signature = ports_of_operator(operator).signature
                outputs = {port.name: port.type for port in signature.outputs.values()}
            self.step_types[name] = StepType(outputs, scattered=bool(step.each))
        checked = {name: self._step(name, step) for name, step in steps.items()}
        outputs_of_run, output_types = self._outputs()
        self._check_circles()
        self.faults.raise_if_any()
        ordered = {name: found for name in topological(self.needs) if (found := checked[name]) is not None}
        return CheckedWorkflow(self.document, ordered, self.input_types, outputs_of_run, output_types)

    def _find_operator(self, name: str, step: StepSpec) -> None:
        path: Path = ("steps", name, "uses")
        if step.uses.startswith(("./", "../", "/")) or step.uses.endswith((".yaml", ".yml")):
            hint = "copy its steps into this document"
            self.faults.add(
                "not_supported_yet", "a workflow inside a workflow is not supported yet", path, hint=hint
            )
        elif "${{" in step.uses:
            hint = "write name@version"
            self.faults.add("expression_not_allowed", "an operator is named by itself", path, hint=hint)
        else:
            try:
                self.operators[name] = self.registry.get(step.uses)
            except NotFound as error:
                hint = error.hint or "see the list of operators"
                self.faults.add(error.code, error.message, path, hint=hint)

    def _report(self, path: Path, fault: ExpressionFault) -> None:
        self.faults.add(fault.code, fault.message, path, offset=fault.offset, hint=fault.hint)

    def _step(self, name: str, spec: StepSpec) -> CheckedStep | None:
        """The step, or None where its operator is not known; its expressions are checked all the same."""
        path: Path = ("steps", name)
        outside = Names(self.input_types, self.step_types)
        each, each_types = self._each(spec, path, outside)
        inside = Names(self.input_types, self.step_types, each_types) if spec.each else outside
        operator = self.operators.get(name)
        inputs = self._inputs(spec, path, inside, operator)
        condition = self._condition(spec, path, outside)
        templates = [*each.values(), *inputs.values(), *([condition] if condition else [])]
        sources, after = self._sources(templates), self._after(spec, path)
        self.needs[name] = tuple(dict.fromkeys((*sources, *after)))
        if operator is None:
            return None
        self._check_on_oom(spec, path, operator)
        self._check_ranks(spec, path, operator)
        defaults = self.document.defaults
        return CheckedStep(
            name=name,
            operator=operator,
            inputs=inputs,
            each=each,
            each_types=each_types,
            condition=condition,
            sources=sources,
            after=after,
            request=request_of(spec, defaults),
            retry=retry_of(spec, defaults),
            timeout_seconds=timeout_of(spec, defaults),
            cache=cache_of(spec, defaults, operator),
            allow_failures=spec.allow_failures,
        )

    def _each(
        self, spec: StepSpec, path: Path, names: Names
    ) -> tuple[dict[str, Template], dict[str, PortType]]:
        templates: dict[str, Template] = {}
        types: dict[str, PortType] = {}
        for name, value in (spec.each or {}).items():
            place: Path = (*path, "each", name)
            templates[name] = read_value(value, self._report, place)
            kind = infer_template(templates[name], names, self._report, place)
            if kind.item is None and kind != ANY:
                message = f"`each` takes lists, and this is {kind}"
                self.faults.add("type", message, place, hint="write [a, b], or refer to a list")
            types[name] = item_of(kind)
        return templates, types

    def _condition(self, spec: StepSpec, path: Path, names: Names) -> Template | None:
        if spec.if_ is None:
            return None
        place: Path = (*path, "if")
        template = read_value(spec.if_, self._report, place)
        kind = infer_template(template, names, self._report, place)
        if kind not in (BOOL, ANY):
            hint = "compare it, for example ${{ inputs.NAME > 0 }}"
            self.faults.add("type", f"a condition gives true or false, and this is {kind}", place, hint=hint)
        return template

    def _inputs(
        self, spec: StepSpec, path: Path, names: Names, operator: AnyOperator | None
    ) -> dict[str, Template]:
        given = spec.with_ or {}
        ports = ports_of_operator(operator) if operator is not None else None
        templates: dict[str, Template] = {}
        for name, value in given.items():
            place: Path = (*path, "with", name)
            template = read_value(value, self._report, place)
            kind = infer_template(template, names, self._report, place)
            if ports is not None:
                self._check_port(ports, name, template, kind, place)
            templates[name] = template
        for port in ports.signature.inputs.values() if ports else ():
            if port.required and port.name not in given:
                assert operator is not None
                message = f"{operator.reference} needs the input {port.name!r}, of type {port.type}"
                hint = f"add `{port.name}:` under `with`" + (f": {port.help}" if port.help else "")
                self.faults.add("missing_input", message, (*path, "with", port.name), key=True, hint=hint)
        return templates

    def _check_port(
        self, ports: OperatorPorts, name: str, template: Template, kind: PortType, place: Path
    ) -> None:
        port = ports.signature.inputs.get(name)
        if port is None:
            hint = did_you_mean(name, ports.signature.inputs)
            message = f"{ports.signature.reference} has no input {show(name)}"
            self.faults.add("unknown_input", message, place, key=True, hint=hint)
        elif isinstance(template, Constant):
            self._check_literal(ports, name, template.value, place)
        elif not fits(port.type, kind):
            hints = {
                (TEXT, INT): "write text(...) around it",
                (TEXT, FLOAT): "write text(...) around it",
                (INT, FLOAT): "write round(...) around it",
            }
            message = f"the input {name!r} takes {port.type}, and this is {kind}"
            hint = hints.get((port.type, kind), f"give it a value of type {port.type}: {port.type.help}")
            self.faults.add("type", message, place, hint=hint)

    def _check_literal(self, ports: OperatorPorts, name: str, value: Any, place: Path) -> None:
        port = ports.signature.inputs[name]
        if value is None and not port.required:
            return
        if value is not None and port.type.is_artifact:
            message = f"the input {name!r} takes a file of type {port.type}, and this is {show(value)}"
            hint = "declare an input of that type and write ${{ inputs.NAME }}, or take a step's output"
            self.faults.add("type", message, place, hint=hint)
            return

        def refuse(below: Path, code: str, message: str, hint: str) -> None:
            self.faults.add(code, message, (*place, *below), hint=hint)

        ports.check(name, value, refuse)

    def _sources(self, templates: list[Template]) -> tuple[str, ...]:
        """The steps whose outputs are used, as they are named; unknown ones are reported elsewhere."""
        steps = (
            node.step for template in templates for node in nodes_in(template) if isinstance(node, StepRef)
        )
        return tuple(dict.fromkeys(step for step in steps if step in self.document.steps))

    def _after(self, spec: StepSpec, path: Path) -> tuple[str, ...]:
        for place, name in enumerate(spec.after or ()):
            if name not in self.document.steps:
                hint = did_you_mean(name, self.document.steps)
                message = f"there is no step {show(name)}"
                self.faults.add("unknown_step", message, (*path, "after", place), hint=hint)
        return tuple(dict.fromkeys(name for name in spec.after or () if name in self.document.steps))

    def _check_on_oom(self, spec: StepSpec, path: Path, operator: AnyOperator) -> None:
        """``with.NAME`` must be a number of this operator; a rule from the defaults may not concern it."""
        for target in (spec.retry.on_oom if spec.retry else None) or {}:
            if not target.startswith("with."):
                continue
            ports: Mapping[str, Any] = ports_of_operator(operator).signature.inputs
            name = target.removeprefix("with.")
            place: Path = (*path, "retry", "on_oom", target)
            if name not in ports:
                message = f"{operator.reference} has no input {show(name)}"
                self.faults.add("unknown_input", message, place, key=True, hint=did_you_mean(name, ports))
            elif ports[name].type not in (INT, FLOAT):
                message = f"the input {name!r} is no number, so it cannot be multiplied"
                self.faults.add("type", message, place, key=True, hint="name an input of type int or float")

    def _check_ranks(self, spec: StepSpec, path: Path, operator: AnyOperator) -> None:
        """Several ranks are for gangs; what the defaults say of them does not concern other operators."""
        ranks = spec.resources.ranks if spec.resources else None
        if ranks is not None and ranks > 1 and not operator.gang:
            message = f"{operator.reference} does not run as a gang, so it cannot have {ranks} ranks"
            gangs = ", ".join(one.reference for one in self.registry if one.gang)
            hint = "delete `ranks`" + (f"; these can have several: {gangs}" if gangs else "")
            self.faults.add("not_a_gang", message, (*path, "resources", "ranks"), hint=hint)

    def _outputs(self) -> tuple[dict[str, Template], dict[str, PortType]]:
        names = Names(self.input_types, self.step_types)
        templates: dict[str, Template] = {}
        types: dict[str, PortType] = {}
        for name, value in self.document.outputs.items():
            templates[name] = read_value(value, self._report, ("outputs", name))
            types[name] = infer_template(templates[name], names, self._report, ("outputs", name))
        return templates, types

    def _check_circles(self) -> None:
        for circle in circles(self.needs):
            shown = circle if len(circle) <= 12 else [*circle[:6], "...", *circle[-5:]]
            message = f"the steps wait for each other: {' -> '.join(shown)}"
            hint = f"let {circle[0]!r} not use what comes from {circle[1]!r}"
            if len(circle) == 2:
                hint = "a step cannot use its own outputs"
            self.faults.add("cycle", message, ("steps", circle[0]), key=True, hint=hint)
