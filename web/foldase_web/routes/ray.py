"""The Ray dashboard below ``/ray/``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from foldase_web.deps import get_services

router = APIRouter()

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@router.api_route("/ray", methods=_METHODS, include_in_schema=False)
@router.api_route("/ray/{path:path}", methods=_METHODS, include_in_schema=False)
async def ray_dashboard(request: Request) -> Response:
    """Forward a reading request to the dashboard."""
    return await get_services(request).proxy.forward(request)
