"""``benchmarks/gpu.sh`` as far as it goes without a GPU: floors, resuming, tables, refusals, its checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import kernels_gpu  # noqa: E402
import kernels_gpu_check as checks  # noqa: E402
import kernels_gpu_rows as rows  # noqa: E402
import kernels_gpu_triangles as triangles  # noqa: E402
from kernels_gpu_items import Item, Items, floor_of_attention, table  # noqa: E402
from kernels_gpu_shapes import REHEARSAL, SHAPES, Shape, floor  # noqa: E402

CPU = torch.device("cpu")
SYSTEM = "SDPA math"
HALF_A_DIGIT = 0.03
"""Published floors have two or three digits."""


@pytest.mark.parametrize(
    ("name", "products", "exponentials", "memory", "backward_products"),
    [
        ("MSA rows 256", 0.043, 0.069, 0.063, 0.15),
        ("MSA rows 1024", 0.69, 1.11, 0.25, 2.41),
        ("triangle 512", 0.086, 0.14, 0.063, 0.30),
        ("triangle 4096", 44.0, 71.0, 4.0, 154.0),
        ("diffusion 2048", 0.081, 0.087, 0.046, None),
    ],
)
def test_floors_are_the_published_ones(name, products, exponentials, memory, backward_products):
    shape = next(shape for shape in SHAPES if shape.name == name)
    forward = floor(shape, "forward")
    assert forward.products == pytest.approx(products, rel=HALF_A_DIGIT)
    assert forward.exponentials == pytest.approx(exponentials, rel=HALF_A_DIGIT)
    assert forward.memory == pytest.approx(memory, rel=HALF_A_DIGIT)
    assert forward.ms == max(forward.products, forward.exponentials, forward.memory)
    if backward_products is not None:
        assert floor(shape, "backward").products == pytest.approx(backward_products, rel=HALF_A_DIGIT)


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BENCHMARKS / "gpu.sh"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def test_without_a_gpu_it_refuses(tmp_path):
    python = tmp_path / "python"
    # It answers by itself whether there is torch: importing it takes seconds, and the benchmark does anyway.
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = run_script("bench", PYTHON=str(python))
    assert done.returncode == kernels_gpu.NO_GPU
    assert "no GPU that torch" in done.stdout
    assert "foldase_kernels doctor" in done.stdout


def test_without_torch_it_refuses(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    done = run_script("check", PYTHON=str(bare))
    assert done.returncode == kernels_gpu.NO_GPU
    assert "has no torch" in done.stderr


def rehearse(out: Path, *arguments: str) -> int:
    return kernels_gpu.main(["bench", "--rehearse", "--out", str(out), "--systems", SYSTEM, *arguments])


def test_a_stage_goes_on_where_it_stood_and_measures_nothing_twice(tmp_path, capfd):
    assert rehearse(tmp_path, "--seconds", "0") == kernels_gpu.MORE_IS_LEFT
    assert rehearse(tmp_path) == 0
    items = json.loads((tmp_path / "kernels.json").read_text())["items"]
    assert len(items) == len(REHEARSAL) * 2
    assert all(item["ms"] > 0 and item["difference"] < 1e-5 for item in items)
    assert "rehearsal" in (tmp_path / "kernels.md").read_text()
    capfd.readouterr()
    assert rehearse(tmp_path) == 0
    assert " ms" not in capfd.readouterr().out
    assert json.loads((tmp_path / "kernels.json").read_text())["items"] == items


def test_figures_of_other_kernels_are_not_taken(tmp_path, monkeypatch):
    before = kernels_gpu.kernels_digest()
    (tmp_path / "changed.cu").write_text("")
    monkeypatch.setattr(kernels_gpu, "KERNELS", tmp_path)
    assert kernels_gpu.kernels_digest() != before


def test_a_system_whose_process_dies_is_noted_and_the_rest_goes_on(tmp_path, monkeypatch):
    def die_at_the_first(line, timeout):
        items = Items(next(tmp_path.glob("*/bench")))
        left = [shape for shape in REHEARSAL if not items.has(Item(SYSTEM, shape.name, "forward"))]
        if left:
            items.begin(Item(SYSTEM, left[0].name, "forward"))
            return -11
        for shape in REHEARSAL:
            items.put(Item(SYSTEM, shape.name, "backward", ms=1.0))
        return 0

    monkeypatch.setattr(subprocess, "call", die_at_the_first)
    assert rehearse(tmp_path) == 0
    text = (tmp_path / "kernels.md").read_text()
    for shape in REHEARSAL:
        assert f"- {SYSTEM}, {shape.name}, forward: its process ended with -11" in text
        assert f"| {shape.name} | 0.000 | {SYSTEM} | 1.000 |" in text


def test_the_table_puts_the_fastest_first_and_tells_its_share_of_the_floor():
    shape = Shape("MSA rows 1024", 512, 8, 1024, 32)
    items = [
        Item("slow", shape.name, "forward", ms=4.0, peak_bytes=3_000_000_000, difference=0.002),
        Item("fast", shape.name, "forward", ms=2 * floor(shape, "forward").ms),
        Item("absent", shape.name, "forward", problem="not installed"),
    ]
    text = table(items, [shape], "a machine", floor_of_attention)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| MSA")]
    assert [row[2] for row in rows] == ["fast", "slow", "absent"]
    assert rows[0][4] == "50 %"
    assert rows[1][3:6] == ["4.000", "28 %", "3.00"]
    assert "- absent, MSA rows 1024, forward: not installed" in text


@pytest.mark.parametrize("case", checks.FEW_CASES, ids=lambda case: case.name)
def test_a_right_backend_has_no_complaints(case):
    assert checks.complaints(case, "cpu", CPU) == []


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float32, float("nan"))]
)
def test_a_wrong_backend_is_found_out(monkeypatch, dtype, error):
    right = checks.evoformer_attention

    def wrong(*tensors, backend, **options):
        return right(*tensors, backend="reference", **options) * (1 + error * (backend == "cpu"))

    monkeypatch.setattr(checks, "evoformer_attention", wrong)
    case = checks.Case(17, 17, 8, dtype, False)
    assert any(": out is off by" in complaint for complaint in checks.complaints(case, "cpu", CPU))


def test_odd_calls_to_a_right_backend_have_no_complaints():
    assert checks.odd_complaints("cpu", CPU) == []


def test_a_backend_that_forgets_strides_is_found_out(monkeypatch):
    right = checks.evoformer_attention

    def wrong(q, k, v, biases=(), *, backend, **options):
        if backend == "cpu" and biases:
            biases = tuple(bias.as_strided(bias.shape, bias.contiguous().stride()) for bias in biases)
        return right(q, k, v, biases, backend=backend, **options)

    monkeypatch.setattr(checks, "evoformer_attention", wrong)
    found = checks.odd_complaints("cpu", CPU)
    assert any(complaint.startswith("ending node: result 0 is off") for complaint in found)
    assert not any(complaint.startswith("six biases") for complaint in found)


def test_a_backend_that_gives_another_answer_every_time_is_found_out(monkeypatch):
    case = checks.FEW_CASES[1]
    assert checks.changes(case, "cpu", CPU, repeats=3) == []
    right, calls = checks.evoformer_attention, iter(range(10))

    def fickle(*tensors, **options):
        return right(*tensors, **options) * (1 + 1e-6 * next(calls))

    monkeypatch.setattr(checks, "evoformer_attention", fickle)
    assert any("dq changes" in complaint for complaint in checks.changes(case, "cpu", CPU, repeats=3))


def test_a_check_that_failed_stays_failed_until_the_kernels_change(tmp_path, capsys):
    asked = []

    def step():
        asked.append(1)
        return ["17x17: out is off"]

    kept = tmp_path / "cpu-17x17.json"
    assert [kernels_gpu._check_once(kept, step) for _ in range(2)] == [1, 1]
    assert len(asked) == 1
    assert "WRONG 17x17: out is off" in capsys.readouterr().out


def test_floors_of_transition_and_outer_product_mean():
    """Products alone: 275 + 69 GFLOP and 69 GFLOP at 512 residues."""
    shapes = {shape.name: shape for shape in rows.SHAPES}
    assert shapes["outer product mean 512"].flop == pytest.approx(275e9 + 69e9, rel=HALF_A_DIGIT)
    transition = shapes["transition 512"]
    assert transition.flop == pytest.approx(69e9, rel=HALF_A_DIGIT)
    assert transition.floor_ms("forward") == pytest.approx(0.086, rel=HALF_A_DIGIT)
    assert transition.floor_ms("backward") == 2 * transition.floor_ms("forward")


def test_the_floor_of_triangle_multiplication():
    """275 GFLOP over k at 1024 residues, and 206 of linear layers."""
    [shape] = [shape for shape in triangles.SHAPES if shape.length == 1024]
    assert shape.flop == pytest.approx(275e9 + 206e9, rel=HALF_A_DIGIT)
    assert shape.floor_ms("backward") == 2 * shape.floor_ms("forward")


@pytest.mark.parametrize("case", rows.FEW_CASES + triangles.FEW_CASES, ids=lambda case: case.name)
def test_rows_of_a_right_backend_have_no_complaints(case):
    assert rows.complaints(case, "cpu", CPU) == []
    assert rows.changes(case, "cpu", CPU, repeats=2) == []


@pytest.mark.parametrize("case", rows.FEW_CASES, ids=lambda case: case.name)
def test_rows_of_a_wrong_backend_are_found_out(case, monkeypatch):
    right, calls = rows.Rows.run, iter(range(100))

    def wrong(self, backend, tensors, mask):
        error = 1e-3 * next(calls) * (backend == "cpu")
        return right(self, "reference", tensors, mask) * (1 + error)

    monkeypatch.setattr(rows.Rows, "run", wrong)
    found = rows.complaints(case, "cpu", CPU)
    assert any("the result is off by" in complaint for complaint in found)
    assert any("the gradient of input 1 is off by" in complaint for complaint in found)
    assert any("result 0 changes" in complaint for complaint in rows.changes(case, "cpu", CPU, repeats=2))


@pytest.mark.parametrize("case", rows.FEW_CASES, ids=lambda case: case.name)
def test_the_plain_peer_computes_the_same(case):
    exact = case.rows.solve("reference", CPU, torch.float64, torch.float64)
    plain = case.rows.solve("plain", CPU, torch.float64, torch.float64)
    for ours, theirs in zip(exact, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_rows_are_benched_once_and_have_a_table(tmp_path, capfd):
    arguments = ["bench", "--rehearse", "--out", str(tmp_path), "--systems", "plain torch"]
    assert kernels_gpu.main(arguments) == 0
    text = (tmp_path / "rows.md").read_text()
    items = json.loads((tmp_path / "rows.json").read_text())["items"]
    assert len(items) == 2 * len(rows.REHEARSAL + triangles.REHEARSAL)
    assert all(item["ms"] > 0 for item in items)
    assert text.count("| plain torch |") == len(items)
    capfd.readouterr()
    assert kernels_gpu.main(arguments) == 0
    assert " ms" not in capfd.readouterr().out
