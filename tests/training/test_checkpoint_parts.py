"""Who writes which part of a state, and who reads it: any parts load into any others."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointStore
from foldase_models.training.checkpoints import read_commit
from foldase_models.training.checkpoints.commits import new_data_name
from foldase_models.training.checkpoints.planners import ShardLoadPlanner, ShardSavePlanner
from foldase_models.training.checkpoints.storage import SafetensorsReader, SafetensorsWriter
from foldase_models.training.shards import part, whole

cuts = st.lists(st.integers(0, 40), max_size=5).map(lambda inner: sorted({0, 40, *inner}))


@settings(max_examples=25, deadline=None)
@given(saved=cuts, loaded=cuts)
def test_any_parts_load_into_any_others(tmp_path_factory, saved, loaded):
    """The plans of some ranks for saving and of others for loading, all in this process."""
    folder = tmp_path_factory.mktemp("parts")
    truth = {"weights/a": torch.arange(40.0), "buffers/b": torch.arange(6)}

    def states(values, bounds):
        buffer = whole(values["buffers/b"])
        vector = values["weights/a"]
        for low, high in itertools.pairwise(bounds):
            yield {"weights/a": part(vector[low:high], (8, 5), low), "buffers/b": buffer}

    save_on_ranks(folder, 3, list(states(truth, saved)))
    found = {"weights/a": torch.zeros(40), "buffers/b": torch.zeros(6, dtype=torch.int64)}
    commit = read_commit(folder, 3)
    assert sum(len(t.chunks) for t in commit.tensors.values()) == len(saved)
    for state in states(found, loaded):
        reader, planner = SafetensorsReader(folder, commit), ShardLoadPlanner()
        dcp_load(state, reader, planner)
    assert all(torch.equal(found[key], truth[key]) for key in truth)


def save_on_ranks(folder, step, states):
    """What so many ranks do together, one after the other."""
    planners = [ShardSavePlanner() for _ in states]
    for planner, state in zip(planners, states, strict=True):
        planner.set_up_planner(state)
    writer = SafetensorsWriter(folder, step, new_data_name(step), {})
    plans, metadata = planners[0].create_global_plan([planner.create_local_plan() for planner in planners])
    plans = writer.prepare_global_plan(plans)
    writer.set_up_storage_writer(True)
    results = [
        writer.write_data(plan, planner).value() for plan, planner in zip(plans, planners, strict=True)
    ]
    writer.finish(metadata, results)


def test_torch_itself_saves_with_our_plans_and_files(tmp_path):
    state = {"weights/a": whole(torch.arange(12.0).view(3, 4)), "buffers/b": whole(torch.tensor(7))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        writer = SafetensorsWriter(tmp_path, 4, new_data_name(4), {"step": 4})
        dcp.save(state, storage_writer=writer, planner=ShardSavePlanner(), no_dist=True)
    found = {"weights/a": whole(torch.zeros(3, 4)), "buffers/b": whole(torch.tensor(0))}
    assert CheckpointStore(tmp_path).load_latest(found).values == {"step": 4}
    assert all(torch.equal(found[key].read(), state[key].read()) for key in state)


def dcp_load(state, reader, planner=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, storage_reader=reader, planner=planner, no_dist=True)


def test_torch_itself_loads_a_checkpoint(tmp_path):
    """By its own load and its own planner, into vectors."""
    truth = torch.arange(12.0)
    states = [{"weights/a": part(truth[low : low + 4], (3, 4), low)} for low in (0, 4, 8)]
    save_on_ranks(tmp_path, 2, states)
    state = {"weights/a": torch.zeros(12)}
    dcp_load(state, SafetensorsReader(tmp_path, read_commit(tmp_path, 2)))
    assert torch.equal(state["weights/a"], truth)


def test_what_all_ranks_have_is_written_once_and_spread(tmp_path):
    state = {f"weights/{n}": whole(torch.full((n,), float(n))) for n in (100, 90, 60, 50)}
    save_on_ranks(tmp_path, 1, [state, state])
    commit = read_commit(tmp_path, 1)
    homes = {key: [chunk.file for chunk in tensor.chunks] for key, tensor in commit.tensors.items()}
    assert homes == {"weights/100": [0], "weights/90": [1], "weights/60": [1], "weights/50": [0]}


@pytest.mark.parametrize("fault", ["gap", "overlap", "shape"])
def test_parts_that_make_no_whole_are_refused_by_key(fault):
    values = torch.zeros(10)
    second = {"gap": (6, (10,)), "overlap": (4, (10,)), "shape": (5, (2, 5))}[fault]
    states = [
        {"weights/a": part(values[:5], (10,), 0)},
        {"weights/a": part(values[second[0] :], second[1], second[0])},
    ]
    planners = [ShardSavePlanner(), ShardSavePlanner()]
    for planner, state in zip(planners, states, strict=True):
        planner.set_up_planner(state)
    with pytest.raises(ModelError) as caught:
        planners[0].create_global_plan([planner.create_local_plan() for planner in planners])
    assert (caught.value.code, caught.value.location) == ("ranks_disagree", "weights/a")
