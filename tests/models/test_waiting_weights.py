"""Blocks whose weights wait in their files: the same model, the memory of one block."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.layers.checkpoints import load_strict, read_safetensors_folder, without_weights
from foldase_models.layers.waiting_weights import TensorFile, wait_in_files

WIDTH, BLOCKS = 64, 5


class Stack(nn.Module):
    """Blocks between two layers that stay."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, WIDTH)
        block = (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(*(type(part)(*_sizes(part)) for part in block)) for _ in range(BLOCKS)
        )
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


_OWN = ("0.weight", "0.bias", "1.weight", "1.bias")


def _with_memory(model):
    return {name for name, own in model.named_parameters() if not own.is_meta}


def _sizes(part):
    return {nn.Linear: (WIDTH, WIDTH), nn.LayerNorm: (WIDTH,)}.get(type(part), ())


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = Stack()
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({}))
    return tmp_path, model


def waiting(path, **options):
    _, tensors = read_safetensors_folder(path)
    with without_weights():
        model = Stack()
    load_strict(model, tensors, leave=lambda key: key.startswith("blocks."), dtype=options.get("dtype"))
    blocks = {f"blocks.{number}": block for number, block in enumerate(model.blocks)}
    wait_in_files(blocks, tensors.read, **options)
    return model


@torch.no_grad()
def test_the_answer_is_the_same_run_after_run(folder):
    path, model = folder
    own = waiting(path)
    x = torch.randn(7, 3)
    for _ in range(2):
        assert torch.equal(own(x), model(x))


@torch.no_grad()
def test_one_block_at_a_time_has_memory(folder):
    path, _ = folder
    model = waiting(path)
    assert _with_memory(model) == {
        f"{layer}.{part}" for layer in ("first", "last") for part in ("weight", "bias")
    }
    there = []
    for block in model.blocks:
        block[0].register_forward_hook(lambda *_: there.append(_with_memory(model.blocks)))
    model(torch.randn(1, 3))
    assert there == [{f"{number}.{own}" for own in _OWN} for number in range(BLOCKS)]
    assert all(own.is_meta for own in model.blocks.parameters())


@torch.no_grad()
def test_the_weights_leave_also_when_a_block_fails(folder):
    model = waiting(folder[0])
    with pytest.raises(RuntimeError, match="shapes"):
        model.blocks[0](torch.randn(1, 3))
    assert all(own.is_meta for own in model.blocks.parameters())


@torch.no_grad()
def test_weights_come_in_another_dtype(folder):
    path, model = folder
    own = waiting(path, dtype=torch.float64)
    x = torch.randn(4, 3)
    assert own(x.double()).dtype == torch.float64
    assert torch.allclose(own(x.double()).float(), model(x), atol=1e-5)


def test_what_waits_cannot_be_trained(folder):
    with pytest.raises(ModelError, match="inference only"):
        waiting(folder[0])(torch.randn(1, 3))


def test_keys_shapes_and_values_are_checked_when_the_model_is_loaded(folder):
    path, model = folder
    state = model.state_dict()
    state["blocks.3.0.weight"] = state["blocks.3.0.weight"].clone().fill_(torch.nan)
    save_file(state, path / "model.safetensors")
    with pytest.raises(ModelError, match=r"blocks\.3\.0\.weight"):
        waiting(path)
    state["blocks.3.0.weight"] = torch.zeros(2, 2)
    save_file(state, path / "model.safetensors")
    with pytest.raises(ModelError, match=r"blocks\.3\.0\.weight \[2, 2\]"):
        waiting(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(3, 2).to(torch.bfloat16),
        torch.randn(5).half(),
        torch.arange(4),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
    ],
)
def test_a_tensor_is_read_as_it_was_written(tensor, tmp_path):
    path = tmp_path / "one.safetensors"
    save_file({"before": torch.ones(3), "own": tensor}, path)
    found = TensorFile(path).read("own")
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)


def test_a_file_that_becomes_shorter_is_noticed(folder):
    path = folder[0] / "model.safetensors"
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="shorter"):
        file.read("last.weight")
