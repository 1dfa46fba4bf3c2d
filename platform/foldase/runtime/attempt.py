"""Runs one task from its inputs to its report, without knowing who asked or who listens."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

from foldase.runtime.capture import Capture
from foldase.runtime.context import CancelFlag, RunningStep
from foldase.runtime.failures import Json, explain
from foldase.runtime.gang_life import GangUsage
from foldase.runtime.gangs import GangMaker
from foldase.runtime.usage import Meter
from foldase.runtime.values import cached_ports, materialise, published, validated
from foldase.runtime.workplace import Workplace, remove_folder
from foldase.scheduler.executor import Failed, Succeeded, Task
from foldase_workflows.contracts.errors import Cancelled, NotFound, UserError
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.ports import Ports
from foldase_workflows.contracts.registry import Registry


class Attempt:
    """One attempt of one step: ``run`` it in the thread that may compute; other threads may look on."""

    def __init__(
        self, task: Task, workplace: Workplace, registry: Registry, gangs: GangMaker | None = None
    ) -> None:
        self.task = task
        self.usage = GangUsage()
        self.cancel = CancelFlag()
        self.step = RunningStep(task, workplace, self.cancel)
        self._workplace = workplace
        self._registry = registry
        if gangs is not None:
            self.step.lead = partial(gangs, self.step, self.usage)

    def run(self, capture: Capture, meter: Meter) -> Succeeded | Failed:
        """Do the work; every exception becomes a report. Artifacts are stored when it succeeds."""
        meter.start()
        if self.task.resources.ranks == 1:
            # What the leader of a gang holds says nothing of its ranks, whose peak is that of the attempt.
            self.step.held_bytes = meter.held
        result: dict[str, Any] | tuple[Cause, Json]
        try:
            if self.cancel.is_set:
                raise Cancelled(f"step {self.task.step} was asked to stop before it began")
            with capture.into(self.step):
                result = self._outputs()
        except BaseException as error:  # noqa: BLE001  # whatever an operator raises ends its attempt only
            result = self._explained(error)
        finally:
            self.step.close()
            if self.step.scratch_folder is not None:
                remove_folder(self.step.scratch_folder)
        peak, cpu = meter.read()
        return self._report(result, max(peak, self.usage.peak_bytes), cpu + self.usage.cpu_seconds)

    def forget(self) -> None:
        """The result is committed: the checkpoints have done their duty."""
        if self.step.checkpoint_folder is not None:
            self.step.checkpoint_folder.remove()

    def _outputs(self) -> dict[str, Any]:
        operator = self._registry.get(self.task.operator)
        model: type[Ports] = operator.Inputs
        ports = cached_ports(model)
        values: dict[str, Any] = self.task.inputs
        if any(port.type.is_artifact for port in ports.values()):
            place = self._workplace
            values = materialise(self.task, ports, place.blobs, self.step.inputs_folder, place.find)
        inputs = validated(model, values, self.task.step)
        result = operator.run(inputs, self.step)
        made = self.step.scratch_folder / "outputs" if self.step.scratch_folder else None
        return published(operator.Outputs, result, self._workplace.blobs, made=made)

    def _explained(self, error: BaseException) -> tuple[Cause, Json]:
        inputs = self.step.inputs_folder if self.step.scratch_folder else None
        if isinstance(error, NotFound) and error.code.startswith("unknown_operator"):
            cause, described = Cause.BAD_INPUT, error.to_json()
        elif isinstance(error, Cancelled):
            cause, described = self._stopped(error)
        else:
            cause, described = explain(error, inputs=inputs)
        if cause in (Cause.CANCELLED, Cause.TIMEOUT, Cause.BAD_INPUT):
            self.step.log(str(described["message"]), level="error")
        else:
            self.step.log("".join(traceback.format_exception(error)), level="error")
        return cause, described

    def _stopped(self, error: Cancelled) -> tuple[Cause, Json]:
        if not self.cancel.is_set:
            return Cause.USER_ERROR, UserError("the operator stopped itself without being asked").to_json()
        if self.cancel.cause is Cause.TIMEOUT:
            return Cause.TIMEOUT, timeout_error(self.task)
        return self.cancel.cause, error.to_json()

    def _report(
        self, result: dict[str, Any] | tuple[Cause, Json], peak: int, cpu: float
    ) -> Succeeded | Failed:
        task, step = self.task, self.step
        if isinstance(result, dict):
            return Succeeded(
                run=task.run,
                step=task.step,
                fence=task.fence,
                outputs=result,
                peak_memory_bytes=peak,
                cpu_seconds=cpu,
                log_offset=step.log_offset,
                metrics_offset=step.metrics_offset,
                plan=step.planned,
            )
        return Failed(
            run=task.run,
            step=task.step,
            fence=task.fence,
            cause=result[0],
            error=result[1],
            peak_memory_bytes=peak,
            cpu_seconds=cpu,
            log_offset=step.log_offset,
            metrics_offset=step.metrics_offset,
            plan=step.planned,
        )


def timeout_error(task: Task) -> Json:
    """What a person reads of an attempt that ran out of time."""
    return {
        "code": "timeout",
        "message": f"the step took longer than its timeout of {task.timeout_seconds:g} s",
        "hint": "raise `timeout`, or make the step smaller",
    }
