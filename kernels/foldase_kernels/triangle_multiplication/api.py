"""The public triangle multiplication: checks and choice of a backend."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.triangle_multiplication.checks import check_arguments
from foldase_kernels.triangle_multiplication.cpu import (
    triangle_multiplication_cpu,
    triangle_multiplication_cpu_,
)
from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters
from foldase_kernels.triangle_multiplication.reference import triangle_multiplication_reference
from foldase_kernels.triangle_multiplication.triton import (
    is_available,
    triangle_multiplication_triton,
    triangle_multiplication_triton_,
)

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()

_BACKENDS = {
    "reference": triangle_multiplication_reference,
    "cpu": triangle_multiplication_cpu,
    "triton": triangle_multiplication_triton,
}
_IN_PLACE = {"cpu": triangle_multiplication_cpu_, "triton": triangle_multiplication_triton_}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "triton" or is_available())


def choose_backend(device: torch.device) -> str:
    """What ``backend="auto"`` takes for tensors of a device; logged once per device type."""
    chosen = "cpu" if device.type == "cpu" else "reference"
    if device.type not in _reported:
        _reported.add(device.type)
        _log.info("triangle_multiplication on %s uses backend %r", device.type, chosen)
    return chosen


def _name(backend: str, device: torch.device) -> str:
    if backend == "auto":
        return choose_backend(device)
    if backend not in _BACKENDS:
        raise ValueError(
            f"backend {backend!r} is not available; expected auto, {', '.join(available_backends())}"
        )
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    return backend


def triangle_multiplication(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    *,
    mask: torch.Tensor | None = None,
    outgoing: bool = True,
    residual: bool = False,
    inplace: bool = False,
    factor: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Update every pair from all triangles that it closes.

    Jumper et al. 2021, supplement, algorithms 11 (outgoing) and 12 (incoming); the formulas stand in
    :mod:`foldase_kernels.triangle_multiplication.reference`. Norms, gates and sums are float32 (float64 for
    float64 inputs). Deterministic on every backend.

    Memory of the ``cpu`` backend, beyond z and the parameters; U is the size of z, H that of
    ``[N, N, C]`` in its dtype (float32 for float16), both for one leading index:

    - forward: the result, once for all leading indices; H unless ``C <= c_z`` and z is not float16, for
      then the hidden products lie in the result's own memory; and scratch S;
    - in place: H and S;
    - backward: the gradient of z, once for all leading indices; H; scratch S; for bfloat16 and float16 also
      a float32 copy of the gradient (2 U). Between the passes only z itself is kept.

    S (:func:`foldase_kernels.triangle_multiplication.cpu_tiles.scratch_bound`) is at most the sum of: the
    larger of a quarter of ``[N, N, C]`` and 4 MiB, but no fewer than 3 channels (backward 5); 2 numbers a
    pair; 9 (backward 12) blocks of ``max(1024, N)`` pairs; 2 (4) copies of the parameters; all in the dtype
    of sums. Problems whose hidden products take less than
    :data:`foldase_kernels.triangle_multiplication.cpu.SMALL_PRODUCTS` are computed at once instead.

    Args:
        z: pairs ``[..., N, N, c_z]``, N >= 1; float32, bfloat16, float16 or float64; any strides.
        parameters: weights and biases, C hidden channels.
        mask: boolean, True where a pair is real, broadcastable to ``[..., N, N]``; pairs that are not real
            give nothing to others. Their own update is still computed.
        outgoing: edge ij from edges ik and jk; else from edges ki and kj.
        residual: return ``z + update``.
        inplace: write ``z + update`` into z's own memory and return z, whatever ``residual`` says. For
            inference: refused where a gradient is needed.
        factor: on the update, broadcastable to z, before z is added: a dropout mask. A constant, without a
            gradient.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` logs once what it chose; it
            never takes ``triton``, whose kernels have run in Triton's interpreter only, not on a GPU.

    Returns:
        The update (or ``z + update``), shaped and typed like z; z itself with ``inplace``.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), or the
            backend does not exist here.
    """
    check_arguments(z, parameters, mask, inplace, factor)
    name = _name(backend, z.device)
    if inplace:
        return _in_place(name, z, parameters, mask, outgoing, factor)
    return _updated(name, z, parameters, mask, outgoing, residual, factor)


@torch.no_grad()
def _in_place(
    name: str,
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    factor: torch.Tensor | None,
) -> torch.Tensor:
    if name == "cpu":
        return triangle_multiplication_cpu_(z, parameters, mask, outgoing, factor)
    if factor is None and name in _IN_PLACE:
        return _IN_PLACE[name](z, parameters, mask, outgoing)
    return z.copy_(_updated(name, z, parameters, mask, outgoing, True, factor))


def _updated(
    name: str,
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    factor: torch.Tensor | None,
) -> torch.Tensor:
    if factor is None:
        return _BACKENDS[name](z, parameters, mask, outgoing, residual)
    if name == "cpu":
        return triangle_multiplication_cpu(z, parameters, mask, outgoing, residual, factor)
    update = (_BACKENDS[name](z, parameters, mask, outgoing, False) * factor).to(z.dtype)
    return z + update if residual else update
