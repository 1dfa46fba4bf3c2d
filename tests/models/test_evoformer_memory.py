"""What an Evoformer block holds at once, in U = bytes of z: counted, and seen by the system.

Peaks leave out weights and arguments. Training is a block among others: its results belong to what follows,
and its checkpoints are m and z as they come in, and m as it goes out.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counted_memory import LiveBytes, LivePairs, peak_of

from foldase_kernels.outer_product_mean import cpu as outer_cpu
from foldase_kernels.outer_product_mean import cpu_tiles as outer_tiles
from foldase_kernels.transition import cpu as transition_cpu
from foldase_kernels.transition import cpu_tiles as transition_tiles
from foldase_kernels.triangle_multiplication import cpu as triangle_cpu
from foldase_kernels.triangle_multiplication import cpu_tiles as triangle_tiles
from foldase_models.layers import EvoformerBlock, EvoformerDims, row_groups

INFERENCE, TRAINING = 4.0, 6.0
"""The most a block may hold, in U."""
RSS_SHARE, RSS_SLACK = 0.15, 100 * 2**20
"""How far the process's growth may be from what is counted."""

FULL = EvoformerDims()
SMALL = EvoformerDims(
    c_m=32, c_z=16, c_hidden_msa_att=4, c_hidden_opm=4, c_hidden_mul=16, c_hidden_pair_att=4
)
"""The published ratios of widths at an eighth, so that the same tensors decide."""


def nbytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def make(dims, residues):
    """A block with weights that are not 0, and m, z, both masks and the weights of a loss."""
    torch.manual_seed(0)
    block = EvoformerBlock(dims)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    m, z = torch.randn(residues // 4, residues, dims.c_m), torch.randn(residues, residues, dims.c_z)
    masks = torch.rand(m.shape[:-1]) > 0.1, torch.rand(z.shape[:-1]) > 0.1
    return block, m, z, masks, (torch.randn_like(m), torch.randn_like(z))


def in_place(block, m, z, masks, _):
    with torch.no_grad():
        block.eval()(m, z, *masks, inplace=True)


def new(block, m, z, masks, _):
    with torch.no_grad():
        return block.eval()(m, z, *masks)


def training(block, m, z, masks, weights):
    """A step with dropout; the gradients of m, z and all parameters count."""
    leaves = [m.requires_grad_(), z.requires_grad_(), *block.parameters()]
    new_m, new_z = block.train()(m, z, *masks, checkpoint=True)
    loss = (new_m * weights[0]).sum() + (new_z * weights[1]).sum()
    del new_m, new_z
    return torch.autograd.grad(loss, leaves)


WAYS = {"in_place": (in_place, INFERENCE), "new": (new, INFERENCE), "training": (training, TRAINING)}


def allowed(way, m, z):
    """The bound in bytes; the new m, a checkpoint, is counted by the tracker, so it is allowed on top."""
    return WAYS[way][1] * nbytes([z]) + (nbytes([m]) if way == "training" else 0)


@pytest.fixture
def scratch_apart(monkeypatch):
    """Every operation in tiles, of which none is as large as a representation."""
    residues, whole = 32, 4 * 32 * 32 * SMALL.c_z
    for module, name, value in (
        (row_groups, "SMALL", 0),
        (row_groups, "GROUP", whole // 4),
        (outer_cpu, "SMALL_PRODUCTS", -1),
        (outer_tiles, "TILE", whole // 4),
        (transition_cpu, "SMALL_HIDDEN", -1),
        (transition_tiles, "TILE", 2 * whole),
        (triangle_cpu, "SMALL_PRODUCTS", -1),
        (triangle_tiles, "SMALL", 0),
        (triangle_tiles, "PAIRS", residues**2 // 4),
    ):
        monkeypatch.setattr(module, name, value)
    return residues


@pytest.mark.parametrize(("way", "most"), [("in_place", 1), ("new", 2), ("training", 5)])
@pytest.mark.parametrize("opm_first", [False, True])
def test_few_tensors_like_z_are_alive_at_once(way, most, opm_first, scratch_apart):
    """In place the products of a triangle multiplication, else also the new z.

    In training the inputs of a stage and of a layer, the gradient that comes in and the one that goes out,
    and the products; or the inputs of three stages and two gradients.
    """
    case = make(dataclasses.replace(SMALL, opm_first=opm_first), scratch_apart)
    counter = LivePairs(nbytes([case[2]]))
    gc.collect()
    with counter:
        WAYS[way][0](*case)
    assert counter.most == most


@pytest.mark.parametrize("opm_first", [False, True])
def test_between_the_passes_a_checkpointed_block_keeps_its_arguments(opm_first, scratch_apart):
    block, m, z, masks, _ = make(dataclasses.replace(SMALL, opm_first=opm_first), scratch_apart)
    counter = LiveBytes()
    gc.collect()
    with counter:
        new_m, new_z = block.train()(m.requires_grad_(), z.requires_grad_(), *masks, checkpoint=True)
        kept = counter.current - nbytes([new_m, new_z])
    # Dropout masks, and the state of the generator for each stage.
    assert kept - (nbytes([z]) if opm_first else 0) <= nbytes([z]) / 2
    assert new_z.requires_grad


@pytest.mark.verify
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("way", WAYS)
def test_a_whole_block_keeps_to_the_bound_and_the_system_agrees(way):
    """c_m = 256, S = 128, c_z = 128, N = 512, float32, in a fresh process."""
    command = [sys.executable, __file__, way, "512"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment)
    assert done.returncode == 0, done.stderr
    resident, counted, most = json.loads(done.stdout)
    print(f"{way}: counted {counted / 2**27:.2f} U, resident {resident / 2**27:.2f} U")
    assert counted <= most
    assert abs(resident - counted) <= RSS_SHARE * counted + RSS_SLACK


def resident_bytes(field):
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024


def measured(way, residues):
    """Growth of the resident set, counted peak and bound of one way, in bytes."""
    run = WAYS[way][0]
    run(*make(FULL, 32))
    case = make(FULL, residues)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    kept = run(*case)
    growth = resident_bytes("VmHWM") - before
    del kept
    return growth, peak_of(lambda: run(*case)), allowed(way, *case[1:3])


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
