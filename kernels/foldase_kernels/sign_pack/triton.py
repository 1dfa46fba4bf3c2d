"""Packing and unpacking on a GPU by Triton: a program for each block, which it reads and writes once."""

from __future__ import annotations

from typing import Any

import torch

from foldase_kernels import triton_support
from foldase_kernels.sign_pack.problem import LANES, Backend, Decoding, Encoding, block_count

MASK_BLOCK = 4096
"""Coordinates that one program packs of a mask, which has no scales."""

COORDINATES_PER_WARP = 512
"""16 for each thread; not yet measured on a GPU."""


def _encode(problem: Encoding) -> None:
    vectors = (problem.values, problem.error, problem.bits, problem.scales, problem.mask)
    _launch("encode", "values", problem.values, problem.block, *vectors, numbers=(problem.alpha,))


def _decode(problem: Decoding) -> None:
    vectors = (problem.bits, problem.scales, problem.out, problem.mask)
    numbers = (problem.weight,)
    _launch("decode", "out", problem.out, problem.block, *vectors, numbers=numbers, ADD=problem.add)


def _pack_mask(source: torch.Tensor, mask: torch.Tensor) -> None:
    _launch("pack_mask", "source", source, MASK_BLOCK, source, mask)


def _launch(
    kernel: str,
    name: str,
    whole: torch.Tensor,
    block: int,
    *vectors: torch.Tensor | None,
    numbers: tuple[float, ...] = (),
    **constants: Any,
) -> None:
    """Run a kernel over the blocks of the vector of coordinates, ``whole``, an argument called ``name``."""
    triton_support.check_runs_here(name, whole)
    if whole.numel() == 0:
        return
    found = triton_support.kernels("foldase_kernels.sign_pack.triton_kernels", kernel, whole.device)
    with torch.cuda.device_of(whole):  # type: ignore[no-untyped-call]
        getattr(found, kernel)[(block_count(whole.numel(), block),)](
            *vectors,
            whole.numel() // LANES,
            *numbers,
            **constants,
            BLOCK=block,
            num_warps=max(1, min(16, block // COORDINATES_PER_WARP)),
            num_stages=1,
            # Products are rounded before they are added to, as they are in the other backends.
            enable_fp_fusion=False,
        )


TRITON = Backend(_encode, _decode, _pack_mask)
