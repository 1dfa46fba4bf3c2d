"""References to immutable bytes in the content-addressed store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ARTIFACT_KEY = "$artifact"
"""The one key of the JSON object that stands for an artifact among plain values."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is known of an artifact without opening it.

    ``digest`` is ``sha256:<64 hex>``: of the bytes of a file, or of the manifest of a tree. ``size`` is in
    bytes (a tree: of all its files). ``name`` is for people and is no part of the identity.
    """

    digest: str
    type: str
    size: int
    name: str
    media_type: str = "application/octet-stream"

    def to_json(self) -> dict[str, Any]:
        """``{"$artifact": {...}}``, the form in the database and in the API."""
        return {
            ARTIFACT_KEY: {
                "digest": self.digest,
                "type": self.type,
                "size": self.size,
                "name": self.name,
                "media_type": self.media_type,
            }
        }

    @staticmethod
    def is_json(value: object) -> bool:
        """Whether a plain value stands for an artifact."""
        return isinstance(value, dict) and value.keys() == {ARTIFACT_KEY}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Artifact:
        """The inverse of :meth:`to_json`."""
        return cls(**value[ARTIFACT_KEY])


def artifacts_in(value: object) -> Iterator[Artifact]:
    """All artifacts inside a plain JSON value, depth first."""
    if Artifact.is_json(value):
        assert isinstance(value, dict)
        yield Artifact.from_json(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from artifacts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from artifacts_in(item)
