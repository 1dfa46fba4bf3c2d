"""Requests to the server: found late, retried where that is harmless, failures as errors of the tree."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import httpx

from foldase.client.problems import error_of, unexpected
from foldase.client.server import Server
from foldase_workflows.contracts.errors import Unavailable

PREFIX = "/api/v1"

_WAITS = (0.1, 0.3, 1.0, 2.0)
"""Seconds between tries."""

_LONGEST_WAIT = 10.0
_TRY_LATER = frozenset({429, 503})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Body = Callable[[], Iterator[bytes]]
"""Makes the body of a request anew for each try."""


class Transport:
    """One server, found on first use and looked for again when it does not answer.

    Args:
        find: where the server is; called again after a failure, since a restarted one may have moved.
        timeout_seconds: longest silence of the server.
    """

    def __init__(self, find: Callable[[], Server], *, timeout_seconds: float = 60.0) -> None:
        self._find = find
        self._timeout = httpx.Timeout(timeout_seconds, connect=5.0)
        self._http: httpx.Client | None = None
        self._server: Server | None = None
        self._met = False

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()
        self._http = self._server = None

    @property
    def url(self) -> str:
        """The address of the server.

        Raises:
            Unavailable: there is none.
        """
        return self._connected()[1].url

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Any:
        """The JSON that the server answers, None for no content.

        ``repeatable`` says that sending the request twice does no harm; reading requests are.

        Raises:
            FoldaseError: what the server answered above 399.
            Unavailable: it could not be reached.
        """
        with self.open(
            method, path, params=params, body=body, headers=headers, repeatable=repeatable
        ) as response:
            response.read()
            if not response.content:
                return None
            try:
                return response.json()
            except ValueError:
                raise unexpected(response) from None

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: Body | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        silence_seconds: float | None = None,
    ) -> Iterator[httpx.Response]:
        """A good answer whose body has not been read; raises like :meth:`json`."""
        options: dict[str, Any] = {"params": _without_none(params), "headers": dict(headers or {})}
        if body is not None:
            options["json"] = body
        if silence_seconds is not None:
            options["timeout"] = httpx.Timeout(silence_seconds, connect=5.0)
        harmless = method in ("GET", "HEAD") if repeatable is None else repeatable
        response = self._send(method, path, options, content, _WAITS if harmless else ())
        try:
            yield response
        except httpx.TransportError as error:
            raise _unreachable(str(response.url.copy_with(path="/")).rstrip("/"), error) from error
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        options: dict[str, Any],
        content: Body | None,
        waits: tuple[float, ...],
    ) -> httpx.Response:
        for wait in (*waits, None):
            try:
                response = self._once(method, path, options, content)
            except Unavailable:
                # A server that was there a moment ago may be on its way back.
                if wait is None or not self._met:
                    raise
                time.sleep(wait)
                continue
            self._met = True
            if response.status_code < 400:
                return response
            response.read()
            response.close()
            if wait is None or response.status_code not in _TRY_LATER:
                raise error_of(response)
            time.sleep(_wait_asked_for(response, wait))
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, options: dict[str, Any], content: Body | None) -> httpx.Response:
        http, server = self._connected()
        if content is not None:
            options = {**options, "content": content()}
        request = http.build_request(method, PREFIX + path, **options)
        try:
            return http.send(request, stream=True)
        except httpx.TransportError as error:
            # Whoever takes a connection and breaks it off is there, at least.
            self._met = self._met or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            self.close()
            raise _unreachable(server.url, error) from error

    def _connected(self) -> tuple[httpx.Client, Server]:
        if self._http is None or self._server is None:
            self._server = self._find()
            # A proxy of the environment must not stand between us and this machine.
            local = (urlsplit(self._server.url).hostname or "") in _LOOPBACK
            self._http = httpx.Client(
                base_url=self._server.url,
                timeout=self._timeout,
                trust_env=not local,
                headers={
                    "Authorization": f"Bearer {self._server.token}",
                    "User-Agent": f"foldase/{_version()}",
                },
            )
        return self._http, self._server


def _without_none(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _wait_asked_for(response: httpx.Response, otherwise: float) -> float:
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else otherwise


def _unreachable(url: str, error: httpx.TransportError) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"{url} does not answer: {reason}", code="not_reachable", hint="is it running? `foldase up` starts it"
    )


def _version() -> str:
    try:
        return version("foldase")
    except PackageNotFoundError:
        return "0"
