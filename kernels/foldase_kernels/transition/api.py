"""The public transition: checks and choice of a backend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foldase_kernels.backend_choice import chosen_backend
from foldase_kernels.operators import no_autocast
from foldase_kernels.transition import op, triton
from foldase_kernels.transition.checks import check_arguments
from foldase_kernels.transition.cpu import transition_cpu, transition_cpu_inplace
from foldase_kernels.transition.parameters import Activation, TransitionParameters
from foldase_kernels.transition.reference import transition_reference
from foldase_kernels.triton_support import is_available

Backend = Callable[
    [torch.Tensor, TransitionParameters, Activation, torch.Tensor | None, bool, float], torch.Tensor
]


def _by_triton(
    x: torch.Tensor,
    parameters: TransitionParameters,
    _activation: Activation,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
) -> torch.Tensor:
    out: torch.Tensor = op.transition(x, *parameters, mask, residual, epsilon, "triton")
    return out


_BACKENDS: dict[str, Backend] = {
    "reference": transition_reference,
    "cpu": transition_cpu,
    "triton": _by_triton,
}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "triton" or is_available())


def transition(
    x: torch.Tensor,
    parameters: TransitionParameters,
    *,
    activation: Activation = "relu",
    mask: torch.Tensor | None = None,
    residual: bool = False,
    inplace: bool = False,
    epsilon: float = 1e-5,
    backend: str = "auto",
) -> torch.Tensor:
    """Layer norm, linear to the hidden width, activation, linear back, for every position.

    Formulas: Jumper et al. 2021, supplement, algorithms 9 and 15 (``"relu"``); Abramson et al. 2024,
    supplement, algorithm 11 (``"swiglu"``). Any strides are taken. Deterministic on every backend; sums are
    float32 (float64 for float64 inputs), also in an autocast region, which changes nothing here. Without
    ``inplace`` it is one operator to ``torch.compile``, FakeTensor and activation checkpointing, or plain
    torch; differentiable once.

    Memory beyond inputs, the result and, in training, the gradients of x and of the parameters, whatever the
    number of positions; nothing but the inputs is kept for the backward pass, which recomputes:

    - ``cpu``: at most :func:`foldase_kernels.transition.cpu.scratch_bytes`, 10 MiB where the hidden layer
      would take more than 4 MiB. Smaller problems are held whole.
    - ``triton``: at most :func:`foldase_kernels.transition.triton.scratch_bytes`. Forward nothing, but
      copies of the weights where their dtype is not that of x; backward float32 sums of groups of positions,
      16 MiB with 128 channels and 512 hidden ones. Takes up to 512 channels, 256 of float32.
    - ``reference`` always holds the hidden layer whole, several times.

    Args:
        x: ``[..., c]``; float32, bfloat16, float16 or float64.
        parameters: of layer norm and linear layers, in any floating dtype; gradients have theirs.
        activation: ``"relu"``, or ``"swiglu"``, which needs ``parameters.weight_gate``.
        mask: boolean, True = real, broadcastable to x without channels; elsewhere the update is 0.
        residual: return ``x + update`` instead of the update.
        inplace: write ``x + update`` into x and return x; inference only.
        epsilon: of the layer norm.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` takes ``cpu`` on the CPU and
            ``triton`` on a GPU where it can, for the sake of memory: its kernels have run in Triton's
            interpreter only, not on a GPU. It logs once what it chose, but not while a graph is traced.

    Returns:
        The update, or ``x + update``, shaped and typed like x.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), a gradient
            was asked of ``inplace``, or the backend does not exist here.
    """
    check_arguments(x, parameters, activation, mask, epsilon, inplace)
    name = chosen_backend("transition", backend, _BACKENDS, x.device, suits_triton=triton.suits(x))
    with no_autocast(x.device):
        if not inplace:
            return _BACKENDS[name](x, parameters, activation, mask, residual, epsilon)
        if name == "cpu":
            return transition_cpu_inplace(x, parameters, activation, mask, epsilon)
        if name == "triton":
            with torch.no_grad():
                triton.transition_forward(x, parameters, mask, True, epsilon, x)
            return x
        return x.copy_(_BACKENDS[name](x, parameters, activation, mask, True, epsilon))
