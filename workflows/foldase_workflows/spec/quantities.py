"""Quantities with units: ``16GiB``, ``2h``, ``5s..2m``, ``1/2``, ``5%``, ``x2`` and ``/2``.

A bare number is refused where a unit is wanted: it is the commonest way to ask for a thousand times too
little. Each reader raises ``ValueError`` with a message that shows the right form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from foldase_workflows.spec.limits import MAX_QUANTITY_BYTES, MAX_SECONDS

BYTE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
SECOND_UNITS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_BYTES = re.compile(rf"({_NUMBER})[ ]?([A-Za-z]+)", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d)){{1,5}}", re.ASCII)
_FRACTION = re.compile(r"1/([0-9]{1,2})", re.ASCII)
_PERCENT = re.compile(rf"({_NUMBER})[ ]?%", re.ASCII)
_FACTOR = re.compile(rf"([x/])[ ]?({_NUMBER})", re.ASCII)

MAX_GPU_SHARES = 16
"""The smallest part of an accelerator that can be asked for is 1/16."""


def parse_bytes(text: str) -> int:
    """``16GiB`` or ``500 MB`` in bytes.

    Raises:
        ValueError: no unit, an unknown unit, nothing at all or more than an exbibyte.
    """
    found = _BYTES.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{_shown(text)} is no amount of memory; write it like 16GiB")
    number, unit = found.groups()
    if unit not in BYTE_UNITS:
        raise ValueError(f"unknown unit {unit!r}; use one of {', '.join(BYTE_UNITS)}")
    amount = int(Fraction(number) * BYTE_UNITS[unit])
    if not 1 <= amount <= MAX_QUANTITY_BYTES:
        raise ValueError(f"{_shown(text)} is out of range: 1B to {MAX_QUANTITY_BYTES // 2**40}TiB")
    return amount


def format_bytes(amount: int) -> str:
    """The shortest exact text that :func:`parse_bytes` reads back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount and amount % BYTE_UNITS[unit] == 0:
            return f"{amount // BYTE_UNITS[unit]}{unit}"
    return f"{amount}B"


def show_bytes(amount: float) -> str:
    """For people: ``10.2 MiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount >= BYTE_UNITS[unit]:
            return f"{amount / BYTE_UNITS[unit]:.1f} {unit}"
    return f"{amount:.0f} B"


def parse_duration(text: str) -> float:
    """``90s``, ``2h`` or ``1h30m`` in seconds.

    Raises:
        ValueError: no unit, an unknown unit, units not from large to small, nothing at all or over a year.
    """
    stripped = text.strip()
    if not _DURATION.fullmatch(stripped):
        raise ValueError(f"{_shown(text)} is no duration; write it like 90s, 2h or 1h30m")
    parts = [(Fraction(number), SECOND_UNITS[unit]) for number, unit in _DURATION_PART.findall(stripped)]
    units = [unit for _, unit in parts]
    if units != sorted(set(units), reverse=True):
        raise ValueError(f"{_shown(text)}: name each unit once, from days to milliseconds, like 1h30m")
    seconds = float(sum(number * unit for number, unit in parts))
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{_shown(text)} is out of range: more than 0s, at most 365d")
    return seconds


def format_duration(seconds: float) -> str:
    """The text of a duration, exact to the millisecond, that :func:`parse_duration` reads back."""
    left = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        size = int(SECOND_UNITS[unit] * 1000)
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_duration_range(text: str) -> tuple[float, float]:
    """``5s..2m`` in seconds; ``5s`` alone is ``5s..5s``.

    Raises:
        ValueError: as :func:`parse_duration`, or the range runs backwards.
    """
    low, dots, high = text.partition("..")
    first = parse_duration(low)
    last = parse_duration(high) if dots else first
    if last < first:
        raise ValueError(f"{_shown(text)} runs backwards; write the shorter wait first, like 5s..2m")
    return first, last


def parse_gpu(value: int | str) -> float:
    """``1``, ``2`` whole accelerators, or ``"1/2"`` as a share of one.

    Raises:
        ValueError: anything else; shares are 1/n so that they pack without holes.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1024:
        return float(value)
    if isinstance(value, str):
        found = _FRACTION.fullmatch(value.strip())
        if found and 1 <= int(found.group(1)) <= MAX_GPU_SHARES:
            return 1 / int(found.group(1))
    raise ValueError(
        f"{_shown(value)} is no number of GPUs; write 0, 1, 2 ... or a share from 1/2 to 1/{MAX_GPU_SHARES}"
    )


def parse_allowance(value: int | str, total: int) -> int:
    """How many of ``total`` items may fail: ``3``, or ``"5%"`` of them, rounded down.

    Raises:
        ValueError: negative, over 100 %, or neither form.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return min(value, total)
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value.strip())
        if found and Fraction(found.group(1)) <= 100:
            return int(Fraction(found.group(1)) * total / 100)
    raise ValueError(f"{_shown(value)} is no allowance; write a count like 3 or a share like 5%")


@dataclass(frozen=True, slots=True)
class Factor:
    """``x2`` (times two) or ``/2`` (divided by two)."""

    sign: str
    amount: Fraction

    def apply(self, value: float, times: int = 1) -> float:
        """``value`` changed ``times`` times; whole numbers stay whole, rounded down but never below 1."""
        scale = self.amount**times if self.sign == "x" else 1 / self.amount**times
        changed = Fraction(value) * scale
        if isinstance(value, int):
            return max(1, int(changed))
        return float(changed)

    def __str__(self) -> str:
        return f"{self.sign}{float(self.amount):g}"


def parse_factor(text: str) -> Factor:
    """``x2``, ``x1.5`` or ``/2``.

    Raises:
        ValueError: another form, or an amount that is not over 1 and at most 16.
    """
    found = _FACTOR.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{_shown(text)} is no factor; write it like x2 or /2")
    amount = Fraction(found.group(2))
    if not 1 < amount <= 16:
        raise ValueError(f"{_shown(text)} is out of range: more than 1, at most 16")
    return Factor(found.group(1), amount)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:36] + "...'"
