"""The checkpoints of one run: saved beside the training, loaded at any stage and on any number of ranks.

Ranks plan together once, in the thread that trains; after that a save needs no collective operation, so that
it can go on in a thread of its own. A checkpoint counts once rank 0 has written its commit
(:mod:`foldase_models.training.checkpoints.commits`); one that does not verify is passed over for the one
before, on all ranks alike.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints.commits import (
    Commit,
    clean,
    new_data_name,
    read_commit,
    steps_in,
    verify_file,
)
from foldase_models.training.checkpoints.spare_memory import spare_bytes
from foldase_models.training.collectives import Collectives
from foldase_models.training.ledger import Ledger
from foldase_models.training.ranks import Ranks
from foldase_models.training.shards import FlatShard

if TYPE_CHECKING:
    from torch.distributed.checkpoint.planner import SavePlan

    from foldase_models.training.checkpoints.saving import Agreed, Saving

_GRAVEST = ("checkpoint_format", "bad_checkpoint", "damaged_checkpoint")
"""Of several faults of one checkpoint the first of these is told; only the last is passed over."""
State = Mapping[str, FlatShard]
"""A rank's part, by key."""
_log = logging.getLogger("foldase_models")


@dataclass(frozen=True, slots=True)
class Found:
    """What was loaded besides the tensors.

    Attributes:
        step: of the training.
        values: plain ones, as they were given to :meth:`CheckpointStore.save`.
        notes: newer checkpoints that were passed over, and why.
    """

    step: int
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


class CheckpointStore:
    """A folder of checkpoints of one run, which all ranks see."""

    def __init__(self, folder: Path, *, kept: int = 2, collectives: Collectives | None = None) -> None:
        """Nothing is read or removed yet.

        Args:
            folder: of this run alone; made where there is none.
            kept: how many checkpoints remain; two, so that a damaged one costs only a little work.
            collectives: of the ranks that save and load together; a trainer gives its own by :meth:`join`.
        """
        self.folder = folder
        self.kept = kept
        folder.mkdir(parents=True, exist_ok=True)
        self._cleaned = False
        self._saving: Saving | None = None
        self._agreed: tuple[object, Agreed] | None = None
        self.join(collectives or Collectives(Ranks()))

    def join(self, collectives: Collectives, ledger: Ledger | None = None) -> None:
        """Save and load together with other ranks.

        Args:
            collectives: of the ranks.
            ledger: where copies are counted that are made so that the training may go on. Where its cap has
                no room for them, what this rank writes is on the disk when :meth:`save` returns.
        """
        self._collectives = collectives
        self._ranks = collectives.ranks
        self._ledger = ledger or Ledger(self._ranks.device)
        self._staged_bytes = 0
        self._agreed = None

    def save(
        self, step: int, state: Mapping[str, FlatShard], values: Mapping[str, Any], *, wait: bool = True
    ) -> None:
        """Write a checkpoint, and remove older ones beyond ``kept``. Called on all ranks alike.

        With ``wait`` it counts once this has returned. Without, the state may be changed again, and the
        checkpoint counts at the latest when the next save begins or :meth:`finish` returns; either raises
        what went wrong.

        Args:
            step: a checkpoint of the same step is replaced.
            state: this rank's part.
            values: plain ones, JSON; rank 0's count.
            wait: whether to wait.

        Raises:
            OSError: the disk is full or cannot be written; earlier checkpoints are untouched.
            ModelError: ``checkpoint_failed``: the same on another rank; ``ranks_disagree``.
        """
        self.finish()
        saving = self._begin(step, state, values)
        with self._collectives.clock.waiting("disk"):
            if wait:
                saving.write()
                saving.settle()
                return
            size = saving.bytes
            if self._has_room(size) and saving.stage():
                self._staged_bytes = max(self._staged_bytes, size)
            else:
                saving.write()
        self._saving = saving
        saving.go_on()

    @property
    def under_way(self) -> bool:
        """Whether the last save still goes on, so that the next one would have to wait for it."""
        return self._saving is not None and self._saving.going_on

    def finish(self) -> None:
        """Wait until the save under way counts.

        Raises:
            OSError, ModelError: as :meth:`save`.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            with self._collectives.clock.waiting("disk"):
                saving.wait()

    def close(self) -> None:
        """End after the training has, well or not: wait for what this rank writes, and say what failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.wait(hurry=True)
            except Exception as error:  # noqa: BLE001  # another error ended the training before
                _log.warning("the checkpoint of step %d was not completed: %s", saving.step, error)

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, newest first; whether they are sound is not looked at."""
        return steps_in(self.folder)

    def load_latest(self, state: State | Callable[[Mapping[str, Any]], State]) -> Found | None:
        """Write the newest checkpoint that verifies into the shards; None where there is none.

        It may have been saved at any stage and on any number of ranks. Called on all ranks alike, before
        anything is saved: what a save that was killed left behind is removed.

        Args:
            state: this rank's part; or gives it, asked for with the values of a checkpoint, where its keys
                depend on these. It may refuse them, on all ranks alike.

        Raises:
            ModelError: ``bad_checkpoint``: it is of another model, and which keys differ;
                ``checkpoint_format``: it is of a version that this one does not read. Nothing is written.
        """
        self.finish()
        self._clean()
        own = self.steps() if self._ranks.first else None
        notes: list[str] = []
        for step in self._collectives.gather_objects("the checkpoints that there are", own)[0]:
            commit, shards, fault = self._looked_at(step, state)
            faults = self._collectives.gather_objects(f"whether the checkpoint of step {step} is good", fault)
            told = sorted((f for f in faults if f is not None), key=lambda f: _GRAVEST.index(f["code"]))
            if told and told[0]["code"] != "damaged_checkpoint":
                raise ModelError(**told[0])
            if told or commit is None:
                notes.append(f"the checkpoint of step {step} was passed over: {told[0]['message']}")
                if self._ranks.first:
                    _log.warning("%s", notes[-1])
                continue
            self._read(commit, shards)
            return Found(step, dict(commit.values), tuple(notes))
        return None

    def _begin(self, step: int, state: Mapping[str, FlatShard], values: Mapping[str, Any]) -> Saving:
        """Agree on what is written by whom; only the first time, and where a state has changed its form."""
        from foldase_models.training.checkpoints.planners import ShardSavePlanner
        from foldase_models.training.checkpoints.saving import Saving

        self._clean()
        fixed = json.loads(json.dumps(dict(values)))  # the training changes its own while this is written
        form = tuple((key, s.shape, s.dtype, s.start, s.length) for key, s in state.items())
        plan: SavePlan | None = None
        planner = ShardSavePlanner()
        planner.set_up_planner(dict(state))
        if self._agreed is None or self._agreed[0] != form:
            plan = planner.create_local_plan()
        own = {"step": step, "folder": new_data_name(step), "plan": plan}
        known = self._collectives.gather_objects(f"the checkpoint of step {step}", own)
        different = [rank for rank, other in enumerate(known) if other["step"] != step]
        if different:
            raise ModelError(
                f"rank {different[0]} saves step {known[different[0]]['step']} and this one step {step}",
                code="ranks_disagree",
                location=f"rank {self._ranks.rank}",
            )
        if any(other["plan"] is not None for other in known):
            self._agreed = (form, self._planned(planner, [other["plan"] for other in known]))
        assert self._agreed is not None
        shared = (self._collectives, self._ledger, self.kept)
        return Saving(self.folder, step, known[0]["folder"], state, fixed, self._agreed[1], *shared)

    def _planned(self, planner: Any, plans: list[SavePlan | None]) -> Agreed:
        from foldase_models.training.checkpoints.saving import Agreed
        from foldase_models.training.checkpoints.storage import SafetensorsWriter

        given = [plan for plan in plans if plan is not None]
        if len(given) < len(plans):
            raise ModelError("the state changed its form on some ranks only", code="ranks_disagree")
        shared, metadata = planner.create_global_plan(given)
        return Agreed(SafetensorsWriter(self.folder, 0, "", {}).prepare_global_plan(shared), metadata)

    def _looked_at(
        self, step: int, state: State | Callable[[Mapping[str, Any]], State]
    ) -> tuple[Commit | None, State, dict[str, Any] | None]:
        """A commit whose share of files this rank verified, and its state, or what is wrong with it."""
        from foldase_models.training.checkpoints.planners import check_keys, tensors_of
        from foldase_models.training.checkpoints.storage import SafetensorsReader

        commit, shards = None, {} if callable(state) else state
        try:
            commit = read_commit(self.folder, step)
            if callable(state):
                shards = state(commit.values)
            metadata = SafetensorsReader(self.folder, commit).read_metadata()
            check_keys(tensors_of(metadata), metadata.planner_data, shards)
            for number in self._ranks.share(len(commit.files)):
                verify_file(self.folder, commit, commit.files[number])
        except ModelError as error:
            fault = {"message": error.message, "code": error.code}
            return commit, shards, fault | {"location": error.location, "hint": error.hint}
        return commit, shards, None

    def _read(self, commit: Commit, state: Mapping[str, FlatShard]) -> None:
        from foldase_models.training.checkpoints.planners import ShardLoadPlanner
        from foldase_models.training.checkpoints.storage import SafetensorsReader

        reader, planner = SafetensorsReader(self.folder, commit), ShardLoadPlanner()
        metadata = reader.read_metadata()
        planner.set_up_planner(dict(state), metadata, self._ranks.first)
        reader.set_up_storage_reader(metadata, self._ranks.first)
        plan = reader.prepare_local_plan(planner.create_local_plan())
        error: BaseException | None = None
        try:
            with self._collectives.clock.waiting("disk"):
                reader.read_data(planner.finish_plan(plan), planner).wait()
        except (OSError, ModelError, RuntimeError) as raised:
            error = raised
        told = None if error is None else f"{type(error).__name__}: {error}"
        all_told = self._collectives.gather_objects(f"whether step {commit.step} was read", told)
        if error is not None:
            raise error
        for rank, other in enumerate(all_told):
            if other is not None:
                raise ModelError(
                    f"rank {rank} could not read the checkpoint of step {commit.step}: {other}",
                    code="checkpoint_failed",
                    location=f"rank {rank}",
                )

    def _clean(self) -> None:
        if not self._cleaned and self._ranks.first:
            clean(self.folder)
        self._cleaned = True

    def _has_room(self, size: int) -> bool:
        """Whether main memory takes a copy of what this rank writes."""
        peaks = self._ledger.peaks()
        if peaks["disk"]:
            return False  # it lies there because there is no room
        if self._ledger.cap is not None:
            # The training goes on beside the copies: they must fit beside the most that it took.
            most = peaks["device"] + peaks["pinned"] + peaks["host"] - self._staged_bytes
            if most + size > self._ledger.cap:
                return False
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", self._ranks.size))
        return size * neighbours <= spare_bytes() // 2
