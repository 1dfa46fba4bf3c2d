"""Bytes that a process holds and sends, counted alike for every system that trains."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COLLECTIVES = ("c10d", "_c10d_functional")
_SILENT = ("wait", "barrier")


class Sent(TorchDispatchMode):
    """Counts what the collective operations inside it send through this rank, whoever calls them.

    As :mod:`foldase_models.training.collectives` counts its own: the ring algorithms send (N - 1) / N of the
    whole tensor, twice that for an all-reduce (Patarasuk and Yuan 2009). The whole one is the largest of the
    operation's tensors: what a gather makes, and what a scatter is given.

    Attributes:
        bytes: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, and count it where it sends."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again, as operations on what lies here
        found = func(*args, **(kwargs or {}))
        space, _, name = str(func).partition(".")
        if space in _COLLECTIVES and not any(word in name for word in _SILENT):
            ranks = dist.get_world_size()
            whole = max(_size(part) for part in (*args, found))
            times = 2 if "allreduce" in name or "all_reduce" in name else 1
            self.bytes += times * whole * (ranks - 1) / ranks
        return found


def _size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def held() -> int:
    """Bytes of all tensors that this process can reach, on whatever tier; shared memory counts once."""
    gc.collect()
    found: dict[int, int] = {}
    # Our stage 3 has parameters that refuse to be used between the calls of their layer.
    with torch._C.DisableTorchFunctionSubclass():
        for tensor in _tensors():
            if tensor.device.type != "meta":
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def _tensors() -> Iterator[torch.Tensor]:
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            # A gradient that no one asked for has no object of Python yet.
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None:
                    yield tensor.to_local() if isinstance(tensor, DTensor) else tensor
