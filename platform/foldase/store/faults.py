"""Named places where a process may die, so that tests can kill it at each of them.

Code calls ``faultpoint("commit.after")`` right before and after whatever must be atomic. Nothing happens
unless a test installed a hook, or the environment variable ``FOLDASE_FAULT=NAME:K`` was set when the
process started: then the process ends at once, without any clean-up, at the K-th time it reaches NAME.
"""

from __future__ import annotations

import os
from collections.abc import Callable

ENVIRONMENT_VARIABLE = "FOLDASE_FAULT"
EXIT_STATUS = 137

FAULTPOINTS: frozenset[str] = frozenset(
    {
        "commit.before",
        "commit.after",
        "blob.write",
        "blob.fsync.before",
        "blob.rename.before",
        "blob.rename.after",
        "blob.publish.after",
        "tree.manifest.before",
        "logs.archive.before",
        "logs.archive.after",
        "scheduler.submit.before",
        "scheduler.submit.after",
    }
)
"""All names; a crash test walks through them."""

_hook: Callable[[str], None] | None = None


def faultpoint(name: str) -> None:
    """Mark a place where the process may die; costs one comparison when no hook is installed."""
    if _hook is not None:
        assert name in FAULTPOINTS, name
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` with each name that is reached; None switches it off."""
    global _hook  # noqa: PLW0603  # one switch per process is the point
    _hook = hook


def die_at(name: str, hit: int) -> Callable[[str], None]:
    """A hook that ends the process without clean-up at the ``hit``-th arrival at ``name``.

    Raises:
        ValueError: there is no such fault point, or ``hit`` is below 1.
    """
    if name not in FAULTPOINTS or hit < 1:
        raise ValueError(f"no fault point {name!r} with hit {hit}")
    left = hit

    def hook(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                os._exit(EXIT_STATUS)

    return hook


def _install_from_environment() -> None:
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        name, _, hit = chosen.partition(":")
        install(die_at(name, int(hit or "1")))


_install_from_environment()
