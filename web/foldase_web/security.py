"""What surrounds every request, as plain ASGI: headers, the catch-all for errors, and the gate.

The gate is closed by default. It knows the host names it may be called by, the few open addresses, and who
is signed in; it runs before a body is read, so nobody makes the server parse anything without signing in.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foldase_web.problems import HttpError, answer, respond
from foldase_web.settings import Settings
from foldase_workflows.contracts.errors import FoldaseError, NotAllowed, NotSignedIn, TooLarge

PREFIX = "/api/v1"
UPLOAD_PATH = f"{PREFIX}/blobs"
CSRF_HEADER = "X-Foldase-CSRF"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_LENGTH = re.compile(r"[0-9]{1,20}")
_DRAIN_BYTES = 64 * 1024**2
_DRAIN_SECONDS = 5.0

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; worker-src 'self' blob:; connect-src 'self'; form-action 'self'; object-src 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""For our own pages. Mol* needs blob workers and images; Mantine sets inline styles."""

INERT_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""For whatever users made: it is downloaded, and a browser that shows it anyway runs nothing in it."""

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SecurityHeaders:
    """Adds the headers that an answer does not set by itself; API answers are not kept by caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers)


class CatchAll:
    """Turns what no handler took into a problem, without a traceback; also inside the other layers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noting_send)
        except Exception as error:  # noqa: BLE001  # this is the last layer; what is unknown becomes a 500
            response = respond(error, f"{scope['method']} {scope['path']}")
            # Once the head is out, only an abrupt end tells the client that the body is not whole: the
            # server ends the connection when an application returns early.
            if not started:
                await response(scope, receive, send)


class Principal(Protocol):
    """Who makes a request."""

    @property
    def name(self) -> str:
        """The person's name."""

    @property
    def by_cookie(self) -> bool:
        """Whether a browser sent the credentials by itself, so that another site may be behind it."""


Authenticate = Callable[[str | None, str | None], Awaitable[Principal | None]]
"""From a session cookie and a bearer token to the person, None for wrong or expired ones."""


class Gate:
    """Lets a request in: right host, same origin, signed in, not too large."""

    def __init__(self, app: ASGIApp, settings: Settings, authenticate: Authenticate) -> None:
        self.app = app
        self.settings = settings
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request and pass it on, or answer with a problem."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            await self._check_person(scope, headers)
            receive = self._limited(scope, headers, receive)
        except FoldaseError as error:
            if isinstance(error, NotSignedIn) and _is_visit(scope, headers):
                await RedirectResponse("/", status_code=303)(scope, receive, send)
            else:
                await _refuse(error, scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a foreign name that resolves to this machine is not ours."""
        given = headers.getlist("host")
        name = _host_name(given[0]) if len(given) == 1 else None
        if name is None or name not in self.settings.host_names:
            raise HttpError(
                "this server is not known under that host name",
                code="bad_host",
                hint="open it as localhost or 127.0.0.1, or allow the name with --allowed-host",
            )

    async def _check_person(self, scope: Scope, headers: Headers) -> None:
        method, path = scope["method"], scope["path"]
        if method not in SAFE_METHODS:
            _check_origin(headers)
        if _is_open(method, path):
            return
        cookie = cookie_parser(headers.get("cookie", "")).get(self.settings.cookie_name)
        principal = await self.authenticate(cookie, _bearer(headers))
        if principal is None:
            raise NotSignedIn("sign in first", hint="open the link that `foldase up` prints")
        if principal.by_cookie and method not in SAFE_METHODS and headers.get(CSRF_HEADER) != "1":
            raise NotAllowed(f"a change needs the header {CSRF_HEADER}: 1", code="csrf")
        scope.setdefault("state", {})["principal"] = principal

    def _limited(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Refuse a large body from its announced length, or as soon as it proves to be too large."""
        uploads = scope["path"] == UPLOAD_PATH
        limit = self.settings.upload_limit_bytes if uploads else self.settings.body_limit_bytes
        announced = announced_length(headers)
        if announced is not None and announced > limit:
            raise too_large(limit, announced)
        if uploads:
            return receive  # the upload counts for itself, to be able to clean up
        seen = 0

        async def counting_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, too_large(limit, seen).message)
            return message

        return counting_receive


async def _refuse(error: FoldaseError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body is read, then read some of it away.

    A client that is still sending when its connection closes would see a reset instead of the answer.
    """
    response = answer(error)
    if scope["method"] in SAFE_METHODS:
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with anyio.move_on_after(_DRAIN_SECONDS):
        drained = 0
        while drained < _DRAIN_BYTES:
            message = await receive()
            drained += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def announced_length(headers: Headers) -> int | None:
    """The length of the body in bytes, where the client says so."""
    text = headers.get("content-length", "")
    return int(text) if _LENGTH.fullmatch(text) else None


def too_large(limit: int, got: int) -> TooLarge:
    """The error for a body over the limit, in bytes."""
    return TooLarge(
        f"the limit is {limit / 1024**2:.4g} MiB, this is {got / 1024**2:.4g} MiB", code="body_too_large"
    )


def principal_of(scope: Scope) -> Principal:
    """Who makes this request; only behind the gate."""
    principal: Principal = scope["state"]["principal"]
    return principal


def _is_open(method: str, path: str) -> bool:
    """Addresses that need no sign-in: the page and its files (they hold no data), health, signing in."""
    if path == f"{PREFIX}/health":
        return True
    if path == f"{PREFIX}/session":
        return method == "POST"
    return method in SAFE_METHODS and is_page(path)


def is_page(path: str) -> bool:
    """Whether an address belongs to the page and not to the API or the proxy."""
    return not any(path == folder or path.startswith(folder + "/") for folder in ("/api", "/ray"))


def _is_visit(scope: Scope, headers: Headers) -> bool:
    """Whether a person opens the dashboard in a browser: our page is where one signs in."""
    below = scope["path"] == "/ray" or scope["path"].startswith("/ray/")
    return below and scope["method"] == "GET" and "text/html" in headers.get("accept", "")


def _check_origin(headers: Headers) -> None:
    """A page of another site may not make our browser act here."""
    fetch_site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    foreign = fetch_site is not None and fetch_site != "same-origin"
    if origin is not None and _authority(origin) != headers.get("host", "").lower():
        foreign = True
    if foreign:
        raise NotAllowed("requests from other sites are refused", code="foreign_origin")


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _authority(origin: str) -> str | None:
    """Host and port of an Origin header. The scheme is left out: a proxy in front may speak TLS."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _host_name(host: str) -> str | None:
    """The name in a Host header, None where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return None
        _ = parts.port
        return parts.hostname
    except ValueError:
        return None
