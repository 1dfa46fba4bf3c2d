"""From a request to a durable run."""

from __future__ import annotations

import hashlib
import json

from foldase.store import Run, Submission
from foldase_web.context import Services
from foldase_web.schemas.runs import RunRequest
from foldase_web.services.documents import largest_node, resolve, whole_cluster
from foldase_workflows.spec import check_resources


def submit(
    services: Services, request: RunRequest, *, user: str, idempotency_key: str | None
) -> tuple[Run, bool]:
    """Check everything that can be checked before a step runs, then write the run.

    Returns:
        The run, and whether it is new.

    Raises:
        DocumentErrors: the document, its inputs or its requests for resources are wrong.
        Conflict: ``idempotency_mismatch``.
        NotFound, TooLarge, StorageFull, Unavailable: nothing was written.
    """
    text, checked, inputs = resolve(services, request)
    hardware = largest_node(services.store)
    if hardware is not None:
        check_resources(checked, hardware, inputs, cluster=whole_cluster(services.store))
    submission = Submission.of(
        checked, inputs, source=text, name=request.name or "", priority=request.priority
    )
    return services.store.requests.submit(
        submission, user=user, idempotency_key=idempotency_key, body_digest=_digest(request)
    )


def _digest(request: RunRequest) -> str:
    """Equal for requests that mean the same, whatever the spacing of their JSON."""
    text = json.dumps(request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
