"""Public weights by name."""

from __future__ import annotations

from fastapi import APIRouter

from foldase_web.deps import ServicesDep
from foldase_web.schemas.workflows import WeightsList

router = APIRouter(tags=["workflows"])


@router.get("/weights", operation_id="list_weights")
def list_weights(services: ServicesDep) -> WeightsList:
    """What an input of type `weights` may name: the folders below the administrator's `--weights DIR`."""
    items = [entry.to_json() for entry in services.weights.entries()]
    return WeightsList.model_validate({"items": items, "configured": services.settings.weights is not None})
