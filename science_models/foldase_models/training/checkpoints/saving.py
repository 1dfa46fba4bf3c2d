"""One save, from the plan to the commit; its parts that touch no collective run in any thread."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints import files
from foldase_models.training.checkpoints.commits import StoredFile, read_commit, remove_data, remove_old
from foldase_models.training.checkpoints.notices import Notices
from foldase_models.training.checkpoints.planners import ShardSavePlanner
from foldase_models.training.checkpoints.storage import SafetensorsWriter, results_of
from foldase_models.training.collectives import Collectives
from foldase_models.training.ledger import Ledger, Tier
from foldase_models.training.shards import FlatShard

OWNER = "checkpoint"
"""Of copies and blocks, in the ledger."""
_NO_ROOM = frozenset({"out_of_memory", "memory_cap"})


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks know of a save.

    Attributes:
        plans: of all ranks, in order.
        metadata: of the whole.
    """

    plans: list[SavePlan]
    metadata: Metadata

    def keys_of(self, rank: int) -> list[str]:
        """What a rank writes."""
        return [item.index.fqn for item in self.plans[rank].items]


class Saving:
    """A save under way."""

    def __init__(
        self,
        root: Path,
        step: int,
        folder: str,
        state: Mapping[str, FlatShard],
        values: Mapping[str, Any],
        agreed: Agreed,
        collectives: Collectives,
        ledger: Ledger,
        kept: int,
    ) -> None:
        self.step, self._root, self._folder, self._kept = step, root, folder, kept
        self._agreed, self._ranks, self._clock = agreed, collectives.ranks, collectives.clock
        self._ledger = ledger
        self._notices = Notices(collectives, folder)
        self._writer = SafetensorsWriter(root, step, folder, values, self._notices.told)
        own = set(agreed.keys_of(self._ranks.rank))
        self._state = {key: shard for key, shard in state.items() if key in own}
        self._staged = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def bytes(self) -> int:
        """That a copy of what this rank writes takes, and the block through which it goes to the disk."""
        return files.BLOCK + sum(shard.length * shard.dtype.itemsize for shard in self._state.values())

    def stage(self) -> bool:
        """Copy what this rank writes to main memory, so that the training may go on; False for no room."""
        ledger = self._ledger
        tier: Tier = "pinned" if ledger.device.type == "cuda" else "host"
        staged: dict[str, FlatShard] = {}
        try:
            for key, shard in self._state.items():
                copy = ledger.zeros(tier, OWNER, shard.length, shard.dtype)
                copy.copy_(shard.read(), non_blocking=True)
                staged[key] = replace(shard, read=copy.detach)
            if ledger.device.type == "cuda":
                torch.cuda.current_stream(ledger.device).synchronize()
        except ModelError as error:
            if error.code not in _NO_ROOM:
                raise
            return False
        self._state, self._staged = staged, True
        return True

    def write(self) -> None:
        """Write this rank's file."""
        planner = ShardSavePlanner()
        planner.set_up_planner(dict(self._state))
        plan = planner.finish_plan(self._agreed.plans[self._ranks.rank])
        try:
            self._writer.set_up_storage_writer(self._ranks.first)
            with self._clock.busy("disk"), self._block():
                result = self._writer.write_data(plan, planner).value()[:1]
            file = None if not result else result[0].storage_data.file.to_json()
        except BaseException as error:
            if not self._ranks.first and isinstance(error, FileNotFoundError):
                self._raise_decided()  # rank 0 has failed, and has removed the folder
            self._notices.done({"error": str(error)})
            if self._ranks.first:
                self._give_up(self._told(0, str(error)))
            raise
        finally:
            self._state = {}  # with it goes what was staged
        self._notices.done({"file": file})

    def settle(self) -> None:
        """Make the checkpoint count, on rank 0, or wait until it does.

        Raises:
            ModelError: ``checkpoint_failed``: which rank could not do its part, and why.
            OSError: the commit could not be written.
        """
        if not self._ranks.first:
            self._notices.wait_for("all")
            self._raise_decided()
            return
        try:
            results = []
            for rank, plan in enumerate(self._agreed.plans):
                said = self._notices.wait_for(rank)
                if said.get("error") is not None:
                    raise _failed(self._told(rank, said["error"]))
                results.append(results_of(plan, StoredFile(**said["file"])) if said["file"] else [])
            self._writer.finish(self._agreed.metadata, results)
        except BaseException as error:
            told = error.message if isinstance(error, ModelError) else self._told(0, str(error))
            self._give_up(told)
            raise
        self._notices.decided(None)
        remove_old(self._root, self._kept)
        remove_data(self._root, self.step, but=self._folder)

    def go_on(self) -> None:
        """Do what is left in a thread: writing where the state is staged, settling in any case."""

        def work() -> None:
            try:
                if self._staged:
                    self.write()
                self.settle()
            except BaseException as error:  # noqa: BLE001  # raised again by wait
                self._error = error

        self._thread = threading.Thread(target=work, name=f"checkpoint {self.step}", daemon=True)
        self._thread.start()

    @property
    def going_on(self) -> bool:
        """Whether :meth:`wait` would have to wait."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, *, hurry: bool = False) -> None:
        """Return when it is over; what went wrong meanwhile is raised here."""
        if hurry:
            self._notices.hurry()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @contextmanager
    def _block(self) -> Iterator[None]:
        """Count the memory through which a file is written."""
        self._ledger.add("host", OWNER, files.BLOCK)
        try:
            yield
        finally:
            self._ledger.add("host", OWNER, -files.BLOCK)

    def _told(self, rank: int, error: str) -> str:
        return f"rank {rank} could not write its part of the checkpoint of step {self.step}: {error}"

    def _raise_decided(self) -> None:
        error = self._notices.decision()
        if error is not None:
            # Rank 0 may have removed the folder while this one wrote into it, and then could not.
            self._remove()
            raise _failed(error)

    def _give_up(self, error: str) -> None:
        self._notices.decided(error)
        self._remove()

    def _remove(self) -> None:
        """Of a save that failed nothing stays; each rank sees to that when it writes no more."""
        try:
            counts = read_commit(self._root, self.step).folder == self._folder
        except ModelError:
            counts = False
        if not counts:
            shutil.rmtree(self._root / self._folder, ignore_errors=True)


def _failed(message: str) -> ModelError:
    return ModelError(message, code="checkpoint_failed", hint="the checkpoints before it are untouched")
