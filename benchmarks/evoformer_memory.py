"""Memory of one Evoformer block on the CPU, in U = bytes of the pair representation.

    python benchmarks/evoformer_memory.py [--size 512] [--ways ...] [--threads 1] [--json FILE]

Widths of AlphaFold 2, a quarter as many sequences as residues, float32, both masks, dropout in training.
"usual" writes every sublayer as the supplement does, all scores, hidden layers and products in memory;
"new" is the block as it is called, "in_place" writes over m and z; "training" and "checkpoint" are forward
and backward with gradients of m, z and all weights, the latter with the block computed anew.

Arguments and weights are left out; results count, in "checkpoint" also the new m (U/2 at these widths),
which is a checkpoint. "counted" is what a tracker of tensors sees, "resident" how far the resident memory of
a fresh process rises in a run without it. The usual way is left out where it would not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from foldase_kernels import evoformer_attention
from foldase_kernels.outer_product_mean import outer_product_mean
from foldase_kernels.transition import TransitionParameters, transition
from foldase_kernels.triangle_multiplication import triangle_multiplication
from foldase_models.layers import (
    Attention,
    EvoformerBlock,
    EvoformerDims,
    Transition,
    TriangleAttention,
    TriangleMultiplication,
)

WAYS = ("usual", "new", "in_place", "usual_training", "training", "checkpoint")
TRAINING = WAYS[3:]
WARM = 16
"""Residues of the call that loads libraries and starts threads."""
USUAL_BYTES = {"usual": 14, "usual_training": 60}
"""Bytes a score of all heads that the usual way may hold, for the guess whether it fits."""
Representations = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A block, m and z, their masks, and the weights of a loss."""

    block: EvoformerBlock
    inputs: Representations
    masks: Representations
    loss: Representations


def make(way: str, size: int) -> Case:
    """With gradients wanted where the way trains."""
    torch.manual_seed(0)
    dims, training = EvoformerDims(), way in TRAINING
    block = EvoformerBlock(dims).train(training)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    m, z = torch.randn(max(1, size // 4), size, dims.c_m), torch.randn(size, size, dims.c_z)
    masks = torch.rand(m.shape[:-1]) > 0.1, torch.rand(z.shape[:-1]) > 0.1
    loss = torch.randn_like(m), torch.randn_like(z)
    return Case(block, (m.requires_grad_(training), z.requires_grad_(training)), masks, loss)


def attention(
    x: torch.Tensor, norm: nn.Module, mha: Attention, mask: torch.Tensor, bias: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """All scores in memory."""
    x = norm(x)
    layers = (mha.linear_q, mha.linear_k, mha.linear_v, mha.linear_g)
    q, k, v, gate = (layer(x).unflatten(-1, (mha.no_heads, -1)) for layer in layers if layer is not None)
    keys = mask[..., :, None, None, :]
    out = evoformer_attention(q, k, v, bias, mask=keys, gate=gate, backend="reference")
    found: torch.Tensor = mha.linear_o(out.flatten(-2))
    return found


def hidden(x: torch.Tensor, layer: Transition, mask: torch.Tensor) -> torch.Tensor:
    """A transition, the hidden layer in memory."""
    linears = (layer.layer_norm, layer.linear_1, layer.linear_2)
    parameters = TransitionParameters(*(t for linear in linears for t in (linear.weight, linear.bias)))
    return transition(x, parameters, mask=mask, backend="reference")


def bias_of(z: torch.Tensor, norm: nn.Module, linear: nn.Module) -> list[torch.Tensor]:
    """What pairs add to the scores."""
    return [linear(norm(z)).movedim(-1, -3).unsqueeze(-4)]


def triangle_attention(z: torch.Tensor, layer: TriangleAttention, mask: torch.Tensor) -> torch.Tensor:
    """Starting or ending node."""
    seen, real = (z, mask) if layer.starting else (z.transpose(-3, -2), mask.mT)
    bias = bias_of(seen, layer.layer_norm, layer.linear)
    out = attention(seen, layer.layer_norm, layer.mha, real, bias)
    return out if layer.starting else out.transpose(-3, -2)


def triangle_product(z: torch.Tensor, layer: TriangleMultiplication, mask: torch.Tensor) -> torch.Tensor:
    """Outgoing or incoming edges."""
    parameters = layer.parameters_of_update()
    return triangle_multiplication(z, parameters, mask=mask, outgoing=layer.outgoing, backend="reference")


def usual(
    block: EvoformerBlock, m: torch.Tensor, z: torch.Tensor, msa_mask: torch.Tensor, pair_mask: torch.Tensor
) -> Representations:
    """The block, nothing of it in tiles."""
    row, column, stack, outer = (
        block.msa_att_row,
        block.msa_att_col._msa_att,
        block.pair_stack,
        block.outer_product_mean,
    )
    assert row.layer_norm_z is not None
    assert row.linear_z is not None
    bias = bias_of(z, row.layer_norm_z, row.linear_z)
    m = m + block.msa_dropout_layer(attention(m, row.layer_norm_m, row.mha, msa_mask, bias))
    columns = attention(m.transpose(-3, -2), column.layer_norm_m, column.mha, msa_mask.mT)
    m = m + columns.transpose(-3, -2)
    m = m + hidden(m, block.msa_transition, msa_mask)
    normed = outer.layer_norm(m)
    a, b, last = outer.linear_1(normed), outer.linear_2(normed), outer.linear_out
    z = z + outer_product_mean(a, b, last.weight, last.bias, weights=msa_mask, backend="reference")
    for product in (stack.tri_mul_out, stack.tri_mul_in):
        z = z + stack.ps_dropout_row_layer(triangle_product(z, product, pair_mask))
    z = z + stack.ps_dropout_row_layer(triangle_attention(z, stack.tri_att_start, pair_mask))
    z = z + stack.ps_dropout_column_layer(triangle_attention(z, stack.tri_att_end, pair_mask))
    return m, z + hidden(z, stack.pair_transition, pair_mask)


def run(way: str, case: Case) -> Sequence[torch.Tensor]:
    """New m and z, or gradients of everything for a loss with a gradient of its own for each element."""
    block, masks = case.block, case.masks
    if way not in TRAINING:
        with torch.no_grad():
            if way == "usual":
                return usual(block, *case.inputs, *masks)
            new: Representations = block(*case.inputs, *masks, inplace=way == "in_place")
            return new
    if way == "usual_training":
        new_m, new_z = usual(block, *case.inputs, *masks)
    else:
        new_m, new_z = block(*case.inputs, *masks, checkpoint=way == "checkpoint")
    loss = (new_m * case.loss[0]).sum() + (new_z * case.loss[1]).sum()
    # They belong to what follows in a stack, where they are gone when this block's turn comes.
    del new_m, new_z
    return torch.autograd.grad(loss, [*case.inputs, *block.parameters()])


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit(f"/proc/self/status has no {field}; this benchmark needs Linux")
    return int(found.group(1)) * 1024


def measure_here(way: str, size: int, counted: bool) -> tuple[int, float]:
    """Bytes and seconds of one call in this process, which must be fresh."""
    run(way, make(way, WARM))
    case = make(way, size)
    if counted:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from counted_memory import peak_of

        began = time.perf_counter()
        return peak_of(lambda: run(way, case)), time.perf_counter() - began
    # Sets the high-water mark back to what is resident now; without it imports could hide a growth.
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.perf_counter()
    results = run(way, case)
    seconds = time.perf_counter() - began
    assert all(tensor.isfinite().all() for tensor in results)
    return resident("VmHWM") - before, seconds


def measure(way: str, size: int, threads: int, *, counted: bool) -> tuple[int, float]:
    """The same in a fresh process."""
    child = [way, str(size), "counted" if counted else "resident"]
    command = [sys.executable, __file__, "--threads", str(threads), "--child", *child]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}, N={size} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found, seconds = json.loads(done.stdout)
    return found, seconds


def fits(way: str, size: int) -> bool:
    """Whether the usual way has room; says so where it does not."""
    needed = USUAL_BYTES.get(way, 0) * 4 * size**3
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * available:
        print(f"{way}, N={size}: needs about {needed / 2**30:.0f} GiB; left out", file=sys.stderr)
    return needed <= 0.8 * available


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="residues N")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        way, size, kind = options.child
        print(json.dumps(measure_here(way, int(size), kind == "counted")))
        return
    unit = options.size**2 * EvoformerDims().c_z * 4
    print(f"N={options.size}, U = {unit / 2**20:.0f} MiB, {options.threads} threads")
    print("| way | counted U | resident U | s |\n|---|---:|---:|---:|")
    figures = []
    for way in options.ways:
        if not fits(way, options.size):
            continue
        counted, _ = measure(way, options.size, options.threads, counted=True)
        growth, seconds = measure(way, options.size, options.threads, counted=False)
        figures.append({"way": way, "counted": counted, "resident": growth, "seconds": seconds})
        print(f"| {way} | {counted / unit:.2f} | {growth / unit:.2f} | {seconds:.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"size": options.size, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
