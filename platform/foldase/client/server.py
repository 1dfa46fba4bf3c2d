"""Where the server is: an address that was given, or what a running server leaves in the state folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from foldase_workflows.contracts.errors import Unavailable

HOME_VARIABLE = "FOLDASE_HOME"
URL_VARIABLE = "FOLDASE_URL"
TOKEN_VARIABLE = "FOLDASE_TOKEN"  # noqa: S105  # the name of a variable
DEFAULT_HOME = Path(".foldase")
SERVER_FILE = "server.json"
TOKEN_FILE = "token"  # noqa: S105  # the name of a file


@dataclass(frozen=True, slots=True)
class Server:
    """An address without a slash at its end, and the token to sign in with."""

    url: str
    token: str


def home_folder(home: Path | str | None = None) -> Path:
    """The state folder: the given one, ``FOLDASE_HOME``, or ``./.foldase``."""
    return Path(home or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser()


def find_server(url: str | None = None, token: str | None = None, home: Path | str | None = None) -> Server:
    """The server to talk to.

    Args:
        url: its address; ``FOLDASE_URL`` or the state folder's server where nothing is given.
        token: a bearer token; ``FOLDASE_TOKEN`` or the state folder's where nothing is given.
        home: the state folder.

    Raises:
        Unavailable: ``not_running``, no server serves the state folder; ``no_token``, there is an address but
            nothing to sign in with.
    """
    folder = home_folder(home)
    address = url or os.environ.get(URL_VARIABLE) or _running_in(folder)
    secret = token or os.environ.get(TOKEN_VARIABLE) or _token_in(folder)
    if not secret:
        raise Unavailable(
            f"there is no token to sign in to {address} with",
            code="no_token",
            hint=f"set {TOKEN_VARIABLE}, or run this in the folder where the server was started",
        )
    return Server(address.rstrip("/"), secret)


def _running_in(folder: Path) -> str:
    try:
        content = json.loads((folder / SERVER_FILE).read_text(encoding="utf-8"))
        url, pid = str(content["url"]), int(content["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        raise not_running(folder) from None
    # The token must not be sent to whatever took over the port of a server that died.
    if not _lives(pid):
        raise not_running(folder)
    return url


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _token_in(folder: Path) -> str | None:
    try:
        return (folder / TOKEN_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def not_running(folder: Path) -> Unavailable:
    """The error for a state folder that nobody serves."""
    return Unavailable(
        f"no server is running for {folder}",
        code="not_running",
        hint="start it with `foldase up`, or name its folder with --home",
    )
