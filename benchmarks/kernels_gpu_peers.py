"""The systems that are timed: foldase's backends, torch's own, and other libraries where they are installed.

Every system gets its inputs in the layout it likes best, made before the clock runs, and computes attention
with one pair bias and one key mask. A system that is not installed or refuses a shape raises; that is noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kernels_gpu_shapes import Shape

SEED = 7
MASKED_SHARE = 0.1


@dataclass
class Inputs:
    """q, k, v ``[rows, length, heads, width]``, bias ``[heads, length, length]``, mask ``[rows, length]``."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor
    mask: torch.Tensor
    dout: torch.Tensor


@dataclass
class Prepared:
    """A system ready to run: tensors that get gradients, the call, and how to read its result."""

    leaves: list[torch.Tensor]
    run: Callable[[], torch.Tensor]
    dout: torch.Tensor
    to_ours: Callable[[torch.Tensor], torch.Tensor]


def make_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> Inputs:
    """The same numbers for every system and every process."""
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, device=device, dtype=dtype)

    full = (shape.rows, shape.length, shape.heads, shape.width)
    mask = torch.rand(shape.rows, shape.length, generator=generator, device=device) >= MASKED_SHARE
    mask[:, 0] = True  # libraries differ over rows without any key
    bias = normal(shape.heads, shape.length, shape.length)
    return Inputs(normal(*full), normal(*full), normal(*full), bias, mask, normal(*full))


def _leaves(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.detach().contiguous().requires_grad_() for tensor in tensors]


def _heads_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2)


def foldase(backend: str) -> Callable[[Inputs], Prepared]:
    """One of our backends."""

    def prepare(inputs: Inputs) -> Prepared:
        from foldase_kernels import evoformer_attention

        q, k, v, bias = leaves = _leaves(inputs.q, inputs.k, inputs.v, inputs.bias)
        mask = inputs.mask[:, None, None, :]
        return Prepared(
            leaves,
            lambda: evoformer_attention(q, k, v, (bias,), mask=mask, backend=backend),
            inputs.dout,
            lambda out: out,
        )

    return prepare


def sdpa(backend: str) -> Callable[[Inputs], Prepared]:
    """Torch's scaled_dot_product_attention; bias and mask are joined inside the clock, as a model would."""

    def prepare(inputs: Inputs) -> Prepared:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        q, k, v = (_heads_first(tensor) for tensor in (inputs.q, inputs.k, inputs.v))
        q, k, v, bias = leaves = _leaves(q, k, v, inputs.bias)
        refused = ~inputs.mask[:, None, None, :]

        def run() -> torch.Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                joined = bias.expand(q.shape[0], -1, -1, -1).masked_fill(refused, float("-inf"))
                return scaled_dot_product_attention(q, k, v, attn_mask=joined)

        return Prepared(leaves, run, _heads_first(inputs.dout).contiguous(), _heads_first)

    return prepare


def flex(inputs: Inputs) -> Prepared:
    """Torch's FlexAttention, compiled, with the bias captured by its score function."""
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = (_heads_first(tensor) for tensor in (inputs.q, inputs.k, inputs.v))
    q, k, v, bias = leaves = _leaves(q, k, v, inputs.bias)
    mask = inputs.mask

    def score(value, row, head, query, key):
        return torch.where(mask[row, key], value + bias[head, query, key], -float("inf"))

    torch._dynamo.reset()  # past its limit of recompilations it would silently run eagerly
    compiled = torch.compile(flex_attention, dynamic=False)
    return Prepared(
        leaves,
        lambda: compiled(q, k, v, score_mod=score),
        _heads_first(inputs.dout).contiguous(),
        _heads_first,
    )


def cuequivariance(inputs: Inputs) -> Prepared:
    """triangle_attention of cuEquivariance."""
    from cuequivariance_torch import triangle_attention

    q, k, v = (_heads_first(tensor)[None] for tensor in (inputs.q, inputs.k, inputs.v))
    q, k, v, bias = leaves = _leaves(q, k, v, inputs.bias[None, None])
    mask = inputs.mask[None, :, None, None, :]
    return Prepared(
        leaves,
        lambda: triangle_attention(q, k, v, bias, mask=mask),
        _heads_first(inputs.dout)[None].contiguous(),
        lambda out: _heads_first(out[0]),
    )


def trifast(inputs: Inputs) -> Prepared:
    """triangle_attention of trifast: square only; its mask is True where a key is left out."""
    from trifast import triangle_attention

    def rows_third(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(2, 0, 1, 3)[None]

    if inputs.q.shape[0] != inputs.q.shape[1]:
        raise ValueError("takes as many rows as positions only")
    q, k, v = (rows_third(tensor) for tensor in (inputs.q, inputs.k, inputs.v))
    q, k, v, bias = leaves = _leaves(q, k, v, inputs.bias[None])
    refused = ~inputs.mask[None]
    return Prepared(
        leaves,
        lambda: triangle_attention(q, k, v, bias, refused),
        rows_third(inputs.dout).contiguous(),
        lambda out: out[0].permute(1, 2, 0, 3),
    )


def deepspeed(inputs: Inputs) -> Prepared:
    """DS4Sci_EvoformerAttention of DeepSpeed; its mask is a bias of its own."""
    from deepspeed.ops.deepspeed4science import DS4Sci_EvoformerAttention

    q, k, v = (tensor[None] for tensor in (inputs.q, inputs.k, inputs.v))
    q, k, v, bias = leaves = _leaves(q, k, v, inputs.bias[None, None])
    refused = torch.zeros_like(inputs.mask, dtype=q.dtype).masked_fill(~inputs.mask, -1e9)
    refused = refused[None, :, None, None, :]
    return Prepared(
        leaves,
        lambda: DS4Sci_EvoformerAttention(q, k, v, [refused, bias]),
        inputs.dout[None].contiguous(),
        lambda out: out[0],
    )


SYSTEMS: dict[str, Callable[[Inputs], Prepared]] = {
    "foldase cuda": foldase("cuda"),
    "foldase triton": foldase("triton"),
    "SDPA efficient": sdpa("EFFICIENT_ATTENTION"),
    "SDPA cuDNN": sdpa("CUDNN_ATTENTION"),
    "FlexAttention": flex,
    "cuEquivariance": cuequivariance,
    "trifast": trifast,
    "DS4Sci": deepspeed,
}

REHEARSED: dict[str, Callable[[Inputs], Prepared]] = {
    "foldase cpu": foldase("cpu"),
    "foldase cuda": foldase("cuda"),
    "SDPA math": sdpa("MATH"),
    "trifast": trifast,
}
"""What a rehearsal on the CPU runs; those that cannot work there show how a refusal is noted."""
