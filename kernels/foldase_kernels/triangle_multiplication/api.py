"""The public triangle multiplication: checks and choice of a backend."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from foldase_kernels.backend_choice import automatic, chosen_backend
from foldase_kernels.operators import no_autocast
from foldase_kernels.triangle_multiplication import cpu, op, triton
from foldase_kernels.triangle_multiplication.checks import check_arguments
from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters
from foldase_kernels.triangle_multiplication.reference import triangle_multiplication_reference
from foldase_kernels.triton_support import DTYPES, is_available

_NAME = "triangle_multiplication"


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return ("reference", *(name for name in op.BACKENDS if name != "triton" or is_available()))


def choose_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What ``backend="auto"`` takes for tensors of a device and dtype that are not too large for it."""
    return automatic(_NAME, device, suits_triton=dtype in DTYPES)


def _new(
    name: str,
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    factor: torch.Tensor | None,
) -> torch.Tensor:
    if name == "reference" or (name == "cpu" and cpu.is_small(z, parameters)):
        with nullcontext() if name == "reference" else no_autocast(z.device):
            return triangle_multiplication_reference(z, parameters, mask, outgoing, residual, factor)
    if factor is not None and name not in op.FACTOR_INSIDE:
        update = (_new(name, z, parameters, mask, outgoing, False, None) * factor).to(z.dtype)
        return z + update if residual else update
    result: torch.Tensor = op.triangle_multiplication(z, *parameters, mask, factor, outgoing, residual, name)
    return result


@torch.no_grad()
def _in_place(
    name: str,
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    _residual: bool,
    factor: torch.Tensor | None,
) -> torch.Tensor:
    if name == "reference" or (factor is not None and name not in op.FACTOR_INSIDE):
        return z.copy_(_new(name, z, parameters, mask, outgoing, True, factor))
    given = () if factor is None else (factor,)
    with no_autocast(z.device):
        op.BACKENDS[name][0](z, parameters, mask, outgoing, True, z, *given)
    return z


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
    float64 inputs), also under autocast, which only ``reference`` follows. Deterministic everywhere. One
    operator to ``torch.compile`` and activation checkpointing, differentiable once, or plain torch; with
    ``inplace`` neither.

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

    Memory of ``triton`` likewise, but backward 2 H, no copy of the gradient, and another S
    (:func:`foldase_kernels.triangle_multiplication.triton.scratch_bound`).

    Args:
        z: pairs ``[..., N, N, c_z]``, N >= 1; float32, bfloat16, float16 or float64; any strides.
        parameters: weights and biases, C hidden channels.
        mask: boolean, True = real, broadcastable to ``[..., N, N]``; other pairs only receive an update.
        outgoing: edge ij from edges ik and jk; else from edges ki and kj.
        residual: return ``z + update``.
        inplace: write ``z + update`` into z's own memory and return z, whatever ``residual`` says. For
            inference: refused where a gradient is needed.
        factor: on the update, broadcastable to z, before z is added: a dropout mask. A constant, without a
            gradient. Backend ``triton`` multiplies outside of its kernels, at the cost of two tensors like z.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` logs once what it chose, on a
            GPU ``triton`` where it can, for the sake of memory (it has run in the interpreter only).

    Returns:
        The update (or ``z + update``), shaped and typed like z; z itself with ``inplace``.

    Raises:
        ValueError: an argument does not fit (it is named), or the backend does not exist here.
    """
    check_arguments(z, parameters, mask, inplace, factor)
    known, suits = ("reference", *op.BACKENDS), triton.suits(z, parameters)
    name = chosen_backend(_NAME, backend, known, z.device, suits_triton=suits)
    return (_in_place if inplace else _new)(name, z, parameters, mask, outgoing, residual, factor)
