"""What transition and outer product mean hold at once: counted, and seen by the system in a fresh process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counted_memory import peak_of

from foldase_kernels.outer_product_mean import cpu as outer_cpu
from foldase_kernels.outer_product_mean import outer_product_mean
from foldase_kernels.transition import TransitionParameters, transition
from foldase_kernels.transition import cpu as transition_cpu

WAYS = ("forward", "both", "inplace")
RSS_SHARE = 0.15
RSS_SLACK = 100 * 2**20
"""The system may see this much more or less than was counted: buffers of compiled code, pages not touched."""


def transition_inputs(residues, channels, activation, *, grad, dtype=torch.float32):
    def draw(*shape):
        return torch.randn(*shape, dtype=dtype).requires_grad_(grad)

    gated = activation == "swiglu"
    hidden = 4 * channels
    x = draw(residues, residues, channels)
    parameters = TransitionParameters(
        draw(channels),
        draw(channels),
        draw(hidden, channels),
        None if gated else draw(hidden),
        draw(channels, hidden),
        None if gated else draw(channels),
        draw(hidden, channels) if gated else None,
    )
    return x, parameters


def run_transition(way, backend, x, parameters, activation):
    mask = torch.ones(x.shape[0], dtype=torch.bool).expand(x.shape[:-1])
    options = {"activation": activation, "mask": mask, "backend": backend}
    if way == "inplace":
        return transition(x, parameters, inplace=True, **options)
    out = transition(x, parameters, residual=True, **options)
    if way == "both":
        leaves = [leaf for leaf in (x, *parameters) if leaf is not None]
        return out, torch.autograd.grad(out, leaves, torch.ones(()).to(out.dtype).expand(out.shape))
    return out


def outer_inputs(sequences, residues, *, grad, hidden=16, channels=64, dtype=torch.float32):
    def draw(*shape):
        return torch.randn(*shape, dtype=dtype).requires_grad_(grad)

    factors = [draw(sequences, residues, hidden) for _ in range(2)]
    return [*factors, draw(channels, hidden * hidden), draw(channels)]


def run_outer(way, backend, tensors, residual=None):
    weights = torch.ones(tensors[0].shape[-2]).expand(tensors[0].shape[:-1])
    out = outer_product_mean(*tensors, weights=weights, residual=residual, backend=backend)
    if way == "both":
        return out, torch.autograd.grad(out, tensors, torch.ones(()).to(out.dtype).expand(out.shape))
    return out


def nbytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("residues", [8, 40, 160])
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transition_keeps_to_its_bound(residues, activation, way, dtype):
    x, parameters = transition_inputs(residues, 32, activation, grad=way == "both", dtype=dtype)
    peak = peak_of(lambda: run_transition(way, "cpu", x, parameters, activation))
    results = {"forward": [x], "both": [x, x, *parameters], "inplace": []}[way]
    # torch may hold the incoming gradient whole.
    allowed = nbytes(results) + (nbytes([x]) if way == "both" else 0)
    excess = peak - allowed
    assert excess <= transition_cpu.scratch_bytes(x, parameters)


@pytest.mark.parametrize("way", WAYS[:2])
def test_transition_scratch_does_not_grow_with_positions(way):
    hidden_bytes = 160 * 160 * 4 * 32 * 4
    x, parameters = transition_inputs(160, 32, "swiglu", grad=way == "both")
    naive = peak_of(lambda: run_transition(way, "reference", x, parameters, "swiglu"))
    assert transition_cpu.scratch_bytes(x, parameters) < hidden_bytes
    assert naive > 3 * hidden_bytes
    longer, _ = transition_inputs(320, 32, "swiglu", grad=False)
    assert transition_cpu.scratch_bytes(longer, parameters) == transition_cpu.scratch_bytes(x, parameters)


@pytest.mark.parametrize(("sequences", "residues"), [(5, 12), (64, 48), (3000, 72), (16, 130)])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outer_product_mean_keeps_to_its_bound(sequences, residues, way, dtype):
    tensors = outer_inputs(sequences, residues, grad=way == "both", dtype=dtype)
    residual = torch.zeros(residues, residues, 64, dtype=dtype)
    out_bytes = nbytes([residual])
    given = residual if way == "inplace" else None
    peak = peak_of(lambda: run_outer(way, "cpu", tensors, given))
    allowed = {"forward": out_bytes, "both": 2 * out_bytes + nbytes(tensors), "inplace": 0}[way]
    excess = peak - allowed
    bound = outer_cpu.scratch_bytes(*tensors[:1], *tensors[2:])
    assert excess <= bound


@pytest.mark.parametrize("way", WAYS[:2])
def test_outer_products_are_never_whole(way):
    tensors = outer_inputs(16, 160, grad=way == "both")
    products = 160 * 160 * 16 * 16 * 4
    bound = outer_cpu.scratch_bytes(*tensors[:1], *tensors[2:])
    naive = peak_of(lambda: run_outer(way, "reference", tensors))
    assert bound < products
    assert naive > 2 * products
    longer = outer_inputs(400, 320, grad=False)
    assert outer_cpu.scratch_bytes(*longer[:1], *longer[2:]) == bound


@pytest.mark.verify
@pytest.mark.parametrize("operation", ["transition", "outer_product_mean"])
@pytest.mark.parametrize("way", WAYS[:2])
def test_the_system_sees_what_was_counted(operation, way):
    """At sizes where the whole hidden layer, or all outer products, would break the margin."""
    command = [sys.executable, __file__, operation, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    resident, counted = json.loads(done.stdout)
    assert abs(resident - counted) <= RSS_SHARE * counted + RSS_SLACK


def largest_resident_set():
    """Bytes, of this program only: ``ru_maxrss`` would start from that of the process it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def measured(operation, way):
    """Growth of the resident set and counted peak of a call with a naive intermediate of 256 MiB or more."""
    torch.set_num_threads(1)
    grad = way == "both"
    if operation == "transition":
        inputs = (*transition_inputs(384, 128, "relu", grad=grad), "relu")

        def work():
            return run_transition(way, "cpu", *inputs)

        small = (*transition_inputs(40, 128, "relu", grad=grad), "relu")
        run_transition(way, "cpu", *small)
    else:
        inputs = outer_inputs(16, 512, grad=grad, channels=16)

        def work():
            return run_outer(way, "cpu", inputs)

        run_outer(way, "cpu", outer_inputs(4, 100, grad=grad, channels=16))
    before = largest_resident_set()
    kept = work()
    growth = largest_resident_set() - before
    del kept
    return growth, peak_of(work)


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
