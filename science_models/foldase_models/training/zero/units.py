"""Which modules of a model fetch their parameters together, at stage 3. Pure logic.

A unit is a module whose parameters are gathered when it is called and freed after it. By default the elements
of every outermost ``nn.ModuleList`` are units, and so are the elements of an ``nn.Sequential`` that repeats
one kind of block; what lies outside of them is the root's unit, which stays gathered for the whole of a
forward and backward pass. A module that was given to :func:`as_unit` is a unit too, and nothing inside it is
one unless it was given as well: that makes a large linear a unit of its own, and keeps together what ranks
may branch in differently. So is a module that computes in float32, as a unit has one dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from foldase_models.training.precision import stays_wide

ROOT = "the rest of the model"
"""Name of the root's unit."""
_MARK = "_foldase_unit"

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Holding:
    """A parameter and all places in the model that name it.

    Attributes:
        name: the first of its names in the model.
        parameter: itself.
        places: modules and the names they have it by.
    """

    name: str
    parameter: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Parameters that are fetched together.

    Attributes:
        name: of the module in the model, or :data:`ROOT`.
        module: whose call they are fetched for; the whole model for the root's.
        holdings: the parameters, each tensor once; those without elements are left out.
    """

    name: str
    module: nn.Module
    holdings: tuple[Holding, ...]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by name."""
        return {holding.name: holding.parameter for holding in self.holdings}


@dataclass(slots=True)
class _Found:
    """What a walk through the model found of one parameter."""

    name: str
    parameter: nn.Parameter
    places: dict[tuple[int, str], tuple[nn.Module, str]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)


def as_unit(module: ModuleT) -> ModuleT:
    """Make a module a unit; gives it back.

    Its parameters may be used inside its own call only. Ranks may branch differently inside it, where a
    branch between units would have one rank wait for others that never come.
    """
    setattr(module, _MARK, True)
    return module


def is_marked(module: nn.Module) -> bool:
    """Whether a module was given to :func:`as_unit`."""
    return bool(getattr(module, _MARK, False))


def find_units(model: nn.Module, *, dissolve_shared: bool = False) -> tuple[Unit, ...]:
    """The units of a model in the order of the model, the root's last; those without parameters left out.

    Every parameter is in one unit: the innermost around all its places if that is one and the same, else the
    root's, as for parameters that units share and for modules that lie in two of them.

    Args:
        model: to look at.
        dissolve_shared: whether a unit that shares a parameter with the rest of the model becomes part of the
            root's, all of it.
    """
    modules = dict(unit_modules(model))
    while True:
        found = _walk(model, modules)
        if not dissolve_shared:
            break
        shared = {owner for one in found for owner in one.owners if len(one.owners) > 1} & modules.keys()
        if not shared:
            break
        modules = {key: named for key, named in modules.items() if key not in shared}
    held: dict[int, list[Holding]] = {key: [] for key in modules}
    rest: list[Holding] = []
    for one in found:
        if one.parameter.numel():
            owner = next(iter(one.owners)) if len(one.owners) == 1 else id(model)
            held.get(owner, rest).append(Holding(one.name, one.parameter, tuple(one.places.values())))
    units = [Unit(name, module, tuple(held[key])) for key, (name, module) in modules.items() if held[key]]
    return (*units, Unit(ROOT, model, tuple(rest)))


def unit_modules(model: nn.Module) -> Iterator[tuple[int, tuple[str, nn.Module]]]:
    """Identity, name and module of every unit but the root's, outer ones before those inside them."""
    seen: set[int] = set()

    def inside(module: nn.Module, path: str, automatic: bool) -> Iterator[tuple[int, tuple[str, nn.Module]]]:
        repeats = automatic and _repeats(module)
        for name, child in module.named_children():
            where = f"{path}.{name}" if path else name
            # A list inside a list is never called itself.
            called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
            repeated = repeats and called and any(True for _ in child.parameters())
            chosen = is_marked(child) or stays_wide(child) or repeated
            if chosen and id(child) not in seen:
                seen.add(id(child))
                yield id(child), (where, child)
            yield from inside(child, where, automatic and not chosen)

    yield from inside(model, "", not is_marked(model))


def _repeats(module: nn.Module) -> bool:
    """Whether the elements of a module are blocks of one kind, to be fetched one after the other."""
    if isinstance(module, nn.ModuleList):
        return True
    if not isinstance(module, nn.Sequential):
        return False
    kinds = [type(child) for child in module if any(True for _ in child.children())]
    return any(kinds.count(kind) > 1 for kind in kinds)


def _walk(model: nn.Module, units: dict[int, tuple[str, nn.Module]]) -> list[_Found]:
    """Every parameter with its places, and the units that these lie in, along every path to them."""
    found: dict[int, _Found] = {}

    def visit(module: nn.Module, path: str, owner: int) -> None:
        owner = id(module) if id(module) in units else owner
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            where = f"{path}.{name}" if path else name
            one = found.setdefault(id(parameter), _Found(where, parameter))
            one.places[(id(module), name)] = (module, name)
            one.owners[owner] = where
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{path}.{name}" if path else name, owner)

    visit(model, "", id(model))
    return list(found.values())
