"""The routes of the API, one module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from foldase_web.routes import artifacts, cluster, documents, events, health, runs, session, steps
from foldase_web.routes.ray import router as ray

api = APIRouter()
for module in (health, session, artifacts, documents, runs, steps, events, cluster):
    api.include_router(module.router)

__all__ = ["api", "ray"]
