"""What ``benchmarks/gpu.sh`` does with packing and unpacking, as far as it goes without a GPU."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import kernels_gpu
import kernels_gpu_signs as signs
from kernels_gpu_items import Item

CPU = torch.device("cpu")
CASE = signs.FEW_CASES[1]


def test_bytes_are_those_that_must_be_read_and_written():
    whole, masked = signs.Signs("all", 2**20), signs.Signs("some", 2**20, masked=True)
    packed = 2**17 + 4 * 256  # a bit a coordinate, a scale a block of 4096
    assert whole.moved("pack") == 3 * 4 * 2**20 + packed
    assert whole.moved("unpack") == 4 * 2**20 + packed
    assert whole.moved("unpack and add") == 2 * 4 * 2**20 + packed
    assert masked.moved("pack") == whole.moved("pack") + 2**17


@pytest.mark.parametrize("case", signs.FEW_CASES, ids=lambda case: case.name)
def test_a_right_backend_has_no_complaints(case):
    assert signs.complaints(case, "torch", CPU) == []
    assert signs.complaints(case, "torch", CPU, beside="torch") == []
    assert signs.changes(case, "torch", CPU, repeats=2) == []


def test_wrong_signs_scales_and_errors_are_found_out(monkeypatch):
    right = signs.encode_

    def wrong(values, error, bits, scales, **options):
        right(values, error, bits, scales, **options)
        if options["backend"] == "torch":
            bits[3] ^= 1
            scales[0] *= 1.001
            error[7] += 0.001

    monkeypatch.setattr(signs, "encode_", wrong)
    bits, scales, error = signs.complaints(CASE, "torch", CPU)
    assert bits.endswith("bits differ")
    assert "scales are off by" in scales
    assert "error are off by" in error


def test_wrong_sums_are_found_out(monkeypatch):
    right = signs.decode_

    def wrong(bits, scales, out, *, add, backend, **options):
        right(bits, scales, out, add=add and backend == "reference", backend=backend, **options)

    monkeypatch.setattr(signs, "decode_", wrong)
    assert signs.complaints(CASE, "torch", CPU) == [f"{CASE.name}: unpack and add gives other numbers"]


def test_a_backend_that_gives_another_answer_every_time_is_found_out(monkeypatch):
    right, calls = signs.encode_, iter(range(10))

    def fickle(values, error, bits, scales, **options):
        right(values, error, bits, scales, **options)
        scales += 1e-6 * next(calls)

    monkeypatch.setattr(signs, "encode_", fickle)
    assert signs.changes(CASE, "torch", CPU, repeats=2) == [f"{CASE.name}: scales change between runs"]


def test_a_wrong_answer_has_no_figures(monkeypatch):
    monkeypatch.setattr(signs, "complaints", lambda *_, **__: ["bits differ"])
    item = signs.measure(CASE, Item("foldase torch", CASE.name, "pack"), CPU)
    assert (item.ms, item.problem) == (None, "bits differ")


def test_they_are_benched_once_and_have_a_table(tmp_path, capfd):
    arguments = ["bench", "--rehearse", "--out", str(tmp_path), "--systems", "foldase torch"]
    assert kernels_gpu.main(arguments) == 0
    items = json.loads((tmp_path / "signs.json").read_text())["items"]
    assert len(items) == len(signs.REHEARSAL) * len(signs.MODES)
    assert all(item["ms"] > 0 and item["copy_ms"] > 0 for item in items)
    assert (tmp_path / "signs.md").read_text().count("| foldase torch |") == len(items)
    capfd.readouterr()
    assert kernels_gpu.main(arguments) == 0
    assert " ms" not in capfd.readouterr().out


def test_the_table_tells_the_share_of_a_copys_rate_and_whether_the_goal_was_reached():
    shape = signs.Signs("many", 2**24)
    items = [
        Item("foldase triton", shape.name, "pack", ms=2.0, copy_ms=1.5),
        Item("foldase triton", shape.name, "unpack", ms=2.0, copy_ms=1.3),
        Item("foldase torch", shape.name, "pack", ms=20.0, copy_ms=1.5),
        Item("foldase torch", shape.name, "unpack", problem="out of memory"),
    ]
    text = signs.table(items, [shape], "a machine")
    assert "| many | pack | foldase triton | 0.203 | 2.000 | 1.500 | 75 % | >= 70 % | met |" in text
    assert "| many | unpack | foldase triton | 0.069 | 2.000 | 1.300 | 65 % | >= 70 % | **missed** |" in text
    assert "| many | pack | foldase torch | 0.203 | 20.000 | 1.500 | 8 % |  |  |" in text
    assert "- foldase torch, many, unpack: out of memory" in text


def test_they_are_among_the_checks_of_a_gpu():
    plan = kernels_gpu.Plan(Namespace(rehearse=True, systems="", out="unused", seconds=1.0))
    steps = dict(kernels_gpu._sign_steps(plan, "cpu"))
    assert set(steps) == {name for case in signs.FEW_CASES for name in (case.name, f"repeats-{case.name}")}
    assert [step() for step in steps.values()] == [[]] * len(steps)
