"""What was injected, how close it is, and the way back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Replacement:
    """One module that ours stands in for.

    Attributes:
        name: where it is in the model.
        kind: what it computes.
        absolute_error: largest difference of results on random input, with the model's own weights.
        relative_error: the largest difference as a share of the largest result, the larger one of the model's
            own weights and of random ones.
    """

    name: str
    kind: str
    absolute_error: float
    relative_error: float


@dataclass(slots=True)
class InjectionReport:
    """Of one injection.

    Attributes:
        model: that has our modules until :meth:`revert`.
        replacements: in the order of the model.
    """

    model: nn.Module
    replacements: tuple[Replacement, ...]
    _originals: dict[str, nn.Module]

    @property
    def kinds(self) -> dict[str, int]:
        """How many modules of each kind were replaced."""
        return dict(Counter(replacement.kind for replacement in self.replacements))

    @property
    def relative_error(self) -> float:
        """The largest of all replacements."""
        return max(replacement.relative_error for replacement in self.replacements)

    def revert(self) -> None:
        """Put the very modules back that were there before; done once, it does no more."""
        while self._originals:
            name, original = self._originals.popitem()
            replace_module(self.model, name, original)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for provenance."""
        return {
            "kinds": self.kinds,
            "relative_error": self.relative_error,
            "modules": {
                replacement.name: [replacement.absolute_error, replacement.relative_error]
                for replacement in self.replacements
            },
        }


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where another is, in its mode."""
    parent, _, child = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    model.get_submodule(parent)._modules[child] = module
