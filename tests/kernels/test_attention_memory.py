"""How many bytes the CPU path holds at once: counted, tensor by tensor."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import cpu, cpu_tiles


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made while it is on and still alive, and their peak.

    Tensors made before do not count. It does not see scratch inside one operator: torch's fused attention
    keeps a few kilobytes a thread.
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.foreign: set[int] = set()
        self.current = 0
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self.alive:
                self.foreign.add(leaf.untyped_storage()._cdata)
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage):
        key = storage._cdata
        if key in self.alive or key in self.foreign or storage.nbytes() == 0:
            return
        self.alive[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key):
        self.current -= self.alive.pop(key, 0)


def peak_of(work):
    gc.collect()
    counter = LiveBytes()
    with counter:
        result = work()
    del result
    return counter.peak


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
