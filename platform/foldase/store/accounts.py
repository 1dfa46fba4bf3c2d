"""People, their one-time codes, tokens and sessions. Secrets are kept as SHA-256 only.

The secrets are 256 random bits, so a plain hash cannot be guessed back, and a look-up by the hash needs no
comparison in constant time.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, Table, insert, or_, select, update

from foldase.store import schema
from foldase.store.clock import Clock, milliseconds, rfc3339
from foldase.store.database import Database
from foldase.store.records import User
from foldase.store.requests import LOCAL_USER
from foldase_workflows.contracts.errors import NotSignedIn

CODE_SECONDS = 600.0
SESSION_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is shown of a bearer token after it was made; ``id`` is a prefix of its hash."""

    id: str
    name: str
    created_at: int
    expires_at: int | None

    def to_json(self) -> dict[str, str | None]:
        """For the API."""
        return {
            "id": self.id,
            "name": self.name,
            "created_at": rfc3339(self.created_at),
            "expires_at": rfc3339(self.expires_at),
        }


class Accounts:
    """Sign-in. Every method is one short transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def new_code(self, *, user: str = LOCAL_USER, seconds: float = CODE_SECONDS) -> str:
        """A one-time code that opens a session; valid for ``seconds``."""
        return self._new_token("code", "sign-in code", user, seconds)

    def new_token(self, name: str, *, user: str = LOCAL_USER, seconds: float | None = None) -> str:
        """A bearer token for programs, shown this once; None never expires."""
        return self._new_token("bearer", name, user, seconds)

    def redeem_code(self, code: str) -> tuple[User, str]:
        """Exchange a one-time code for a session.

        Returns:
            The person, and the secret of the session for the cookie.

        Raises:
            NotSignedIn: the code is unknown, used or too old.
        """
        table = schema.token
        with self._database.write() as connection:
            moment = milliseconds(self._clock)
            # The update is the check: of two who try the same code at once, one changes a row.
            used = connection.execute(
                update(table)
                .where(
                    table.c.hash == _hash(code),
                    table.c.kind == "code",
                    table.c.used_at.is_(None),
                    table.c.expires_at > moment,
                )
                .values(used_at=moment)
            ).rowcount
            if used:
                owner = connection.execute(
                    select(table.c.user).where(table.c.hash == _hash(code))
                ).scalar_one()
                return self._open_session(connection, owner, moment)
        raise NotSignedIn(
            "this sign-in code is not valid (any more)", hint="`foldase up` prints a fresh link"
        )

    def sign_in(self, token: str) -> tuple[User, str]:
        """Open a session with a bearer token; returns and raises like :meth:`redeem_code`."""
        person = self.token_user(token)
        with self._database.write() as connection:
            return self._open_session(connection, person.id, milliseconds(self._clock))

    def token_user(self, token: str) -> User:
        """Who a bearer token belongs to.

        Raises:
            NotSignedIn: the token is unknown, expired or revoked.
        """
        table = schema.token.c
        moment = milliseconds(self._clock)
        with self._database.read() as connection:
            found = _person(
                connection,
                schema.token,
                table.hash == _hash(token),
                table.kind == "bearer",
                table.revoked_at.is_(None),
                or_(table.expires_at.is_(None), table.expires_at > moment),
            )
        if found is None:
            raise NotSignedIn("this token is not valid (any more)")
        return found

    def session_user(self, secret: str) -> User:
        """Who a session belongs to.

        Raises:
            NotSignedIn: the session is unknown, expired or ended.
        """
        table = schema.session.c
        with self._database.read() as connection:
            found = _person(
                connection,
                schema.session,
                table.hash == _hash(secret),
                table.ended_at.is_(None),
                table.expires_at > milliseconds(self._clock),
            )
        if found is None:
            raise NotSignedIn("you are signed out", hint="`foldase up` prints a sign-in link")
        return found

    def end_session(self, secret: str) -> None:
        """Sign out; unknown sessions are no error."""
        table = schema.session
        with self._database.write() as connection:
            connection.execute(
                update(table)
                .where(table.c.hash == _hash(secret), table.c.ended_at.is_(None))
                .values(ended_at=milliseconds(self._clock))
            )

    def tokens(self, *, user: str = LOCAL_USER) -> list[TokenRecord]:
        """The bearer tokens of a person that were not revoked, newest first."""
        table = schema.token.c
        query = (
            select(schema.token)
            .where(table.user == user, table.kind == "bearer", table.revoked_at.is_(None))
            .order_by(table.created_at.desc())
        )
        with self._database.read() as connection:
            found = connection.execute(query).all()
        return [TokenRecord(row.hash[:16], row.name, row.created_at, row.expires_at) for row in found]

    def revoke_token(self, id: str, *, user: str = LOCAL_USER) -> None:  # noqa: A002  # the record's name
        """Make a bearer token useless; unknown ids are no error."""
        table = schema.token
        with self._database.write() as connection:
            connection.execute(
                update(table)
                .where(table.c.user == user, table.c.kind == "bearer", table.c.hash.startswith(id))
                .values(revoked_at=milliseconds(self._clock))
            )

    def _new_token(self, kind: str, name: str, user: str, seconds: float | None) -> str:
        secret = secrets.token_urlsafe(32)
        moment = milliseconds(self._clock)
        with self._database.write() as connection:
            connection.execute(
                insert(schema.token),
                {
                    "hash": _hash(secret),
                    "user": user,
                    "kind": kind,
                    "name": name,
                    "created_at": moment,
                    "expires_at": None if seconds is None else moment + int(seconds * 1000),
                },
            )
        return secret

    def _open_session(self, connection: Connection, user: str, moment: int) -> tuple[User, str]:
        secret = secrets.token_urlsafe(32)
        connection.execute(
            insert(schema.session),
            {
                "hash": _hash(secret),
                "user": user,
                "created_at": moment,
                "expires_at": moment + int(SESSION_SECONDS * 1000),
            },
        )
        table = schema.user.c
        name = connection.execute(select(table.name).where(table.id == user)).scalar_one()
        return User(user, name), secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _person(connection: Connection, table: Table, *conditions: object) -> User | None:
    user = schema.user
    query = select(user.c.id, user.c.name).join(table, table.c.user == user.c.id)
    for condition in conditions:
        query = query.where(condition)  # type: ignore[arg-type]  # column expressions
    row = connection.execute(query).one_or_none()
    return User(row.id, row.name) if row else None
