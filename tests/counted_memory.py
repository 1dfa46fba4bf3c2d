"""Bytes of tensors alive at once, counted at every operation."""

from __future__ import annotations

import gc
import weakref

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made while it is on and still alive, and their peak.

    Tensors made before do not count. It does not see scratch inside one operator: torch's fused attention
    keeps a few kilobytes a thread.
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.foreign: set[int] = set()
        self.current = 0
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._leave_out(leaf.untyped_storage())
        result = self._run(function, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _run(self, function, args, kwargs):
        if function.namespace != "foldase":
            return function(*args, **kwargs)
        # An operator of ours is looked into: its kernel is called below this mode, what it does under it.
        with self:
            return function.redispatch(DispatchKeySet(DispatchKey.CPU), *args, **kwargs)

    def _leave_out(self, storage):
        key = storage._cdata
        if key in self.alive or key in self.foreign:
            return
        self.foreign.add(key)
        # Its address may soon be that of another storage, which counts.
        weakref.finalize(storage, self.foreign.discard, key)

    def _count(self, storage):
        key = storage._cdata
        if key in self.alive or key in self.foreign or storage.nbytes() == 0:
            return
        self.alive[key] = storage.nbytes()
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key):
        self.current -= self.alive.pop(key, 0)


class LivePairs(LiveBytes):
    """Also counts the storages of ``whole`` bytes, those of z, that are alive at once."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole
        self.most = 0

    def _count(self, storage):
        super()._count(storage)
        self.most = max(self.most, sum(size == self.whole for size in self.alive.values()))


def peak_of(work):
    """The peak while ``work()`` runs; its result counts until it returns."""
    gc.collect()
    counter = LiveBytes()
    with counter:
        result = work()
    del result
    return counter.peak
