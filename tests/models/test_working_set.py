"""How much layers and kernels hold at a time is the caller's choice, and changes nothing else."""

from __future__ import annotations

import threading

import pytest
import torch
from counted_memory import peak_of

from foldase_kernels.scratch import scaled, scratch_scale
from foldase_models.errors import ModelError
from foldase_models.layers import EvoformerBlock, EvoformerDims, row_groups, working_set
from foldase_models.layers.row_groups import rows_at_once

EXACT = 1e-10
"""float64 against float64, relative to the largest value."""
DIMS = EvoformerDims(
    c_m=16,
    c_z=8,
    c_hidden_msa_att=4,
    c_hidden_opm=4,
    c_hidden_mul=8,
    c_hidden_pair_att=4,
    no_heads_msa=2,
    no_heads_pair=2,
)
TINY = 2**11
"""Bytes of a group that leave nothing whole at 24 residues: two rows of z in float64."""


def make(residues=24, sequences=6):
    """A block with weights that are not 0, m, z and their masks."""
    torch.manual_seed(3)
    block = EvoformerBlock(DIMS).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    m = torch.randn(sequences, residues, DIMS.c_m, dtype=torch.float64)
    z = torch.randn(residues, residues, DIMS.c_z, dtype=torch.float64)
    return block, m, z, tuple(torch.rand(x.shape[:-1]) > 0.1 for x in (m, z))


def close(found, expected):
    return all(
        (a - b).abs().max() <= EXACT * b.abs().max().clamp(min=1.0)
        for a, b in zip(found, expected, strict=True)
    )


@torch.no_grad()
def forward(case):
    block, m, z, masks = case
    return block(m.clone(), z.clone(), *masks, inplace=True)


def gradients(case):
    block, m, z, masks = case
    leaves = [m.requires_grad_(), z.requires_grad_(), *block.parameters()]
    new_m, new_z = block(m, z, *masks, checkpoint=True)
    return torch.autograd.grad(new_m.square().sum() + new_z.square().sum(), leaves)


@pytest.mark.parametrize("run", [forward, gradients])
def test_the_block_is_the_same_function_with_any_working_set(run):
    expected = run(make())
    with working_set(TINY):
        found = run(make())
    assert close(found, expected)
    with working_set(2**30):
        assert close(run(make()), expected)


def test_a_smaller_working_set_holds_less():
    case = make(residues=32)
    peaks = []
    for group_bytes in (2**13, 2**20):
        with working_set(group_bytes):
            peaks.append(peak_of(lambda: forward(case)))
    assert peaks[0] < 0.5 * peaks[1]


def test_it_ends_with_its_block_also_when_this_fails():
    def fail():
        with working_set(2**10):
            raise ModelError("a layer failed", code="example")

    with pytest.raises(ModelError):
        fail()
    assert scaled(row_groups.GROUP) == row_groups.GROUP


def test_blocks_nest_and_threads_do_not_see_one_another():
    seen = []
    with working_set(2**18):
        with scratch_scale(2.0):
            assert scaled(row_groups.GROUP) == 2**21
        assert scaled(row_groups.GROUP) == 2**18
        thread = threading.Thread(target=lambda: seen.append(scaled(row_groups.GROUP)))
        thread.start()
        thread.join()
    assert seen == [row_groups.GROUP]


def test_loops_of_a_layer_ask_how_many_rows_to_take():
    assert rows_at_once(100, 1000) == 100
    assert rows_at_once(100, 2**19) == 2
    assert rows_at_once(100, 2**30) == 1
    with working_set(2**14):
        assert rows_at_once(100, 1000) == 16
    assert rows_at_once(0, 10) == 1


@pytest.mark.parametrize("wrong", [0, -1])
def test_nothing_cannot_be_worked_in(wrong):
    with pytest.raises(ValueError, match="group_bytes"), working_set(wrong):
        pass
    with pytest.raises(ValueError, match="factor"), scratch_scale(wrong):
        pass
