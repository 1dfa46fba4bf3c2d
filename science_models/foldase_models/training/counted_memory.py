"""All live tensors of a training counted at every operation, beside what the ledger knows.

Costs tens of microseconds an operation: on where a training has a cap, or a test asks for it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch.utils._python_dispatch import TorchDispatchMode

from foldase_models.errors import ModelError
from foldase_models.training.ledger import ACTIVATIONS, Known, Ledger, Tier

_TRANSFERS = frozenset({"copy_", "_to_copy", "_copy_from", "set_", "resize_", "_pin_memory", "is_pinned"})
"""Operations by which tensors come from other tiers, and views, which move nothing."""


class CountedMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every storage that an operation takes or gives in the ledger, until it is freed.

    What has no owner there counts as activations, so that the ledger's peaks and its cap are those of
    everything. Only operations of the thread that entered it, and of the backward passes it starts, are seen,
    and no scratch memory of a kernel. Storages that change their size are measured anew when an operation
    takes or gives them, and all of them before the cap is declared broken.

    In a forward or backward pass, a tensor that the ledger knows to lie in main memory must not take part in
    anything but a transfer.

    Raises:
        ModelError: out of the operation: ``memory_cap``, or ``wrong_tier``.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self._entered = 0

    def __enter__(self) -> CountedMemory:
        self._entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            # Tensors made of tensors (DTensor) take their operations apart first; the parts come here.
            return NotImplemented
        named = dict(kwargs or {})
        checks = self.ledger.in_computation and not _moves(function)
        for tensor in _tensors((*args, *named.values())):
            known = self.ledger.note(tensor)
            if checks and known.tier != "device" and known.owner != ACTIVATIONS:
                raise _wrong_tier(function, known)
        result = self._run(function, args, named)
        for tensor in _tensors((result,)):
            self.ledger.note(tensor)
        return result

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._entered -= 1
        if not self._entered:  # else an operator of ours was looked into, and the counting goes on
            self.ledger.forget_activations()

    def _run(self, function: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if function.namespace != "foldase":
            return function(*args, **named)
        # An operator of ours is looked into: its kernel is called below this mode, what it does under it.
        key = DispatchKey.CPU if self.ledger.device.type == "cpu" else DispatchKey.CUDA
        with self:
            return function.redispatch(DispatchKeySet(key), *args, **named)


def _wrong_tier(function: Any, known: Known) -> ModelError:
    return ModelError(
        f"a tensor of {known.owner} that lies in the {known.tier} tier entered {function} in a forward or "
        "backward pass",
        code="wrong_tier",
        location=known.owner,
        hint="copy it to the device first, or calculate inside Ledger.apart()",
    )


def _moves(function: Any) -> bool:
    return function.is_view or function._schema.name.removeprefix("aten::") in _TRANSFERS


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.device.type != "meta":
                yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def peaks_of(ledger: Ledger, work: Callable[[], object]) -> Mapping[Tier, int]:
    """The most bytes that each tier held, activations among them, while ``work()`` ran or before."""
    gc.collect()
    with CountedMemory(ledger):
        work()
    return ledger.peaks()
