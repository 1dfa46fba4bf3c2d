"""The public transition: checks and choice of a backend."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foldase_kernels.backend_choice import chosen_backend
from foldase_kernels.transition.checks import check_arguments
from foldase_kernels.transition.cpu import transition_cpu, transition_cpu_inplace
from foldase_kernels.transition.parameters import Activation, TransitionParameters
from foldase_kernels.transition.reference import transition_reference

Backend = Callable[
    [torch.Tensor, TransitionParameters, Activation, torch.Tensor | None, bool, float], torch.Tensor
]

_BACKENDS: dict[str, Backend] = {"reference": transition_reference, "cpu": transition_cpu}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(_BACKENDS)


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
    float32 (float64 for float64 inputs).

    Memory of backend ``cpu`` beyond inputs, the result and, in training, the gradients of x and of the
    parameters: at most :func:`foldase_kernels.transition.cpu.scratch_bytes`, 10 MiB where the hidden layer
    would take more than 4 MiB, whatever the number of positions: nothing but the inputs is kept for the
    backward pass, which recomputes. Smaller problems are held whole. Backend ``reference`` always holds the
    hidden layer whole, several times.

    Args:
        x: ``[..., c]``; float32, bfloat16, float16 or float64.
        parameters: of layer norm and linear layers, in any floating dtype; gradients have theirs.
        activation: ``"relu"``, or ``"swiglu"``, which needs ``parameters.weight_gate``.
        mask: boolean, True = real, broadcastable to x without channels; elsewhere the update is 0.
        residual: return ``x + update`` instead of the update.
        inplace: write ``x + update`` into x and return x; inference only.
        epsilon: of the layer norm.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` logs once what it chose.

    Returns:
        The update, or ``x + update``, shaped and typed like x.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), a gradient
            was asked of ``inplace``, or the backend does not exist here.
    """
    check_arguments(x, parameters, activation, mask, epsilon, inplace)
    name = chosen_backend("transition", backend, _BACKENDS, x.device)
    if not inplace:
        return _BACKENDS[name](x, parameters, activation, mask, residual, epsilon)
    if name == "cpu":
        return transition_cpu_inplace(x, parameters, activation, mask, epsilon)
    return x.copy_(_BACKENDS[name](x, parameters, activation, mask, True, epsilon))
