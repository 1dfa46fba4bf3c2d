"""The routes of the API, one module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from foldase_web.routes import artifacts, cluster, documents, events, health, runs, session, steps, weights
from foldase_web.routes.ray import router as ray

api = APIRouter()
for module in (health, session, artifacts, documents, weights, runs, steps, events, cluster):
    api.include_router(module.router)

__all__ = ["api", "ray"]
