"""Run ids: ``r`` and 12 characters that sort by time."""

from __future__ import annotations

import secrets
import threading

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base32 in lower case: sorts like the numbers and has no letters that look alike."""
_RANDOM_BITS = 18
_LENGTH = 12

_lock = threading.Lock()
_last = 0


def new_run_id(moment: int) -> str:
    """A fresh id for a run created at ``moment`` (milliseconds since 1970).

    42 bits of time and 18 random bits; ids of one process rise strictly even within a millisecond.
    """
    global _last  # noqa: PLW0603  # ids of one process must rise
    with _lock:
        number = (moment << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        if number <= _last:
            number = _last + 1
        _last = number
    return "r" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
