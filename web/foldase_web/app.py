"""The application: layers and routes, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware import Middleware

from foldase.store.accounts import Accounts
from foldase_web import description, problems
from foldase_web.context import Services, installed_version
from foldase_web.routes import api, ray
from foldase_web.security import PREFIX, CatchAll, Gate, SecurityHeaders
from foldase_web.services.signin import authenticator
from foldase_web.settings import Settings
from foldase_web.static import PageOrApi, page


def create_app(settings: Settings, services: Services | None = None) -> FastAPI:
    """The application.

    Args:
        settings: checked settings.
        services: what it works with; opened when the server starts where nothing is given.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if services is None:
            app.state.services = Services.open(settings)
        try:
            yield
        finally:
            await app.state.services.close()

    def accounts() -> Accounts:
        running: Services = app.state.services
        return running.accounts

    app = FastAPI(
        title="foldase",
        version=installed_version(),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(CatchAll),
            Middleware(Gate, settings=settings, authenticate=authenticator(accounts)),
            Middleware(PageOrApi, page=page(settings.static)),
        ],
    )
    if services is not None:
        app.state.services = services
    problems.install(app)
    app.include_router(api, prefix=PREFIX)
    app.include_router(ray)
    description.install(app)
    return app
