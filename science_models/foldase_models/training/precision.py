"""Calculating in bfloat16: products by autocast, norms in float32 on every kind of device.

A module whose class says ``computes_in_float32 = True`` keeps float32 parameters, all inside it included, and
leaves autocast by itself: frames and distances do not survive half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foldase_models.training.config import Precision

_NORMS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.layer_norm,
        functional.group_norm,
        functional.rms_norm,
        functional.batch_norm,
        functional.instance_norm,
        torch.layer_norm,
        torch.group_norm,
        torch.rms_norm,
        torch.batch_norm,
        torch.instance_norm,
    }
)


def parameter_dtypes(model: nn.Module, precision: Precision) -> dict[str, torch.dtype]:
    """What the parameters of a model are cast to while it is trained, by their first name.

    Frozen ones that have another dtype than float32 keep it.
    """
    lowered = torch.bfloat16 if precision == "bfloat16" else torch.float32
    wide = {id(own) for module in model.modules() if stays_wide(module) for own in module.parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        cast = parameter.requires_grad or parameter.dtype == torch.float32
        dtype = torch.float32 if id(parameter) in wide else lowered
        found[name] = dtype if cast else parameter.dtype
    return found


def stays_wide(module: nn.Module) -> bool:
    """Whether a module computes in float32 whatever the precision of the training is."""
    return bool(getattr(module, "computes_in_float32", False))


@contextmanager
def calculating(precision: Precision, device: torch.device) -> Iterator[None]:
    """Around whatever calls a model whose parameters have :func:`parameter_dtypes`.

    In float32 nothing happens. In bfloat16, autocast chooses the dtype of each operation. On a CPU it leaves
    norms alone, which then refuse inputs and weights of two dtypes; here they are computed in float32, as
    autocast has them on a GPU.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16), _Float32Norms():
        yield


class _Float32Norms(TorchFunctionMode):
    """Norms take and give float32 where what they are given has more than one dtype."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function in _NORMS:
            dtypes = {value.dtype for value in (*args, *named.values()) if _floating(value)}
            if len(dtypes) > 1:
                args = tuple(_widened(value) for value in args)
                named = {name: _widened(value) for name, value in named.items()}
        return function(*args, **named)


def _floating(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _widened(value: Any) -> Any:
    return value.float() if _floating(value) else value
