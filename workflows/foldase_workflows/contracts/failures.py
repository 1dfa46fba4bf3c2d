"""Why an attempt failed. The retry rules of a step name these causes."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Typed causes. What a person did wrong is never retried; losing hardware costs no user retries."""

    OOM_HOST = "oom_host"
    OOM_GPU = "oom_gpu"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    NODE_LOST = "node_lost"
    USER_ERROR = "user_error"
    BAD_INPUT = "bad_input"
    CANCELLED = "cancelled"
    INFRASTRUCTURE = "infrastructure"


OUT_OF_MEMORY = frozenset({Cause.OOM_HOST, Cause.OOM_GPU})

RETRYABLE_BY_REQUEST = frozenset(
    {Cause.OOM_HOST, Cause.OOM_GPU, Cause.TIMEOUT, Cause.USER_ERROR, Cause.INFRASTRUCTURE}
)
"""Causes a document may list under ``retry.on`` besides the two below."""

RETRYABLE_BY_THE_PLATFORM = frozenset({Cause.WORKER_LOST, Cause.NODE_LOST})
"""Losses of hardware: retried without using up the user's retries, up to a separate cap."""
