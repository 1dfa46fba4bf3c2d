"""Whether the server and the cluster can work; open to everybody."""

from __future__ import annotations

from fastapi import APIRouter

from foldase_web.deps import ServicesDep
from foldase_web.schemas.system import ClusterHealth, Health
from foldase_web.services.cluster import read_cluster
from foldase_workflows.contracts.errors import FoldaseError

router = APIRouter(tags=["system"])


@router.get("/health", operation_id="get_health")
def get_health(services: ServicesDep) -> Health:
    """The state of the server, the database and the cluster; 200 also while the cluster starts."""
    try:
        cluster = read_cluster(services.store)
    except FoldaseError as error:
        return Health(
            status="degraded",
            version=services.version,
            cluster=ClusterHealth(state="lost", message=error.message),
            database="unavailable",
        )
    return Health(
        status="ok",
        version=services.version,
        cluster=ClusterHealth(state=cluster.state, message=cluster.message, since=cluster.since),
        database="ok",
    )
