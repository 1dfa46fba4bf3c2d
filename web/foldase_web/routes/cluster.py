"""The cluster page."""

from __future__ import annotations

from fastapi import APIRouter

from foldase_web.deps import StoreDep
from foldase_web.schemas.system import Cluster
from foldase_web.services.cluster import read_cluster

router = APIRouter(tags=["system"])


@router.get("/cluster", operation_id="get_cluster")
def get_cluster(store: StoreDep) -> Cluster:
    """Nodes, workers, what waits and for what."""
    return read_cluster(store)
