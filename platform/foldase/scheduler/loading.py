"""From rows to runs in memory: how a scheduler starts, and how it recovers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from foldase.scheduler.model import UNSETTLED, Run, Step, gathered
from foldase.scheduler.plan import RunPlan
from foldase.store.commits import Commits, LoadedRun
from foldase.store.jsontext import loads, loads_or_none
from foldase_workflows.contracts.errors import Damaged, FoldaseError
from foldase_workflows.contracts.operator import Resources
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.spec import from_json


def load_run(commits: Commits, run_id: str, registry: Registry) -> Run | FoldaseError:
    """A live run, or the error that its workflow gives now, for example because an operator is gone."""
    loaded = commits.load(run_id)
    try:
        run = _built(loaded, registry)
    except FoldaseError as error:
        return error
    except Exception as error:  # noqa: BLE001  # one run that makes no sense must not stop all others
        message = f"the stored run cannot be read: {type(error).__name__}: {error}"
        return Damaged(message, code="unreadable_run")
    if run.resumed_from is not None:
        run.root, run.prior = commits.finished_before(run.resumed_from)
    return run


def _built(loaded: LoadedRun, registry: Registry) -> Run:
    run = _run(loaded, RunPlan(from_json(loads(loaded.document), registry)))
    for row in loaded.steps:
        _add_step(run, row)
    for attempt in loaded.attempts:
        step = run.steps[attempt.step]
        if step.fence == attempt.fence:
            step.begun = attempt.started_at is not None
            step.claimed_at = attempt.started_at or attempt.claimed_at
            step.attempt_plan = loads_or_none(attempt.plan)
    _connect(run)
    return run


def _run(loaded: LoadedRun, plan: RunPlan) -> Run:
    row = loaded.run
    return Run(
        id=row.id,
        plan=plan,
        name=row.name,
        workflow_name=row.workflow_name,
        workflow_digest=row.workflow,
        priority=row.priority,
        inputs=loads(row.inputs),
        created_at=row.created_at,
        resumed_from=row.resumed_from,
        state=row.state,
        started_at=row.started_at,
        cancel_requested=row.cancel_requested_at is not None,
        root=row.id,
        announced_state=(row.state, row.cancel_requested_at is not None),
    )


def _add_step(run: Run, row: Any) -> None:
    resources = loads_or_none(row.resources)
    step = Step(
        run=run,
        plan=run.plan.steps[row.name],
        id=row.id,
        position=row.position,
        key=row.key,
        item=row.item,
        item_count=row.item_count,
        state=row.state,
        fence=row.fence,
        attempt=row.attempt,
        failures=row.failures,
        losses=row.losses,
        cached=bool(row.cached),
        progress=row.progress,
        message=row.message,
        waiting_for=row.waiting_for,
        error=loads_or_none(row.error),
        resources=resources_from_json(resources) if resources and row.state == "running" else None,
        changes=loads_or_none(row.changes),
        inputs=loads_or_none(row.inputs),
        inputs_text=row.inputs,
        outputs=loads_or_none(row.outputs),
        outputs_text=row.outputs,
        cache_key=row.cache_key,
        cache_policy=row.cache_policy,
        estimate=loads_or_none(row.estimate),
        source=(row.source_run, row.source_step) if row.source_run else None,
        retry_at=row.retry_at,
        ready_at=row.ready_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        saved=(row.state, row.fence),
    )
    run.steps[step.id] = step
    if step.key is not None:
        run.items.setdefault(step.name, []).append(step)


def _connect(run: Run) -> None:
    """Everything that follows from the rows: counts, what waits for what, what expressions may see."""
    run.counts = Counter(step.state for step in run.steps.values() if step.counted)
    tops = [step for step in run.steps.values() if step.key is None]
    run.unsettled = sum(1 for step in tops if step.state in UNSETTLED)
    for step in run.steps.values():
        if step.state == "running" and step.item_count is None:
            run.running[step.id] = step
    for step in tops:
        waiting = [name for name in step.plan.needs if run.steps[name].state in UNSETTLED]
        run.waiting[step.id] = len(waiting)
        if step.item_count is not None:
            items = run.items.setdefault(step.id, [])
            run.open_items[step.id] = sum(1 for item in items if item.state in UNSETTLED)
        if step.state == "succeeded":
            run.visible[step.id] = gathered(run, step) if step.item_count is not None else step.outputs
        elif step.state == "skipped":
            run.visible[step.id] = None


def resources_from_json(found: dict[str, Any]) -> Resources:
    """The inverse of ``Resources.to_json``."""
    return Resources.from_json(found)
