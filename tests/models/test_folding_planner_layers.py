"""What the planner says a layer holds is what it holds: every form of every shared layer, counted."""

from __future__ import annotations

import pytest
import torch
from counted_memory import LiveBytes

from foldase_kernels.attention import cpu as attention_cpu
from foldase_kernels.attention import cpu_tiles as attention_tiles
from foldase_kernels.outer_product_mean import cpu as outer_cpu
from foldase_kernels.outer_product_mean import cpu_tiles as outer_tiles
from foldase_kernels.transition import cpu as transition_cpu
from foldase_kernels.transition import cpu_tiles as transition_tiles
from foldase_kernels.transition import triton as transition_triton
from foldase_kernels.triangle_multiplication import cpu_tiles as triangle_tiles
from foldase_kernels.triangle_multiplication import triton as triangle_triton
from foldase_models.layers import EvoformerBlock, EvoformerDims, row_groups, working_set
from foldase_models.planning import cpu_kernels, forms, gpu_kernels, pair_layers, parameters
from foldase_models.planning.forms import Forms
from foldase_models.planning.ledger import Ledger

PRECISION = 0.02
"""A layer by itself; whole models are promised within 10 %."""
FULL = EvoformerDims()
NARROW = EvoformerDims(
    c_m=24,
    c_z=16,
    c_hidden_msa_att=8,
    c_hidden_opm=8,
    c_hidden_mul=12,
    c_hidden_pair_att=8,
    no_heads_msa=3,
    no_heads_pair=2,
)


def layers(dims, sequences, residues, masked):
    """By name: the layer's call in place, and the planner's account of it."""
    torch.manual_seed(0)
    block = EvoformerBlock(dims).eval()
    stack = block.pair_stack
    m, z = torch.randn(sequences, residues, dims.c_m), torch.randn(residues, residues, dims.c_z)
    masks = (torch.rand(x.shape[:-1]) > 0.1 if masked else None for x in (m, z))
    of_m, of_z = masks
    way = {"residual": True, "inplace": True}
    N, S = residues, sequences
    pairs = {"residues": N, "width": dims.c_z}
    heads = {"heads": dims.no_heads_pair, "head_width": dims.c_hidden_pair_att}
    outer = {"width": dims.c_m, "hidden": dims.c_hidden_opm, "channels": dims.c_z, "weighted": masked}
    wide = dims.transition_n
    return {
        "rows": (
            lambda: block.msa_att_row(m, z, of_m, **way),
            lambda *on: pair_layers.msa_row_attention(*on, dims, S, N, masked),
        ),
        "columns": (
            lambda: block.msa_att_col(m, of_m, **way),
            lambda *on: pair_layers.msa_column_attention(*on, dims, S, N, masked),
        ),
        "outer products": (
            lambda: block.outer_product_mean(m, of_m, residual=z),
            lambda *on: pair_layers.outer_product_mean(*on, sequences=S, residues=N, **outer),
        ),
        "triangles, multiplied": (
            lambda: stack.tri_mul_out(z, of_z, **way),
            lambda *on: pair_layers.triangle_multiplication(*on, **pairs, hidden=dims.c_hidden_mul),
        ),
        "triangles, attended": (
            lambda: stack.tri_att_start(z, of_z, **way),
            lambda *on: pair_layers.triangle_attention(*on, **pairs, **heads),
        ),
        "ending triangles, attended": (
            lambda: stack.tri_att_end(z, of_z, **way),
            lambda *on: pair_layers.triangle_attention(*on, **pairs, **heads),
        ),
        "transition": (
            lambda: stack.pair_transition(z, of_z, **way),
            lambda *on: pair_layers.transition(*on, positions=N * N, width=dims.c_z, hidden=wide * dims.c_z),
        ),
        "block": (
            lambda: block(m, z, of_m, of_z, inplace=True),
            lambda *on: pair_layers.evoformer_block(*on, dims, S, N, msa_masked=masked),
        ),
    }


def counted(run):
    counter = LiveBytes()
    with counter:
        run()
    return counter.peak


def ratios(dims, sequences, residues, group_bytes=row_groups.GROUP, *, masked=True, only=None):
    """Predicted over counted peak by layer."""
    found = {}
    own = Forms(group_bytes=group_bytes, masked=masked)
    with torch.no_grad(), working_set(group_bytes):
        for name, (run, account) in layers(dims, sequences, residues, masked).items():
            if only is None or name in only:
                ledger = Ledger()
                account(ledger, own)
                found[name] = ledger.peak / counted(run)
    return found


def off(found):
    return {name: ratio for name, ratio in found.items() if abs(ratio - 1) > PRECISION}


def test_folding_planner_knows_the_constants_of_the_kernels():
    assert (forms.GROUP, forms.SMALL) == (row_groups.GROUP, row_groups.SMALL)
    assert cpu_kernels.SMALL_SCORES == attention_cpu.SMALL_SCORES
    assert cpu_kernels.ATTENTION_TILE == attention_tiles.TILE
    assert cpu_kernels.ATTENTION_QUERIES == attention_tiles.QUERIES
    assert cpu_kernels.SMALL_HIDDEN == transition_cpu.SMALL_HIDDEN
    assert cpu_kernels.TRANSITION_TILE == transition_tiles.TILE
    assert cpu_kernels.SMALL_PRODUCTS_OUTER == outer_cpu.SMALL_PRODUCTS
    assert cpu_kernels.OUTER_TILE == outer_tiles.TILE
    assert cpu_kernels.TRIANGLE_SHARE == triangle_tiles.GROUP_SHARE
    assert cpu_kernels.TRIANGLE_SMALL == triangle_tiles.SMALL
    assert cpu_kernels.TRIANGLE_PAIRS == triangle_tiles.PAIRS
    assert cpu_kernels.TRIANGLE_BLOCKS == triangle_tiles.FORWARD_BLOCKS
    assert gpu_kernels.TRIANGLE_SHARE == triangle_triton.GROUP_SHARE
    assert gpu_kernels.LEAST_CHANNELS == triangle_triton.LEAST_CHANNELS
    widest = gpu_kernels.WIDEST_OF_FLOAT32, gpu_kernels.WIDEST_OF_HALF
    assert widest == tuple(transition_triton.MAX_CHANNELS[own] for own in (torch.float32, torch.bfloat16))
    assert widest[1] == transition_triton.MAX_CHANNELS[torch.float16]


@pytest.mark.parametrize(
    ("sequences", "residues", "group_bytes", "masked"),
    [(5, 13, 2**20, True), (20, 24, 2**14, True), (3, 40, 2**16, False), (70, 21, 2**15, False)],
)
def test_folding_planner_layers_hold_what_it_says(sequences, residues, group_bytes, masked):
    """Whole, in groups and in tiles: small groups make small proteins take the forms of long ones."""
    assert not off(ratios(NARROW, sequences, residues, group_bytes, masked=masked))


def test_folding_planner_layers_of_full_width():
    assert not off(ratios(FULL, 6, 40, only={"triangles, attended", "columns", "outer products"}))


@pytest.mark.verify
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("sequences", "residues", "group_bytes"),
    [
        (16, 64, 2**20),
        (128, 85, 2**20),
        (128, 256, 2**20),
        (300, 100, 2**18),
        (64, 256, 2**17),
        (40, 512, 2**20),
    ],
)
def test_folding_planner_layers_of_full_width_in_every_form(sequences, residues, group_bytes):
    found = ratios(FULL, sequences, residues, group_bytes)
    print(found)
    assert not off(found)


@pytest.mark.parametrize("dims", [FULL, NARROW])
def test_folding_planner_counts_parameters_exactly(dims):
    block = EvoformerBlock(dims)
    assert parameters.evoformer_block(dims) == sum(own.numel() for own in block.parameters())
    assert parameters.pair_stack(dims) == sum(own.numel() for own in block.pair_stack.parameters())


def test_a_ledger_keeps_the_peak_and_where_it_was():
    ledger = Ledger()
    with ledger.frame("outer"):
        ledger.make(10)
        with ledger.frame("inner"):
            ledger.flash(5, 7)
        ledger.drop(ledger.make(3))
    ledger.make(4)
    assert (ledger.alive, ledger.peak, ledger.place) == (4, 22, ("outer", "inner"))
    assert ledger.peaks == {"outer": 22}
