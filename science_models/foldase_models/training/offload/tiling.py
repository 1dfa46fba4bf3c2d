"""Large linear layers as a sequence of small ones, so that no more than one tile has to be on the device.

At stage 3 a unit's weights and gradients are whole while it is at work, so that the largest linear layer
decides the memory; as ``tiles`` layers one after the other, each a unit of its own, it takes that much less
(memory-centric tiling: Rajbhandari et al. 2021, arXiv:2104.07857, section 5.1.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.zero.units import as_unit

Along = Literal["rows", "columns"]


class TiledLinear(nn.Module):
    """What an ``nn.Linear`` computes, tile by tile.

    Attributes:
        in_features, out_features: of the whole layer.
        along: ``rows`` of the weight, whose tiles give parts of the output, each by the very products of the
            whole layer; or its ``columns``, whose tiles take parts of the input and are summed in float32.
        tiles: the layers; with ``columns`` the first one has the bias.
    """

    def __init__(self, linear: nn.Linear, tiles: int, *, along: Along = "rows") -> None:
        """Take the weights of a layer over, which is of no use afterwards.

        Args:
            linear: the layer; its weights may lie on any device, ``meta`` too.
            tiles: how many; sizes differ by one at most.
            along: which dimension of the weight is cut.

        Raises:
            ModelError: ``bad_config``: there are not as many rows or columns.
        """
        super().__init__()
        self.in_features, self.out_features, self.along = linear.in_features, linear.out_features, along
        length = self.out_features if along == "rows" else self.in_features
        if not 1 <= tiles <= length:
            raise ModelError(
                f"a layer of {length} {along} cannot be cut into {tiles} tiles",
                code="bad_config",
                location="tiles",
                hint=f"take 1 to {length}",
            )
        self.tiles = nn.ModuleList(as_unit(self._tile_of(linear, *span)) for span in spans(length, tiles))
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if self.along == "rows":
            return torch.cat([tile(x) for tile in self.tiles], dim=-1)
        total: torch.Tensor | None = None
        dtype = x.dtype
        for tile, (start, stop) in zip(self.tiles, spans(self.in_features, len(self.tiles)), strict=True):
            part = tile(x[..., start:stop])
            dtype = part.dtype
            wide = part if dtype == torch.float64 else part.float()
            total = wide if total is None else total + wide
        assert total is not None
        return total.to(dtype)

    def extra_repr(self) -> str:
        """As of a linear layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, along={self.along}"

    def plain(self) -> nn.Linear:
        """One layer with the weights of all tiles."""
        first = self.tiles[0]
        assert isinstance(first, nn.Linear)
        made = nn.Linear(self.in_features, self.out_features, bias=first.bias is not None, device="meta")
        state = {name: parameter.detach() for name, parameter in self.tiles.named_parameters()}
        for name, joined in self.joined(state).items():
            trained = first.get_parameter(name).requires_grad
            made.register_parameter(name, nn.Parameter(joined, requires_grad=trained))
        return made.train(self.training)

    def joined(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``weight`` and ``bias`` of tensors named ``0.weight``, ``0.bias``, ``1.weight`` and so on."""
        numbers = range(len(self.tiles))
        weights = [state[f"{number}.weight"] for number in numbers]
        found = {"weight": torch.cat(weights, dim=0 if self.along == "rows" else 1)}
        biases = [state[f"{number}.bias"] for number in numbers if f"{number}.bias" in state]
        if biases:
            found["bias"] = torch.cat(biases)
        return found

    def cut(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of :meth:`joined`; views."""
        length = self.out_features if self.along == "rows" else self.in_features
        found: dict[str, torch.Tensor] = {}
        for number, (start, stop) in enumerate(spans(length, len(self.tiles))):
            for name, whole in state.items():
                part = self._part(name, whole, start, stop)
                if part is not None:
                    found[f"{number}.{name}"] = part
        return found

    def _part(self, name: str, whole: torch.Tensor, start: int, stop: int) -> torch.Tensor | None:
        if self.along == "rows":
            return whole[start:stop]
        if name == "weight":
            return whole[:, start:stop]
        return whole if start == 0 else None

    def _tile_of(self, linear: nn.Linear, start: int, stop: int) -> nn.Linear:
        rows = stop - start if self.along == "rows" else self.out_features
        columns = self.in_features if self.along == "rows" else stop - start
        tile = nn.Linear(columns, rows, bias=False, device="meta")
        for name, parameter in linear.named_parameters():
            part = self._part(name, parameter.detach(), start, stop)
            if part is not None:
                own = part.clone(memory_format=torch.contiguous_format)
                tile.register_parameter(name, nn.Parameter(own, requires_grad=parameter.requires_grad))
        return tile


def tile_linears(model: nn.Module, *, largest: int, along: Along = "rows") -> tuple[str, ...]:
    """Replace large linear layers by tiles, before the model is given to a trainer.

    Left as they are: layers with a parameter that another module has too, layers with hooks, and subclasses
    of ``nn.Linear``. Code that reads the ``weight`` of a layer instead of calling it finds none any more.

    Args:
        model: changed in place.
        largest: elements that the weight of a tile may have; a row, or column, is not cut.
        along: as for :class:`TiledLinear`.

    Returns:
        The names of the layers that were replaced.

    Raises:
        ModelError: ``bad_config``: ``largest`` is below 1.
    """
    if largest < 1:
        raise ModelError(
            f"largest is {largest}", code="bad_config", location="largest", hint="take 1 or more"
        )
    shared = _shared(model)
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and name
        and module.weight.numel() > largest
        and not any(id(parameter) in shared for parameter in module.parameters())
        and not _hooked(module)
    ]
    for name, module in chosen:
        length = module.out_features if along == "rows" else module.in_features
        tiles = min(length, -(-length // max(1, largest * length // module.weight.numel())))
        _replace(model, name, TiledLinear(module, tiles, along=along))
    return tuple(name for name, _ in chosen)


def untile_linears(model: nn.Module) -> None:
    """Put plain layers with the same weights back into the places of tiled ones."""
    for name, tiled in list(_tiled(model)):
        _replace(model, name, tiled.plain())


def plain_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict, or a trainer's result, by the names that the model without tiles has.

    Args:
        model: with tiles; only its structure counts.
        state: by its names; may have parts only, but all tiles of a layer or none.
    """
    found = dict(state)
    for name, tiled in _tiled(model):
        prefix = f"{name}.tiles."
        own = {key.removeprefix(prefix): found.pop(key) for key in list(found) if key.startswith(prefix)}
        if own:
            found |= {f"{name}.{key}": joined for key, joined in tiled.joined(own).items()}
    return found


def tiled_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`plain_state`; tensors of tiles are views."""
    found = dict(state)
    for name, tiled in _tiled(model):
        keys = [key for key in (f"{name}.weight", f"{name}.bias") if key in found]
        own = {key.removeprefix(f"{name}."): found.pop(key) for key in keys}
        found |= {f"{name}.tiles.{key}": part for key, part in tiled.cut(own).items()}
    return found


def spans(length: int, parts: int) -> list[tuple[int, int]]:
    """Where each of so many parts begins and ends."""
    return list(pairwise(length * number // parts for number in range(parts + 1)))


def _tiled(model: nn.Module) -> Iterator[tuple[str, TiledLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, TiledLinear):
            yield name, module


def _shared(model: nn.Module) -> set[int]:
    """Identities of parameters that have more than one place, also where a module has more than one."""
    seen: set[int] = set()
    shared: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


def _hooked(module: nn.Module) -> bool:
    kinds = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(kinds)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, module)
