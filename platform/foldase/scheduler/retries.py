"""What follows from a failed attempt: another one, changed where memory ran out, or the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from foldase.scheduler.model import Step
from foldase_workflows.contracts.failures import (
    OUT_OF_MEMORY,
    RETRYABLE_BY_REQUEST,
    RETRYABLE_BY_THE_PLATFORM,
    Cause,
)
from foldase_workflows.contracts.operator import Hardware, Resources
from foldase_workflows.spec.quantities import show_bytes

Json = dict[str, Any]

LOSS_CAP = 5
"""Losses of workers and nodes that a step survives; one that takes its worker with it must end."""
LONGEST_LOSS_WAIT_SECONDS = 30.0

MOST_FRUGAL_ATTEMPTS = 10
"""Attempts after which no more frugal plan is tried, however far the input could be raised."""
FRUGAL_MEMORY = 1.5
"""By how much a more frugal attempt reserves more than one that the host had no memory for."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after a wait, with these inputs and overridden resources, and say so.

    ``changes`` has ``cpu`` and ``memory_bytes`` where they are overridden, and under ``novelty`` what is
    otherwise than in the attempt before: ``{name: [before, after]}``.
    """

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

    Losses of hardware are retried up to :data:`LOSS_CAP` times, at once at first. Where memory ran out and
    the operator can save more of it, it is asked to, at once. Neither costs any of the retries that a person
    granted. Other causes are retried when the step's rules name them.
    """
    assert step.inputs is not None
    if cause in RETRYABLE_BY_THE_PLATFORM:
        step.losses += 1
        if step.losses > LOSS_CAP:
            return GiveUp(f"its worker was lost {step.losses} times; the step itself may be the reason")
        wait = min(LONGEST_LOSS_WAIT_SECONDS, 2.0 ** (step.losses - 1) - 1)
        return Again(wait, step.inputs, step.changes, f"attempt {step.attempt} lost its worker")
    rules = step.plan.retry
    if cause in OUT_OF_MEMORY and rules.frugal:
        inputs = _more_frugal(step)
        if inputs is not None:
            message = f"attempt {step.attempt} ended with {cause}; the next saves memory"
            again = _changed(step, cause, 0.0, message, peak_memory_bytes, hardware, inputs)
            assert again is not None
            return again
    if cause not in RETRYABLE_BY_REQUEST or cause not in rules.on:
        return GiveUp()
    step.failures += 1
    if step.failures > rules.max:
        return GiveUp(_frugal_hint(step) if cause in OUT_OF_MEMORY else None)
    wait = rules.wait_seconds(step.failures)
    message = f"attempt {step.attempt} ended with {cause}; retry {step.failures} of {rules.max}"
    if cause in OUT_OF_MEMORY and rules.on_oom:
        decided = _changed(step, cause, wait, message, peak_memory_bytes, hardware, step.inputs)
        return decided or GiveUp("it already had all that `on_oom` can give it on the largest node")
    return Again(wait, step.inputs, step.changes, message)


def _more_frugal(step: Step) -> Json | None:
    """The inputs of the step with its frugality raised by one; None where that cannot be."""
    assert step.inputs is not None
    name = step.plan.signature.frugality
    if name is None or step.attempt >= MOST_FRUGAL_ATTEMPTS:
        return None
    value, most = step.inputs[name], step.plan.signature.inputs[name].limits["max"]
    return {**step.inputs, name: value + 1} if value + 1 <= most else None


def _frugal_hint(step: Step) -> str | None:
    """What to say of a step that ran out of memory on its most frugal plan."""
    assert step.inputs is not None
    name = step.plan.signature.frugality
    if name is None or not step.plan.retry.frugal:
        return None
    return f"it was tried up to {name} {step.inputs[name]}; it needs a machine with more memory"


def _changed(
    step: Step,
    cause: Cause,
    wait: float,
    message: str,
    peak_memory_bytes: int,
    hardware: Hardware | None,
    inputs: Json,
) -> Again | None:
    """Another attempt with these inputs, ``on_oom`` applied once more to what the last had.

    A step without ``on_oom`` whose host had no memory for it reserves more, too, where it reserved any.
    Returns None where nothing would be otherwise.
    """
    assert step.inputs is not None
    had = step.resources or Resources()
    rules = step.plan.retry
    if rules.on_oom:
        # Nothing was reserved: what the attempt was seen to use is the best guess of what it needs.
        base = replace(had, memory_bytes=had.memory_bytes or peak_memory_bytes)
        wanted, inputs = rules.after_oom(base, inputs, 1)
    elif cause is Cause.OOM_HOST and had.memory_bytes:
        wanted = replace(had, memory_bytes=int(FRUGAL_MEMORY * had.memory_bytes))
    else:
        wanted = had
    if hardware is not None:
        # Ranks may have to share the largest node; what they had, they can have again.
        share = 1 / had.ranks
        wanted = replace(
            wanted,
            memory_bytes=min(wanted.memory_bytes, max(had.memory_bytes, int(hardware.memory_bytes * share))),
            cpu=min(wanted.cpu, max(had.cpu, hardware.cpus * share)),
        )
    novelty: Json = {
        name: [step.inputs.get(name), inputs[name]]
        for name in inputs
        if name not in step.inputs or inputs[name] != step.inputs[name]
    }
    said = [f"{name} {after}" for name, (_, after) in novelty.items()]
    if wanted.memory_bytes != had.memory_bytes:
        novelty["memory_bytes"] = [had.memory_bytes, wanted.memory_bytes]
        said.insert(0, f"memory {show_bytes(wanted.memory_bytes)}")
    if wanted.cpu != had.cpu:
        novelty["cpu"] = [had.cpu, wanted.cpu]
        said.append(f"{wanted.cpu:g} cores")
    if not said:
        return None
    changes: Json = {"memory_bytes": wanted.memory_bytes, "cpu": wanted.cpu, "novelty": novelty}
    return Again(wait, inputs, changes, f"{message} with {', '.join(said)}")
