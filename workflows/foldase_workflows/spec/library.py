"""The ready workflows that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from foldase_workflows.contracts.errors import NotFound
from foldase_workflows.spec.faults import did_you_mean
from foldase_workflows.spec.load import load_workflow
from foldase_workflows.spec.models import WorkflowDocument

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One workflow: its text and where it lies."""

    name: str
    title: str
    description: str
    source: str
    path: Path

    def load(self) -> WorkflowDocument:
        """The document, with the file's name in its faults."""
        return load_workflow(self.source, file=self.path.name)


def catalog_folder() -> Path | None:
    """Inside the installed package, or beside it in a checkout; None where there is neither."""
    for folder in (_PACKAGE / "catalog", _PACKAGE.parent / "catalog"):
        if folder.is_dir():
            return folder
    return None


def catalog() -> list[CatalogEntry]:
    """All ready workflows, by name.

    Raises:
        DocumentErrors: one of them is wrong.
    """
    folder = catalog_folder()
    return sorted(_entries(folder), key=lambda entry: entry.name) if folder else []


def catalog_entry(name: str) -> CatalogEntry:
    """The ready workflow of that name.

    Raises:
        NotFound: ``unknown_workflow``, with the closest name.
    """
    entries = {entry.name: entry for entry in catalog()}
    if name in entries:
        return entries[name]
    hint = did_you_mean(name, entries)
    raise NotFound(f"there is no workflow {name[:80]!r}", code="unknown_workflow", hint=hint)


def _entries(folder: Path) -> Iterator[CatalogEntry]:
    for path in sorted(folder.glob("*.yaml")):
        yield _entry(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _entry(path: Path, changed: int) -> CatalogEntry:  # noqa: ARG001  (part of the cache's key)
    source = path.read_text(encoding="utf-8")
    document = load_workflow(source, file=path.name)
    return CatalogEntry(document.name, document.title, document.description, source, path)
