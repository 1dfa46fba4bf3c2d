"""The control plane of foldase: store, scheduler, Ray runtime, command line and Python client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foldase.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Hand on ``Client`` when it is asked for: the other rooms must not pay for importing it."""
    if name == "Client":
        from foldase.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
