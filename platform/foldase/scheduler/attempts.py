"""The life of attempts: claims, reports of workers, losses, time limits and cancellation.

A report counts only while its fence is that of the present claim and the step runs; everything else is the
word of somebody who was given up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from foldase.scheduler.cache import CacheDesk, Result
from foldase.scheduler.corrections import ALL, Corrections, ratio_of
from foldase.scheduler.executor import Executor, Failed, Progressed, Report, Started, Succeeded, Task, TaskId
from foldase.scheduler.flow import Flow
from foldase.scheduler.model import Run, Step
from foldase.scheduler.retries import GiveUp, after_failure
from foldase.store.jsontext import dumps, storable
from foldase_workflows.contracts.artifacts import artifacts_in
from foldase_workflows.contracts.failures import Cause

Json = dict[str, Any]

LEASE_SECONDS = 15.0
"""A running step that no live worker holds for so long is taken to be lost."""
ADOPTION_SECONDS = 2.0
"""The same right after a restart, when the workers of before either live or do not."""
GRACE_SECONDS = 5.0
"""What a step gets to stop by itself before its worker is killed."""


class Attempts:
    """Opens and closes attempts of the steps in ``runs``."""

    def __init__(
        self,
        runs: dict[str, Run],
        flow: Flow,
        desk: CacheDesk,
        executor: Executor,
        corrections: Corrections,
    ) -> None:
        self._runs = runs
        self._flow = flow
        self._desk = desk
        self._executor = executor
        self._corrections = corrections
        self.running: dict[TaskId, Step] = {}
        self.to_stop: list[tuple[TaskId, float]] = []

    def adopt(self, step: Step, now: float, held: frozenset[TaskId]) -> None:
        """Watch over a step that was running when the scheduler was started."""
        self.running[step.task_id] = step
        step.seen_at = now if step.task_id in held else now - LEASE_SECONDS + ADOPTION_SECONDS
        limit = step.plan.timeout_seconds
        if limit is not None and step.begun:
            # The time that passed is known by the wall clock only, which may have jumped either way.
            passed = min(limit, max(0.0, (self._flow.moment - step.claimed_at) / 1000))
            step.deadline = now + limit - passed

    def claim(self, step: Step, now: float) -> Task:
        """Begin an attempt; the task may be submitted once the claim is committed."""
        flow = self._flow
        assert step.inputs is not None
        assert step.resources is not None
        step.fence += 1
        step.attempt += 1
        step.begun = False
        step.stopping = None
        step.deadline = None
        step.seen_at = now
        step.claimed_at = flow.moment
        step.progress = 0.0
        step.retry_at = None
        step.waiting_for = "a worker"
        step.attempt_plan = None
        flow.move(step, "running")
        flow.journal.attempt_opened(step, step.take_novelty(), flow.moment)
        self.running[step.task_id] = step
        return Task(
            run=step.run.id,
            step=step.id,
            attempt=step.attempt,
            fence=step.fence,
            operator=step.plan.uses,
            family=step.plan.family,
            identity=_checkpoint_identity(step),
            inputs=step.inputs,
            resources=step.resources,
            timeout_seconds=step.plan.timeout_seconds,
            corrections=self._corrections.of(step.plan.uses),
        )

    def apply(self, reports: Iterable[Report], now: float) -> None:
        """Take in what workers say; ``now`` is monotonic, in seconds."""
        for report in reports:
            step = self.running.get(TaskId(report.run, report.step, report.fence))
            if step is None:
                continue
            step.seen_at = now
            match report:
                case Started():
                    self._started(step, report, now)
                case Progressed():
                    self._progressed(step, report)
                case Succeeded():
                    self._succeeded(step, report)
                case Failed():
                    self._failed(step, report)

    def watch(self, now: float) -> None:
        """Stop what has run too long, and give up what no worker holds any more."""
        held: frozenset[TaskId] | None = None
        for task_id, step in list(self.running.items()):
            if step.deadline is not None and now >= step.deadline and step.stopping is None:
                self.stop(step, "timeout")
            if now - step.seen_at < LEASE_SECONDS / 3:
                continue
            if held is None:
                held = self._executor.running()
            if task_id in held:
                step.seen_at = now
            elif now - step.seen_at >= LEASE_SECONDS:
                # Should it wake up again, it must not go on computing for nobody.
                self.to_stop.append((task_id, 0.0))
                self._failed(step, Failed(*_names(task_id), Cause.WORKER_LOST, _LOST))

    def stop(self, step: Step, why: str) -> None:
        """Ask a running step to end, because of ``cancel`` or ``timeout``."""
        if step.stopping is None or why == "cancel":
            step.stopping = why
            step.message = "is being stopped" if why == "cancel" else "ran out of time and is being stopped"
            self._flow.journal.step(step)
            self.to_stop.append((step.task_id, GRACE_SECONDS))

    def cancel_run(self, run: Run) -> None:
        """End a run: nothing new is started, and what runs is asked to stop."""
        for step in list(run.running.values()):
            self.stop(step, "cancel")
        self._flow.cancel_waiting(run)

    def release_all(self) -> None:
        """The platform is shut down in good order: what runs will run again, at nobody's expense."""
        for step in list(self.running.values()):
            self._close(step, "failed", Cause.INFRASTRUCTURE, dict(_STOPPED))
            step.waiting_for = "the platform to start again"
            self._flow.move(step, "ready")

    def _started(self, step: Step, report: Started, now: float) -> None:
        flow = self._flow
        if not step.begun:
            step.begun = True
            step.started_at = step.started_at or flow.moment
            step.waiting_for = None
            limit = step.plan.timeout_seconds
            step.deadline = None if limit is None else now + limit
            flow.journal.attempt_begun(step, report.worker, report.node, report.pid, flow.moment)
            flow.journal.step(step)

    def _progressed(self, step: Step, report: Progressed) -> None:
        journal = self._flow.journal
        if report.fraction is not None:
            step.progress = min(1.0, max(0.0, report.fraction))
        if report.message is not None and step.stopping is None:
            step.message = storable(report.message)
        if report.fraction is not None or report.message is not None:
            journal.progress(step)
        self._planned(step, report.plan)
        if report.log_offset is not None:
            journal.log(step, "log", report.log_offset)
        if report.metrics_offset is not None:
            journal.log(step, "metrics", report.metrics_offset)

    def _succeeded(self, step: Step, report: Succeeded) -> None:
        flow = self._flow
        try:
            text = dumps(report.outputs)
        except (ValueError, TypeError) as error:
            problem = {"code": "bad_output", "message": f"an output is no JSON: {error}"}
            self._failed(step, Failed(*_names(step.task_id), Cause.USER_ERROR, problem))
            return
        self._closing(step, report)
        self._learn(step, report.peak_memory_bytes, None)
        flow.journal.attempt_closed(
            step,
            "succeeded",
            flow.moment,
            peak_memory_bytes=report.peak_memory_bytes,
            cpu_seconds=report.cpu_seconds,
            log_bytes=report.log_offset,
            metrics_bytes=report.metrics_offset,
        )
        self.running.pop(step.task_id)
        flow.journal.artifacts(artifacts_in(report.outputs))
        step.started_at = step.started_at or step.claimed_at
        if step.plan.cache != "off":
            assert step.cache_key is not None
            flow.journal.result(step.cache_key, text, step, flow.moment)
            self._desk.learn(step.cache_key, Result(text, step.run.id, step.id))
        flow.succeed(step, report.outputs, text)

    def _failed(self, step: Step, report: Failed) -> None:
        flow, cause, error = self._flow, report.cause, _storable(report.error)
        if step.run.cancel_requested:
            self._close(step, "cancelled", Cause.CANCELLED, error, report)
            flow.cancel(step)
            return
        if step.stopping == "timeout":
            limit = step.plan.timeout_seconds
            cause, error = Cause.TIMEOUT, {"code": "timeout", "message": f"it ran longer than {limit:g} s"}
        elif cause is Cause.CANCELLED:
            # Nobody here asked for it.
            cause = Cause.INFRASTRUCTURE
            error = {"code": "stopped_from_outside", "message": "the attempt was stopped from outside"}
        self._close(step, "failed", cause, error, report)
        decision = after_failure(
            step,
            cause,
            peak_memory_bytes=report.peak_memory_bytes,
            hardware=self._executor.largest_node(),
        )
        if isinstance(decision, GiveUp):
            hint = {"hint": decision.hint} if decision.hint else {}
            flow.fail(step, cause, {**error, **hint})
            return
        step.message = decision.message
        step.changes = decision.changes
        step.resources = None
        step.retry_at = flow.moment + int(decision.wait_seconds * 1000)
        step.waiting_for = f"a retry in {decision.wait_seconds:g} s" if decision.wait_seconds else None
        if decision.inputs is not step.inputs:
            flow.change_inputs(step, decision.inputs)
        flow.move(step, "ready")
        flow.refresh(step)

    def _closing(self, step: Step, report: Succeeded | Failed) -> None:
        """The last lines of an attempt may not have been announced yet."""
        if report.log_offset:
            self._flow.journal.log(step, "log", report.log_offset)
        if report.metrics_offset:
            self._flow.journal.log(step, "metrics", report.metrics_offset)
        self._planned(step, report.plan)

    def _planned(self, step: Step, plan: Json | None) -> None:
        if plan is not None and plan != step.attempt_plan:
            step.attempt_plan = plan
            self._flow.journal.plan(step, plan)

    def _learn(self, step: Step, peak_memory_bytes: int, cause: Cause | None) -> None:
        """See how far off the prediction of an attempt was that is over."""
        ratio = ratio_of(step.attempt_plan, peak_memory_bytes, cause)
        if ratio is None:
            return
        key = (step.attempt_plan or {}).get("key", ALL)
        for name, ratios in self._corrections.learn(step.plan.uses, key, ratio).items():
            self._flow.journal.correction(step.plan.uses, name, ratios, self._flow.moment)

    def _close(self, step: Step, state: str, cause: Cause, error: Json, report: Failed | None = None) -> None:
        known: Json = {"cause": str(cause), "error": dumps(error)}
        if report is not None:
            self._closing(step, report)
            self._learn(step, report.peak_memory_bytes, cause)
            known |= {
                "exit": report.exit,
                "peak_memory_bytes": report.peak_memory_bytes,
                "cpu_seconds": report.cpu_seconds,
                "log_bytes": report.log_offset,
                "metrics_bytes": report.metrics_offset,
            }
        self._flow.journal.attempt_closed(step, state, self._flow.moment, **known)
        self.running.pop(step.task_id, None)


_LOST = {
    "code": "worker_lost",
    "message": "the worker that ran the step does not answer any more",
}
_STOPPED = {
    "code": "platform_stopped",
    "message": "the platform was stopped while the step ran",
}


def _storable(error: Json) -> Json:
    """The error as it came, unless it is no JSON."""
    try:
        dumps(error)
    except (ValueError, TypeError):
        return {"code": "unreadable_error", "message": repr(error)[:2000]}
    return error


def _names(task_id: TaskId) -> tuple[str, str, int]:
    return task_id.run, task_id.step, task_id.fence


def _checkpoint_identity(step: Step) -> str:
    """Names the checkpoint folder: the identity of the work, where its result is shared.

    A step whose results are not reused has its own folder for each line of resumed runs; otherwise a
    refresh would start from the end of the run before, and equal steps would write over each other.
    """
    assert step.cache_key is not None
    assert step.inputs is not None
    key = step.plan.checkpoint_key(step.inputs) if step.plan.signature.tolerances else step.cache_key
    if step.plan.cache == "use":
        return key
    text = f"{key} {step.run.root} {step.id}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
