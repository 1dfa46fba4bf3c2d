"""Long sequences: one full-width block of ESMFold's trunk within a given memory, and refusals beforehand.

Each length runs in a process of its own with a limited address space: what asks for more ends with an error.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planned_esmfold import NARROW, checkpoint, counted

from foldase_models.errors import ModelError
from foldase_models.folding.esmfold.blocks import TrunkBlock
from foldase_models.folding.esmfold.config import TrunkDims
from foldase_models.folding.esmfold.weights import load_esmfold
from foldase_models.layers import working_set
from foldase_models.planning import Hardware, plan_inference

GIB = 2**30
CHUNKED = 1e-5
"""Relative, of the norm: float32 sums cut elsewhere."""
WHOLE = 2**34
"""A working set in which every layer takes all rows at once."""


def make(residues, dims=None):
    """A block whose updates are as large as what they are added to, and s and z."""
    torch.manual_seed(0)
    block = TrunkBlock(dims or TrunkDims()).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(torch.randn_like(parameter) * spread)
    c_s, c_z = block.layernorm_1.normalized_shape[0], block.tri_mul_out.linear_z.out_features
    return block, torch.randn(1, residues, c_s), torch.randn(1, residues, residues, c_z)


@torch.no_grad()
def run(block, s, z, group_bytes=2**20):
    with working_set(group_bytes):
        return block(s, z, inplace=True)


def apart(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("group_bytes", [2**20, 2**16])
def test_chunks_change_a_block_by_rounding_only(group_bytes):
    dims = TrunkDims(c_s=64, c_z=32, sequence_head_width=16, pair_head_width=8)
    block, s, z = make(72, dims)
    expected = run(block, s, z.clone(), WHOLE)
    assert all(apart(*pair) > 0.3 for pair in zip(expected, (s, z), strict=True))
    found = run(block, s, z.clone(), group_bytes)
    assert all(apart(*pair) <= CHUNKED for pair in zip(found, expected, strict=True))


@pytest.mark.verify
@pytest.mark.timeout(1800)
def test_chunks_change_a_block_of_full_width_by_rounding_only():
    """N = 256, where scores of all rows at once, 256 MiB, still fit."""
    block, s, z = make(256)
    expected = run(block, s, z.clone(), WHOLE)
    for group_bytes in (2**20, 2**17):
        found = run(block, s, z.clone(), group_bytes)
        errors = [apart(*pair) for pair in zip(found, expected, strict=True)]
        print(group_bytes, errors)
        assert max(errors) <= CHUNKED


@pytest.mark.verify
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize(("residues", "gibibytes"), [(1024, 3), (2048, 12)])
def test_a_block_of_full_width_finishes_within(residues, gibibytes):
    """All of its pair and sequence parts, float32, peak resident memory of the whole process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(residues), str(gibibytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(f"N = {residues}: {told['resident'] / GIB:.2f} GiB resident, {told['seconds']:.0f} s")
    assert told["finite"]
    assert told["resident"] <= gibibytes * GIB


RESIDUES = 48
PRECISION = 1.1
"""How far above its plan a run may be, at most."""


def planned(ram, frugality=0):
    return plan_inference(NARROW, RESIDUES, 1, 1, Hardware(ram_bytes=ram), None, frugality, recycles=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    checkpoint(NARROW, path)
    return path


@pytest.mark.parametrize("share", [0.0, 0.5, 1.1])
def test_under_a_given_budget_the_model_runs(share, folder):
    """What runs holds no more than its budget, to the planner's precision."""
    most_frugal, fastest = planned(2**50, 99).peak["ram"], planned(2**50).peak["ram"]
    budget = int(most_frugal + share * (fastest - most_frugal))
    plan = planned(budget)
    assert plan.peak["ram"] <= budget
    model = load_esmfold(folder, waiting=plan.options.offload_weights)
    weights = sum(own.numel() * 4 for own in model.parameters() if not own.is_meta)
    held = counted(model, RESIDUES, plan.options, 0) + weights + plan.held["inputs"]
    assert held <= PRECISION * plan.predicted_peak_bytes


def test_beyond_every_plan_it_is_refused_before_it_starts():
    most_frugal = planned(2**50, 99).peak["ram"]
    assert planned(most_frugal).peak["ram"] == most_frugal
    with pytest.raises(ModelError, match="does_not_fit"):
        planned(most_frugal - 1)


def limited(residues, gibibytes):
    """One block, where the process may have so much address space beyond what its libraries take."""
    import time

    run(*make(16))
    before = _status("VmSize") - _status("VmRSS")
    limit = gibibytes * GIB + before
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    block, s, z = make(residues)
    start = time.monotonic()
    s, z = run(block, s, z)
    seconds = time.monotonic() - start
    finite = bool(s.isfinite().all()) and all(bool(row.isfinite().all()) for row in z[0])
    return {"resident": _status("VmHWM"), "seconds": seconds, "finite": finite}


def _status(field):
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) * 1024


if __name__ == "__main__":
    print(json.dumps(limited(int(sys.argv[1]), int(sys.argv[2]))))
