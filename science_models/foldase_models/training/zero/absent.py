"""What stands in a model for a parameter whose elements are not there at the moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foldase_models.errors import ModelError

_TELLING = frozenset(
    {"__get__", "__set__", "__repr__", "size", "dim", "numel", "stride", "element_size", "is_floating_point"}
    | {"is_complex", "__len__", "ndimension", "nelement", "is_contiguous", "get_device"}
)


class Absent(nn.Parameter):
    """Knows shape, dtype and device, and whose it is; holds no memory. Computing with it is an error.

    Raises:
        ModelError: ``not_gathered``, from any operation.
    """

    _unit: str
    _name: str

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer what is asked about it, refuse the rest."""
        if getattr(func, "__name__", "") in _TELLING:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        flat = [*args, *(kwargs or {}).values()]
        inside = [one for group in flat if isinstance(group, list | tuple) for one in group]
        found = next((one for one in [*flat, *inside] if isinstance(one, Absent)), None)
        name, unit = ("a parameter", "?") if found is None else (found._name, found._unit)
        raise ModelError(
            f"{name} was used outside a call of its unit, {unit!r}",
            code="not_gathered",
            location=name,
            hint="at stage 3 weights are there inside Engine.forward and Engine.averaged, those of a unit "
            "while it is called: give the module that uses them to "
            "foldase_models.training.zero.units.as_unit; for trained weights ask Trainer.result",
        )


def absent(name: str, unit: str, parameter: nn.Parameter, dtype: torch.dtype) -> Absent:
    """What stands for a parameter of a unit while it is away."""
    # One element for all of them: the shape is right, and there is no memory behind it.
    nothing = torch.full((), float("nan"), dtype=dtype, device=parameter.device).expand(parameter.shape)
    made = torch.Tensor._make_subclass(Absent, nothing, parameter.requires_grad)
    assert isinstance(made, Absent)
    made._name, made._unit = name, unit
    return made
