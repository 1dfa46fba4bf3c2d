"""Files and zarr groups inside a tree of the blob store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from foldase.store.artifacts import BlobStore, TreeFile
from foldase_web.services.downloads import member_path, unknown_file
from foldase_workflows.contracts.errors import Damaged, NotFound

_METADATA = "zarr.json"
_MAX_METADATA_BYTES = 16 << 20


class Tree:
    """The files that a manifest lists.

    Args:
        blobs: where it lies.
        digest: of the manifest.

    Raises:
        Damaged: the manifest or a listed file is missing or changed.
    """

    def __init__(self, blobs: BlobStore, digest: str) -> None:
        self._blobs = blobs
        self.digest = digest
        try:
            self.files = blobs.manifest(digest)
        except NotFound:
            raise Damaged("the manifest of this artifact is lost") from None
        self._by_path = {file.path: file for file in self.files}

    @property
    def paths(self) -> list[str]:
        """All paths, sorted."""
        return [file.path for file in self.files]

    def has(self, path: str) -> bool:
        """Whether a file is listed."""
        return path in self._by_path

    def file(self, path: str) -> TreeFile:
        """A listed file.

        Raises:
            NotFound: the manifest does not list it.
        """
        found = self._by_path.get(member_path(path))
        if found is None:
            raise unknown_file(path)
        return found

    def read(self, path: str) -> bytes:
        """The bytes of a file, compared with its digest."""
        return self._blobs.read(self.verified(path).sha256)

    def verified(self, path: str) -> TreeFile:
        """A listed file whose bytes are there and unchanged."""
        file = self.file(path)
        try:
            self._blobs.verify(file.sha256)
        except NotFound:
            raise Damaged(f"{path} of this artifact is lost") from None
        return file

    def names_in(self, folder: str) -> list[str]:
        """The names directly in a folder ("" is the top), sorted."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        inside = (path[len(prefix) :] for path in self._by_path if path.startswith(prefix))
        return sorted({rest.partition("/")[0] for rest in inside})

    def metadata(self, node: str) -> dict[str, Any]:
        """The zarr metadata of a group or an array.

        Raises:
            NotFound: there is no such node.
        """
        path = f"{node}/{_METADATA}" if node else _METADATA
        if member_path(path) not in self._by_path:
            raise NotFound(
                f"there is no group or array {node[:200]!r} in this artifact", code="unknown_group"
            )
        if self.file(path).size > _MAX_METADATA_BYTES:
            raise Damaged(f"the metadata of {node!r} are too large to be true")
        try:
            content = json.loads(self.read(path))
        except ValueError:
            raise Damaged(f"the metadata of {node!r} are no JSON") from None
        if not isinstance(content, dict):
            raise Damaged(f"the metadata of {node!r} are no mapping")
        return content


@dataclass(frozen=True, slots=True)
class GroupView:
    """A zarr group: attributes, names of groups, and (name, shape, dtype) of arrays."""

    attributes: dict[str, Any]
    groups: list[str] = field(default_factory=list)
    arrays: list[dict[str, Any]] = field(default_factory=list)


def read_group(blobs: BlobStore, digest: str, path: str) -> GroupView:
    """A group of a zarr tree; ``path`` is "" for the root.

    Raises:
        NotFound: there is no such group.
        Damaged: metadata are missing or changed.
    """
    tree = Tree(blobs, digest)
    path = path.strip("/")
    content = tree.metadata(path)
    if content.get("node_type") != "group":
        raise NotFound(f"{path!r} is no group", code="unknown_group")
    view = GroupView(dict(content.get("attributes") or {}))
    for name in tree.names_in(path):
        child = f"{path}/{name}" if path else name
        if not tree.has(f"{child}/{_METADATA}"):
            continue
        described = tree.metadata(child)
        if described.get("node_type") == "group":
            view.groups.append(name)
        else:
            shape, dtype = list(described.get("shape", ())), str(described.get("data_type"))
            view.arrays.append({"name": name, "shape": shape, "dtype": dtype})
    return view
