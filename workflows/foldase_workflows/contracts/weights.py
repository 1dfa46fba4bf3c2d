"""Names of public weights: what a workflow says instead of a path."""

from __future__ import annotations

import re

MAX_WEIGHTS_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*){0,2}", re.ASCII)


def is_weights_name(text: str) -> bool:
    """Whether weights may be called so: up to three parts with ``/`` between them, none of them hidden.

    So no name is absolute, and none leads upwards.
    """
    return len(text) <= MAX_WEIGHTS_NAME and _NAME.fullmatch(text) is not None
