"""Sign-in and sign-out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response, status
from starlette.concurrency import run_in_threadpool

from foldase.store.accounts import CODE_SECONDS, SESSION_SECONDS
from foldase_web.deps import PersonDep, ServicesDep
from foldase_web.schemas.system import CodeAnswer, Credentials, SessionAnswer, User
from foldase_workflows.contracts.errors import NotSignedIn

router = APIRouter(tags=["session"])


@router.post("/session", operation_id="sign_in")
async def sign_in(
    credentials: Credentials, request: Request, response: Response, services: ServicesDep
) -> SessionAnswer:
    """Exchange a one-time code or a token for a session cookie."""
    address = request.client.host if request.client else ""
    services.brake.check(address)
    accounts = services.accounts
    try:
        if credentials.code is not None:
            user, secret = await run_in_threadpool(accounts.redeem_code, credentials.code)
        else:
            assert credentials.token is not None
            user, secret = await run_in_threadpool(accounts.sign_in, credentials.token)
    except NotSignedIn:
        services.brake.failed(address)
        raise
    response.set_cookie(
        services.settings.cookie_name,
        secret,
        max_age=int(SESSION_SECONDS),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionAnswer(user=User(name=user.name))


@router.get("/session", operation_id="get_session")
async def get_session(person: PersonDep) -> SessionAnswer:
    """Who is signed in."""
    return SessionAnswer(user=User(name=person.name))


@router.delete("/session", operation_id="sign_out", status_code=status.HTTP_204_NO_CONTENT)
async def sign_out(person: PersonDep, response: Response, services: ServicesDep) -> None:
    """End this session on the server; a bearer token has none and stays valid."""
    if person.session is not None:
        await run_in_threadpool(services.accounts.end_session, person.session)
        response.delete_cookie(services.settings.cookie_name, path="/", httponly=True, samesite="strict")


@router.post("/session/codes", operation_id="create_sign_in_code", status_code=status.HTTP_201_CREATED)
async def create_sign_in_code(person: PersonDep, services: ServicesDep) -> CodeAnswer:
    """A link that signs a browser in as the same person: once, and only for some minutes."""
    code = await run_in_threadpool(services.accounts.new_code, user=person.user.id)
    return CodeAnswer(code=code, path=f"/#code={code}", expires_in=CODE_SECONDS)
