"""The definition: signs and scales in plain torch, exact in float64, a block at a time."""

from __future__ import annotations

import torch

from foldase_kernels.sign_pack.problem import LANES, Backend, Decoding, Encoding


@torch.no_grad()
def _encode(problem: Encoding) -> None:
    z = problem.alpha * problem.values + problem.error
    travels = _travels(problem.mask, z)
    positive = (z >= 0) | ~travels
    for number, first in enumerate(range(0, z.numel(), problem.block)):
        block = slice(first, first + problem.block)
        sent = z[block][travels[block]].double()
        problem.scales[number] = sent.abs().mean() if sent.numel() else 0.0
    decoded = _signed(positive, problem.scales, problem.block)
    problem.error.copy_(torch.where(travels, z - decoded, 0.0))
    problem.bits.copy_(_pack(positive))


@torch.no_grad()
def _decode(problem: Decoding) -> None:
    decoded = _signed(_unpack(problem.bits), problem.weight * problem.scales, problem.block)
    decoded = torch.where(_travels(problem.mask, decoded), decoded, 0.0)
    problem.out.copy_(problem.out + decoded if problem.add else decoded)


@torch.no_grad()
def _pack_mask(source: torch.Tensor, mask: torch.Tensor) -> None:
    mask.copy_(_pack(source != 0))


def _signed(positive: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    """Each coordinate's scale with its sign."""
    own = scales.repeat_interleave(block)[: positive.numel()]
    return torch.where(positive, own, -own)


def _travels(mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Which coordinates travel, as booleans."""
    return torch.ones_like(like, dtype=torch.bool) if mask is None else _unpack(mask)


def _pack(flags: torch.Tensor) -> torch.Tensor:
    """Element 8k + j to bit j of byte k."""
    lanes = torch.arange(LANES, dtype=torch.uint8, device=flags.device)
    return (flags.view(-1, LANES).to(torch.uint8) << lanes).sum(1, dtype=torch.uint8)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The booleans that :func:`_pack` packed."""
    lanes = torch.arange(LANES, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> lanes) & 1).view(-1).bool()


REFERENCE = Backend(_encode, _decode, _pack_mask)
