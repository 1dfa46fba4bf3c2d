"""What the operators registered with torch share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products inside a backend are in the dtype it chose, whatever the caller's region says."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def refuse_second_derivative(operation: str) -> Callable[..., NoReturn]:
    """A derivative for a backward operator, which says that there is none."""

    def refuse(_ctx: Any, *_grads: object) -> NoReturn:
        raise RuntimeError(
            f"{operation} has a first derivative only; for a second one take backend 'reference'"
        )

    return refuse
