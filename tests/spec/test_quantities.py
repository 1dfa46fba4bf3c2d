"""Quantities with units, and that what is written can be read back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.spec import quantities
from foldase_workflows.spec.limits import MAX_QUANTITY_BYTES, MAX_SECONDS


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("16GiB", 16 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("500MB", 500_000_000),
        ("1kB", 1000),
        ("7B", 7),
        ("1TiB", 2**40),
    ],
)
def test_bytes(text, amount):
    assert quantities.parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["16", "GiB", "16 gib", "16G", "-1GiB", "1e3MB", "0B", "9999999TiB", "", "16GiB!", "١GiB"]
)
def test_not_bytes(text):
    with pytest.raises(ValueError, match=r"GiB|range"):
        quantities.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("250ms", 0.25), ("1d", 86400), ("0.5h", 1800)],
)
def test_durations(text, seconds):
    assert quantities.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "2 hours", "30m1h", "1h1h", "0s", "-5s", "400d", "", "h", "1h 30m"])
def test_not_durations(text):
    with pytest.raises(ValueError, match=r"1h30m|range"):
        quantities.parse_duration(text)


def test_ranges_of_durations():
    assert quantities.parse_duration_range("5s..2m") == (5, 120)
    assert quantities.parse_duration_range("5s") == (5, 5)
    with pytest.raises(ValueError, match="backwards"):
        quantities.parse_duration_range("2m..5s")


def test_gpus():
    assert quantities.parse_gpu(2) == 2.0
    assert quantities.parse_gpu("1/2") == 0.5
    for wrong in (0.5, "2/3", "1/0", "1/99", -1, True, None, "one"):
        with pytest.raises(ValueError, match="GPUs"):
            quantities.parse_gpu(wrong)


def test_allowances():
    assert quantities.parse_allowance("5%", 100) == 5
    assert quantities.parse_allowance("5%", 19) == 0
    assert quantities.parse_allowance("100%", 7) == 7
    assert quantities.parse_allowance(3, 2) == 2
    for wrong in ("101%", "5", -1, 0.05, True, "5 per cent"):
        with pytest.raises(ValueError, match="allowance"):
            quantities.parse_allowance(wrong, 10)


def test_factors():
    assert quantities.parse_factor("x2").apply(4, 3) == 32
    assert quantities.parse_factor("/2").apply(64, 2) == 16
    assert quantities.parse_factor("/2").apply(1) == 1, "a whole number never falls to nothing"
    assert quantities.parse_factor("x1.5").apply(3) == 4
    assert quantities.parse_factor("/2").apply(0.5) == 0.25
    for wrong in ("2", "x1", "x0.5", "*2", "x17", "x-2", "/0"):
        with pytest.raises(ValueError, match=r"x2|range"):
            quantities.parse_factor(wrong)


@given(st.integers(1, MAX_QUANTITY_BYTES))
def test_bytes_are_read_back(amount):
    written = quantities.format_bytes(amount)
    if len(written) <= 12:
        assert quantities.parse_bytes(written) == amount


@given(st.integers(1, int(MAX_SECONDS * 1000)))
def test_durations_are_read_back(milliseconds):
    assert quantities.parse_duration(quantities.format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.text(max_size=30))
def test_any_text_is_a_quantity_or_a_value_error(text):
    for read in (
        quantities.parse_bytes,
        quantities.parse_duration,
        quantities.parse_duration_range,
        quantities.parse_gpu,
        quantities.parse_factor,
        lambda value: quantities.parse_allowance(value, 10),
    ):
        with contextlib.suppress(ValueError):
            assert read(text) is not None
