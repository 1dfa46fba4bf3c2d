"""Checkpoints are whole or not there."""

from __future__ import annotations

import os

import pytest
import torch

from foldase_models.training import CheckpointStore
from foldase_models.training.checkpoints import write_durably
from foldase_models.training.shards import whole


def state_of(step):
    return {"weights/a": whole(torch.full((2, 2), float(step)))}


def save(store, step):
    store.save(step, state_of(step), {"step": step})


def load(store):
    state = state_of(0)
    found = store.load_latest(state)
    return found, state["weights/a"].read()


def test_the_last_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10, 15):
        save(store, step)
    assert store.steps() == [15, 10]
    assert len(list(tmp_path.iterdir())) == 4
    found, weights = load(store)
    assert found.step == 15
    assert found.values == {"step": 15}
    assert torch.equal(weights, torch.full((4,), 15.0))


@pytest.mark.parametrize("damage", ["truncated", "changed", "no_tensors", "bad_json", "no_json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10):
        save(store, step)
    tensors, described = tmp_path / "step-0000000010.safetensors", tmp_path / "step-0000000010.json"
    raw = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(raw[:-3])
    elif damage == "changed":
        tensors.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "no_tensors":
        tensors.unlink()
    elif damage == "bad_json":
        described.write_bytes(described.read_bytes()[:10])
    else:
        described.unlink()
    assert load(store)[0].step == 5


@pytest.mark.parametrize("crash_at", range(4))
def test_a_crash_while_saving_leaves_the_one_before(tmp_path, monkeypatch, crash_at):
    """Every rename and every removal of a save may be the last thing that happens."""
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
