"""Our forms of the modules of an ESMFold in Hugging Face's shape, with its calling conventions.

Each takes the children and parameters of the module it stands in for as its own, so that keys and Parameter
objects stay. Arguments that choose between forms of a computation (chunks, kernels) are taken and change
nothing: there is one form here, and it holds little.

Shapes: B batch, N residues, Q queries, K keys, H heads, W channels of a head, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_kernels.transition import TransitionParameters, transition
from foldase_kernels.triangle_multiplication import triangle_multiplication
from foldase_models.errors import ModelError
from foldase_models.layers.attention import Attention, AttentionWeights, pair_bias
from foldase_models.layers.invariant_point_attention import InvariantPointAttention
from foldase_models.layers.primitives import Linear
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.row_groups import by_rows, rows_of
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.layers.triangle import TriangleMultiplication


class Frames(Protocol):
    """Rigid motions as the other library has them."""

    def get_rots(self) -> Any:
        """Rotations, whose ``get_rot_mats()`` is ``[..., 3, 3]``."""
        ...

    def get_trans(self) -> torch.Tensor:
        """Translations ``[..., 3]``."""
        ...


def adopt(ours: nn.Module, theirs: nn.Module) -> None:
    """Make children, parameters, buffers and hooks of ``theirs`` those of ``ours`` too."""
    nn.Module.__init__(ours)
    for held in ("_parameters", "_buffers", "_modules"):
        setattr(ours, held, dict(getattr(theirs, held)))
    for name, value in vars(theirs).items():
        if "_hook" in name or name == "_non_persistent_buffers_set":
            setattr(ours, name, value)
    ours.training = theirs.training


def _boolean(mask: torch.Tensor | None, location: str) -> torch.Tensor | None:
    """A mask of zeros and ones."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    found = mask != 0
    if not torch.equal(found.to(mask.dtype), mask):
        raise ModelError("the mask has values between 0 and 1", code="bad_mask", location=location)
    return found


def _attention_weights(mha: nn.Module) -> AttentionWeights:
    return Attention.weights(cast("Attention", mha))


class InjectedAttention(Attention):
    """In place of a gated attention with separate projections."""

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self.no_heads = theirs.no_heads

    def forward(  # type: ignore[override]  # called as the other library does
        self, q_x: torch.Tensor, kv_x: torch.Tensor, biases: Sequence[torch.Tensor] | None = None, **_: object
    ) -> torch.Tensor:
        """Attend from ``[..., Q, C]`` to ``[..., K, C]``; biases broadcast to ``[..., H, Q, K]``."""
        if q_x.dim() > 2:
            return self.weights().attend(self.no_heads, q_x, kv_x, biases or (), None)
        rows = [bias.unsqueeze(0) for bias in biases or ()]
        return self.weights().attend(self.no_heads, q_x[None], kv_x[None], rows, None).squeeze(0)


class InjectedTriangleAttention(nn.Module):
    """In place of a triangle attention around the starting or the ending node.

    A row without real keys attends to all, as the softmax of equally lowered scores says; theirs does so too,
    but for rounding, which in float32 makes the mean of all values of it.
    """

    layer_norm: nn.LayerNorm
    linear: Linear
    mha: nn.Module

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self.starting, self.no_heads = theirs.starting, theirs.no_heads

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, *_: object, **__: object
    ) -> torch.Tensor:
        """Update of ``x`` ``[..., N, N, C]``; ``mask`` ``[..., N, N]``, 1 = real."""
        pairs = x if self.starting else x.transpose(-3, -2)
        keys = None
        if mask is not None:
            real = (mask if self.starting else mask.mT) == 1
            keys = (real | ~real.any(-1, keepdim=True))[..., :, None, None, :]
        norm = self.layer_norm
        own = [tensor for tensor in _attention_weights(self.mha) if tensor is not None]
        shape, eps, no_heads, count = norm.normalized_shape, norm.eps, self.no_heads, len(own)

        def compute(part: torch.Tensor, rows: slice, *tensors: torch.Tensor) -> torch.Tensor:
            normed = functional.layer_norm(part, shape, tensors[0], tensors[1], eps)
            weights = AttentionWeights(*tensors[2 : 2 + count])
            seen = None if keys is None else rows_of(keys, rows, -4)
            return weights.attend(no_heads, normed, normed, tensors[2 + count :], seen)

        out = by_rows(compute, pairs, (norm.weight, norm.bias, *own, pair_bias(pairs, norm, self.linear)))
        return out if self.starting else out.transpose(-3, -2)


class InjectedTriangleMultiplication(TriangleMultiplication):
    """In place of a triangle multiplication."""

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self.outgoing = theirs._outgoing

    def forward(  # type: ignore[override]  # called as the other library does
        self,
        z: torch.Tensor,
        mask: torch.Tensor | None = None,
        inplace_safe: bool = False,
        _add_with_inplace: bool = False,
        _inplace_chunk_size: int | None = None,
    ) -> torch.Tensor:
        """Update of ``z`` ``[..., N, N, C]``; ``mask`` ``[..., N, N]``, 1 = real.

        With ``inplace_safe`` it is written into ``z``, with ``_add_with_inplace`` added to it.
        """
        add = inplace_safe and _add_with_inplace
        out = triangle_multiplication(
            z,
            self.parameters_of_update(),
            mask=_boolean(mask, "triangle multiplication"),
            outgoing=self.outgoing,
            residual=add,
            inplace=add,
        )
        return z.copy_(out) if inplace_safe and not add else out


class InjectedTransition(nn.Module):
    """In place of a residual transition, a sequence ``mlp`` of norm, linear, ReLU, linear and dropout."""

    mlp: nn.Sequential

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """New ``x`` ``[..., C]``."""
        layers: list[Any] = list(self.mlp)
        norm, first, _, second, *rest = layers
        drops = any(layer.p > 0 for layer in rest) and self.training
        parameters = TransitionParameters(
            norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias
        )
        out = transition(x, parameters, residual=not drops, epsilon=norm.eps)
        if drops:
            for layer in rest:
                out = layer(out)
            out = x + out
        return out


class InjectedSequenceAttention(nn.Module):
    """In place of a self-attention with one projection, biased by pairs. Attention maps are not made."""

    proj: nn.Linear
    o_proj: nn.Linear
    g_proj: nn.Linear

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self.num_heads, self.gated = theirs.num_heads, theirs.gated

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        indices: None = None,
    ) -> tuple[torch.Tensor, None]:
        """Update ``[B, N, C]`` of ``x``; ``mask`` ``[B, N]``, 1 = real; ``bias`` ``[B, N, N, H]``."""
        heads = (*x.shape[:-1], self.num_heads, -1)
        q, k, v = self.proj(x).view(heads).chunk(3, dim=-1)
        keys = _boolean(mask, "sequence attention")
        out = evoformer_attention(
            q,
            k,
            v,
            () if bias is None else (bias.movedim(-1, -3),),
            mask=None if keys is None else keys[:, None, None, :],
            gate=self.g_proj(x).view(heads) if self.gated else None,
        )
        return self.o_proj(out.flatten(-2)), None


class InjectedPointAttention(InvariantPointAttention):
    """In place of invariant point attention; masked residues too attend to real ones only."""

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self.dims = point_dims(theirs)

    def forward(  # type: ignore[override]  # called as the other library does
        self,
        s: torch.Tensor,
        z: torch.Tensor,
        r: Frames,
        mask: torch.Tensor,
        _offload_inference: bool = False,
        _z_reference_list: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Update of ``s`` ``[..., N, C]``; ``z`` ``[..., N, N, c_z]``, ``r`` and ``mask`` ``[..., N]``."""
        frames = Rigid(r.get_rots().get_rot_mats(), r.get_trans())
        return super().forward(s, z, frames, _boolean(mask, "invariant point attention"))


def point_dims(theirs: Any) -> StructureDims:
    """Widths of an invariant point attention, by the shapes of its parameters."""
    heads = theirs.head_weights.numel()
    points = theirs.linear_q_points.out_features // (3 * heads)
    return StructureDims(
        c_s=theirs.linear_q.in_features,
        c_z=theirs.linear_b.in_features,
        c_ipa=theirs.linear_q.out_features // heads,
        no_heads_ipa=heads,
        no_qk_points=points,
        no_v_points=theirs.linear_kv_points.out_features // (3 * heads) - points,
        epsilon=theirs.config.epsilon if hasattr(theirs, "config") else theirs.eps,
    )


class InjectedLanguageAttention(nn.Module):
    """In place of the self-attention of an ESM encoder. Attention maps are not made.

    While training with dropout of attention, which ours has not, the module it stands in for computes.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(self, theirs: Any) -> None:
        adopt(self, theirs)
        self._theirs = (theirs,)  # no child: its keys are ours
        self.heads = theirs.num_attention_heads

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[B, N, C]`` from ``[B, N, C]``; the mask boolean or added to scores, ``[B, 1, 1 or N, N]``."""
        theirs = self._theirs[0]
        if encoder_hidden_states is not None or (self.training and theirs.dropout > 0):
            theirs.train(self.training)
            found: tuple[torch.Tensor, torch.Tensor | None] = theirs(
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                position_embeddings,
                **kwargs,
            )
            return found
        heads = (*hidden_states.shape[:-1], self.heads, -1)
        q, k, v = (layer(hidden_states).view(heads) for layer in (self.query, self.key, self.value))
        if position_embeddings is not None:
            q, k = (_rotated(x, *position_embeddings) for x in (q, k))
        added = attention_mask is not None and attention_mask.dtype != torch.bool
        out = evoformer_attention(
            q,
            k,
            v,
            (attention_mask,) if attention_mask is not None and added else (),
            mask=None if added else attention_mask,
        )
        return out.flatten(-2), None


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """``x`` ``[B, N, H, W]``, turned; cosine and sine ``[B or 1, N, W]`` of angles, both halves alike."""
    half = x.shape[-1] // 2
    cosine, sine = cosine[..., :half].unsqueeze(-2), sine[..., :half].unsqueeze(-2)
    first, second = (x if x.dtype == torch.float64 else x.float()).chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)
