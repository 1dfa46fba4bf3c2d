"""The transition in plain torch: the definition that every other backend is tested against.

With ``y = LayerNorm(x)`` the update is ``W_out relu(W_in y + b_in) + b_out`` (Jumper et al. 2021, supplement,
algorithms 9 and 15) or ``W_out (silu(W_gate y + b_gate) * (W_in y + b_in)) + b_out`` (Abramson et al. 2024,
supplement, algorithm 11). The hidden layer is held whole. Works in float64, so that ``gradcheck`` applies.
"""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, linear, silu

from foldase_kernels.transition.parameters import Activation, TransitionParameters


def transition_reference(
    x: torch.Tensor,
    parameters: TransitionParameters,
    activation: Activation,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
) -> torch.Tensor:
    """The update of x, or with ``residual`` the new x; shapes as in the API."""
    wide = torch.promote_types(x.dtype, torch.float32)
    p = parameters.to(wide)
    normed = layer_norm(x.to(wide), (x.shape[-1],), p.norm_weight, p.norm_bias, epsilon)
    hidden = linear(normed, p.weight_in, p.bias_in)
    if activation == "swiglu":
        assert p.weight_gate is not None
        hidden = silu(linear(normed, p.weight_gate, p.bias_gate)) * hidden
    else:
        hidden = torch.relu_(hidden)
    out = linear(hidden, p.weight_out, p.bias_out)
    if mask is not None:
        out = out * mask.unsqueeze(-1)
    if residual:
        out = x + out
    return out.to(x.dtype)
