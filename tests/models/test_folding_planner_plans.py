"""Plans: the first that fits, from fast to frugal; monotone; and what to do where none does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.errors import ModelError
from foldase_models.folding.options import ForwardOptions
from foldase_models.planning import Hardware, plan_inference
from foldase_models.planning.__main__ import main
from foldase_models.planning.configs import PUBLISHED

GIB = 2**30
ESMFOLD = PUBLISHED["esmfold_v1"]
PLENTY = Hardware(ram_bytes=2**50, cores=2)


def plan(residues=400, ram=64 * GIB, *, config=ESMFOLD, depth=128, gpu=0, **more):
    hardware = Hardware(ram_bytes=ram, cores=2, gpu_bytes=gpu)
    return plan_inference(config, residues, depth, 1, hardware, **more)


def peak_or_none(ram, residues, gpu=0):
    try:
        return plan(residues, ram, gpu=gpu).predicted_peak_bytes
    except ModelError:
        return None


@settings(max_examples=40)
@given(
    residues=st.integers(1, 3000),
    ram=st.integers(GIB // 2, 64 * GIB),
    less=st.integers(1, 60 * GIB),
    gpu=st.sampled_from([0, 0, 24 * GIB]),
)
def test_folding_planner_a_tighter_budget_never_gives_a_larger_peak(residues, ram, less, gpu):
    roomy, tight = (peak_or_none(size, residues, gpu) for size in (ram, max(1, ram - less)))
    if roomy is None:
        assert tight is None
    elif tight is not None:
        assert tight <= roomy


def test_folding_planner_plans_that_fit_say_so_in_every_tier():
    for one in (plan(), plan(gpu=24 * GIB)):
        budgets = one.hardware.tiers()
        assert all(size <= budgets[tier] for tier, size in one.peak.items())


def test_folding_planner_says_a_plan_in_one_line():
    frugal = plan(1500, frugality=99)
    assert frugal.in_words() == (
        f"on the CPU, float32, {frugal.kernels} kernels, rows in groups of "
        f"{frugal.options.group_bytes / 2**20:g} MiB, in place, weights of one block at a time; "
        f"{frugal.predicted_peak_bytes / GIB:.2f} GiB expected at 1,500 residues"
    )
    assert plan(gpu=24 * GIB).in_words().startswith("on the GPU, bfloat16, ")


def test_folding_planner_frugality_goes_down_the_list_to_its_end():
    steps = [plan(1500, frugality=number) for number in range(8)]
    assert steps[0].steps > 1
    assert [one.step for one in steps] == [min(number, steps[0].steps - 1) for number in range(8)]
    peaks = [one.predicted_peak_bytes for one in steps[: steps[0].steps]]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    assert steps[0].seconds[1] <= steps[1].seconds[1]


def test_folding_planner_a_correction_scales_the_peak_and_can_make_a_plan_more_frugal():
    plain, corrected = plan(), plan(correction=1.5)
    assert corrected.predicted_peak_bytes == pytest.approx(1.5 * plain.predicted_peak_bytes, abs=2)
    tight = plain.peak["ram"]
    assert plan(ram=tight).step == 0
    assert plan(ram=tight, correction=1.5).step > 0
    with pytest.raises(ModelError, match="does_not_fit"):
        plan(ram=tight, correction=1000.0)


def test_folding_planner_a_refusal_says_by_how_much_and_what_would_help():
    frugal = plan(2000, frugality=99)
    room = 3 * GIB
    with pytest.raises(ModelError) as caught:
        plan(2000, room)
    error = caught.value
    assert error.code == "does_not_fit"
    assert f"{(frugal.peak['ram'] - room) / GIB:.2f} GiB too little" in error.message
    assert f"fits with {frugal.peak['ram'] / GIB:.2f} GiB" in (error.hint or "")
    most = int((error.hint or "").split("at most ")[1].split(" residues")[0].replace(",", ""))
    assert peak_or_none(room, most) is not None
    assert peak_or_none(room, most + 1) is None


def test_folding_planner_a_refusal_names_the_dtype_where_that_is_enough():
    full = plan(2000, frugality=99).peak["ram"]
    half = plan(2000, frugality=99, dtype="bfloat16").peak["ram"]
    assert half < full
    with pytest.raises(ModelError, match="with dtype bfloat16"):
        plan(2000, (full + half) // 2)


def test_folding_planner_where_nothing_fits_at_all():
    with pytest.raises(ModelError, match="not even one residue fits here"):
        plan(10, 2**20)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("N", 0),
        ("msa_depth", 0),
        ("samples", 0),
        ("frugality", -1),
        ("correction", 0.0),
        ("recycles", -1),
        ("templates", -1),
    ],
)
def test_folding_planner_refuses_numbers_that_make_no_sense(changed, value):
    arguments = {"N": 5, "msa_depth": 1, "samples": 1, "hardware": PLENTY, changed: value}
    with pytest.raises(ModelError, match="bad_request"):
        plan_inference(ESMFOLD, **arguments)
    with pytest.raises(ModelError, match="bad_hardware"):
        Hardware(ram_bytes=0)


def test_folding_planner_a_plan_is_plain_values_and_a_table():
    one = plan(1024, correction=1.1)
    told = json.loads(json.dumps(one.to_json()))
    assert ForwardOptions(**told["options"]) == one.options
    assert told["predicted_peak_bytes"] == one.predicted_peak_bytes
    table = one.explain()
    for words in (
        "1,024 residues",
        "128 rows",
        "correction of 1.10",
        "weights",
        "trunk",
        "<- peak",
        "float32",
    ):
        assert words in table


SHOWN = re.compile(r"```\n\$ python -m foldase_models\.planning ([^\n]*)\n(.*?)```", re.DOTALL)


def test_folding_planner_prints_what_its_documentation_shows(capsys):
    text = (Path(__file__).parents[2] / "docs" / "folding-memory.md").read_text(encoding="utf-8")
    shown = SHOWN.findall(text)
    assert len(shown) >= 3
    for arguments, printed in shown:
        main(arguments.split())
        told = capsys.readouterr()
        assert (told.out or told.err).strip() == printed.strip()


def test_folding_planner_samples_take_time_and_no_memory():
    one, four = (plan_inference(ESMFOLD, 300, 1, count, PLENTY) for count in (1, 4))
    assert four.seconds[1] == pytest.approx(4 * one.seconds[1])
    assert four.predicted_peak_bytes == one.predicted_peak_bytes


def test_folding_planner_runs_from_the_command_line_without_torch():
    script = (
        "import sys; from foldase_models.planning.__main__ import main; "
        "code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    arguments = ["esmfold_v1", "8192", "--gpu", "131", "--ram", "256"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "8,192 residues" in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", script, "model_9", "10", "--ram", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "unknown_model" in done.stderr
