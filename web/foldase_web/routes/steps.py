"""Steps of a run: detail, reasons, logs and curves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from foldase_web.deps import RunId, StepId, StoreDep
from foldase_web.schemas.runs import LogPage, MetricPage, StepDetail, Why
from foldase_web.services.logs import read_log, read_metrics
from foldase_web.sse import MAX_ID

router = APIRouter(prefix="/runs/{run}/steps", tags=["steps"])

AttemptNumber = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="default: the last one")]
Offset = Annotated[int, Query(ge=0, le=MAX_ID, description="bytes to skip: 0, or `next` of the page before")]


@router.get("/{step}", operation_id="get_step")
def get_step(run: RunId, step: StepId, store: StoreDep) -> StepDetail:
    """One step with its inputs, outputs and attempts."""
    return StepDetail.model_validate(store.queries.step(run, step).to_json())


@router.get("/{step}/why", operation_id="explain_step")
def explain_step(run: RunId, step: StepId, store: StoreDep) -> Why:
    """Why a step ran, or did not: what changed against the nearest earlier result."""
    return Why.model_validate(store.explain.why(run, step).to_json())


@router.get("/{step}/logs", operation_id="get_step_logs")
def get_step_logs(
    run: RunId,
    step: StepId,
    store: StoreDep,
    attempt: AttemptNumber = None,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=4 << 20, description="bytes of log, about")] = 256 * 1024,
) -> LogPage:
    """Lines of a log, whole ones only; ask again from `next`."""
    found: dict[str, Any] = read_log(store, run, step, attempt=attempt, offset=offset, limit=limit)
    return LogPage.model_validate(found)


@router.get("/{step}/metrics", operation_id="get_step_metrics")
def get_step_metrics(
    run: RunId, step: StepId, store: StoreDep, attempt: AttemptNumber = None, offset: Offset = 0
) -> MetricPage:
    """Points of the curves that a step reported; ask again from `next`."""
    return MetricPage.model_validate(read_metrics(store, run, step, attempt=attempt, offset=offset))
