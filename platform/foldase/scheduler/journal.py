"""Collects what a tick decided, and turns it into rows and events once at the end.

A step may pass through several states within a tick; only where it ends up is written and announced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from foldase.scheduler.model import Run, Step
from foldase.store.commits import Changes
from foldase.store.events import NewEvent
from foldase.store.jsontext import dumps, dumps_or_none
from foldase_workflows.contracts.artifacts import Artifact

Json = dict[str, Any]

RUN_EVENT_SECONDS = 0.5
"""Progress of a run is announced at most so often; its state always."""


class Journal:
    """The writes of one tick."""

    def __init__(self) -> None:
        self._changes = Changes()
        # Dictionaries as sets that keep their order.
        self._steps: dict[Step, None] = {}
        self._progressed: dict[Step, None] = {}
        self._runs: dict[Run, None] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._identities: dict[str, Json] = {}
        self._corrections: dict[tuple[str, str], Json] = {}
        self._plans: dict[tuple[Step, int], Json] = {}
        self._logs: dict[tuple[Step, str, int], int] = {}

    def step(self, step: Step) -> None:
        """The row of a step changed, and everybody shall know."""
        self._steps[step] = None
        self._runs[step.run] = None

    def progress(self, step: Step) -> None:
        """Only the progress or the message of a running step changed."""
        self._progressed[step] = None
        self._runs[step.run] = None

    def run(self, run: Run) -> None:
        """The row of a run changed."""
        self._runs[run] = None

    def output(self, run: Run) -> None:
        """A run has its outputs."""
        self._changes.events.append(
            NewEvent("run.outputs", run.id, None, dumps({"outputs": run.outputs or {}}))
        )

    def attempt_opened(self, step: Step, changes: Json | None, moment: int) -> None:
        """A step was claimed; ``changes`` says what is otherwise than in the attempt before."""
        self._changes.new_attempts.append(
            {
                "run": step.run.id,
                "step": step.id,
                "number": step.attempt,
                "fence": step.fence,
                "state": "running",
                "resources": dumps(step.resources.to_json()) if step.resources else None,
                "changes": dumps_or_none(changes),
                "log_bytes": 0,
                "metrics_bytes": 0,
                "archived": False,
                "claimed_at": moment,
            }
        )

    def attempt_begun(self, step: Step, worker: str, node: str, pid: int, moment: int) -> None:
        """The attempt runs on a worker."""
        self._changes.begun.append(
            {
                "of_run": step.run.id,
                "of_step": step.id,
                "of_number": step.attempt,
                "worker": worker,
                "node": node,
                "pid": pid,
                "started_at": moment,
            }
        )

    def attempt_closed(self, step: Step, state: str, moment: int, **known: Any) -> None:
        """The attempt is over; ``known`` are further columns."""
        row = {
            "of_run": step.run.id,
            "of_step": step.id,
            "of_number": step.attempt,
            "state": state,
            "cause": None,
            "error": None,
            "exit": None,
            "peak_memory_bytes": None,
            "cpu_seconds": None,
            "log_bytes": 0,
            "metrics_bytes": 0,
            "finished_at": moment,
            **known,
        }
        # Nothing was written, so there is nothing to move into the blob store. A lost attempt may have
        # written more than it could tell.
        row["archived"] = state == "succeeded" and not (row["log_bytes"] or row["metrics_bytes"])
        self._changes.attempts.append(row)

    def plan(self, step: Step, plan: Json) -> None:
        """The present attempt told how it will fit."""
        self._plans[step, step.attempt] = plan

    def correction(self, operator: str, key: str, ratios: list[float], moment: int) -> None:
        """How far off predictions were is known better now."""
        self._corrections[operator, key] = {
            "operator": operator,
            "key": key,
            "ratios": dumps(ratios),
            "updated_at": moment,
        }

    def log(self, step: Step, kind: str, offset: int) -> None:
        """The log or the metrics of the present attempt grew to ``offset`` bytes."""
        self._logs[step, kind, step.attempt] = offset

    def identity(self, key: str, components: Json, moment: int) -> None:
        """A cache key that the database does not know yet."""
        self._identities[key] = {
            "key": key,
            "operator": components["operator"],
            "components": dumps(components),
            "created_at": moment,
        }

    def result(self, key: str, outputs: str, step: Step, moment: int) -> None:
        """The outputs that a step made, as JSON text, are to be found under a key from now on."""
        self._changes.results.append(
            {
                "of_key": key,
                "outputs": outputs,
                "run": step.run.id,
                "step": step.id,
                "created_at": moment,
            }
        )

    def artifacts(self, found: Iterable[Artifact]) -> None:
        """Artifacts that may be new."""
        for artifact in found:
            self._artifacts[artifact.digest] = artifact

    def changes(self, now: float) -> Changes:
        """Everything as rows and events; ``now`` is monotonic, in seconds."""
        changes = self._changes
        changes.identities += self._identities.values()
        changes.artifacts += self._artifacts.values()
        changes.corrections += self._corrections.values()
        for (step, attempt), plan in self._plans.items():
            named = {"of_run": step.run.id, "of_step": step.id, "of_number": attempt}
            changes.plans.append({**named, "plan": dumps(plan)})
            data = dumps({"attempt": attempt, "predicted_peak_bytes": plan.get("predicted_peak_bytes")})
            changes.events.append(NewEvent("step.plan", step.run.id, step.id, data))
        for step in self._steps:
            self._write_step(step)
        for step in self._progressed:
            if step not in self._steps:
                self._write_progress(step)
        for (step, kind, attempt), offset in self._logs.items():
            data = dumps({"attempt": attempt, "offset": offset})
            changes.events.append(NewEvent(f"step.{kind}", step.run.id, step.id, data))
        for run in self._runs:
            self._write_run(run, now)
        return changes

    def committed(self) -> None:
        """The rows are durable: the next guard compares with them."""
        for step in self._steps:
            step.saved = (step.state, step.fence)

    def _write_step(self, step: Step) -> None:
        row = step.columns()
        if step.saved is None:
            self._changes.new_steps.append({**step.birth(), **row})
        else:
            row["of_run"], row["of_step"] = step.run.id, step.id
            row["of_state"], row["of_fence"] = step.saved
            self._changes.steps.append(row)
        text = dumps(step.summary().to_json())
        self._changes.events.append(NewEvent("step.state", step.run.id, step.id, text))

    def _write_progress(self, step: Step) -> None:
        assert step.saved is not None
        self._changes.progress.append(
            {
                "of_run": step.run.id,
                "of_step": step.id,
                "of_state": step.saved[0],
                "of_fence": step.saved[1],
                "progress": step.progress,
                "message": step.message,
            }
        )
        data = dumps({"progress": round(step.progress, 4), "message": step.message})
        self._changes.events.append(NewEvent("step.progress", step.run.id, step.id, data))

    def _write_run(self, run: Run, now: float) -> None:
        self._changes.runs.append(run.row())
        state = (run.state, run.cancel_requested)
        if state != run.announced_state or now - run.announced_at >= RUN_EVENT_SECONDS:
            run.announced_state, run.announced_at = state, now
            text = dumps(run.summary().to_json())
            self._changes.events.append(NewEvent("run.state", run.id, None, text))
