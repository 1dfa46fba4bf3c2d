"""Linear layers in tiles: the same results and gradients, small units at stage 3, plain names."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training import OffloadConfig, Trainer, TrainingConfig
from foldase_models.training.offload.tiling import (
    TiledLinear,
    plain_state,
    spans,
    tile_linears,
    tiled_state,
    untile_linears,
)
from foldase_models.training.zero.units import find_units

FLOAT32_TOLERANCE, BFLOAT16_TOLERANCE = 1e-5, 2e-2
"""Relative to the largest value: sums in another order; a few roundings."""
LOSS_TOLERANCE = 1e-5


@torch.no_grad()
def assert_near(found, expected, tolerance):
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["rows", "columns"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_results_and_gradients_are_those_of_the_plain_layer(columns, rows, tiles, along, bias):
    torch.manual_seed(columns * 100 + rows)
    linear = nn.Linear(columns, rows, bias=bias)
    tiles = min(tiles, rows if along == "rows" else columns)
    tiled = TiledLinear(copy.deepcopy(linear), tiles, along=along)
    x, probe = torch.randn(2, 3, columns), torch.randn(2, 3, rows)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [linear(inputs[0]), tiled(inputs[1])]
    for output in outputs:
        (output * probe).sum().backward()
    assert_near(outputs[1], outputs[0], FLOAT32_TOLERANCE)
    assert_near(inputs[1].grad, inputs[0].grad, FLOAT32_TOLERANCE)
    gradients = tiled.joined({name: p.grad for name, p in tiled.tiles.named_parameters()})
    for name, parameter in linear.named_parameters():
        assert_near(gradients[name], parameter.grad, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_in_bfloat16_sums_of_tiles_are_not_rounded_one_by_one(along):
    torch.manual_seed(0)
    linear = nn.Linear(512, 8).bfloat16()
    x = torch.randn(4, 512).bfloat16()
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    tiled = TiledLinear(linear, 8, along=along)
    found = tiled(x)
    assert found.dtype == torch.bfloat16
    assert_near(found.double(), exact, BFLOAT16_TOLERANCE)


def test_tiles_are_even_and_complete():
    assert spans(10, 3) == [(0, 3), (3, 6), (6, 10)]
    assert spans(4, 4) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("tiles", [0, 6])
def test_a_layer_has_only_so_many_tiles(tiles):
    with pytest.raises(ModelError, match=f"5 rows cannot be cut into {tiles} tiles"):
        TiledLinear(nn.Linear(3, 5), tiles)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 8, bias=False)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    """Blocks, and a layer that shares its weight with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def model():
    torch.manual_seed(1)
    return Model()


LARGEST = 130
LAYERS = ("blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down")


def test_large_layers_are_replaced_and_shared_ones_are_not():
    made = model()
    made.blocks[1].down.register_forward_hook(lambda *_: None)
    assert tile_linears(made, largest=LARGEST) == LAYERS[:3]
    assert len(made.blocks[0].up.tiles) == 4
    assert all(tile.weight.numel() <= LARGEST for tile in made.blocks[0].down.tiles)
    assert isinstance(made.head, nn.Linear)
    assert tile_linears(made, largest=10_000) == ()
    with pytest.raises(ModelError, match="largest is 0"):
        tile_linears(made, largest=0)


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_there_and_back_by_names_and_by_layers(along):
    plain, made = model(), model()
    made.blocks[0].up.weight.requires_grad_(False)
    tile_linears(made, largest=LARGEST, along=along)
    assert not any(tile.weight.requires_grad for tile in made.blocks[0].up.tiles)
    state = plain_state(made, made.state_dict())
    assert list(state.keys() - plain.state_dict().keys()) == []
    for name, tensor in plain.state_dict().items():
        assert torch.equal(state[name], tensor)
    for tensor in state.values():
        tensor.mul_(1.5)
    made.load_state_dict(tiled_state(made, state))
    untile_linears(made)
    assert not made.blocks[0].up.weight.requires_grad
    assert made.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, state[name])


def batch(number):
    return torch.randint(0, 100, (4, 6), generator=torch.Generator().manual_seed(number))


def trained(made, activations="none"):
    offload = OffloadConfig(activations=activations)
    config = TrainingConfig(steps=4, stage=3, average_decay=0.0, offload=offload)

    def loss(part, step):
        return nn.functional.cross_entropy(made(part).flatten(0, 1), part.flatten()), {}

    trainer = Trainer(made, loss, batch, config)
    losses = []
    trainer.run(lambda report: losses.append(report.loss))
    return losses, trainer


@pytest.mark.parametrize("activations", ["none", "recompute"])
def test_every_tile_is_a_unit_that_is_fetched_alone(activations):
    plain, made = model(), model()
    before = max(sum(p.numel() for p in unit.parameters.values()) for unit in find_units(plain)[:-1])
    tile_linears(made, largest=LARGEST)
    units = find_units(made)[:-1]
    assert max(sum(p.numel() for p in unit.parameters.values()) for unit in units) < before / 4
    expected, whole = trained(plain)
    found, trainer = trained(made, activations)
    assert found == pytest.approx(expected, abs=LOSS_TOLERANCE)
    weights = plain_state(made, trainer.result())
    for name, tensor in whole.result().items():
        torch.testing.assert_close(weights[name], tensor, rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE)
    trainer.close()
    whole.close()
