"""Many steps at stage 3 beside torch's own AdamW in one process with the same batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_ranks import SAME_WORKER, Gang
from zero3_cases import Shape, config_of, plainly_trained, trained

from foldase_models.training import OffloadConfig
from foldase_models.training.ranks import Ranks

pytestmark = SAME_WORKER

FEW_STEPS, STEPS = 12, 50
FLOAT32_TOLERANCE = 1e-5
"""Of losses."""
WEIGHT_TOLERANCE = 1e-4
"""Of averaged weights, relative to the largest of their tensor."""
BFLOAT16_TOLERANCE = 0.01
"""Of the mean of the last ten losses, relative."""
ODD = Shape(frozen=(1,), unused=True, loops=3, empty=True)
"""Frozen, tied, unused and empty parameters, and a number of passes that the step decides."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, FEW_STEPS), id="2-few"),
        pytest.param((2, STEPS), id="2", marks=pytest.mark.verify),
        pytest.param((3, STEPS), id="3", marks=pytest.mark.verify),
        pytest.param((4, STEPS), id="4", marks=pytest.mark.verify),
    ],
)
def ranks(request):
    size, steps = request.param
    with Gang(size) as gang:
        yield gang, config_of(steps), plainly_trained(config_of(steps), ODD)


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


def check_float32(found, wanted):
    assert wanted["losses"][-1] < wanted["losses"][0] - 0.1
    for one in found:
        np.testing.assert_allclose(one["losses"], wanted["losses"], rtol=0, atol=FLOAT32_TOLERANCE)
        np.testing.assert_allclose(one["norms"], wanted["norms"], rtol=1e-4)
    for name, weight in found[0]["weights"].items():
        limit = WEIGHT_TOLERANCE * float(wanted["weights"][name].abs().max())
        torch.testing.assert_close(weight, wanted["weights"][name], atol=limit, rtol=0)
    assert found[0]["weights"].keys() == {n for n, w in wanted["weights"].items() if w.numel()}


@pytest.mark.parametrize(
    ("optimizer", "parameters", "engine"),
    [
        ("none", "none", "FullyShardedEngine"),
        ("cpu", "cpu", "StreamedEngine"),
        pytest.param("cpu", "none", "FullyShardedEngine", marks=pytest.mark.verify),
        pytest.param("nvme", "none", "FullyShardedEngine", marks=pytest.mark.verify),
        pytest.param("nvme", "nvme", "StreamedEngine", marks=pytest.mark.verify),
    ],
)
def test_float32_follows_one_process(ranks, tmp_path, optimizer, parameters, engine):
    gang, config, wanted = ranks
    place = OffloadConfig(optimizer=optimizer, parameters=parameters, folder=tmp_path)
    found = gang.run(trained, replace(config, offload=place), ODD, timeout=120)
    assert found[0]["engine"] == engine
    check_float32(found, wanted)


def test_float32_in_a_single_process_with_weights_outside_the_device():
    place = OffloadConfig(optimizer="cpu", parameters="cpu")
    found = trained(Ranks(), config_of(FEW_STEPS, offload=place), ODD)
    check_float32([found], plainly_trained(config_of(FEW_STEPS), ODD))


@pytest.mark.verify
@pytest.mark.parametrize("place", ["none", "cpu"])
def test_bfloat16_ends_where_float32_ends(ranks, place):
    gang, config, wanted = ranks
    offload = OffloadConfig(optimizer=place, parameters=place)
    config = replace(config, precision="bfloat16", offload=offload)
    for one in gang.run(trained, config, ODD, timeout=120):
        mean = np.mean(wanted["losses"][-10:])
        assert np.mean(one["losses"][-10:]) == pytest.approx(mean, rel=BFLOAT16_TOLERANCE)
        assert one["losses"] != wanted["losses"]
        assert {weight.dtype for weight in one["weights"].values()} <= {torch.float32}


def test_a_parameter_without_dimension_is_trained_like_any_other(gang):
    shape, config = replace(ODD, scalar=True), config_of(8)
    found = gang.run(trained, config, shape)
    wanted = plainly_trained(config, shape)
    np.testing.assert_allclose(found[0]["losses"], wanted["losses"], rtol=0, atol=FLOAT32_TOLERANCE)
    assert found[0]["weights"]["scale"].shape == ()


@pytest.mark.parametrize("place", ["none", "cpu"])
@pytest.mark.parametrize("anew", ["inside", "around"])
def test_units_in_units_and_what_is_computed_anew_in_them(gang, place, anew):
    shape, config = replace(ODD, own_wide=True, anew=anew), config_of(4)
    place = OffloadConfig(optimizer=place, parameters=place)
    found = gang.run(trained, replace(config, offload=place), shape)
    np.testing.assert_allclose(
        found[0]["losses"], plainly_trained(config, shape)["losses"], rtol=0, atol=FLOAT32_TOLERANCE
    )


@pytest.mark.verify
@pytest.mark.parametrize("activations", ["recompute", "cpu", "nvme"])
@pytest.mark.parametrize("place", ["none", "cpu"])
def test_activations_may_lie_elsewhere_or_be_computed_anew(ranks, tmp_path, place, activations):
    gang, config, wanted = ranks
    offload = OffloadConfig(optimizer=place, parameters=place, activations=activations, folder=tmp_path)
    check_float32(gang.run(trained, replace(config, offload=offload), ODD, timeout=120), wanted)
