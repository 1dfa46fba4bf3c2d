"""Weights out of a checkpoint, for other programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointConfig, CheckpointStore, Trainer, TrainingConfig
from foldase_models.training.checkpoints import export_weights
from foldase_models.training.checkpoints.__main__ import main
from foldase_models.training.shards import whole


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 1)
        self.register_buffer("mean", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return self.second(self.first(x - self.mean).tanh())


def trained(folder, **changes):
    model = Small()
    config = TrainingConfig(steps=3, checkpoint=CheckpointConfig(seconds=1e9), **changes)
    trainer = Trainer(
        model,
        lambda batch, step: ((model(batch) - 1).square().mean(), {}),
        lambda number: torch.full((2, 4), float(number)),
        config,
        CheckpointStore(folder),
    )
    trainer.run()
    result = trainer.result() | {"mean": model.mean}
    last = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.close()
    return result, last | {"mean": model.mean}


def tensors_in(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


def test_averaged_and_last_weights_are_those_of_the_training(tmp_path):
    averages, last = trained(tmp_path / "run")
    (path,) = export_weights(tmp_path / "run", tmp_path / "averaged")
    assert path.name == "model.safetensors"
    assert_equal(tensors_in(path), averages)
    Small().load_state_dict(tensors_in(path), strict=True)
    (path,) = export_weights(CheckpointStore(tmp_path / "run"), tmp_path / "last", averaged=False)
    assert_equal(tensors_in(path), last)
    assert not torch.equal(averages["first.weight"], last["first.weight"])


def test_without_averages_the_weights_are_exported(tmp_path):
    result, _ = trained(tmp_path / "run", average_decay=0.0)
    (path,) = export_weights(tmp_path / "run", tmp_path / "weights")
    assert_equal(tensors_in(path), result)


def test_large_ones_come_in_parts_with_an_index(tmp_path):
    averages, _ = trained(tmp_path / "run")
    progress = []
    paths = export_weights(
        tmp_path / "run", tmp_path / "out", file_bytes=60, progress=lambda *now: progress.append(now)
    )
    assert [path.name for path in paths] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads(paths[-1].read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in averages.values())
    found = {name: tensors_in(tmp_path / "out" / file)[name] for name, file in index["weight_map"].items()}
    assert_equal(found, averages)
    assert [(what, done) for what, done, whole in progress if done == whole] == [
        ("verified", progress[0][2]),
        ("written", index["metadata"]["total_size"]),
    ]


@pytest.mark.parametrize("fault", ["nothing", "no_step", "damaged", "not_empty"])
def test_what_cannot_be_exported_is_told_and_nothing_written(tmp_path, fault):
    run, target = tmp_path / "run", tmp_path / "out"
    if fault != "nothing":
        CheckpointStore(run).save(7, {"weights/a": whole(torch.ones(3))}, {})
    if fault == "damaged":
        (path,) = run.glob("*/*.safetensors")
        path.write_bytes(path.read_bytes()[:-1])
    if fault == "not_empty":
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        export_weights(run, target, step=8 if fault == "no_step" else None)
    codes = {"nothing": "no_checkpoint", "no_step": "no_checkpoint", "damaged": "damaged_checkpoint"}
    assert caught.value.code == codes.get(fault, fault)
    assert (fault == "no_step") == ("there are those of steps 7" in caught.value.message)
    assert target.exists() == (fault == "not_empty")


def test_the_command_shows_what_there_is_and_exports_it(tmp_path, capsys):
    run = tmp_path / "run"
    averages, _ = trained(run)
    assert main(["show", str(run), "--verify", "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "step 3: " in shown
    assert "written by 1 rank, whole" in shown
    assert "first.weight [3, 4] F32" in shown
    assert "skipped_steps = 0" in shown
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "out" / "model.safetensors")
    assert "written" in said.err
    assert_equal(tensors_in(tmp_path / "out" / "model.safetensors"), averages)
    assert main(["export", str(run), str(tmp_path / "out")]) == 1
    assert "already [not_empty]" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere")]) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_the_command_needs_no_torch(tmp_path):
    CheckpointStore(tmp_path).save(7, {"weights/a": whole(torch.ones(3))}, {})
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'x';"
        "from foldase_models.training.checkpoints.__main__ import main; sys.exit(main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, "export", str(tmp_path), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert_equal(tensors_in(tmp_path / "out" / "model.safetensors"), {"a": torch.ones(3)})
