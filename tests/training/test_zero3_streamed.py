"""Stage 3 on flat shards: the same losses as a plain training, and weights that are there only in use."""

from __future__ import annotations

import pytest
import torch
from training_ranks import SAME_WORKER, run_ranks
from zero3_cases import Shape, config_of, plainly_trained, trained

from foldase_models.training.ranks import Ranks

pytestmark = SAME_WORKER

LOSS_TOLERANCE = 1e-5
"""Absolute, of losses near 3, over 12 steps in float32."""


def check(found, wanted):
    for one in found:
        assert one["losses"] == pytest.approx(wanted["losses"], abs=LOSS_TOLERANCE)
        assert one["norms"] == pytest.approx(wanted["norms"], rel=1e-4)
    for name, weights in wanted["weights"].items():
        if weights.numel():
            torch.testing.assert_close(found[0]["weights"][name], weights, atol=1e-4, rtol=1e-4)


SHAPE = Shape(frozen=(1,), unused=True, loops=3, empty=True, scalar=True)


def test_one_process_trains_as_plainly():
    check([trained(Ranks(), config_of(12), SHAPE)], plainly_trained(config_of(12), SHAPE))


def test_two_ranks_train_as_plainly():
    check(run_ranks(trained, 2, config_of(12), SHAPE), plainly_trained(config_of(12), SHAPE))
