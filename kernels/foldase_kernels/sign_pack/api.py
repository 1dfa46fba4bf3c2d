"""The public packing and unpacking: checks and choice of a backend.

Karimireddy et al. 2019 (arXiv:1901.09847), error feedback with scaled signs, a scale for each block::

    z = alpha values + error          scale = mean |z| over the coordinates of the block that travel
    decoded = +scale where z >= 0, -scale elsewhere          error = z - decoded

The mean of magnitudes is the scale of the least squares: of k coordinates, ``|error|^2 = |z|^2 - k scale^2``,
so that every error is smaller than what it is the error of. The scale ``|z| / sqrt(k)``, which is also in
use, has none such bound: where few coordinates are large, its errors outgrow z.
"""

from __future__ import annotations

import torch

from foldase_kernels.sign_pack.backends import backend_for
from foldase_kernels.sign_pack.checks import STATE, check_decoding, check_encoding, check_mask
from foldase_kernels.sign_pack.problem import Decoding, Encoding


def encode_(
    values: torch.Tensor,
    error: torch.Tensor,
    bits: torch.Tensor,
    scales: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    alpha: float = 1.0,
    block: int = 4096,
    backend: str = "auto",
) -> None:
    """Pack ``alpha * values + error`` and keep as the new error what :func:`decode_` will not give back.

    Element ``8 k + j`` is bit j of byte k; 1 is plus, and so are 0 and -0. A coordinate that does not travel
    counts nothing towards its block's scale, has bit 1 and error 0, whatever its values are. A block in which
    none travels has scale 0.

    Scales are summed up in float64, so that they neither overflow nor depend on the order but for the last
    bit, in which backends may differ, as they do in whether ``alpha * values + error`` is rounded once or
    twice. One backend on one device gives the same bits for the same call, with any number of threads. A
    block's error is shorter than its z, unless z is so small that the scale rounds to 0; then it is z.

    What is not finite spoils the scale and the errors of its block for good. Whoever sends bits has to agree
    with all others first that everything is finite.

    ``triton`` takes no memory beyond its arguments and reads and writes each of them once; its kernels have
    run in Triton's interpreter only, not on a GPU. ``torch`` takes up to 8 MiB of scratch on a CPU and
    64 MiB elsewhere, on any device that has float64. ``reference`` makes several copies of everything.

    Args:
        values: ``[n]``, float32, contiguous like all others; n a multiple of 8, also 0.
        error: ``[n]``, float32: what the last call left; replaced.
        bits: ``[n / 8]``, uint8, written.
        scales: ``[ceil(n / block)]``, float32, written; see :func:`foldase_kernels.sign_pack.block_count`.
        mask: ``[n / 8]``, uint8, as from :func:`pack_mask_`: 1 for coordinates that travel. None: all.
        alpha: what the values are multiplied with.
        block: coordinates that share a scale, a power of two from 256 to 16384; the last block may be
            shorter.
        backend: ``"auto"`` or a name from :func:`foldase_kernels.sign_pack.available_backends`. ``auto``
            takes ``triton`` on a GPU where it is installed, else ``torch``; it logs once what it chose.

    Raises:
        ValueError: an argument does not fit (it is named), two share memory, or the backend does not exist
            here.
    """
    problem = Encoding(values, error, bits, scales, mask, alpha, block)
    check_encoding(problem, dtypes=_dtypes(backend))
    backend_for(backend, values.device).encode(problem)


def decode_(
    bits: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    weight: float = 1.0,
    add: bool = False,
    block: int = 4096,
    backend: str = "auto",
) -> None:
    """Write what :func:`encode_` packed, times ``weight``, or add it; 0 for what does not travel.

    Every backend gives the same bits: ``weight * scale`` is rounded to float32 once, and the sum once more.

    Args:
        bits: ``[n / 8]``, uint8.
        scales: ``[ceil(n / block)]``, float32.
        out: ``[n]``, float32.
        mask: the one that was given to :func:`encode_`.
        weight: such as one over the number of vectors of which a mean is taken.
        add: add to ``out`` instead of replacing it.
        block: the one that was given to :func:`encode_`.
        backend: as for :func:`encode_`.

    Raises:
        ValueError: as for :func:`encode_`.
    """
    problem = Decoding(bits, scales, out, mask, weight, add, block)
    check_decoding(problem, dtypes=_dtypes(backend))
    backend_for(backend, out.device).decode(problem)


def pack_mask_(source: torch.Tensor, mask: torch.Tensor, *, backend: str = "auto") -> None:
    """Write a mask for :func:`encode_`: the coordinates of which ``source`` is not 0 travel.

    Args:
        source: ``[n]``, float32, n a multiple of 8; such as a second moment, which is 0 where no gradient
            ever came.
        mask: ``[n / 8]``, uint8.
        backend: as for :func:`encode_`.

    Raises:
        ValueError: as for :func:`encode_`.
    """
    check_mask(source, mask, dtypes=_dtypes(backend))
    backend_for(backend, source.device).pack_mask(source, mask)


def _dtypes(backend: str) -> tuple[torch.dtype, ...]:
    """The definition is computed in float64 too."""
    return (STATE, torch.float64) if backend == "reference" else (STATE,)
