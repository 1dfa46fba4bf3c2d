"""The public outer product mean: checks and choice of a backend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foldase_kernels.backend_choice import chosen_backend
from foldase_kernels.operators import no_autocast
from foldase_kernels.outer_product_mean import op, triton
from foldase_kernels.outer_product_mean.checks import check_arguments
from foldase_kernels.outer_product_mean.cpu import outer_product_mean_cpu, outer_product_mean_cpu_into
from foldase_kernels.outer_product_mean.reference import outer_product_mean_reference
from foldase_kernels.triton_support import is_available

Backend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, float], torch.Tensor
]


def _by_triton(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    out: torch.Tensor = op.outer_product_mean(a, b, weight, bias, weights, epsilon, "triton")
    return out


_BACKENDS: dict[str, Backend] = {
    "reference": outer_product_mean_reference,
    "cpu": outer_product_mean_cpu,
    "triton": _by_triton,
}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "triton" or is_available())


def outer_product_mean(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    weights: torch.Tensor | None = None,
    epsilon: float = 1e-3,
    residual: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Weighted mean over sequences of outer products of columns i and j, projected to the pair channels.

    ``(weight vec(sum_s r_si r_sj a_si b_sj^T) + bias) / (sum_s r_si r_sj + epsilon)``, ``r = sqrt(weights)``
    (Jumper et al. 2021, supplement, algorithm 10). Any strides are taken. Deterministic on every backend;
    sums are float32 (float64 for float64 inputs), also in an autocast region, which changes nothing here.
    Without ``residual`` it is one operator to ``torch.compile``, FakeTensor and activation checkpointing, or
    plain torch; differentiable once. Backend ``cpu`` forms outer products in tiles, or lets the weight meet
    one factor first where that takes fewer products, as with few sequences.

    Memory beyond inputs, the result and, in training, the gradients asked for; nothing but the inputs is kept
    for the backward pass, which recomputes:

    - ``cpu``: at most :func:`foldase_kernels.outer_product_mean.cpu.scratch_bytes`, 12 MiB and three times
      the weight where outer products would take more than 4 MiB, whatever the number of sequences or
      residues (half precision adds float32 sums of the gradients). Smaller problems are held whole.
    - ``triton``: at most :func:`foldase_kernels.outer_product_mean.triton.scratch_bytes`. One float32 number
      a pair where ``weights`` are given; backward float32 sums of groups of pairs, 18 MiB with 32 channels to
      128. Takes up to 128 channels to 256.
    - ``reference`` holds all outer products twice, ``N * N * C * C`` numbers each.

    Args:
        a: left factor, normed and projected, ``[..., S, N, C]``; float32, bfloat16, float16 or float64.
        b: right factor, shaped and typed like a.
        weight: ``[c_z, C * C]`` in any floating dtype, the channels of a slower than those of b.
        bias: ``[c_z]``, or None; divided by the count like everything else.
        weights: how much each position counts, broadcastable to ``[..., S, N]``: a boolean mask, or numbers
            from 0. A pair counts with the geometric mean. Constants, without a gradient. None: all 1.
        epsilon: added to the count.
        residual: the pair representation ``[..., N, N, c_z]``, to which the update is added in place;
            inference only.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` takes ``cpu`` on the CPU and
            ``triton`` on a GPU where it can, for the sake of memory: its kernels have run in Triton's
            interpreter only, not on a GPU. It logs once what it chose, but not while a graph is traced.

    Returns:
        The update ``[..., N, N, c_z]`` in the dtype of a, or ``residual``.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), a gradient
            was asked where ``residual`` is given, or the backend does not exist here. Negative weights are
            found on the CPU only.
    """
    check_arguments(a, b, weight, bias, weights, epsilon, residual)
    suits = triton.suits(a, weight)
    name = chosen_backend("outer_product_mean", backend, _BACKENDS, a.device, suits_triton=suits)
    if weights is not None:
        weights = weights.expand(a.shape[:-1])
    with no_autocast(a.device):
        if residual is None:
            return _BACKENDS[name](a, b, weight, bias, weights, epsilon)
        if name == "cpu":
            return outer_product_mean_cpu_into(residual, a, b, weight, bias, weights, epsilon)
        if name == "triton":
            with torch.no_grad():
                triton.outer_product_mean_forward(a, b, weight, bias, weights, epsilon, residual, add=True)
            return residual
        return residual.add_(_BACKENDS[name](a, b, weight, bias, weights, epsilon))
