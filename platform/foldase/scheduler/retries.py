"""What follows from a failed attempt: another one, changed where memory ran out, or the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from foldase.scheduler.model import Step
from foldase_workflows.contracts.failures import RETRYABLE_BY_REQUEST, RETRYABLE_BY_THE_PLATFORM, Cause
from foldase_workflows.contracts.operator import Hardware, Resources
from foldase_workflows.spec.quantities import show_bytes

Json = dict[str, Any]

LOSS_CAP = 5
"""Losses of workers and nodes that a step survives; one that takes its worker with it must end."""
LONGEST_LOSS_WAIT_SECONDS = 30.0

_OUT_OF_MEMORY = frozenset({Cause.OOM_HOST, Cause.OOM_GPU})


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after a wait, with these inputs and overridden resources, and say so."""

    wait_seconds: float
    inputs: Json
    changes: Json | None
    message: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt; ``hint`` says why, where that is worth saying."""

    hint: str | None = None


def after_failure(
    step: Step, cause: Cause, *, peak_memory_bytes: int, hardware: Hardware | None
) -> Again | GiveUp:
    """Decide about a step whose attempt failed; counts the failure in the step.

    Losses of hardware are retried up to :data:`LOSS_CAP` times, at once at first; they cost none of the
    retries that a person granted. Other causes are retried when the step's rules name them.
    """
    assert step.inputs is not None
    if cause in RETRYABLE_BY_THE_PLATFORM:
        step.losses += 1
        if step.losses > LOSS_CAP:
            return GiveUp(f"its worker was lost {step.losses} times; the step itself may be the reason")
        wait = min(LONGEST_LOSS_WAIT_SECONDS, 2.0 ** (step.losses - 1) - 1)
        return Again(wait, step.inputs, step.changes, f"attempt {step.attempt} lost its worker")
    rules = step.plan.retry
    if cause not in RETRYABLE_BY_REQUEST or cause not in rules.on:
        return GiveUp()
    step.failures += 1
    if step.failures > rules.max:
        return GiveUp()
    wait = rules.wait_seconds(step.failures)
    message = f"attempt {step.attempt} ended with {cause}; retry {step.failures} of {rules.max}"
    if cause in _OUT_OF_MEMORY and rules.on_oom:
        return _larger(step, wait, message, peak_memory_bytes, hardware)
    return Again(wait, step.inputs, step.changes, message)


def _larger(
    step: Step, wait: float, message: str, peak_memory_bytes: int, hardware: Hardware | None
) -> Again | GiveUp:
    """Apply ``on_oom`` once more to what the last attempt had."""
    assert step.inputs is not None
    had = step.resources or Resources()
    # Nothing was reserved: what the attempt was seen to use is the best guess of what it needs.
    base = replace(had, memory_bytes=had.memory_bytes or peak_memory_bytes)
    wanted, inputs = step.plan.retry.after_oom(base, step.inputs, 1)
    if hardware is not None:
        wanted = replace(
            wanted,
            memory_bytes=min(wanted.memory_bytes, hardware.memory_bytes),
            cpu=min(wanted.cpu, hardware.cpus),
        )
    said = [
        f"{name} {inputs[name]}"
        for name in inputs
        if name not in step.inputs or inputs[name] != step.inputs[name]
    ]
    if wanted.memory_bytes != had.memory_bytes:
        said.insert(0, f"memory {show_bytes(wanted.memory_bytes)}")
    if wanted.cpu != had.cpu:
        said.append(f"{wanted.cpu:g} cores")
    if not said:
        return GiveUp("it already had all that `on_oom` can give it on the largest node")
    changes = {"memory_bytes": wanted.memory_bytes, "cpu": wanted.cpu}
    return Again(wait, inputs, changes, f"{message} with {', '.join(said)}")
