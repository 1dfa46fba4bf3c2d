"""Runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response, status

from foldase_web.deps import PersonDep, RunId, ServicesDep, StoreDep
from foldase_web.schemas.runs import Run, RunArtifacts, RunPage, RunRequest, RunState
from foldase_web.services.submit import submit

router = APIRouter(tags=["runs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key with the same request gives the same run, however often it is sent",
    ),
]
_REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": Run, "description": "The run that the same request made before."}
}


@router.post("/runs", operation_id="create_run", status_code=status.HTTP_201_CREATED, responses=_REPEATED)
def create_run(
    request: RunRequest,
    response: Response,
    person: PersonDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> Run:
    """Check a workflow and its inputs and put it in the queue; it is durable when this answers."""
    run, is_new = submit(services, request, user=person.user.id, idempotency_key=idempotency_key)
    if not is_new:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return Run.model_validate(run.to_json())


@router.get("/runs", operation_id="list_runs")
def list_runs(
    store: StoreDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: Annotated[list[RunState] | None, Query(description="only runs in these states")] = None,
    q: Annotated[str, Query(max_length=200, description="part of a name or an id")] = "",
) -> RunPage:
    """A page of runs, newest first."""
    found, following = store.queries.runs(
        cursor=cursor, limit=limit, states=state or (), text=q.replace("\0", "")
    )
    return RunPage.model_validate({"items": [run.to_json() for run in found], "next": following})


@router.get("/runs/{run}", operation_id="get_run")
def get_run(run: RunId, store: StoreDep) -> Run:
    """One run with its steps."""
    return Run.model_validate(store.queries.run(run).to_json())


@router.post("/runs/{run}/cancel", operation_id="cancel_run", status_code=status.HTTP_202_ACCEPTED)
def cancel_run(run: RunId, store: StoreDep) -> Run:
    """Ask for the end of a run; its state changes when its workers have stopped. 409 once it has finished."""
    store.requests.request_cancel(run)
    return Run.model_validate(store.queries.run(run).to_json())


@router.post(
    "/runs/{run}/resume",
    operation_id="resume_run",
    status_code=status.HTTP_201_CREATED,
    responses=_REPEATED,
)
def resume_run(
    run: RunId,
    response: Response,
    person: PersonDep,
    store: StoreDep,
    idempotency_key: IdempotencyKey = None,
) -> Run:
    """Make a new run that goes on where a failed or cancelled one stopped; 409 for others."""
    new, is_new = store.requests.resume(run, user=person.user.id, idempotency_key=idempotency_key)
    if not is_new:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/api/v1/runs/{new.id}"
    return Run.model_validate(new.to_json())


@router.get("/runs/{run}/artifacts", operation_id="list_run_artifacts")
def list_run_artifacts(run: RunId, store: StoreDep) -> RunArtifacts:
    """What a run made: its outputs first, then those of its steps."""
    items = [item.to_json() for item in store.queries.artifacts(run)]
    return RunArtifacts.model_validate({"items": items})
