"""What optimizers that compress reach, beside AdamW."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def convergence() -> Iterator[dict[str, Any]]:
    """Nothing yet."""
    return iter(())
