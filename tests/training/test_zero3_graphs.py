"""Stage 3 trains whatever module there is as one process would, wherever its shards lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from module_graphs import KINDS, Graph, graph_training, graphs, train_graph
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import OffloadConfig, Ranks

pytestmark = SAME_WORKER

TOLERANCE = 1e-5
"""Of losses, norms and weights, relative to 1 or their size."""
ALONE_TOLERANCE = 1e-3
"""Beside one process, which sums parts in another order: norms over two features make much of a rounding."""
IDLE_SECONDS = 60
LONG_EXAMPLES = 25
PLACES = {
    "device": OffloadConfig(),
    "optimizer on cpu": OffloadConfig(optimizer="cpu"),
    "cpu": OffloadConfig(optimizer="cpu", parameters="cpu"),
}


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.fixture(scope="module", params=[2, 3, 4])
def large_gang(request):
    with Gang(request.param) as gang:
        yield gang


def check_equal(found, wanted, tolerance):
    near = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(found.losses, wanted.losses, **near)
    np.testing.assert_allclose(found.norms, wanted.norms, **near)
    np.testing.assert_allclose(found.averaged, wanted.averaged, **near)
    assert found.weights.keys() == wanted.weights.keys()
    for name, weight in wanted.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, **near, err_msg=name)


def check_ranks(gang, graph, place, **changes):
    """Every rank has the same, which is what ranks that share nothing out have, and nearly one process."""
    config = graph_training(3, offload=PLACES[place], **changes)
    outcomes = gang.run(train_graph, graph, config, timeout=IDLE_SECONDS)
    unsharded = graph_training(0, **changes)
    check_equal(outcomes[0], gang.run(train_graph, graph, unsharded)[0], TOLERANCE)
    check_equal(outcomes[0], train_graph(Ranks(), graph, unsharded), ALONE_TOLERANCE)
    for other in outcomes[1:]:
        assert (other.losses, other.norms) == (outcomes[0].losses, outcomes[0].norms)
        assert not other.weights


@given(graphs(), st.sampled_from(sorted(PLACES)), st.integers(1, 3))
@settings(max_examples=4)
def test_any_graph_on_two_ranks_equals_one_process(gang, graph, place, parts):
    check_ranks(gang, graph, place, micro_batches=parts)


@pytest.mark.verify
@pytest.mark.parametrize("place", PLACES)
@given(graph=graphs(9), parts=st.integers(1, 7))
@settings(max_examples=LONG_EXAMPLES)
def test_any_graph_on_any_ranks_equals_one_process(large_gang, place, graph, parts):
    """Also with fewer parts of a batch than ranks, and several for some ranks."""
    check_ranks(large_gang, graph, place, micro_batches=parts)


@pytest.mark.parametrize("place", PLACES)
def test_one_process_alone_has_the_same(place):
    everything = Graph(33, KINDS, 1)
    found = train_graph(Ranks(), everything, graph_training(3, offload=PLACES[place]))
    check_equal(found, train_graph(Ranks(), everything, graph_training(0)), TOLERANCE)


@pytest.mark.parametrize("place", ["device", "cpu"])
def test_a_branch_inside_a_unit_that_is_idle_on_one_rank_never_hangs(gang, place):
    check_ranks(gang, Graph(33, ("linear", "branch", "tied", "branch", "loop"), 5), place)
