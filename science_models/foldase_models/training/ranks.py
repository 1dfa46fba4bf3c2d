"""The processes of one training: which of them this is, and the group that joins them.

Whoever starts the processes sets the variables of torch.distributed (``RANK``, ``WORLD_SIZE``,
``MASTER_ADDR``, ``MASTER_PORT``): ``torchrun`` does, a gang of the platform does, and where nobody does
there is one process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from foldase_models.errors import ModelError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those of a training. Use it as a context, which leaves the group at its end.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
        device: where it computes.
        store: where the processes leave each other notes; None for a single one.
        deadline_seconds: how long a collective operation may wait for the others.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None
    deadline_seconds: float = 300.0

    @classmethod
    def from_environment(
        cls,
        *,
        deadline_seconds: float = 300.0,
        device: torch.device | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ranks:
        """Join the group that the environment names; a single process where it names none.

        Raises:
            ModelError: ``bad_ranks``: some of the variables are missing or make no sense, or the others did
                not come within the deadline.
        """
        given = os.environ if environment is None else environment
        size = _number(given, "WORLD_SIZE", 1, at_least=1) if "WORLD_SIZE" in given or "RANK" in given else 1
        if size == 1:
            return cls(device=device or _own_device(0), deadline_seconds=deadline_seconds)
        missing = [name for name in _NEEDED if not given.get(name)]
        if missing:
            raise ModelError(
                f"the environment names no {', '.join(missing)}",
                code="bad_ranks",
                hint="start the processes with torchrun, or as a gang of the platform",
            )
        rank = _number(given, "RANK", 0, at_least=0, below=size)
        port = _number(given, "MASTER_PORT", 0, at_least=1, below=2**16)
        device = device or _own_device(_number(given, "LOCAL_RANK", rank, at_least=0))
        # torchrun keeps the store itself, which its own form of address knows.
        address = f"tcp://{given['MASTER_ADDR']}:{port}" if environment is not None else "env://"
        limit = timedelta(seconds=deadline_seconds)
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            store, rank, size = next(iter(rendezvous(address, rank, size, timeout=limit)))
            # Operations on the CPU (notes, flags) go by gloo also where tensors lie on GPUs.
            kind = backend if backend == "gloo" else "cpu:gloo,cuda:nccl"
            dist.init_process_group(kind, store=store, rank=rank, world_size=size, timeout=limit)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"rank {rank} of {size} could not join the others: {str(error).splitlines()[0]}",
                code="bad_ranks",
                hint=f"all {size} processes must start within {deadline_seconds:g} s and reach "
                f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}",
            ) from error
        return cls(rank, size, device, PrefixStore("foldase", store), deadline_seconds)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and reports for all."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """Which of so many equal parts of the work are this rank's."""
        return range(self.rank, parts, self.size)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _number(
    given: Mapping[str, str], name: str, default: int, *, at_least: int, below: float = math.inf
) -> int:
    told = given.get(name, str(default))
    try:
        number = int(told)
    except ValueError:
        number = at_least - 1
    if not at_least <= number < below:
        limit = "" if below == math.inf else f" and below {below}"
        raise ModelError(
            f"{name} must be a number of at least {at_least}{limit}, got {told!r}",
            code="bad_ranks",
            location=name,
            hint="start the processes with torchrun, or as a gang of the platform",
        )
    return number


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
