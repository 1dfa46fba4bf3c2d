"""What a run would do, before it does it: order, defaults, resources, estimates, expected cache hits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.contracts.operator import Estimate, Hardware, Resources
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.spec.checked import CheckedWorkflow
from foldase_workflows.spec.expressions.nodes import EachRef, InputRef, StepRef
from foldase_workflows.spec.expressions.template import Template, nodes_in
from foldase_workflows.spec.faults import Faults, Path
from foldase_workflows.spec.ports import ports_of_operator
from foldase_workflows.spec.quantities import show_bytes
from foldase_workflows.spec.steps import CheckedStep, Item

CacheProbe = Callable[[str, Mapping[str, Any]], Mapping[str, Any] | None]
"""Given ``name@version`` and all inputs, the outputs that the cache holds for them, or None."""
ITEMS_LOOKED_AT = 32
"""Items of a scattered step, at most, whose inputs are held against what the operator refuses."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step as it would run.

    ``inputs`` are values where they are known before the run and the expression as text elsewhere.
    ``cached`` is None where it cannot be known; ``items`` is the number of items of a scattered step, None
    where it depends on results; ``estimate`` is for one item. ``runs`` is False when ``if`` says so already.
    ``refusal`` is why the operator would refuse these inputs, with the place in the document.
    """

    name: str
    uses: str
    after: tuple[str, ...]
    inputs: Mapping[str, Any]
    resources: Resources
    estimate: Estimate | None
    cached: bool | None
    scattered: bool = False
    items: int | None = None
    runs: bool | None = True
    fits: bool = True
    refusal: BadInput | None = None

    def to_json(self) -> dict[str, Any]:
        """For the API and ``--json``."""
        return {
            "name": self.name,
            "uses": self.uses,
            "after": list(self.after),
            "with": dict(self.inputs),
            "resources": self.resources.to_json(),
            "estimate": self.estimate.to_json() if self.estimate else None,
            "cached": self.cached,
            "each": self.scattered,
            "items": self.items,
            "runs": self.runs,
            "fits": self.fits,
            "refusal": self.refusal.to_json() if self.refusal else None,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan of a run.

    ``seconds`` is a range: at best independent steps run side by side on one node, at worst all steps run
    one after another. Steps that are expected from the cache and steps without an estimate count as
    nothing; ``unknown`` is the number of the latter, ``refused`` that of steps that would fail because of
    their inputs. ``memory_bytes`` is the peak of the largest step.
    """

    steps: tuple[PlannedStep, ...]
    seconds: tuple[float, float]
    memory_bytes: int
    unknown: int = 0
    refused: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def cached(self) -> int:
        """How many steps are expected from the cache."""
        return sum(1 for step in self.steps if step.cached)

    def to_json(self) -> dict[str, Any]:
        """For the API and ``--json``."""
        return {
            "steps": [step.to_json() for step in self.steps],
            "seconds": list(self.seconds),
            "memory_bytes": self.memory_bytes,
            "cached": self.cached,
            "unknown": self.unknown,
            "refused": self.refused,
            "warnings": list(self.warnings),
        }


def plan(
    checked: CheckedWorkflow,
    inputs: Mapping[str, Any],
    registry: Registry,
    hardware: Hardware | None = None,
    *,
    cache_probe: CacheProbe | None = None,
    cluster: Resources | None = None,
) -> Plan:
    """Plan a run with bound inputs on nodes of this kind; without ``hardware``, on this machine.

    ``registry`` is the one the workflow was checked with; an operator that is not in it is an error.
    ``cluster`` is what all nodes offer together, where that is known.

    Raises:
        DocumentErrors: ``unsatisfiable_resources`` where a step asks for more than the largest node has, or
            for more ranks than there is room for.
        BadInput: the inputs given make an expression fail.
        NotFound: an operator is gone from the registry.
    """
    for step in checked.steps.values():
        registry.get(step.uses)
    known = hardware or this_machine()
    if hardware is not None:
        check_resources(checked, hardware, inputs, cluster=cluster)
    planner = _Planner(checked, inputs, known, cache_probe)
    steps = tuple(planner.step(step) for step in checked.steps.values())
    warnings = tuple(
        f"{step.name}: needs about {show_bytes(step.estimate.memory_bytes)} of memory, the node has "
        f"{show_bytes(known.memory_bytes)}"
        for step in steps
        if step.estimate is not None and not step.fits
    )
    counted = [step for step in steps if step.runs is not False and not step.cached]
    return Plan(
        steps=steps,
        seconds=_seconds(steps, known),
        memory_bytes=max((step.estimate.memory_bytes for step in counted if step.estimate), default=0),
        unknown=sum(1 for step in counted if step.estimate is None and step.refusal is None),
        refused=sum(1 for step in steps if step.refusal is not None),
        warnings=warnings,
    )


def check_resources(
    checked: CheckedWorkflow,
    hardware: Hardware,
    inputs: Mapping[str, Any] | None = None,
    *,
    cluster: Resources | None = None,
) -> None:
    """Refuse requests that can never be met; ``hardware`` is the largest node, ``cluster`` all of them.

    Raises:
        DocumentErrors: ``unsatisfiable_resources`` with the place of each.
    """
    faults = Faults(checked.document.places)
    scope = {"inputs": dict(inputs or {}), "steps": {}}
    for step in checked.steps.values():
        wanted = step.resources(_known_inputs(checked, step, scope, None, strict=False), hardware)
        offers = (
            ("cpu", wanted.cpu, hardware.cpus, f"{wanted.cpu:g} cores", f"{hardware.cpus:g} cores"),
            (
                "memory",
                wanted.memory_bytes,
                hardware.memory_bytes,
                show_bytes(wanted.memory_bytes),
                show_bytes(hardware.memory_bytes),
            ),
            ("gpu", wanted.gpu, len(hardware.gpus), f"{wanted.gpu:g} GPUs", f"{len(hardware.gpus)} GPUs"),
        )
        for name, asked, offered, asked_text, offered_text in offers:
            if asked > offered:
                message = f"the step {step.name!r} asks for {asked_text}, the largest node has {offered_text}"
                hint = f"ask for at most {offered_text}, or add a larger node"
                path = _place_of_request(checked, step, name)
                faults.add("unsatisfiable_resources", message, path, hint=hint)
        room = wanted.ranks if cluster is None else wanted.ranks_within(cluster)
        if 0 < room < wanted.ranks:
            message = f"the step {step.name!r} asks for {wanted.ranks} ranks, all nodes have room for {room}"
            hint = f"ask for at most {room}, or for less for each"
            path = _place_of_request(checked, step, "ranks")
            faults.add("unsatisfiable_resources", message, path, hint=hint)
    faults.raise_if_any()


def _place_of_request(checked: CheckedWorkflow, step: CheckedStep, name: str) -> Path:
    """Where the document asks for it: in the step, in the defaults, or by the operator alone."""
    spec, defaults = checked.document.steps[step.name], checked.document.defaults
    if spec.resources is not None and getattr(spec.resources, name) is not None:
        return ("steps", step.name, "resources", name)
    if defaults and defaults.resources is not None and getattr(defaults.resources, name) is not None:
        return ("defaults", "resources", name)
    return ("steps", step.name, "uses")


def _path_of_fault(checked: CheckedWorkflow, step: CheckedStep, error: BadInput) -> Path:
    """Where the document says what the operator refuses; the step, where the operator does not tell."""
    field = (error.location and error.location.path) or ""
    kind, _, name = field.partition(".")
    if kind == "resources" and name:
        place = _place_of_request(checked, step, name)
        if place[0] == "defaults":
            return place
    return ("steps", step.name, *field.split(".")) if field else ("steps", step.name)


def this_machine() -> Hardware:
    """The cores and the memory of this machine, without accelerators."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Hardware(cpus=float(len(os.sched_getaffinity(0))), memory_bytes=pages * size)


class _Planner:
    """Walks the steps in order, keeping what can be known of their outputs."""

    def __init__(
        self,
        checked: CheckedWorkflow,
        inputs: Mapping[str, Any],
        hardware: Hardware,
        cache_probe: CacheProbe | None,
    ) -> None:
        self.checked = checked
        self.hardware = hardware
        self.cache_probe = cache_probe
        self.scope: dict[str, Any] = {"inputs": dict(inputs), "steps": {}}

    def step(self, step: CheckedStep) -> PlannedStep:
        runs = self._runs(step)
        items = self._items(step) if runs is not False else None
        if runs is False:
            self.scope["steps"][step.name] = None
        first = items[0] if items else None
        known = _known_inputs(self.checked, step, self.scope, first, strict=runs is True)
        cached: bool | None = False
        if runs is not False and step.cache == "use":
            cached = self._cached(step, items) if runs else None
        estimate, refusal = self._estimate(step, known, first)
        if refusal is None:
            refusal = self._refusal_of_others(step, items)
        return PlannedStep(
            name=step.name,
            uses=step.uses,
            after=step.needs,
            inputs=self._shown(step, known),
            resources=step.resources(known, self.hardware),
            estimate=estimate,
            cached=cached,
            scattered=step.scattered,
            items=len(items) if items is not None else None,
            runs=runs,
            fits=estimate is None or estimate.memory_bytes <= self.hardware.memory_bytes,
            refusal=None if cached or runs is False else refusal,
        )

    def _estimate(
        self, step: CheckedStep, known: Mapping[str, Any], item: Item | None
    ) -> tuple[Estimate | None, BadInput | None]:
        """What the step takes, or why its operator would refuse the inputs."""
        try:
            return step.estimate(known, self.hardware), None
        except BadInput as error:
            path = _path_of_fault(self.checked, step, error)
            place = self.checked.document.places.locate(path)
            message = error.message if item is None else f"item {item.key}: {error.message}"
            return None, BadInput(message, code=error.code, location=place, hint=error.hint)

    def _refusal_of_others(self, step: CheckedStep, items: list[Item] | None) -> BadInput | None:
        """Why an item would be refused that is not the first, which the estimate is of."""
        for item in (items or [])[1:ITEMS_LOOKED_AT]:
            known = _known_inputs(self.checked, step, self.scope, item, strict=False)
            refusal = self._estimate(step, known, item)[1]
            if refusal is not None:
                return refusal
        return None

    def _runs(self, step: CheckedStep) -> bool | None:
        """Whether the step runs: False when ``if`` says so or a step it takes from does not run."""
        if any(self.scope["steps"].get(name, ()) is None for name in step.sources):
            return False
        if step.condition is None:
            return True
        if not _is_known(step.condition, self.scope, None):
            return None
        return self.checked.condition(step.name, self.scope)

    def _items(self, step: CheckedStep) -> list[Item] | None:
        if not all(_is_known(template, self.scope, None) for template in step.each.values()):
            return None
        return self.checked.items(step.name, self.scope)

    def _cached(self, step: CheckedStep, items: list[Item] | None) -> bool | None:
        """Whether the cache has all of the step; when it has, its outputs become known."""
        if self.cache_probe is None or (step.scattered and items is None):
            return None
        found: list[Mapping[str, Any]] = []
        for item in items if items is not None else [None]:
            if not all(_is_known(template, self.scope, item) for template in step.inputs.values()):
                return None
            outputs = self.cache_probe(step.uses, self.checked.resolve_with(step.name, self.scope, item))
            if outputs is None:
                return False
            found.append(outputs)
        if step.scattered:
            names = ports_of_operator(step.operator).signature.outputs
            gathered = {name: [outputs.get(name) for outputs in found] for name in names}
            self.scope["steps"][step.name] = {"each": gathered}
        else:
            self.scope["steps"][step.name] = dict(found[0])
        return True

    def _shown(self, step: CheckedStep, known: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs for people: values where known, else what the document says."""
        written = self.checked.document.steps[step.name].with_ or {}
        shown: dict[str, Any] = {}
        for port in ports_of_operator(step.operator).signature.inputs.values():
            if port.name in written and (step.scattered or port.name not in known):
                template = step.inputs[port.name]
                per_item = any(isinstance(node, EachRef) for node in nodes_in(template))
                use_written = per_item or port.name not in known
                shown[port.name] = written[port.name] if use_written else known[port.name]
            else:
                shown[port.name] = known.get(port.name, port.default)
        return shown


def _known_inputs(
    checked: CheckedWorkflow,
    step: CheckedStep,
    scope: Mapping[str, Any],
    item: Item | None,
    *,
    strict: bool,
) -> dict[str, Any]:
    """The inputs of a step that can be known now, defaults filled in.

    Where it is not certain that the step runs, ``strict`` is False and values that fail are left out.

    Raises:
        BadInput: a value fails, and the step will run.
    """
    known: dict[str, Any] = {}
    for port in ports_of_operator(step.operator).signature.inputs.values():
        template = step.inputs.get(port.name)
        if template is None:
            if not port.required:
                known[port.name] = port.default
        elif _is_known(template, scope, item):
            try:
                known[port.name] = checked.input_value(step.name, port.name, scope, item)
            except BadInput:
                if strict:
                    raise
    return known


def _is_known(template: Template, scope: Mapping[str, Any], item: Item | None) -> bool:
    """Whether all that a template refers to has a value in the scope."""
    for node in nodes_in(template):
        if isinstance(node, StepRef) and scope["steps"].get(node.step) is None:
            return False
        if isinstance(node, InputRef) and node.name not in scope["inputs"]:
            return False
        if isinstance(node, EachRef) and item is None:
            return False
    return True


def _seconds(steps: tuple[PlannedStep, ...], hardware: Hardware) -> tuple[float, float]:
    """From the longest chain, or all work spread over all cores, to all steps one after another."""
    finish: dict[str, float] = {}
    work = total = 0.0
    for step in steps:
        start = max((finish[name] for name in step.after), default=0.0)
        finish[step.name] = start
        if step.estimate is None or step.cached or step.runs is False:
            continue
        low, high = step.estimate.seconds
        count = step.items if step.items is not None else 1
        finish[step.name] = start + (low if count and step.runs else 0.0)
        work += low * count * step.resources.cpu if step.runs else 0.0
        total += high * count
    best = max([*finish.values(), work / max(hardware.cpus, 1.0)], default=0.0)
    return best, max(best, total)
