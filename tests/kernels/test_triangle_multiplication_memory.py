"""How many bytes triangle multiplication holds at once: counted, and seen from outside the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from counted_memory import peak_of

from foldase_kernels.triangle_multiplication import (
    TriangleMultiplicationParameters,
    cpu,
    cpu_tiles,
    triangle_multiplication,
)

MIB = 2**20
RSS_SHARE, RSS_BYTES = 0.15, 100 * MIB
"""How far the process's growth may be from what is counted."""


@pytest.fixture(autouse=True)
def tiles_at_every_size(monkeypatch):
    """Small problems would be computed at once."""
    monkeypatch.setattr(cpu, "SMALL_PRODUCTS", -1)


def make(size, width, hidden, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    projections = [tensor for _ in range(4) for tensor in (draw(hidden, width), draw(hidden))]
    parameters = TriangleMultiplicationParameters(
        draw(width),
        draw(width),
        *projections,
        draw(hidden),
        draw(hidden),
        draw(width, hidden),
        draw(width),
        draw(width, width),
        draw(width),
    )
    mask = torch.rand(size, size, generator=generator) > 0.2
    return draw(size, size, width), parameters, mask


def in_place(z, parameters, mask, backend="cpu"):
    triangle_multiplication(z, parameters, mask=mask, inplace=True, backend=backend)


def forward(z, parameters, mask, backend="cpu"):
    return triangle_multiplication(z, parameters, mask=mask, residual=True, backend=backend)


def both_ways(z, parameters, mask, backend="cpu"):
    leaves = [z, *parameters]
    for leaf in leaves:
        leaf.requires_grad_()
    out = forward(z, parameters, mask, backend)
    return torch.autograd.grad(out.sum(), leaves)


def stated_bytes(run, z, parameters):
    """The bound of the public docstring, with what both passes of a training step hold at once."""
    size, _, width = z.shape
    hidden = parameters.a_p_weight.shape[0]
    whole, item = z.numel() * z.element_size(), z.element_size()
    products = size * size * hidden * (4 if z.dtype == torch.float16 else item)
    inside = hidden <= width and z.dtype != torch.float16
    scratch = cpu_tiles.scratch_bound(size, width, hidden, z.dtype)
    if run is in_place:
        return products + scratch
    if run is forward:
        return whole + (0 if inside else products) + scratch
    scratch = cpu_tiles.scratch_bound(size, width, hidden, z.dtype, backward=True)
    gradient = whole + (0 if item >= 4 else z.numel() * 4)
    of_parameters = sum(tensor.numel() * tensor.element_size() for tensor in parameters)
    # The result is still there while its gradient is taken.
    return whole + gradient + products + scratch + of_parameters


@pytest.mark.parametrize("size", [64, 160])
@pytest.mark.parametrize("run", [in_place, forward, both_ways])
def test_counted_bytes_stay_below_the_bound(run, size):
    z, parameters, mask = make(size, 32, 32)
    counted = peak_of(lambda: run(z, parameters, mask))
    assert counted <= stated_bytes(run, z, parameters)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        *(pytest.param(dtype, marks=pytest.mark.verify) for dtype in (torch.float16, torch.float64)),
    ],
)
@pytest.mark.parametrize("hidden", [16, 24], ids=["equal", "wider"])
@pytest.mark.parametrize("run", [in_place, forward, both_ways])
def test_the_bound_holds_for_other_types_and_widths(run, hidden, dtype, monkeypatch):
    monkeypatch.setattr(cpu_tiles, "SMALL", 0)
    monkeypatch.setattr(cpu_tiles, "PAIRS", 128)
    z, parameters, mask = make(32, 16, hidden, dtype)
    counted = peak_of(lambda: run(z, parameters, mask))
    assert counted <= stated_bytes(run, z, parameters)


@pytest.mark.parametrize(
    ("run", "most", "gain"),
    [
        pytest.param(in_place, 1.4, 4, id="in_place"),
        pytest.param(forward, 1.4, 4, id="forward", marks=pytest.mark.verify),
        pytest.param(both_ways, 3.5, 3, id="both", marks=pytest.mark.verify),
    ],
)
def test_in_units_of_the_pair_tensor(run, most, gain, monkeypatch):
    """Peak in U = bytes of z at the published widths, and how much less than the usual form it is.

    The parts that do not grow with U are set small, as they are beside it at any length that matters.
    """
    monkeypatch.setattr(cpu_tiles, "SMALL", 0)
    monkeypatch.setattr(cpu_tiles, "PAIRS", 256)
    z, parameters, mask = make(192, 128, 128)
    whole = z.numel() * z.element_size()
    with torch.set_grad_enabled(run is both_ways):
        lean = peak_of(lambda: run(z, parameters, mask))
        usual = peak_of(lambda: run(z, parameters, mask, "reference"))
    assert lean <= most * whole
    assert usual >= gain * lean


def test_only_z_is_kept_between_the_passes():
    z, parameters, mask = make(64, 32, 32)
    kept = []
    for leaf in (z, *parameters):
        leaf.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        forward(z, parameters, mask)
    own = {tensor.data_ptr() for tensor in (z, mask, *parameters)}
    assert {tensor.data_ptr() for tensor in kept} == own


FRESH = """
import sys
sys.path[:0] = sys.argv[3:]
import torch
import test_triangle_multiplication_memory as own

def kilobytes(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])

torch.set_num_threads(1)
run, size = getattr(own, sys.argv[1]), int(sys.argv[2])
run(*own.make(16, 64, 64))
case = own.make(size, 64, 64)
before = kilobytes("VmRSS")
run(*case)
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.verify
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("run", [in_place, forward, both_ways])
def test_a_fresh_process_grows_by_what_is_counted(run, request):
    """A tracker sees no scratch inside compiled code; the process does."""
    size = 512
    case = make(size, 64, 64)
    counted = peak_of(lambda: run(*case))
    folders = [str(request.path.parent), str(request.path.parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, run.__name__, str(size), *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert abs(int(done.stdout) - counted) <= RSS_SHARE * counted + RSS_BYTES
