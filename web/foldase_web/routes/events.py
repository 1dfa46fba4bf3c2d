"""Live events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from foldase.store.events import RUN_KINDS
from foldase_web.context import Services
from foldase_web.deps import RunId, ServicesDep
from foldase_web.sse import MAX_ID, EventStream, Filter, resume_point

router = APIRouter(tags=["events"])

After = Annotated[
    int | None, Query(ge=0, le=MAX_ID, description="only events with a greater id; default: see below")
]
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="sent by browsers when they reconnect")
]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `id` is the position in the log, `event` the kind, `data` JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", operation_id="stream_events", response_class=Response, responses=_RESPONSES)
async def stream_events(
    services: ServicesDep, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Runs made and changed, and the state of the cluster; from now on unless an id is given."""
    return _stream(services, Filter(kinds=RUN_KINDS), resume_point(last_event_id, after))


@router.get(
    "/runs/{run}/events", operation_id="stream_run_events", response_class=Response, responses=_RESPONSES
)
async def stream_run_events(
    run: RunId, services: ServicesDep, after: After = None, last_event_id: LastEventId = None
) -> Response:
    """Everything that happens in one run; from its beginning unless an id is given."""
    await run_in_threadpool(services.store.queries.run_summary, run)
    start = resume_point(last_event_id, after)
    return _stream(services, Filter(run=run), 0 if start is None else start)


def _stream(services: Services, wanted: Filter, after: int | None) -> EventStream:
    services.hub.check_room()
    heartbeat = services.settings.heartbeat_seconds
    return EventStream(lambda: services.hub.follow(wanted, after, heartbeat_seconds=heartbeat))
