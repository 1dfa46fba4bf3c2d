"""A process that is killed while it saves, with all that was not yet on the disk."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from foldase_models.training import CheckpointStore
from foldase_models.training.checkpoints import files
from foldase_models.training.checkpoints.storage import PAGE
from foldase_models.training.shards import whole

KILLED = 9
MANY = 10_000
"""More fault points than any save here has."""


class PowerCut:
    """Kills this process at its n-th change of files, and takes what was not flushed with it."""

    CHANGES = ("write", "fsync", "replace", "mkdir", "unlink", "rmdir")

    def __init__(self, at):
        self.left = at
        self.unflushed = set()
        self.original = {name: getattr(os, name) for name in self.CHANGES}
        for name in self.CHANGES:
            setattr(os, name, self.cutting(name))

    def cutting(self, name):
        def call(*arguments, **options):
            path = Path(f"/proc/self/fd/{arguments[0]}").readlink() if name in ("write", "fsync") else None
            if self.left == 0:
                for lost in self.unflushed:
                    os.truncate(lost, 0)
                os._exit(KILLED)
            self.left -= 1
            if name == "write":
                self.unflushed.add(path)
            result = self.original[name](*arguments, **options)
            if name == "fsync":
                self.unflushed.discard(path)
            return result

        return call


def in_a_fork(work):
    """Exit code of a function in a process of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def large_state(step):
    """More than one block to write, and buffers beside it."""
    return {
        "weights/a": whole(torch.full((3, 1000), float(step))),
        "exp_avg/a": whole(torch.full((3, 1000), step + 0.5)),
        "buffers/seen": whole(torch.tensor(step)),
    }


@pytest.mark.parametrize(
    ("wait", "again"),
    [
        pytest.param(False, False, id="in the background"),
        pytest.param(True, True, id="at once, the same step again"),
        pytest.param(True, False, id="at once", marks=pytest.mark.verify),
        pytest.param(False, True, id="in the background, the same step again", marks=pytest.mark.verify),
    ],
)
def test_a_kill_at_any_change_of_a_file_leaves_a_whole_checkpoint(tmp_path, monkeypatch, wait, again):
    monkeypatch.setattr(files, "BLOCK", PAGE)
    before, after = 5, 5 if again else 10
    sound = tmp_path / "sound"
    CheckpointStore(sound, kept=1).save(before, large_state(before), {"by": "first"})
    found_by = []
    for at in range(MANY):
        folder = tmp_path / "tried"
        shutil.copytree(sound, folder)

        def save_until_killed(folder=folder, at=at):
            store = CheckpointStore(folder, kept=1)
            state = large_state(after)
            PowerCut(at)
            store.save(after, state, {"by": "second"}, wait=wait)
            store.finish()

        code = in_a_fork(save_until_killed)
        assert code in (0, KILLED)
        state = large_state(0)
        store = CheckpointStore(folder, kept=1)
        found = store.load_latest(state)
        expected = before if found.values["by"] == "first" else after
        assert found.step == expected
        assert found.notes == ()
        for key, shard in large_state(expected).items():
            assert torch.equal(shard.read(), state[key].read())
        assert len(list(folder.glob("step-*.*"))) == 2 * len(store.steps())
        found_by.append(found.values["by"])
        shutil.rmtree(folder)
        if code == 0:
            break
    assert found_by.count("first") > 8
    assert found_by[-1] == "second"
    assert found_by == sorted(found_by)


def test_what_a_killed_save_left_is_removed_at_the_next_start(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(5, large_state(5), {})
    (tmp_path / "step-0000000010.0123abcd").mkdir()
    (tmp_path / "step-0000000010.0123abcd" / "rank-00000-of-00001.safetensors").write_bytes(b"half")
    (data,) = tmp_path.glob("step-0000000005.*/")
    shutil.copytree(data, tmp_path / "step-0000000005.89abcdef")
    (tmp_path / ".step-0000000010.json.77.tmp").write_bytes(b"{")
    (tmp_path / "somebody's notes").write_text("stay")
    CheckpointStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert CheckpointStore(tmp_path).load_latest(large_state(0)).step == 5
    assert len(list(tmp_path.iterdir())) == 3
