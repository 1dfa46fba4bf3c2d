"""The one tree of errors.

Every error that can reach a person carries the same four fields: a stable ``code`` for programs, a
``message`` for people, the ``location`` of the fault and a ``hint`` on how to mend it. Floors below this
one (kernels, models) raise ``ValueError`` and are translated by the operators; the web translates this
tree to problem+json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Location:
    """Where a fault lies: a place in a text, a path in a document, a record in a data file, or several.

    ``line`` and ``column`` count from 1. ``path`` is dotted (``steps.fold.with.seed``), ``record`` names a
    sequence, a chain or a row.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    path: str | None = None
    record: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        parts = [place, self.path or "", f"record {self.record}" if self.record else ""]
        return ", ".join(part for part in parts if part)

    def to_json(self) -> dict[str, str | int]:
        """The fields that are set, for problem+json and the event log."""
        fields = {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "record": self.record,
        }
        return {name: value for name, value in fields.items() if value is not None}


class FoldaseError(Exception):
    """Root of the tree. ``code`` has a default per class and may be made more precise per instance."""

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        location: Location | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.location = location
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location and str(self.location) else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message} [{self.code}]{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.location, self.hint))

    def to_json(self) -> dict[str, object]:
        """``{"code", "message", "location"?, "hint"?}``: the form stored in events and sent to clients."""
        fields: dict[str, object] = {"code": self.code, "message": self.message}
        if self.location is not None:
            fields["location"] = self.location.to_json()
        if self.hint is not None:
            fields["hint"] = self.hint
        return fields


def _rebuild(
    kind: type[FoldaseError], message: str, code: str, location: Location | None, hint: str | None
) -> FoldaseError:
    """Unpickle an error: exceptions cross process borders between worker, scheduler and client."""
    return kind(message, code=code, location=location, hint=hint)


class DocumentError(FoldaseError):
    """One fault in a workflow or experiment document; ``location`` has file, line and column."""

    default_code = "invalid_document"


class DocumentErrors(FoldaseError):
    """All the faults found in a document at once, so that a person mends them in one go."""

    default_code = "invalid_document"

    def __init__(self, errors: Iterable[DocumentError]) -> None:
        self.errors = tuple(errors)
        if not self.errors:
            raise ValueError("DocumentErrors needs at least one error")
        first = self.errors[0]
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        super().__init__(first.message + more, code=first.code, location=first.location, hint=first.hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (DocumentErrors, (self.errors,))

    def to_json(self) -> dict[str, object]:
        """The first error's fields, and all of them under ``errors``."""
        return {**super().to_json(), "errors": [error.to_json() for error in self.errors]}


class BadInput(FoldaseError):
    """A value or a file that an operator cannot work with; ends the step with cause ``bad_input``."""

    default_code = "bad_input"


class UserError(FoldaseError):
    """An operator's own code failed; ends the step with cause ``user_error``."""

    default_code = "user_error"


class Cancelled(FoldaseError):
    """Raised inside an operator when its step was cancelled; never shown as a failure."""

    default_code = "cancelled"


class Unsatisfiable(FoldaseError):
    """A resource request that no node can ever meet."""

    default_code = "unsatisfiable_resources"


class NotFound(FoldaseError):
    """There is nothing under that name or id (or the caller may not know that there is)."""

    default_code = "not_found"


class Conflict(FoldaseError):
    """The request contradicts the present state, for example cancelling a finished run."""

    default_code = "conflict"


class NotAllowed(FoldaseError):
    """The caller is known but may not do this."""

    default_code = "not_allowed"


class NotSignedIn(FoldaseError):
    """The caller is not known: no session, or an expired token."""

    default_code = "not_signed_in"


class TooLarge(FoldaseError):
    """More bytes, rows or steps than the stated limit."""

    default_code = "too_large"


class StorageFull(FoldaseError):
    """The disk is full; nothing half written remains."""

    default_code = "storage_full"


class Unavailable(FoldaseError):
    """A part of the platform cannot answer now and may be able to later."""

    default_code = "unavailable"


class Damaged(FoldaseError):
    """Stored bytes do not have the digest they were stored under, or a part is missing."""

    default_code = "damaged"
