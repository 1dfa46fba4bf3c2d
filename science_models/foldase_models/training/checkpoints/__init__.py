"""Checkpoints that are whole or not there, and load at any stage and on any number of ranks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.training.checkpoints.commits import FORMAT, Commit, read_commit
    from foldase_models.training.checkpoints.export import export_weights
    from foldase_models.training.checkpoints.files import write_durably
    from foldase_models.training.checkpoints.store import CheckpointStore, Found

_HOMES = {
    "FORMAT": "commits",
    "CheckpointStore": "store",
    "Commit": "commits",
    "Found": "store",
    "export_weights": "export",
    "read_commit": "commits",
    "write_durably": "files",
}

__all__ = [
    "FORMAT",
    "CheckpointStore",
    "Commit",
    "Found",
    "export_weights",
    "read_commit",
    "write_durably",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
