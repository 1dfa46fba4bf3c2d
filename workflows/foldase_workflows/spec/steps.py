"""What a checked step is made of: its request for resources, its rules for retries, its templates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.contracts.failures import OUT_OF_MEMORY, Cause
from foldase_workflows.contracts.operator import Estimate, Hardware, Operator, Resources
from foldase_workflows.contracts.types import PortType
from foldase_workflows.spec import quantities
from foldase_workflows.spec.expressions.template import Template
from foldase_workflows.spec.models import DefaultsSpec, ResourcesSpec, RetrySpec, StepSpec
from foldase_workflows.spec.ports import ports_of_operator
from foldase_workflows.spec.quantities import Factor
from foldase_workflows.spec.values import RETRY_CAUSES

AnyOperator = Operator[Any, Any]
CacheUse = Literal["use", "refresh", "off"]

_DEFAULT_CAUSES = frozenset({Cause.OOM_HOST, Cause.OOM_GPU, Cause.TIMEOUT, Cause.INFRASTRUCTURE})
_ESTIMATE_FAULTS = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how an attempt is repeated. ``max`` counts further attempts after the first.

    ``frugal`` is whether an operator that can save memory may be tried again with less when it ran out;
    those attempts do not count.
    """

    max: int = 0
    backoff: tuple[float, float] = (5.0, 120.0)
    on: frozenset[Cause] = _DEFAULT_CAUSES
    on_oom: tuple[tuple[str, Factor], ...] = ()
    frugal: bool = True

    def wait_seconds(self, failures: int) -> float:
        """How long to wait after so many failures: the first wait, doubled each time, up to the longest."""
        low, high = self.backoff
        return min(high, low * 2.0 ** min(failures - 1, 60))

    def after_oom(
        self, resources: Resources, inputs: Mapping[str, Any], times: int
    ) -> tuple[Resources, dict[str, Any]]:
        """Resources and inputs for the attempt after running out of memory ``times`` times."""
        changed = dict(inputs)
        for target, factor in self.on_oom if times else ():
            if target == "memory":
                memory = int(factor.apply(resources.memory_bytes, times)) if resources.memory_bytes else 0
                resources = replace(resources, memory_bytes=memory)
            elif target == "cpu":
                resources = replace(resources, cpu=factor.apply(float(resources.cpu), times))
            elif isinstance(value := changed.get(target.removeprefix("with.")), (int, float)):
                changed[target.removeprefix("with.")] = factor.apply(value, times)
        return resources, changed


@dataclass(frozen=True, slots=True)
class Request:
    """The resources of a step as asked for; None leaves it to the operator, ``auto`` to its estimate."""

    cpu: float | Literal["auto"] | None = None
    memory_bytes: int | Literal["auto"] | None = None
    gpu: float | Literal["auto"] | None = None
    ranks: int | None = None

    def resources(
        self, operator: AnyOperator, estimate: Estimate | None, hardware: Hardware | None
    ) -> Resources:
        """What is reserved, with the operator's defaults filled in."""
        own = operator.resources
        memory = own.memory_bytes if self.memory_bytes is None else self.memory_bytes
        if memory == "auto":
            memory = estimate.memory_bytes if estimate else own.memory_bytes
        cpu = own.cpu if self.cpu is None else self.cpu
        if cpu == "auto":
            cpu = min(own.cpu, hardware.cpus) if hardware else own.cpu
        gpu = own.gpu if self.gpu is None else self.gpu
        if gpu == "auto":
            wanted = estimate is not None and estimate.gpu_memory_bytes > 0
            gpu = 1.0 if wanted and hardware is not None and hardware.gpus else own.gpu
        # Ranks from the document's defaults concern those of its steps that can have several.
        ranks = self.ranks_of(operator)
        return Resources(cpu=float(cpu), memory_bytes=int(memory), gpu=float(gpu), ranks=ranks)

    def ranks_of(self, operator: AnyOperator) -> int:
        """How many processes the step is; only gangs are more than one."""
        if not operator.gang:
            return 1
        return operator.resources.ranks if self.ranks is None else self.ranks


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a scattered step: its stable key and the values of ``each``."""

    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """A step whose names and types are right.

    ``sources`` are the steps whose outputs it uses, also in ``if`` and ``each``: when one of them is
    skipped, this one is too. ``after`` are those it only waits for. ``inputs`` has a template for each
    port that the document gives.
    """

    name: str
    operator: AnyOperator
    inputs: Mapping[str, Template]
    each: Mapping[str, Template]
    each_types: Mapping[str, PortType]
    condition: Template | None
    sources: tuple[str, ...]
    after: tuple[str, ...]
    request: Request
    retry: Retry
    timeout_seconds: float | None
    cache: CacheUse
    allow_failures: int | str | None

    @property
    def uses(self) -> str:
        """``name@version`` of the operator."""
        return self.operator.reference

    @property
    def needs(self) -> tuple[str, ...]:
        """All steps it waits for."""
        return tuple(dict.fromkeys((*self.sources, *self.after)))

    @property
    def scattered(self) -> bool:
        """Whether it runs once per item."""
        return bool(self.each)

    def failures_allowed(self, items: int) -> int:
        """How many of so many items may fail while the step still counts as succeeded."""
        if self.allow_failures is None:
            return 0
        return quantities.parse_allowance(self.allow_failures, items)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """What the operator expects for these inputs, which need not be all; None where it cannot say.

        Raises:
            BadInput: the run would refuse them, whatever the files hold that are not there yet.
        """
        readable = {name: _with_artifacts(value) for name, value in known.items()}
        try:
            ranks = self.request.ranks_of(self.operator)
            return self.operator.estimate(readable, replace(hardware, ranks=ranks))
        except BadInput:
            if self._all_values_in(known):
                raise
            return None
        except _ESTIMATE_FAULTS:
            # An estimate is advice: a value it did not expect must not stop a plan or a run.
            return None

    def _all_values_in(self, known: Mapping[str, Any]) -> bool:
        """Whether nothing but files is missing: an estimate takes the default of what it is not told."""
        ports = ports_of_operator(self.operator).signature.inputs.values()
        return all(port.name in known or port.type.is_artifact for port in ports)

    def resources(self, inputs: Mapping[str, Any], hardware: Hardware | None) -> Resources:
        """What one attempt with these inputs reserves on a node of this kind."""
        asks = "auto" in (self.request.cpu, self.request.memory_bytes, self.request.gpu)
        estimate = None
        if asks and hardware is not None:
            with suppress(BadInput):  # who asks for the estimate itself is told
                estimate = self.estimate(inputs, hardware)
        return self.request.resources(self.operator, estimate, hardware)


def _with_artifacts(value: Any) -> Any:
    """A plain value with references as ``Artifact``."""
    if Artifact.is_json(value):
        return Artifact.from_json(value)
    if isinstance(value, list):
        return [_with_artifacts(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_artifacts(item) for name, item in value.items()}
    return value


def request_of(step: StepSpec, defaults: DefaultsSpec | None) -> Request:
    """The request of a step; each field that it leaves out comes from the defaults."""
    shared = (defaults and defaults.resources) or ResourcesSpec()
    own = step.resources or ResourcesSpec()
    cpu = shared.cpu if own.cpu is None else own.cpu
    memory = shared.memory if own.memory is None else own.memory
    gpu = shared.gpu if own.gpu is None else own.gpu
    return Request(
        cpu=cpu if cpu in (None, "auto") else float(cpu),
        memory_bytes=memory if memory in (None, "auto") else quantities.parse_bytes(memory),
        gpu=gpu if gpu in (None, "auto") else quantities.parse_gpu(gpu),
        ranks=shared.ranks if own.ranks is None else own.ranks,
    )


def retry_of(step: StepSpec, defaults: DefaultsSpec | None) -> Retry:
    """The retry rules of a step; each field that it leaves out comes from the defaults."""
    shared = defaults.retry if defaults else None
    sections = [section for section in (step.retry, shared) if section is not None]
    if not sections:
        return Retry()

    def pick(field: str) -> Any:
        for section in sections:
            if field in section.model_fields_set:
                return getattr(section, field)
        return getattr(RetrySpec(), field)

    named, on_oom = pick("on"), pick("on_oom") or {}
    causes = _DEFAULT_CAUSES if named is None else {cause for name in named for cause in RETRY_CAUSES[name]}
    if on_oom:
        # Whoever says what to change after running out of memory wants another attempt.
        causes = causes | set(RETRY_CAUSES["oom"])
    return Retry(
        max=pick("max"),
        backoff=quantities.parse_duration_range(pick("backoff")),
        on=frozenset(causes),
        on_oom=tuple((target, quantities.parse_factor(text)) for target, text in on_oom.items()),
        frugal=pick("max") > 0 and causes.issuperset(OUT_OF_MEMORY),
    )


def timeout_of(step: StepSpec, defaults: DefaultsSpec | None) -> float | None:
    """The longest time of one attempt in seconds, or None."""
    text = step.timeout if step.timeout is not None else defaults.timeout if defaults else None
    return None if text is None else quantities.parse_duration(text)


def cache_of(step: StepSpec, defaults: DefaultsSpec | None, operator: AnyOperator) -> CacheUse:
    """Whether results are reused; never those of an operator that is not deterministic."""
    wanted = step.cache if step.cache is not None else defaults.cache if defaults else None
    if not operator.deterministic or wanted is False:
        return "off"
    return "refresh" if wanted == "refresh" else "use"
