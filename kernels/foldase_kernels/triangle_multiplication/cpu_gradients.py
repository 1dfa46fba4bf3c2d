"""The backward pass of triangle multiplication on the CPU, by the blocks and groups of the forward pass.

First x is computed anew. A sweep over blocks of rows then turns it, where it lies, into its own gradient
and starts the gradient of normed z with what comes through the gate. Then, for every group of channels, a
and b are computed anew, ``da`` and ``db`` are one matrix product each, and a sweep over blocks adds what
comes through the projections. A last sweep takes the gradient through the first norm. Sums run in a fixed
order, so the gradients of two runs are equal bit by bit.
"""

from __future__ import annotations

import torch

from foldase_kernels.triangle_multiplication.cpu_tiles import Folded, Pairs
from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters

BACKWARD_BLOCKS = 6
"""Block buffers of the backward pass, each ``[pairs, max(c_z, C)]``."""

BACKWARD_GROUPS = 4
"""Group buffers: a, b and their gradients; one more where x is not in the dtype of sums."""

_SWAPPED = [1, 0, 3, 2]
"""The gradient of a gate overwrites its value's place in the tile, and the other way round."""


class Sums:
    """What the gradients of all parameters follow from.

    For every linear layer: the product of the gradient at its result with the *normed* input, without
    scale and shift, and the sum of that gradient over pairs.
    """

    def __init__(self, weights: Folded) -> None:
        self.pair, self.pair_shift = torch.zeros_like(weights.pair), torch.zeros_like(weights.pair_shift)
        self.gate, self.gate_shift = torch.zeros_like(weights.gate), torch.zeros_like(weights.gate_shift)
        self.out, self.out_shift = torch.zeros_like(weights.out), torch.zeros_like(weights.out_shift)

    def of(self, p: TriangleMultiplicationParameters) -> tuple[torch.Tensor | None, ...]:
        """The gradients of the parameters, in their order, each in its own dtype."""
        names = ("a_p", "a_g", "b_p", "b_g")
        layers = {name: (self.pair[k], self.pair_shift[k]) for k, name in enumerate(names)}
        layers |= {"g": (self.gate, self.gate_shift), "z": (self.out, self.out_shift)}
        grads: dict[str, torch.Tensor] = {}
        for name, (product, total) in layers.items():
            norm = "norm_out" if name == "z" else "norm_in"
            weight = getattr(p, f"{name}_weight").to(product.dtype)
            scale, shift = getattr(p, f"{norm}_weight"), getattr(p, f"{norm}_bias")
            grads[f"{name}_weight"] = product * scale.to(product.dtype)
            if shift is not None:
                grads[f"{name}_weight"] += torch.outer(total, shift.to(product.dtype))
            grads[f"{name}_bias"] = total
            for part, value in (("weight", (weight * product).sum(0)), ("bias", weight.T @ total)):
                known = grads.get(f"{norm}_{part}")
                grads[f"{norm}_{part}"] = value if known is None else known + value
        # Copies: results of an operator may not share memory.
        return tuple(
            None if tensor is None else grads[name].to(tensor.dtype, copy=True)
            for name, tensor in p._asdict().items()
        )


def gradient_of_z(
    pairs: Pairs,
    grad: torch.Tensor,
    held: torch.Tensor,
    total: torch.Tensor,
    sums: Sums,
    residual: bool,
) -> None:
    """Write the gradient of one leading index into ``total`` and add to ``sums``.

    ``grad`` ``[N, N, c_z]`` belongs to the result; ``held`` ``[C, N, N]`` and ``total`` ``[N, N, c_z]`` are
    contiguous and overwritten, ``total`` in the dtype of sums.
    """
    pairs.measure()
    pairs.multiply(held)
    _through_output(pairs, grad, held, total, sums)
    for channels in pairs.groups():
        _through_products(pairs, channels, held, total, sums)
    _through_norm(pairs, grad if residual else None, total)


def _through_output(
    pairs: Pairs, grad: torch.Tensor, held: torch.Tensor, total: torch.Tensor, sums: Sums
) -> None:
    """Gate, output layer and second norm: x becomes its gradient, ``total`` starts with the gate's share."""
    weights, scratch = pairs.weights, pairs.scratch
    for rows in pairs.blocks():
        x, rstd = pairs.normed_products(held, rows)
        normed = pairs.normed(rows, 0)
        out, gate = pairs.outputs(normed, x)
        shape = grad[rows].shape
        of_out = scratch.block(4, *normed.shape)
        torch.mul(grad[rows], gate.view(shape), out=of_out.view(shape))
        if pairs.factor is not None:
            of_out.view(shape).mul_(pairs.factor[rows])
        of_gate = out.mul_(of_out).mul_(gate.neg_().add_(1.0))
        sums.out.addmm_(of_out.T, x.T)
        sums.out_shift.add_(of_out.sum(0))
        sums.gate.addmm_(of_gate.T, normed)
        sums.gate_shift.add_(of_gate.sum(0))
        torch.mm(of_gate, weights.gate, out=total[rows].view(normed.shape))
        of_x = torch.mm(weights.out.T, of_out.T, out=scratch.block(5, *x.shape))
        share = torch.mul(of_x, x, out=scratch.block(3, *x.shape)).mean(0)
        of_x.sub_(of_x.mean(0)).sub_(x.mul_(share)).mul_(rstd)
        held[:, rows].copy_(of_x.view(held[:, rows].shape))


def _through_products(
    pairs: Pairs, channels: slice, held: torch.Tensor, total: torch.Tensor, sums: Sums
) -> None:
    """Matrix products, gates and projections of some channels."""
    scratch, count = pairs.scratch, channels.stop - channels.start
    a, b = pairs.operands(channels)
    of_x = held[channels]
    if of_x.dtype != a.dtype:
        of_x = scratch.groups[4][:count].copy_(of_x)
    of_a, of_b = scratch.groups[2][:count], scratch.groups[3][:count]
    if pairs.outgoing:
        torch.bmm(of_x, b, out=of_a)
        torch.bmm(of_x.mT, a, out=of_b)
    else:
        torch.bmm(b, of_x.mT, out=of_a)
        torch.bmm(a, of_x, out=of_b)
    weight = pairs.weights.pair[_SWAPPED, channels].reshape(-1, pairs.width)
    product, shift = torch.zeros_like(weight), weight.new_zeros(weight.shape[0])
    for rows in pairs.blocks():
        normed = pairs.normed(rows, 0)
        parts = pairs.projections(normed, channels)
        for target, value, gate in ((of_a, parts[0], parts[1]), (of_b, parts[2], parts[3])):
            own = target[:, rows]
            pairs.hide(own, rows)
            through = own.view(count, -1)
            # value becomes through * value * gate * (1 - gate), gate becomes through * gate.
            value.mul_(gate).mul_(through).addcmul_(value, gate, value=-1.0)
            gate.mul_(through)
        logits = parts.view(4 * count, -1)
        product.addmm_(logits, normed)
        shift.add_(logits.sum(1))
        total[rows].view(normed.shape).addmm_(logits.T, weight)
    sums.pair[:, channels] += product.view(4, count, -1)[_SWAPPED]
    sums.pair_shift[:, channels] += shift.view(4, count)[_SWAPPED]


def _through_norm(pairs: Pairs, grad: torch.Tensor | None, total: torch.Tensor) -> None:
    """The first norm, in place, and the residual's share."""
    scratch = pairs.scratch
    for rows in pairs.blocks():
        own = total[rows]
        normed = pairs.normed(rows, 0).view(own.shape)
        share = torch.mul(own, normed, out=scratch.block(1, *own.shape)).mean(-1, keepdim=True)
        own.sub_(own.mean(-1, keepdim=True)).sub_(normed.mul_(share)).mul_(scratch.rstd[rows].unsqueeze(-1))
        if grad is not None:
            own.add_(grad[rows])
