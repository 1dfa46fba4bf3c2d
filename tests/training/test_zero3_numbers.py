"""What stage 3 holds and sends, beside the formulas of Rajbhandari et al. 2020."""

from __future__ import annotations

import pytest
from training_ranks import SAME_WORKER, Gang
from zero3_cases import Letters, Shape, config_of, trained

from foldase_models.training import OffloadConfig

pytestmark = SAME_WORKER

TOLERANCE = 0.01
BYTES = 4 + 4 + 8
"""Of a parameter in float32: weight, gradient, moments."""
ALIGNMENT_BYTES = 64
PLAIN_PASSES, PASSES = 2, 3
"""Times that all parameters go through a rank in a step: reduced and gathered; gathered twice and reduced."""
SMALL = Shape(width=64, inner=250, blocks=6)
LARGE = Shape(width=256, inner=1024, blocks=10)
PLACES = {"device": OffloadConfig(), "cpu": OffloadConfig(optimizer="cpu", parameters="cpu")}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SMALL, 2), id="small-2"),
        pytest.param((LARGE, 2), id="large-2", marks=pytest.mark.verify),
        pytest.param((LARGE, 3), id="large-3", marks=pytest.mark.verify),
        pytest.param((LARGE, 4), id="large-4", marks=pytest.mark.verify),
    ],
)
def ranks(request):
    shape, size = request.param
    with Gang(size) as gang:
        yield gang, shape, size


@pytest.fixture(params=PLACES)
def measured(request, ranks):
    gang, shape, size = ranks
    config = config_of(3, micro_batches=size, average_decay=0.0, offload=PLACES[request.param])
    return gang.run(trained, config, shape, timeout=300), parameters(shape), size


def parameters(shape):
    return [parameter for parameter in Letters(shape).parameters() if parameter.requires_grad]


def padding(model, size):
    """At most: a row of every parameter, or what aligns it, in each of the vectors."""
    rows = sum(max(p.numel() // p.shape[0] * 4, ALIGNMENT_BYTES) for p in model)
    return rows * BYTES / 4


def test_the_large_model_is_large_enough():
    assert sum(parameter.numel() for parameter in parameters(LARGE)) >= 5_000_000


def test_a_rank_holds_its_share_of_everything(measured):
    found, model, size = measured
    wanted = BYTES * sum(parameter.numel() for parameter in model) / size
    for one in found:
        assert abs(one["state"] - wanted) <= TOLERANCE * wanted + padding(model, size)


def test_a_step_sends_at_most_half_more_than_plain_data_parallelism(measured):
    found, model, size = measured
    plain = PLAIN_PASSES * 4 * sum(parameter.numel() for parameter in model) * (size - 1) / size
    for one in found:
        for sent in one["traffic"][1:]:
            assert plain < sent <= PASSES / PLAIN_PASSES * plain


def test_tied_and_unused_weights_send_no_more(ranks):
    gang, shape, size = ranks
    unused = Shape(width=shape.width, inner=shape.inner, blocks=shape.blocks, unused=True)
    for place in PLACES.values():
        config = config_of(2, micro_batches=size, average_decay=0.0, offload=place)
        plain = PLAIN_PASSES * 4 * sum(p.numel() for p in parameters(unused)) * (size - 1) / size
        for one in gang.run(trained, config, unused, timeout=300):
            assert one["traffic"][-1] <= PASSES / PLAIN_PASSES * plain
