"""The one error of this floor; operators translate it into the tree of the platform."""

from __future__ import annotations


class ModelError(ValueError):
    """Something a model cannot work with, in the four fields that every error of the platform has.

    Attributes:
        code: stable, for programs.
        message: for people.
        location: the record, key or file concerned, where there is one.
        hint: how to mend it.
    """

    def __init__(
        self, message: str, *, code: str = "model_error", location: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.location = location
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.location}: " if self.location else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message} [{self.code}]{hint}"
