"""``benchmarks/training.py`` without its measurements: verdicts, exit status, peers that cannot run."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from training_ranks import SAME_WORKER, run_ranks

from foldase_models.training import LimitsConfig, TrainingConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import training
import training_peers
import training_systems
from training_cases import Size, farthest

pytestmark = SAME_WORKER
SIZE = Size(width=64, blocks=2)
BUCKET = 1 << 16
LITTLE = 0.02
"""Of the bytes: buckets under way and the few numbers that are not gradients."""


def ends_with(monkeypatch, *given: str, **parts) -> int:
    monkeypatch.setattr(training, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["training.py", *given])
    return training.main()


def rows(*figures: float | None, **goal: float):
    return lambda: iter([{"what": "a count", "figure": figure, **goal} for figure in figures])


@pytest.mark.parametrize(
    ("figures", "goal", "status"),
    [
        ([1.0, 0.5], {"at_most": 1.0}, 0),
        ([0.5, 1.5], {"at_most": 1.0}, 1),
        ([8.1], {"at_least": 8.0}, 0),
        ([7.9], {"at_least": 8.0}, 1),
        ([math.nan], {"at_most": 1.0}, 1),
        ([None], {"at_most": 1.0}, 1),
        ([None, 3.0, math.nan], {}, 0),
    ],
)
def test_a_missed_goal_ends_with_one(figures, goal, status, monkeypatch, capsys):
    assert ends_with(monkeypatch, counts=rows(*figures, **goal)) == status
    assert ("**missed**" in capsys.readouterr().out) == bool(status)


def test_a_part_that_fails_is_missed_and_the_next_ones_run(monkeypatch, capsys, tmp_path):
    def raising():
        yield {"what": "before", "figure": 1.0}
        raise ValueError("no such | bucket\nand more")

    def silent():
        pytest.fail("rank 1 took too long and was killed")

    file = tmp_path / "found.json"
    parts = {"raising": raising, "silent": silent, "last": rows(2.0, at_most=3.0)}
    assert ends_with(monkeypatch, "--json", str(file), **parts) == 1
    said = capsys.readouterr().out
    assert "failed: ValueError: no such / bucket |" in said
    assert "rank 1 took too long" in said
    assert "4 figures, 2 goals missed" in said
    assert [row["figure"] for row in json.loads(file.read_text())["rows"]] == [1.0, None, None, 2.0]


def test_a_part_without_time_is_missed(monkeypatch, capsys):
    assert ends_with(monkeypatch, "--seconds", "-1", late=rows(1.0, at_most=2.0)) == 1
    assert "no time was left for late" in capsys.readouterr().out


def test_losses_that_are_no_numbers_are_infinitely_far():
    assert farthest([1.0, 2.0], [1.5, 2.25]) == 0.5
    assert farthest([1.0, math.nan, 2.0], [1.0, 1.0, 2.0]) == math.inf


def test_without_deepspeed_the_table_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [row] = training_peers._deepspeed(None, [])
    assert row["figure"] is None
    assert "not installed" in row["what"]
    assert "--deepspeed" in row["what"]


def test_a_peer_that_cannot_run_is_shown_with_its_error(tmp_path):
    python = tmp_path / "python"
    trace = 'Traceback (most recent call last):\n  File "a.py"\nImportError: no libaio | here\n'
    python.write_text(f"#!/bin/sh\necho '{trace}' >&2\nexit 3\n")
    python.chmod(0o755)
    found = list(training_peers._deepspeed(str(python), []))
    assert len(found) == len(training_peers.training_deepspeed.STAGES)
    assert found[0] == {"what": "deepspeed stage 0: ImportError: no libaio / here", "figure": None}


@pytest.mark.verify
def test_bytes_are_counted_alike_for_ours_and_for_ddp():
    config = TrainingConfig(
        steps=2, micro_batches=2, average_decay=0.0, limits=LimitsConfig(bucket_bytes=BUCKET)
    )
    own = run_ranks(training_systems.ours, 2, SIZE, config, True)
    plain = run_ranks(training_systems.torchs_own, 2, SIZE, config, "ddp", True)
    for found in own + plain:
        assert found["held"] == pytest.approx(16 * SIZE.parameters, rel=LITTLE)
        assert found["sent"] == pytest.approx(4 * SIZE.parameters, rel=LITTLE)
    assert [one["sent"] for one in own] == [one["traffic"] for one in own]
