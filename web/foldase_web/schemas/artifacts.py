"""Artifacts: uploads, files, trees and zarr groups."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from foldase_web.schemas.base import Answer


class Artifact(Answer):
    """A reference to immutable bytes."""

    digest: str = Field(description="`sha256:` and 64 hex digits", examples=["sha256:9f86d0…"])
    type: str = Field(description="a type of the workflow language, for example `alignment` or `predictions`")
    size: int = Field(description="bytes; of a tree: of all its files")
    name: str = Field(description="for people; no part of the identity")
    media_type: str


class ArtifactFile(Answer):
    """One file of a tree."""

    path: str
    size: int


class ArtifactDetail(Artifact):
    """An artifact, with its files where it is a tree."""

    files: list[ArtifactFile] | None = Field(None, description="null for a single file")


class ZarrArray(Answer):
    """An array of a zarr group."""

    name: str
    shape: list[int]
    dtype: str = Field(description="numpy name, for example `float32`")


class ZarrGroup(Answer):
    """A group of a zarr tree: its attributes and what lies directly in it."""

    attributes: dict[str, Any]
    groups: list[str]
    arrays: list[ZarrArray]
