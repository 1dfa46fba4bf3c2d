"""Sign-in: who a request comes from, the token of this account, and a brake on guessing."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from foldase.store.accounts import Accounts
from foldase.store.records import User
from foldase_web.problems import HttpError
from foldase_web.security import Authenticate
from foldase_workflows.contracts.errors import NotSignedIn

TOKEN_FILE = "token"  # noqa: S105  # a file name
_MAX_SECRET = 200
_WINDOW_SECONDS = 60.0
_MAX_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class Person:
    """Who makes a request, and by which credentials."""

    user: User
    session: str | None = None

    @property
    def name(self) -> str:
        """The person's name."""
        return self.user.name

    @property
    def by_cookie(self) -> bool:
        """Whether a browser sent the credentials by itself."""
        return self.session is not None


def authenticator(accounts: Callable[[], Accounts]) -> Authenticate:
    """What the gate asks; a bearer token goes before a cookie."""

    def look_up(cookie: str | None, bearer: str | None) -> Person | None:
        secret = bearer if bearer is not None else cookie
        if not secret or len(secret) > _MAX_SECRET:
            return None
        try:
            if bearer is not None:
                return Person(accounts().token_user(secret))
            return Person(accounts().session_user(secret), session=secret)
        except NotSignedIn:
            return None

    async def authenticate(cookie: str | None, bearer: str | None) -> Person | None:
        return await anyio.to_thread.run_sync(look_up, cookie, bearer)

    return authenticate


def ensure_token(home: Path, accounts: Accounts) -> None:
    """Make the token of this account, in a file that nobody else can read, unless there is a valid one.

    Programs of the same account (the command line, the Python client) sign in with it; the database holds
    only its hash.
    """
    path = home / TOKEN_FILE
    try:
        accounts.token_user(path.read_text(encoding="ascii", errors="replace").strip())
    except (FileNotFoundError, NotSignedIn):
        pass
    else:
        path.chmod(0o600)
        return
    token = accounts.new_token("this account")
    temporary = path.with_name(f"{TOKEN_FILE}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    temporary.replace(path)


class FailureBrake:
    """Lets an address fail so many times a minute; after that it has to wait. Success costs nothing."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._failures: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Before an attempt.

        Raises:
            HttpError: 429, with the seconds to wait.
        """
        failures = self._failures.get(address)
        if failures is None:
            return
        now = self._clock()
        while failures and failures[0] <= now - _WINDOW_SECONDS:
            failures.popleft()
        if not failures:
            del self._failures[address]
        elif len(failures) >= self._limit:
            wait = int(failures[0] + _WINDOW_SECONDS - now) + 1
            raise HttpError(
                f"too many failed sign-ins; try again in {wait} s",
                status=429,
                code="too_many_sign_ins",
                headers={"Retry-After": str(wait)},
            )

    def failed(self, address: str) -> None:
        """After a failed attempt."""
        if len(self._failures) >= _MAX_ADDRESSES:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(address, deque(maxlen=self._limit)).append(self._clock())
