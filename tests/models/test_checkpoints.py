"""Checkpoint folders: one file or many, read lazily, loaded strictly, and everything that is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.layers.checkpoints import (
    digest,
    load_strict,
    read_safetensors_folder,
    without_weights,
)

MEBIBYTE = 2**20


class Tied(nn.Module):
    """Two keys for one tensor, as the decoder of a language model has them, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.decoder = nn.Linear(3, 5, bias=False)
        self.decoder.weight = self.embed.weight
        self.norm = nn.LayerNorm(3)
        self.register_buffer("scale", torch.arange(3))


@pytest.fixture
def folder(tmp_path):
    """One file, tied weights saved once."""
    torch.manual_seed(0)
    tensors = {key: tensor for key, tensor in Tied().state_dict().items() if key != "decoder.weight"}
    write(tmp_path, tensors)
    return tmp_path


def write(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "esm"}')


def split(folder):
    """The same tensors in two files and an index."""
    tensors = dict(read_safetensors_folder(folder).tensors)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()
    places = {}
    for number, keys in enumerate((sorted(tensors)[:2], sorted(tensors)[2:])):
        file = f"model-{number}.safetensors"
        save_file({key: tensors[key] for key in keys}, folder / file)
        places |= dict.fromkeys(keys, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def refused(folder, *, model=None):
    with pytest.raises(ModelError) as caught:
        load_strict(model or Tied(), read_safetensors_folder(folder).tensors)
    return caught.value


@pytest.mark.parametrize("layout", ["one file", "parts", "another name"])
def test_a_folder_fills_a_model_whatever_its_files(folder, layout):
    before = digest(read_safetensors_folder(folder))
    if layout == "parts":
        split(folder)
    elif layout == "another name":
        (folder / "model.safetensors").rename(folder / "openfold.safetensors")
    checkpoint = read_safetensors_folder(folder)
    model = Tied()
    load_strict(model, checkpoint.tensors)
    assert checkpoint.config == {"model_type": "esm"}
    assert set(checkpoint.tensors) == {"embed.weight", "norm.weight", "norm.bias", "scale"}
    for key, tensor in checkpoint.tensors.items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert model.decoder.weight is model.embed.weight
    assert digest(checkpoint) == before


@pytest.mark.parametrize("change", ["config", "value", "name"])
def test_the_digest_tells_contents_apart(folder, change):
    before = digest(read_safetensors_folder(folder))
    if change == "config":
        (folder / "config.json").write_text('{"model_type": "esmfold"}')
    else:
        tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
        if change == "value":
            tensors["norm.bias"][1] += 1
        else:
            tensors["norm.shift"] = tensors.pop("norm.bias")
        write(folder, tensors)
    assert digest(read_safetensors_folder(folder)) != before


def test_models_without_weights_get_them_while_loading(folder):
    with without_weights():
        model = Tied()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model.scale, torch.arange(3))
    load_strict(model, read_safetensors_folder(folder).tensors, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.decoder.weight is model.embed.weight
    assert not nn.Linear(2, 2).weight.is_meta


def test_keys_may_be_renamed_and_left_alone(folder):
    tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
    tensors["gain"] = tensors.pop("norm.weight")
    tensors["position_ids"] = torch.arange(4)
    model = Tied()
    load_strict(model, tensors, rename={"norm.weight": "gain"}, ignore=lambda key: key == "position_ids")
    assert torch.equal(model.norm.weight, tensors["gain"])


def test_all_that_does_not_fit_is_named_and_nothing_is_written(folder):
    tensors = {"norm.weight": torch.ones(4), "scale": torch.arange(3)}
    write(folder, tensors | {f"trunk.{number}": torch.ones(1) for number in range(5)})
    model = Tied()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    error = refused(folder, model=model)
    assert error.code == "wrong_weights"
    # Both keys of the tied tensor are missing, and the bias.
    assert "3 missing: embed.weight, decoder.weight, norm.bias;" in error.message
    assert "5 unexpected: trunk.0, trunk.1, trunk.2 and 2 more;" in error.message
    assert "1 of another shape: norm.weight [4] instead of [3]" in error.message
    assert error.location == folder.parent.name + "/" + folder.name
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_and_never_taken_for_numbers(folder, dtype):
    tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
    write(folder, tensors | {"embed.weight": tensors["embed.weight"].to(dtype)})
    error = refused(folder)
    assert error.code == "wrong_weights"
    assert "1 of another kind of numbers, perhaps quantised: embed.weight" in error.message
    if dtype is torch.float8_e4m3fn:
        with pytest.raises(ModelError, match="F8_E4M3"):
            digest(read_safetensors_folder(folder))


def test_tied_weights_must_be_equal_where_both_are_given(folder):
    tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
    tensors["decoder.weight"] = tensors["embed.weight"].clone()
    load_strict(Tied(), tensors)
    tensors["decoder.weight"][0, 0] += 1
    with pytest.raises(ModelError, match=r"embed\.weight and decoder\.weight are one tensor"):
        load_strict(Tied(), tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(folder, value):
    tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
    tensors["embed.weight"][2, 1] = value
    write(folder, tensors)
    error = refused(folder)
    assert error.code == "bad_weights"
    assert "embed.weight" in error.message
    assert error.location == f"{folder.name}/model.safetensors"


def test_large_values_are_finite(folder):
    tensors = {key: tensor.clone() for key, tensor in read_safetensors_folder(folder).tensors.items()}
    tensors["embed.weight"].fill_(3e38)
    load_strict(Tied(), tensors)


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_truncated_files_are_refused(folder, kept):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    error = refused(folder)
    assert (error.code, error.location) == ("bad_weights", f"{folder.name}/model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "esmfold.pt", "epoch.ckpt", "params.pkl"])
def test_pickle_is_refused_and_never_read(tmp_path, name):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path, tmp_path / name):
        error = refused(path)
        assert error.code == "pickle_refused"
        assert error.location == f"{tmp_path.name}/{name}"
        assert "save_file" in error.hint
    assert not (tmp_path / "sprung").exists()


def lose_config(folder):
    (folder / "config.json").unlink()


def break_config(folder):
    (folder / "config.json").write_text("{")


def list_config(folder):
    (folder / "config.json").write_text("[]")


def lose_weights(folder):
    (folder / "model.safetensors").unlink()


def lose_part(folder):
    split(folder)
    (folder / "model-1.safetensors").unlink()


def lose_index(folder):
    split(folder)
    (folder / "model.safetensors.index.json").unlink()


def swap_parts(folder):
    split(folder)
    (folder / "model-0.safetensors").replace(folder / "model-1.safetensors")
    save_file({"other": torch.ones(1)}, folder / "model-0.safetensors")


def leave_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')


def empty_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')


@pytest.mark.parametrize(
    ("damage", "code", "file"),
    [
        (lose_config, "missing_file", "config.json"),
        (break_config, "bad_config", "config.json"),
        (list_config, "bad_config", "config.json"),
        (lose_weights, "missing_file", "model.safetensors"),
        (lose_part, "missing_file", "model-1.safetensors"),
        (lose_index, "missing_file", "model.safetensors.index.json"),
        (swap_parts, "bad_weights", "model-0.safetensors"),
        (leave_folder, "bad_weights", "model.safetensors.index.json"),
        (empty_index, "bad_weights", "model.safetensors.index.json"),
    ],
)
def test_damaged_folders_are_refused(folder, damage, code, file):
    damage(folder)
    error = refused(folder)
    assert (error.code, error.location) == (code, f"{folder.name}/{file}")


def test_a_folder_that_is_not_there(tmp_path):
    assert refused(tmp_path / "esmfold_v1").code == "missing_file"


@pytest.mark.verify
def test_loading_holds_weights_once(tmp_path):
    """A limit on the memory of a process of its own leaves room for one copy beside the mapped file."""
    size = 256 * MEBIBYTE
    tensors = {f"{number}.weight": torch.full((size // 8 // 4096, 1024), 0.5) for number in range(8)}
    write(tmp_path, tensors)
    program = f"""
import resource
from pathlib import Path
from torch import nn
from foldase_models.layers.checkpoints import load_strict, read_safetensors_folder, without_weights

def anonymous():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024

before = anonymous()
with without_weights():
    model = nn.Sequential(*(nn.Linear(1024, {size // 8 // 4096}, bias=False) for _ in range(8)))
load_strict(model, read_safetensors_folder(Path({str(tmp_path)!r})).tensors)
print(anonymous() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert size <= int(done.stdout) <= size + 48 * MEBIBYTE
