"""Several ranks save together and load together, as many or another number of them."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from training_ranks import SAME_WORKER, Gang, rank_outcomes, run_ranks

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointStore
from foldase_models.training.checkpoints import files, read_commit
from foldase_models.training.checkpoints.storage import SafetensorsReader
from foldase_models.training.collectives import Collectives
from foldase_models.training.ranks import Ranks
from foldase_models.training.shards import part, whole

pytestmark = SAME_WORKER
SHORT_SECONDS = 5.0
NUMEL = 1000


def own_state(ranks, fill=None):
    """Weights that are shared out, and a buffer that every rank has."""
    bounds = [NUMEL * rank // ranks.size for rank in range(ranks.size + 1)]
    low, high = bounds[ranks.rank], bounds[ranks.rank + 1]
    values = torch.arange(low, high).float() if fill is None else torch.full((high - low,), fill)
    buffer = torch.tensor([5.0, 6.0] if fill is None else [fill, fill])
    return {"weights/a": part(values, (NUMEL,), low), "buffers/b": whole(buffer)}


def store_of(ranks, folder, deadline=None):
    """A store whose ranks are all there, and from then on wait for each other as long as is said."""
    Collectives(ranks).barrier("all are here")
    return CheckpointStore(folder, collectives=Collectives(ranks, deadline_seconds=deadline))


def save_steps(ranks, folder, steps, wait):
    store = store_of(ranks, folder)
    for step in steps:
        store.save(step, own_state(ranks), {"step": step}, wait=wait)
    store.finish()
    return store.steps()


def load_own(ranks, folder):
    state = own_state(ranks, fill=-1.0)
    found = store_of(ranks, folder).load_latest(state)
    if found is None:
        return None
    return found.step, found.notes, {key: shard.read() for key, shard in state.items()}


def assert_whole(loaded):
    assert torch.equal(torch.cat([own["weights/a"] for _, _, own in loaded]), torch.arange(NUMEL).float())
    assert all(torch.equal(own["buffers/b"], torch.tensor([5.0, 6.0])) for _, _, own in loaded)


@pytest.mark.parametrize("wait", [False, True])
def test_what_two_ranks_saved_loads_on_one_and_on_two(tmp_path, wait):
    with Gang(2) as two:
        assert two.run(save_steps, tmp_path, (5, 10, 15), wait) == [[15, 10], [15, 10]]
        commit = read_commit(tmp_path, 15)
        assert [file.name for file in commit.files] == [
            "rank-00000-of-00002.safetensors",
            "rank-00001-of-00002.safetensors",
        ]
        assert len(commit.tensors["buffers/b"].chunks) == 1
        loaded = two.run(load_own, tmp_path)
        assert [step for step, _, _ in loaded] == [15, 15]
        assert_whole(loaded)
        (second,) = tmp_path.glob("step-0000000015.*/rank-00001*")
        second.write_bytes(second.read_bytes()[:-1])
        loaded = two.run(load_own, tmp_path)
    assert [step for step, _, _ in loaded] == [10, 10]
    assert all("step 15 was passed over: rank-00001-of-00002.safetensors has" in n[0] for _, n, _ in loaded)
    assert_whole(loaded)
    alone = [load_own(Ranks(), tmp_path)]
    assert alone[0][0] == 10
    assert_whole(alone)


def load_as_dtensors(ranks, folder):
    mesh = init_device_mesh("cpu", (ranks.size,))
    state = {
        "weights/a": distribute_tensor(torch.zeros(NUMEL), mesh, [Shard(0)]),
        "buffers/b": distribute_tensor(torch.zeros(2), mesh, [Replicate()]),
    }
    dcp.load(state, storage_reader=SafetensorsReader(folder, read_commit(folder, 5)))
    return {key: tensor.full_tensor() for key, tensor in state.items()}


def test_torch_itself_loads_a_checkpoint_into_dtensors(tmp_path):
    with Gang(2) as two:
        two.run(save_steps, tmp_path, (5,), True)
        for loaded in two.run(load_as_dtensors, tmp_path):
            assert torch.equal(loaded["weights/a"], torch.arange(NUMEL).float())
            assert torch.equal(loaded["buffers/b"], torch.tensor([5.0, 6.0]))


def save_with_a_full_disk(ranks, folder, failing, wait):
    store = store_of(ranks, folder)
    store.save(5, own_state(ranks), {})
    real_write = os.write

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    if ranks.rank == failing:
        os.write = full
    try:
        store.save(10, own_state(ranks), {}, wait=wait)
        store.finish()
    except (OSError, ModelError) as error:
        return error
    finally:
        os.write = real_write
    return None


@pytest.mark.parametrize(("failing", "wait"), [(0, True), (1, False)])
def test_a_rank_that_cannot_write_fails_the_save_of_all_and_is_named(tmp_path, failing, wait):
    with Gang(2) as two:
        errors = two.run(save_with_a_full_disk, tmp_path, failing, wait)
        assert isinstance(errors.pop(failing), OSError)
        assert errors[0].code == "checkpoint_failed"
        assert f"rank {failing} could not write its part of the checkpoint of step 10" in errors[0].message
        assert "No space left" in errors[0].message
        assert len(list(tmp_path.glob("step-*"))) == 2
        assert [step for step, _, _ in two.run(load_own, tmp_path)] == [5, 5]


def save_and_be_killed(ranks, folder):
    store = store_of(ranks, folder, SHORT_SECONDS)
    store.save(5, own_state(ranks), {})
    if ranks.rank == 1:
        os.write = lambda descriptor, data: os._exit(9)
    store.save(10, own_state(ranks), {}, wait=False)
    store.finish()


def test_a_rank_that_is_killed_while_it_writes_is_named_after_the_deadline(tmp_path):
    first, second = rank_outcomes(save_and_be_killed, 2, tmp_path)
    assert second.exit_code == 9
    assert first.error.code == "checkpoint_failed"
    assert "rank 1 wrote nothing for" in first.error.message
    assert load_own(Ranks(), tmp_path)[0] == 5


def save_and_be_killed_at(ranks, folder, killed, at):
    """The process ends at its n-th write, flush or rename of the second save."""
    store = store_of(ranks, folder, SHORT_SECONDS)
    store.save(5, own_state(ranks), {})
    if ranks.rank == killed:
        left = iter(range(at))

        def ending(original):
            def call(*arguments, **options):
                if next(left, None) is None:
                    os._exit(9)
                return original(*arguments, **options)

            return call

        for name in ("write", "fsync", "replace", "unlink", "rmdir"):
            setattr(os, name, ending(getattr(os, name)))
    store.save(10, own_state(ranks), {}, wait=False)
    store.finish()


@pytest.mark.verify
@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_at_any_write_leaves_a_whole_checkpoint(tmp_path, killed):
    ends = []
    for at in range(100):
        folder = tmp_path / str(at)
        outcomes = rank_outcomes(save_and_be_killed_at, 2, folder, killed, at)
        step, notes, own = load_own(Ranks(), folder)
        assert notes == ()
        assert torch.equal(own["weights/a"], torch.arange(NUMEL).float())
        assert len(list(folder.iterdir())) == 2 * len(CheckpointStore(folder).steps())
        ends.append(step)
        if outcomes[killed].exit_code is None:
            break
    assert ends.count(5) >= 3
    assert ends[-1] == 10
    assert ends == sorted(ends)


def save_slowly(ranks, folder):
    store = store_of(ranks, folder, SHORT_SECONDS)
    real_write = os.write
    if ranks.rank == 1:
        os.write = lambda descriptor, data: time.sleep(SHORT_SECONDS / 2) or real_write(descriptor, data)
    large = torch.zeros(5 * files.BLOCK // 4)
    low = large.numel() // 10 * ranks.rank
    own = large[low:] if ranks.rank else large[: large.numel() // 10]
    store.save(5, {"weights/a": part(own, (large.numel(),), low)}, {})


@pytest.mark.verify
def test_a_slow_disk_is_waited_for_beyond_the_deadline(tmp_path):
    outcomes = rank_outcomes(save_slowly, 2, tmp_path)
    assert all(outcome.good for outcome in outcomes), outcomes
    assert CheckpointStore(tmp_path).steps() == [5]


def save_and_load_of_other_models(ranks, folder):
    store = store_of(ranks, folder)
    store.save(5, own_state(ranks), {})
    other = {"weights/z": whole(torch.zeros(3))}
    try:
        store.load_latest(other if ranks.rank == 1 else own_state(ranks))
    except ModelError as error:
        return error.code, error.message
    return None


def test_a_checkpoint_of_another_model_on_one_rank_is_refused_on_all(tmp_path):
    told = run_ranks(save_and_load_of_other_models, 2, tmp_path)
    assert told[0] == told[1]
    assert told[0][0] == "bad_checkpoint"
    assert "1 missing: weights/z" in told[0][1]
