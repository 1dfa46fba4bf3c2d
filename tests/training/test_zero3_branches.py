"""Ranks that go different ways at stage 3: an error that names what to do, or one unit in which they may."""

from __future__ import annotations

import pytest
from training_ranks import SAME_WORKER, rank_outcomes, run_ranks
from zero3_branches import branching

from foldase_models.training.ranks import Ranks

pytestmark = SAME_WORKER

DEADLINE_SECONDS = 20.0
IDLE = ((0, 1), (0,))
CROSSED = ((0,), (1,))
"""Two ranks that gather two experts of one shape at the same time."""


@pytest.mark.parametrize(
    ("ways", "inner"), [(IDLE, (6,)), (CROSSED, (6,)), (CROSSED, (6, 300))], ids=["idle", "crossed", "uneven"]
)
def test_ranks_that_call_different_units_end_with_the_unit_and_the_way_out(ways, inner):
    outcomes = rank_outcomes(branching, 2, ways, False, inner, 3, timeout=90, deadline=DEADLINE_SECONDS)
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.code == "collective_failed"
        assert "as_unit" in outcome.error.hint
    told = " ".join(outcome.error.message for outcome in outcomes)
    assert "layer.experts" in told
    assert "rank 1" in told


@pytest.mark.parametrize("ways", [IDLE, CROSSED], ids=["idle", "crossed"])
def test_inside_one_unit_ranks_may_branch(ways):
    alone = branching(Ranks(), ways, True, (6,), 0)
    for losses in run_ranks(branching, 2, ways, True, (6,), 3):
        assert losses == pytest.approx(alone, abs=1e-6)
