"""The page: built files of the frontend, its one HTML file for every address of the app."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from foldase_web.problems import HttpError
from foldase_web.security import is_page

_IMMUTABLE = "public, max-age=31536000, immutable"
_REVALIDATE = "no-cache"

MISSING_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>foldase</title></head>
<body>
<h1>The web page of foldase is not built</h1>
<p>The server and its API run; only the files of the page are missing. Build them in the checkout:</p>
<pre>make install</pre>
<p>or, with Node 20 or newer at hand:</p>
<pre>cd web/frontend
npm ci --ignore-scripts
npm run build</pre>
<p>Then load this page again. The API answers under <code>/api/v1</code>, and
<code>foldase run FILE</code> works meanwhile.</p>
</body>
</html>
"""


class Page(StaticFiles):
    """Files where they exist; ``index.html`` for addresses that only the app in the browser knows."""

    async def check_config(self) -> None:
        """The folder may be built while the server runs, so nothing is required of it."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file, the app's HTML, or the page that says how to build the app."""
        if scope["method"] not in ("GET", "HEAD"):
            message = "this address does not take that method"
            raise HttpError(message, status=405, code="method", headers={"Allow": "GET, HEAD"})
        full_path, found = self._look_up(path)
        hashed = PurePosixPath(path).parts[:1] == ("assets",)
        if found is not None and stat.S_ISREG(found.st_mode):
            response = self.file_response(full_path, found, scope)
            response.headers["Cache-Control"] = _IMMUTABLE if hashed else _REVALIDATE
            return response
        visit = "text/html" in Headers(scope=scope).get("accept", "")
        if hashed or (PurePosixPath(path).suffix and not visit):
            raise HttpError("there is nothing at this address", status=404, code="not_found")
        index_path, index = self._look_up("index.html")
        if index is None:
            return HTMLResponse(MISSING_PAGE, headers={"Cache-Control": "no-store"})
        response = self.file_response(index_path, index, scope)
        response.headers["Cache-Control"] = _REVALIDATE
        return response

    def _look_up(self, path: str) -> tuple[str, os.stat_result | None]:
        try:
            return self.lookup_path(path)
        except (OSError, ValueError):
            return "", None  # names that no file system takes: too long, with NUL, not to be encoded


class PageOrApi:
    """Gives addresses of the page to the page and all others to the API, whose unknown ones stay errors."""

    def __init__(self, app: ASGIApp, page: ASGIApp) -> None:
        self.app = app
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to one of the two."""
        target = self.page if scope["type"] == "http" and is_page(scope["path"]) else self.app
        await target(scope, receive, send)


def page(folder: Path) -> ASGIApp:
    """The page, compressed on the way."""
    return GZipMiddleware(Page(directory=folder, check_dir=False), minimum_size=1024, compresslevel=6)
