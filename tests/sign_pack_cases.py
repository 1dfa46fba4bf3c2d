"""Vectors to be packed into signs, and the definition's answer in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldase_kernels.sign_pack import block_count, decode_, encode_, pack_mask_

TOLERANCE = 3e-7
"""Of scales and errors, relative to the largest magnitude of z: a few roundings of float32."""


@dataclass(frozen=True)
class Packed:
    """What came of a vector."""

    bits: torch.Tensor
    scales: torch.Tensor
    error: torch.Tensor


def draw(count, *, seed=0, tail=1.0):
    """Normal numbers, their magnitudes to the power of ``tail``: the higher it is, the fewer are large."""
    normal = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (normal.sign() * normal.abs() ** tail).float()


def draw_mask(count, *, seed=0, share=0.5):
    """A packed mask in which about a share of the coordinates travels."""
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    mask = torch.empty(count // 8, dtype=torch.uint8)
    pack_mask_((drawn < share).float(), mask, backend="reference")
    return mask


def shown(mask, count):
    """Which coordinates travel, as booleans."""
    if mask is None:
        return torch.ones(count, dtype=torch.bool)
    return torch.tensor([byte >> bit & 1 for byte in mask.tolist() for bit in range(8)], dtype=torch.bool)


def encoded(values, error=None, *, block=4096, **options):
    """The vector packed, with what was lost; nothing that is given is changed."""
    count = values.numel()
    left = torch.zeros_like(values) if error is None else error.clone()
    packed = Packed(
        torch.zeros(count // 8, dtype=torch.uint8), values.new_zeros(block_count(count, block)), left
    )
    encode_(values, left, packed.bits, packed.scales, block=block, **options)
    return packed


def decoded(packed, *, out=None, **options):
    """What the bits and scales stand for, in new memory or in ``out``."""
    out = torch.full_like(packed.error, torch.nan) if out is None else out
    decode_(packed.bits, packed.scales, out, **options)
    return out


def exact(values, error, **options):
    """The definition in float64."""
    return encoded(values.double(), error.double(), **options, backend="reference")


def assert_close(found, truth, largest):
    """Bits alike, scales and errors within the tolerance."""
    assert torch.equal(found.bits, truth.bits)
    for ours, theirs in ((found.scales, truth.scales), (found.error, truth.error)):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=TOLERANCE * largest)
