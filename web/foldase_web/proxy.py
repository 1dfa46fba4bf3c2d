"""The Ray dashboard below ``/ray/``: behind our sign-in, for reading only.

The runtime writes address and token of its cluster to ``ray.json`` in the state folder. The token goes from
there into the forwarded request and never to the browser; the browser's own cookies and credentials never
go to the dashboard.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from foldase_web.problems import HttpError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("foldase.web")

PREFIX = "/ray"

_FORWARDED_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "if-modified-since", "if-none-match", "range"}
)
"""An allow-list: cookies, credentials, Origin, Referer and Sec-Fetch-* stay here."""

_RETURNED_HEADERS = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
    }
)

_INTRUSIVE = ("task/", "worker/", "memory_profile", "api/v0/delay", "api/packages", "test/")
"""GET addresses that do more than show: they attach profilers to workers, stall, or hand out code."""

_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; form-action 'none'; object-src 'none'; base-uri 'none'; "
    "frame-src 'none'; frame-ancestors 'self'"
)

_STARTING = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Ray dashboard</title></head>
<body>
<h1>The cluster is not up yet</h1>
<p>{reason} This page tries again every five seconds.</p>
<p><a href="/cluster">Back to foldase</a></p>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Where the dashboard listens and what it wants to see."""

    url: str
    token: str


def read_dashboard(home: Path) -> Dashboard | None:
    """What the runtime last wrote; None while there is no cluster."""
    try:
        fields = json.loads((home / "ray.json").read_text(encoding="utf-8"))
        url, token = fields["dashboard"], fields.get("token") or ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(url, str) or not isinstance(token, str) or not url:
        return None
    return Dashboard(url if "://" in url else f"http://{url}", token)


class RayProxy:
    """Forwards GET and HEAD."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client: httpx.AsyncClient | None = None

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # Environment proxies must not see the token, redirects are the browser's to follow, and cookies
            # of the dashboard are nobody's.
            self._client = httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(30.0, connect=3.0),
                cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
            )
        return self._client

    async def close(self) -> None:
        """Close the connections to the dashboard."""
        if self._client is not None:
            await self._client.aclose()

    async def forward(self, request: Request) -> Response:
        """The dashboard's answer, or a page that says why there is none."""
        if request.method not in ("GET", "HEAD"):
            message = "the Ray dashboard is for reading only here"
            raise HttpError(message, status=405, code="method", headers={"Allow": "GET, HEAD"})
        raw_path = request.scope.get("raw_path") or request.scope["path"].encode()
        tail = raw_path.decode("ascii", "replace")[len(PREFIX) :]
        if not tail:
            return RedirectResponse(f"{PREFIX}/", status_code=308)
        plain = _normal(unquote(tail))
        if plain is None or plain.startswith(_INTRUSIVE):
            message = "this part of the Ray dashboard does more than show and is closed here"
            raise HttpError(message, status=403, code="not_allowed")
        dashboard = read_dashboard(self._home)
        if dashboard is None:
            return _unavailable("The Ray cluster is starting or stopped.")
        return await self._fetch(dashboard, request, tail)

    async def _fetch(self, dashboard: Dashboard, request: Request, tail: str) -> Response:
        import httpx

        query = request.scope.get("query_string", b"").decode("ascii", "replace")
        target = dashboard.url.rstrip("/") + tail + (f"?{query}" if query else "")
        headers = [(name, value) for name, value in request.headers.items() if name in _FORWARDED_HEADERS]
        if dashboard.token:
            headers.append(("x-ray-authorization", f"Bearer {dashboard.token}"))
        client = self._http()
        try:
            outgoing = client.build_request(request.method, target, headers=headers)
            for name in ("accept-encoding", "accept"):  # httpx adds its own where the browser sent none
                if name not in request.headers:
                    del outgoing.headers[name]
            del outgoing.headers["user-agent"]
            incoming = await client.send(outgoing, stream=True)
        except httpx.InvalidURL:
            raise HttpError("there is nothing at this address", status=404, code="not_found") from None
        except httpx.HTTPError as error:
            logger.info("the Ray dashboard does not answer: %s", error)
            return _unavailable("The Ray dashboard does not answer.")
        answered = {name: value for name, value in incoming.headers.items() if name in _RETURNED_HEADERS}
        location = incoming.headers.get("location")
        if location is not None:
            answered["location"] = _below_prefix(location, dashboard.url)
        answered["content-security-policy"] = _POLICY
        answered["x-frame-options"] = "SAMEORIGIN"
        return StreamingResponse(_body(incoming), status_code=incoming.status_code, headers=answered)


async def _body(incoming: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes as they come, still encoded as the headers say."""
    try:
        async for chunk in incoming.aiter_raw():
            yield chunk
    finally:
        await incoming.aclose()


def _unavailable(reason: str) -> Response:
    headers = {"Retry-After": "5", "Cache-Control": "no-store"}
    return HTMLResponse(_STARTING.format(reason=reason), status_code=503, headers=headers)


def _normal(path: str) -> str | None:
    """The path without empty and dot segments, relative to the dashboard; None where it leaves it."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _below_prefix(location: str, dashboard_url: str) -> str:
    """A redirect of the dashboard as the browser must see it; never to another host."""
    target, own = urlsplit(location), urlsplit(dashboard_url)
    if target.netloc and target.netloc != own.netloc:
        return f"{PREFIX}/"
    path = target.path
    if path.startswith("/"):
        path = PREFIX + path
    elif target.netloc:
        path = f"{PREFIX}/"
    return urlunsplit(("", "", path, target.query, target.fragment))
