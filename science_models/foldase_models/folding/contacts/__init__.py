"""A small Evoformer that predicts contacts, distances and a C-alpha trace with its confidence."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.contacts.config import ContactModelConfig
    from foldase_models.folding.contacts.model import ContactModel

_HOMES = {"ContactModel": "model", "ContactModelConfig": "config"}

__all__ = ["ContactModel", "ContactModelConfig"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
