"""Which modules ours can stand in for, by their parts, and random input that tells the two apart.

A policy looks at names and shapes only. Whether the module computes what these suggest is for its check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foldase_models.injection import modules
from foldase_models.layers.rigid import Rigid

LENGTH = 7
"""Residues of the random input; the last one is padding."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward pass."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one kind of module is found, replaced and checked.

    Attributes:
        kind: what it computes.
        fits: whether a module has the parts.
        make: ours, from theirs.
        call: random arguments for a module, drawn by a generator, in a dtype, on a device.
        compare: the part of a result that is compared.
    """

    kind: str
    fits: Callable[[nn.Module], bool]
    make: Callable[[nn.Module], nn.Module]
    call: Callable[[Any, Draw], Call]
    compare: Callable[[Any], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Draw:
    """Random tensors of one dtype on one device."""

    generator: torch.Generator
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(dtype=self.dtype, device=self.device)

    def mask(self) -> torch.Tensor:
        """Of residues, boolean ``[1, N]``."""
        return (torch.arange(LENGTH, device=self.device) < LENGTH - 1).unsqueeze(0)

    def pair_mask(self) -> torch.Tensor:
        """Of pairs, 0 and 1, ``[1, N, N]``."""
        mask = self.mask().to(self.dtype)
        return mask.unsqueeze(1) * mask.unsqueeze(2)


def _has_linears(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def _has_norms(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), nn.LayerNorm) for name in names)


def _has_attributes(module: nn.Module, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _is_attention(module: Any) -> bool:
    return (
        _has_linears(module, "linear_q", "linear_k", "linear_v", "linear_o")
        and _has_attributes(module, "no_heads", "linear_g")
        and (module.linear_g is None or isinstance(module.linear_g, nn.Linear))
        and all(layer.bias is None for layer in (module.linear_q, module.linear_k, module.linear_v))
        and module.linear_q.out_features % module.no_heads == 0
    )


def _is_triangle_attention(module: Any) -> bool:
    return (
        _has_norms(module, "layer_norm")
        and _has_linears(module, "linear")
        and _has_attributes(module, "mha", "starting", "no_heads")
        and _is_attention(module.mha)
        and module.linear.bias is None
        and module.linear.out_features == module.no_heads == module.mha.no_heads
    )


_GATED_SIDES = ("linear_a_p", "linear_a_g", "linear_b_p", "linear_b_g", "linear_g", "linear_z")


def _is_triangle_multiplication(module: Any) -> bool:
    return (
        _has_linears(module, *_GATED_SIDES)
        and _has_norms(module, "layer_norm_in", "layer_norm_out")
        and isinstance(getattr(module, "_outgoing", None), bool)
    )


def _is_transition(module: Any) -> bool:
    if [name for name, _ in module.named_children()] != ["mlp"] or not isinstance(module.mlp, nn.Sequential):
        return False
    layers = list(module.mlp)
    return (
        len(layers) in (4, 5)
        and isinstance(layers[0], nn.LayerNorm)
        and isinstance(layers[1], nn.Linear)
        and isinstance(layers[3], nn.Linear)
        and not list(layers[2].parameters())
        and all(isinstance(layer, nn.Dropout) for layer in layers[4:])
        and layers[1].in_features == layers[3].out_features
    )


def _is_sequence_attention(module: Any) -> bool:
    return (
        _has_linears(module, "proj", "o_proj")
        and _has_attributes(module, "num_heads", "gated")
        and module.proj.out_features == 3 * module.proj.in_features
        and module.proj.in_features % module.num_heads == 0
        and (not module.gated or _has_linears(module, "g_proj"))
    )


_POINT_LINEARS = ("linear_q", "linear_kv", "linear_q_points", "linear_kv_points", "linear_b", "linear_out")


def _is_point_attention(module: Any) -> bool:
    return (
        _has_linears(module, *_POINT_LINEARS)
        and isinstance(getattr(module, "head_weights", None), nn.Parameter)
        and (hasattr(module, "eps") or hasattr(getattr(module, "config", None), "epsilon"))
    )


def _is_language_attention(module: Any) -> bool:
    return (
        _has_linears(module, "query", "key", "value")
        and _has_attributes(
            module, "num_attention_heads", "attention_head_size", "position_embedding_type", "dropout"
        )
        and not getattr(module, "is_causal", False)
        and not hasattr(module, "rotary_embeddings")
        and module.query.out_features == module.num_attention_heads * module.attention_head_size
    )


def _call_attention(module: Any, draw: Draw) -> Call:
    x = draw.normal(2, LENGTH, module.linear_q.in_features)
    bias = draw.normal(1, module.no_heads, LENGTH, LENGTH)
    return (x, x), {"biases": [bias]}


def _call_pairs(width: int, draw: Draw) -> Call:
    return (draw.normal(1, LENGTH, LENGTH, width),), {"mask": draw.pair_mask()}


def _call_sequence(module: Any, draw: Draw) -> Call:
    x = draw.normal(1, LENGTH, module.proj.in_features)
    return (x,), {"mask": draw.mask(), "bias": draw.normal(1, LENGTH, LENGTH, module.num_heads)}


def _call_points(module: Any, draw: Draw) -> Call:
    s = draw.normal(1, LENGTH, module.linear_q.in_features)
    z = draw.normal(1, LENGTH, LENGTH, module.linear_b.in_features)
    frames = Rigid.from_tensor_7(draw.normal(1, LENGTH, 7))
    return (s, z, _TheirFrames(frames), draw.mask().to(draw.dtype)), {}


def _call_language(module: Any, draw: Draw) -> Call:
    x = draw.normal(1, LENGTH, module.query.in_features)
    angles = draw.normal(1, LENGTH, module.attention_head_size // 2).repeat(1, 1, 2)
    seen = torch.zeros(1, 1, 1, LENGTH, dtype=draw.dtype, device=draw.device)
    seen = seen.masked_fill(~draw.mask()[:, None, None], torch.finfo(draw.dtype).min)
    rotary = module.position_embedding_type == "rotary"
    positions = (angles.cos(), angles.sin()) if rotary else None
    return (x,), {"attention_mask": seen.expand(-1, -1, LENGTH, -1), "position_embeddings": positions}


class _TheirRotations:
    def __init__(self, rigid: Rigid) -> None:
        self._rigid = rigid

    def get_rot_mats(self) -> torch.Tensor:
        return self._rigid.rotation


class _TheirFrames:
    """Our motions with the methods that an invariant point attention calls on theirs."""

    def __init__(self, rigid: Rigid) -> None:
        self._rigid = rigid

    def get_rots(self) -> _TheirRotations:
        return _TheirRotations(self._rigid)

    def get_trans(self) -> torch.Tensor:
        return self._rigid.translation

    def __getitem__(self, index: Any) -> _TheirFrames:
        return _TheirFrames(self._rigid[index])

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        return self._rigid.apply(points)

    def invert_apply(self, points: torch.Tensor) -> torch.Tensor:
        return self._rigid.apply_inverse(points)


def _all(result: torch.Tensor) -> torch.Tensor:
    return result


def _first(result: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return result[0]


def _real(result: torch.Tensor) -> torch.Tensor:
    """Of residues that are no padding; what others get means nothing."""
    return result[:, : LENGTH - 1]


def _real_pairs(result: torch.Tensor) -> torch.Tensor:
    """Of pairs of such residues."""
    return result[:, : LENGTH - 1, : LENGTH - 1]


POLICIES: Mapping[str, Policy] = {
    policy.kind: policy
    for policy in (
        Policy(
            "triangle attention",
            _is_triangle_attention,
            modules.InjectedTriangleAttention,
            lambda module, draw: _call_pairs(module.linear.in_features, draw),
            _real_pairs,
        ),
        Policy(
            "triangle multiplication",
            _is_triangle_multiplication,
            modules.InjectedTriangleMultiplication,
            lambda module, draw: _call_pairs(module.linear_a_p.in_features, draw),
            _all,
        ),
        Policy(
            "transition",
            _is_transition,
            modules.InjectedTransition,
            lambda module, draw: ((draw.normal(2, LENGTH, module.mlp[1].in_features),), {}),
            _all,
        ),
        Policy(
            "sequence attention",
            _is_sequence_attention,
            modules.InjectedSequenceAttention,
            _call_sequence,
            _first,
        ),
        Policy(
            "invariant point attention",
            _is_point_attention,
            modules.InjectedPointAttention,
            _call_points,
            _real,
        ),
        Policy(
            "language attention",
            _is_language_attention,
            modules.InjectedLanguageAttention,
            _call_language,
            _first,
        ),
        Policy("attention", _is_attention, modules.InjectedAttention, _call_attention, _all),
    )
}
"""By kind; a module is of the first kind whose parts it has."""
