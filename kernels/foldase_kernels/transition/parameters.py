"""The tensors a transition learns."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Activation = Literal["relu", "swiglu"]


class TransitionParameters(NamedTuple):
    """Weights of one transition, laid out as ``torch.nn.functional.linear`` takes them.

    Attributes:
        norm_weight: of the layer norm, ``[c]``.
        norm_bias: of the layer norm, ``[c]``.
        weight_in: to the hidden layer, ``[h, c]``; with SwiGLU the factor that is not activated.
        bias_in: ``[h]``.
        weight_out: back from the hidden layer, ``[c, h]``.
        bias_out: ``[c]``.
        weight_gate: SwiGLU only, the factor that goes through SiLU, ``[h, c]``.
        bias_gate: SwiGLU only, ``[h]``.
    """

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor | None
    weight_in: torch.Tensor
    bias_in: torch.Tensor | None
    weight_out: torch.Tensor
    bias_out: torch.Tensor | None
    weight_gate: torch.Tensor | None = None
    bias_gate: torch.Tensor | None = None

    def to(self, dtype: torch.dtype) -> TransitionParameters:
        """The same in another dtype; tensors that have it already are not copied."""
        return TransitionParameters(*(None if p is None else p.to(dtype) for p in self))  # type: ignore[arg-type]
