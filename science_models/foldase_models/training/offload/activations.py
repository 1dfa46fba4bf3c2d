"""What is kept of the forward pass for the backward pass: on the device, elsewhere, or computed anew.

Autograd's saved tensors go through hooks (``torch.autograd.graph.saved_tensors_hooks``). What is small,
belongs to the model, or is no plain tensor stays as it is; of everything else the memory that it is a view of
is copied away, once however many views of it are saved, and comes back when the backward pass needs it, what
was saved before it on its way too. A segment that a model recomputes by itself keeps what it was called with.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from foldase_models.errors import ModelError
from foldase_models.training.offload.spill import DiskSpill, HostSpill, Spill, Spilled
from foldase_models.training.precision import calculating
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.units import unit_modules

LEAST_BYTES = 256 * 2**10
"""Of memory that is worth a way to another place."""
AHEAD = 2
"""How many are fetched before they are asked for."""
LOOKED_AT = 32
"""How many of those saved before are looked at for that, since some may be gone already."""


class Activations:
    """Leaves them on the device."""

    def kept(self) -> AbstractContextManager[object]:
        """Around the forward pass and the loss of one part of the batch."""
        return nullcontext()

    def close(self) -> None:
        """Give back files, buffers and hooks."""


class RecomputedActivations(Activations):
    """Blocks keep only what they are called with, and are computed again in the backward pass."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        """Put a wrapper around the forward method of every block; hooks of modules stay outside of it."""
        self.blocks = blocks_of(model)
        self._precision = surroundings.config.precision
        self._device = surroundings.ledger.device
        for block in self.blocks:
            vars(block)["forward"] = self._recomputed(block.forward)

    def close(self) -> None:
        """Take the wrappers away."""
        for block in self.blocks:
            vars(block).pop("forward", None)
        self.blocks = ()

    def _recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def calculated(*arguments: Any, **named: Any) -> Any:
            # The second time it runs in the backward pass, where nothing but autocast would be as before.
            with calculating(self._precision, self._device):
                return forward(*arguments, **named)

        def recomputed(*arguments: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*arguments, **named)
            return checkpoint(calculated, *arguments, use_reentrant=False, **named)

        return recomputed


class OffloadedActivations(Activations):
    """Large ones leave the device.

    Attributes:
        moved_bytes: that left it in the last forward pass.
        stayed_bytes: of saved tensors that stayed, those of the model left out, every view counted.
    """

    def __init__(self, model: nn.Module, spill: Spill, *, least_bytes: int) -> None:
        """Args: the model whose weights stay where they are, where to put activations, and what is small."""
        self.moved_bytes = self.stayed_bytes = 0
        self._model, self._spill, self._least = model, spill, least_bytes
        self._models_own: set[int] = set()
        self._entries: dict[int, _Known] = {}
        self._order: list[weakref.ref[_Entry]] = []
        units = (module for _, (_, module) in unit_modules(model))
        self._handles = [module.register_forward_pre_hook(self._look) for module in (model, *units)]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, saved tensors leave the device."""
        self.moved_bytes = self.stayed_bytes = 0
        self._entries.clear()
        self._order = []
        self._models_own.clear()
        self._look(self._model, ())
        self._spill.sweep()
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield
        self._entries.clear()

    def close(self) -> None:
        """Give the place back."""
        for handle in self._handles:
            handle.remove()
        self._spill.close()

    def _look(self, module: nn.Module, _arguments: Any) -> None:
        """Weights that are fetched for a call have other memory than before it."""
        for tensor in (*module.parameters(), *module.buffers()):
            if type(tensor) in (torch.Tensor, nn.Parameter):
                self._models_own.add(tensor.untyped_storage()._cdata)

    @torch.no_grad()
    def _pack(self, tensor: torch.Tensor) -> _Stayed | _View:
        if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout != torch.strided:
            return _Stayed(tensor.detach(), None)
        storage = tensor.untyped_storage()
        if storage._cdata in self._models_own:
            return _Stayed(tensor.detach(), None)
        if storage.nbytes() < self._least or tensor.is_conj() or tensor.is_neg():
            self.stayed_bytes += tensor.numel() * tensor.element_size()
            return _Stayed(tensor.detach(), tensor._version)
        entry = self._entry_of(tensor, storage)
        return _View(entry, tensor.dtype, int(tensor.storage_offset()), tensor.size(), tensor.stride())

    def _entry_of(self, tensor: torch.Tensor, storage: torch.UntypedStorage) -> _Entry:
        """The copy of a tensor's memory as it is now: an earlier one, if nothing was written since then."""
        known = self._entries.get(storage._cdata)
        if known is not None:
            entry = known.entry()
            if entry is not None and known.version == tensor._version:
                return entry
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        entry = _Entry(self._spill.keep(whole), self._order)
        weak = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._entries[storage._cdata] = _Known(weak, tensor._version, weakref.ref(entry))
        self.moved_bytes += storage.nbytes()
        return entry


class _Entry:
    """One piece of memory that was copied away; when the last view of it is dropped, the copy is too."""

    def __init__(self, spilled: Spilled, order: list[weakref.ref[_Entry]]) -> None:
        self.spilled = spilled
        self._order, self._number = order, len(order)
        order.append(weakref.ref(self))
        weakref.finalize(self, spilled.forget).atexit = False

    def bytes(self) -> torch.Tensor:
        """On the device again; those saved just before come after it in the backward pass."""
        self.spilled.fetch()
        before = (
            reference()
            for reference in reversed(self._order[max(0, self._number - LOOKED_AT) : self._number])
        )
        for earlier in islice((entry for entry in before if entry is not None), AHEAD):
            earlier.spilled.fetch()
        return self.spilled.bytes()


@dataclass(frozen=True, slots=True)
class _Known:
    """What was last copied of a storage, whose weak reference keeps its identity from being given again."""

    storage: StorageWeakRef
    version: int
    entry: weakref.ref[_Entry]


@dataclass(frozen=True, slots=True)
class _View:
    """A saved tensor that left the device."""

    entry: _Entry
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def restored(self) -> torch.Tensor:
        storage = self.entry.bytes().untyped_storage()
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True, slots=True)
class _Stayed:
    """A saved tensor that did not, and the number of its changes by then, where it may not have more."""

    tensor: torch.Tensor
    version: int | None

    def restored(self) -> torch.Tensor:
        if self.version not in (None, self.tensor._version):
            raise RuntimeError(
                "a tensor that the backward pass needs was changed in place after it was saved"
            )
        return self.tensor


def _unpack(packed: _Stayed | _View) -> torch.Tensor:
    with torch.no_grad():
        return packed.restored()


def make_activations(model: nn.Module, surroundings: Surroundings) -> Activations:
    """What the configuration asks for; after the engine took the model over.

    Raises:
        ModelError: ``bad_config``: nothing in the model can be computed anew; ``bad_disk``.
    """
    offload = surroundings.config.offload
    if offload.activations == "none":
        return Activations()
    if offload.activations == "recompute":
        made = RecomputedActivations(model, surroundings)
        if not made.blocks:
            raise ModelError(
                "the model has no list of blocks, and none marked as a unit, that could be computed anew",
                code="bad_config",
                location="offload.activations",
                hint="set it to cpu or nvme, or put the model's blocks into an nn.ModuleList",
            )
        return made
    spill: Spill
    if offload.activations == "cpu":
        spill = HostSpill(surroundings.ledger, surroundings.clock)
    else:
        assert offload.folder is not None
        spill = DiskSpill(offload.folder, surroundings.ledger, surroundings.clock)
    return OffloadedActivations(model, spill, least_bytes=LEAST_BYTES)


def blocks_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """The outermost units of a model that are made of other modules; a single layer gains nothing."""
    found: list[nn.Module] = []
    inside: set[int] = set()
    for _, (_, module) in unit_modules(model):
        if id(module) not in inside and any(True for _ in module.children()):
            found.append(module)
            inside.update(id(each) for each in module.modules())
    return tuple(found)
