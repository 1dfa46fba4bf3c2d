"""How many bytes the CPU path holds at once: counted, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from counted_memory import peak_of

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import cpu, cpu_tiles


def make(size, rows, heads=4, width=32, *, grad):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_(grad)

    q, k, v = (draw(rows, size, heads, width) for _ in range(3))
    bias = draw(1, heads, size, size)
    mask = torch.rand(rows, 1, 1, size, generator=generator) > 0.2
    return q, k, v, bias, mask


def forward(backend, tensors):
    q, k, v, bias, mask = tensors
    return evoformer_attention(q, k, v, [bias], mask=mask, backend=backend)


def both_ways(backend, tensors):
    out = forward(backend, tensors)
    out.sum().backward()
    for tensor in tensors[:4]:
        tensor.grad = None
    return out


def own_bytes(tensors, *, grad):
    """Output, and the gradients of inputs and bias where asked: what any implementation must hold."""
    q, k, v, bias, _ = tensors
    floats = q.numel() + (q.numel() + k.numel() + v.numel() + bias.numel() if grad else 0)
    # The incoming gradient of a sum is expanded, but torch may hold it whole.
    return 4 * (floats + (q.numel() if grad else 0))


def test_the_counter_counts():
    def work():
        a = torch.zeros(1000)
        b = a + 1
        del a
        return b.view(10, 100) * 2

    assert peak_of(work) == 8000


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "both"])
def test_far_below_the_scores(grad):
    """The reference holds several copies of all scores; the CPU path a few tiles."""
    size, rows, heads = 192, 48, 4
    run = both_ways if grad else forward
    scores = rows * heads * size * size * 4
    lean = peak_of(lambda: run("cpu", make(size, rows, grad=grad)))
    inputs = sum(t.numel() * t.element_size() for t in make(size, rows, grad=grad))
    naive = peak_of(lambda: run("reference", make(size, rows, grad=grad)))
    excess = lean - inputs - own_bytes(make(size, rows, grad=grad), grad=grad)
    assert naive - inputs > 2 * scores
    assert excess < 0.7 * scores
    assert naive - inputs > (4 if grad else 5) * excess


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "both"])
def test_excess_grows_at_most_linearly_with_length(grad, monkeypatch):
    """At fixed rows, doubling the length may double what is held beyond inputs, outputs and gradients."""
    monkeypatch.setattr(cpu, "SMALL_SCORES", 0)
    monkeypatch.setattr(cpu_tiles, "TILE", 2**18)
    monkeypatch.setattr(cpu_tiles, "QUERIES", 32)
    run = both_ways if grad else forward

    def excess(size):
        tensors = make(size, 4, grad=grad)
        peak = peak_of(lambda: run("cpu", tensors))
        return peak - own_bytes(tensors, grad=grad)

    small, large = excess(256), excess(512)
    assert large < 2.2 * small


def test_a_bias_is_never_expanded():
    """One matrix for all rows stays one matrix."""
    tensors = make(256, 64, grad=False)
    counted = peak_of(lambda: forward("cpu", tensors))
    expanded = 64 * 4 * 256 * 256 * 4
    assert counted < 0.4 * expanded
