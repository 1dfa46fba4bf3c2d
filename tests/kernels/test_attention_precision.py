"""Half precision: the error of attention beside that of the usual way to run it."""

from __future__ import annotations

import pytest
import torch
from half_precision_peer import ERROR_RATIO, error_norm, usual_attention

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import cpu, cpu_tiles

ROWS, HEADS, WIDTH = 3, 2, 32


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(attend, leaves, mask, weight, dtype):
    """Output and gradients of q, k, v and two biases, of inputs rounded to ``dtype``."""
    owned = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    out = attend(*owned[:3], owned[3:], mask)
    return [out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), owned)]


def ours(q, k, v, biases, mask):
    return evoformer_attention(q, k, v, biases, mask=mask, backend="cpu")


@pytest.mark.parametrize("form", ["direct", "tiled"])
@pytest.mark.parametrize("size", [17, 65, 129])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_at_most_twice_the_error_of_the_usual_way(dtype, size, form, monkeypatch):
    if form == "tiled":
        monkeypatch.setattr(cpu, "SMALL_SCORES", -1)
        monkeypatch.setattr(cpu_tiles, "QUERIES", 32)
    shapes = [(ROWS, size, HEADS, WIDTH)] * 3 + [(1, HEADS, size, size), (ROWS, 1, 1, size)]
    leaves = [draw(*shape, seed=number).to(dtype) for number, shape in enumerate(shapes)]
    mask = draw(ROWS, 1, 1, size, seed=7) > -0.8
    weight = draw(*shapes[0], seed=8).to(dtype)
    truth = with_gradients(usual_attention, leaves, mask, weight, torch.float64)
    found = with_gradients(ours, leaves, mask, weight, dtype)
    usual = with_gradients(usual_attention, leaves, mask, weight, dtype)
    for name, own, peer, wanted in zip(
        ("out", "q", "k", "v", "pair bias", "key bias"), found, usual, truth, strict=True
    ):
        assert error_norm(own, wanted) <= ERROR_RATIO * error_norm(peer, wanted), name
