"""Checkpoints are whole or not there."""

from __future__ import annotations

import json
import logging
import os
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointStore
from foldase_models.training.checkpoints import files, read_commit, write_durably
from foldase_models.training.checkpoints.spare_memory import spare_bytes
from foldase_models.training.checkpoints.storage import PAGE
from foldase_models.training.collectives import Collectives
from foldase_models.training.ledger import Ledger
from foldase_models.training.ranks import Ranks
from foldase_models.training.shards import FlatShard, whole


def state_of(step):
    return {"weights/a": whole(torch.full((2, 2), float(step)))}


def save(store, step):
    store.save(step, state_of(step), {"step": step})


def load(store):
    state = state_of(0)
    found = store.load_latest(state)
    return found, state["weights/a"].read()


def data_file(folder, step):
    (path,) = folder.glob(f"step-{step:010d}.*/*.safetensors")
    return path


def marker(folder, step):
    return folder / f"step-{step:010d}.json"


def test_the_last_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10, 15):
        save(store, step)
    assert store.steps() == [15, 10]
    assert len(list(tmp_path.iterdir())) == 4
    found, weights = load(store)
    assert found.step == 15
    assert found.values == {"step": 15}
    assert found.notes == ()
    assert torch.equal(weights, torch.full((4,), 15.0))


@pytest.mark.parametrize(
    "damage", ["truncated", "changed", "no_tensors", "bad_json", "other_json", "no_json"]
)
def test_a_damaged_checkpoint_is_passed_over_and_it_is_said(tmp_path, damage, caplog):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10):
        save(store, step)
    tensors, described = data_file(tmp_path, 10), marker(tmp_path, 10)
    raw = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(raw[:-3])
    elif damage == "changed":
        tensors.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "no_tensors":
        tensors.unlink()
    elif damage == "bad_json":
        described.write_bytes(described.read_bytes()[:10])
    elif damage == "other_json":
        described.write_text(described.read_text().replace('"step": 10', '"step": 11'))
    else:
        described.unlink()
    with caplog.at_level(logging.WARNING, logger="foldase_models"):
        found, weights = load(store)
    assert found.step == 5
    assert torch.equal(weights, torch.full((4,), 5.0))
    assert len(found.notes) == (0 if damage == "no_json" else 1)
    for note in found.notes:
        assert "step 10 was passed over" in note
        assert note in caplog.text


def test_a_folder_of_damaged_checkpoints_only_is_an_empty_one(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    data_file(tmp_path, 5).unlink()
    assert load(store)[0] is None


@pytest.mark.parametrize("crash_at", range(6))
def test_a_disk_that_fails_while_saving_leaves_the_one_before(tmp_path, monkeypatch, crash_at):
    store = CheckpointStore(tmp_path, kept=1)
    save(store, 5)
    calls = 0
    real_replace, real_fsync = os.replace, os.fsync

    def crashing(original):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == crash_at + 1:
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", crashing(real_replace))
    monkeypatch.setattr(os, "fsync", crashing(real_fsync))
    with pytest.raises(OSError, match="No space left"):
        save(store, 10)
    monkeypatch.undo()
    found, weights = load(CheckpointStore(tmp_path))
    assert found.step in (5, 10)
    assert torch.equal(weights, torch.full((4,), float(found.step)))


def test_no_half_written_file_remains(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_of_another_model_is_told_by_its_keys(tmp_path):
    store = CheckpointStore(tmp_path)
    kept = whole(torch.ones(3))
    store.save(1, {"weights/a": kept, "weights/b": kept, "weights/c": kept}, {})
    state = {
        "weights/a": whole(torch.zeros(3)),
        "weights/b": whole(torch.zeros(3, 1)),
        "weights/d": whole(torch.zeros(3)),
    }
    with pytest.raises(ModelError) as caught:
        store.load_latest(state)
    assert caught.value.code == "bad_checkpoint"
    assert "1 missing: weights/d" in caught.value.message
    assert "1 unexpected: weights/c" in caught.value.message
    assert "1 of another shape: weights/b [3] instead of [3, 1]" in caught.value.message
    assert all(not shard.read().any() for shard in state.values())


def test_a_checkpoint_of_another_format_is_refused_and_says_so(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    path = marker(tmp_path, 5)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ModelError) as caught:
        load(store)
    assert caught.value.code == "checkpoint_format"
    assert "has format 2" in caught.value.message


def filled_state(step):
    values = torch.full((4,), float(step))
    return {"weights/a": whole(values)}, values


def test_a_save_in_the_background_has_the_state_of_its_step(tmp_path, monkeypatch):
    written, go_on = threading.Event(), threading.Event()
    real_fsync = os.fsync

    def waiting(descriptor):
        written.set()
        assert go_on.wait(30)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", waiting)
    store = CheckpointStore(tmp_path)
    ledger = Ledger(torch.device("cpu"))
    store.join(Collectives(Ranks()), ledger)
    state, values = filled_state(5)
    curve = [1.0]
    store.save(5, state, {"curve": curve}, wait=False)
    assert written.wait(30)
    values.fill_(7.0)
    curve.append(2.0)
    assert store.steps() == []
    assert store.under_way
    assert ledger.held("host") == {"checkpoint": 16 + files.BLOCK}
    go_on.set()
    store.finish()
    assert not store.under_way
    assert store.steps() == [5]
    assert ledger.held() == {}
    state, values = filled_state(0)
    found = store.load_latest(state)
    assert torch.equal(values, torch.full((4,), 5.0))
    assert found.values == {"curve": [1.0]}


def test_an_error_in_the_background_comes_up_at_the_next_save(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    save(store, 5)

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    store.save(10, state_of(10), {}, wait=False)
    with pytest.raises(OSError, match="No space left"):
        store.save(15, state_of(15), {}, wait=False)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    assert load(store)[0].step == 5


@pytest.mark.parametrize(("limit", "on_disk"), [(2**23, 0), (None, 1)])
def test_without_room_for_a_copy_a_save_reads_part_after_part(tmp_path, limit, on_disk):
    """Nothing is copied and nothing read twice; the training goes on when all is on the disk."""
    numel, reads, held = 2**16, [], []
    ledger = Ledger(torch.device("cpu"), cap=limit)
    ledger.add("host", "weights", 2**23 - 4 * numel - files.BLOCK)
    ledger.add("disk", "optimizer", on_disk)

    def shard(name):
        def read():
            reads.append(name)
            held.append(ledger.held().get("checkpoint", 0))
            return torch.full((numel,), 3.0)

        return FlatShard((numel,), torch.float32, 0, numel, read, lambda values: None)

    store = CheckpointStore(tmp_path)
    store.join(Collectives(Ranks()), ledger)
    store.save(5, {f"weights/{name}": shard(name) for name in "abc"}, {}, wait=False)
    assert reads == ["a", "b", "c"]
    assert held == [files.BLOCK] * 3  # of the file, no copy
    with safe_open(data_file(tmp_path, 5), framework="pt") as file:
        assert sorted(file.keys()) == ["weights/a", "weights/b", "weights/c"]
    store.finish()
    assert store.steps() == [5]


def test_files_are_plain_safetensors_that_begin_at_a_page(tmp_path):
    store = CheckpointStore(tmp_path)
    tensors = {
        "weights/a": torch.randn(3, 5),
        "buffers/flag": torch.tensor([True, False]),
        "buffers/count": torch.tensor(2**40),
        "buffers/half": torch.randn(7).bfloat16(),
        "buffers/none": torch.empty(0, 4),
    }
    store.save(1, {key: whole(tensor) for key, tensor in tensors.items()}, {})
    path = data_file(tmp_path, 1)
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % PAGE == 0
    with safe_open(path, framework="pt") as file:
        for key, tensor in tensors.items():
            assert torch.equal(file.get_tensor(key), tensor.reshape(-1)), key
    state = {key: whole(torch.zeros_like(tensor)) for key, tensor in tensors.items()}
    assert store.load_latest(state).step == 1
    for key, tensor in tensors.items():
        assert torch.equal(state[key].read(), tensor.reshape(-1)), key
    assert {key: t.shape for key, t in read_commit(tmp_path, 1).tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }


def test_numbers_that_safetensors_has_not_are_refused_by_key(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(ModelError) as caught:
        store.save(1, {"buffers/phases": whole(torch.zeros(2, dtype=torch.complex64))}, {})
    assert caught.value.location == "buffers/phases"


def test_a_large_shard_is_loaded_into_another_type_of_number(tmp_path):
    store = CheckpointStore(tmp_path)
    values = torch.from_numpy(np.random.default_rng(1).normal(size=1000).astype(np.float32))
    store.save(1, {"buffers/a": whole(values)}, {})
    found = torch.zeros(1000, dtype=torch.bfloat16)
    store.load_latest({"buffers/a": whole(found)})
    assert torch.equal(found, values.bfloat16())


def test_spare_memory_is_that_of_the_machine_or_of_the_group(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable: 1000 kB\n")
    assert spare_bytes(meminfo, tmp_path) == 1000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert spare_bytes(meminfo, tmp_path) == 1000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    assert spare_bytes(meminfo, tmp_path) == 150_000
