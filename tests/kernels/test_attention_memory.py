"""How many bytes the CPU path holds at once: counted, tensor by tensor, and seen by the system."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counted_memory import peak_of

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import cpu, cpu_tiles

RSS_SHARE, RSS_SLACK = 0.15, 100 * 2**20
"""How far the process's growth may be from what is counted."""


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


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("way", ["forward", "both_ways"])
def test_the_system_sees_what_was_counted(way):
    """In a fresh process; all scores would take a GiB."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    resident, counted = json.loads(done.stdout)
    assert abs(resident - counted) <= RSS_SHARE * counted + RSS_SLACK


def resident_bytes(field):
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024


def measured(way):
    """Growth of the resident set and counted peak of one call."""
    torch.set_num_threads(1)
    run, grad = globals()[way], way == "both_ways"
    run("cpu", make(64, 8, grad=grad))
    tensors = make(768, 128, grad=grad)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    kept = run("cpu", tensors)
    growth = resident_bytes("VmHWM") - before
    del kept
    return growth, peak_of(lambda: run("cpu", tensors))


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
