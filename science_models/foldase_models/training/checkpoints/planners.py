"""What of a state is written by whom and read from where, as torch.distributed.checkpoint asks for it.

Every tensor is a vector of all its elements to it, of which a :class:`FlatShard` is one chunk: where chunks
began and ended when they were written, and how many ranks there were, is of no matter to who reads them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from foldase_models.errors import ModelError
from foldase_models.training.shards import FlatShard

NAMED = 3
"""Keys that an error names; of the others it tells the number."""


class ShardSavePlanner(SavePlanner):
    """Shares the writing of a state out: what several ranks have, one of them writes."""

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take this rank's shards by key."""
        self.state: Mapping[str, FlatShard] = state_dict

    def create_local_plan(self) -> SavePlan:
        """All that this rank has; a tensor without elements is written too."""
        items = [_write_item(key, s) for key, s in self.state.items() if s.length or not s.numel]
        return SavePlan(items, planner_data={key: shard.shape for key, shard in self.state.items()})

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """One writer for every chunk, so that ranks write about as much each; and what there is in all.

        Raises:
            ModelError: ``ranks_disagree``: ranks have other tensors, or their chunks make no whole.
        """
        shapes = _agreed_shapes([plan.planner_data for plan in all_plans])
        writers = _writers([plan.items for plan in all_plans])
        plans = [
            replace(plan, items=[item for item in plan.items if writers[_place(item)] == rank])
            for rank, plan in enumerate(all_plans)
        ]
        stored: dict[str, TensorStorageMetadata] = {}
        for item in (item for plan in plans for item in plan.items):
            data = item.tensor_data
            assert data is not None
            fresh = TensorStorageMetadata(data.properties, data.size, [])
            stored.setdefault(item.index.fqn, fresh).chunks.append(data.chunk)
        for key in shapes:
            _check_whole(key, stored.get(key))
        return plans, Metadata(dict(stored), planner_data=shapes)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """Read a shard, when its turn has come."""
        return self.state[write_item.index.fqn].read()


class ShardLoadPlanner(LoadPlanner):
    """Fills one shard after the other, through a buffer as large as one of them."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take this rank's shards by key.

        Raises:
            ModelError: ``bad_checkpoint``: the keys or shapes are those of another model, and which.
        """
        assert metadata is not None
        self.state: Mapping[str, FlatShard] = state_dict
        self._stored = tensors_of(metadata)
        check_keys(self._stored, metadata.planner_data, self.state)
        self._buffer = torch.empty(0)
        self._missing: dict[str, int] = {}

    def create_local_plan(self) -> LoadPlan:
        """The parts of written chunks that make up the shards of this rank."""
        items: list[ReadItem] = []
        for key, shard in self.state.items():
            if shard.length:
                own = ChunkStorageMetadata(torch.Size([shard.start]), torch.Size([shard.length]))
                found = create_read_items_for_chunk_list(key, self._stored[key], [own])
                assert sum(item.lengths[0] for item in found) == shard.length, key
                self._missing[key] = shard.length
                items += found
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """As they are: what one rank reads is no matter to the others."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """There is none."""
        raise NotImplementedError("checkpoints hold tensors and plain values, nothing else")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """A place in the buffer of the shard whose turn it is."""
        key = read_item.dest_index.fqn
        shard = self.state[key]
        if self._missing[key] == shard.length:
            self._buffer = torch.empty(shard.length, dtype=self._stored[key].properties.dtype)
        return self._buffer.narrow(0, read_item.dest_offsets[0], read_item.lengths[0])

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Write the shard, once its buffer is full."""
        key = read_item.dest_index.fqn
        self._missing[key] -= read_item.lengths[0]
        if self._missing[key] == 0:
            shard = self.state[key]
            shard.write(self._buffer.to(shard.dtype))
            self._buffer = torch.empty(0)


def tensors_of(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """The tensors of a checkpoint; there is nothing else in ours."""
    every = metadata.state_dict_metadata.items()
    return {key: stored for key, stored in every if isinstance(stored, TensorStorageMetadata)}


def check_keys(
    stored: Mapping[str, TensorStorageMetadata],
    shapes: Mapping[str, Sequence[int]],
    state: Mapping[str, FlatShard],
) -> None:
    """Make sure that a checkpoint is of the model that has this state.

    Raises:
        ModelError: ``bad_checkpoint``, with the first keys of each kind of fault and how many they are.
    """
    both = [key for key in state if key in stored]
    faults = (
        ("missing", [key for key in state if key not in stored]),
        ("unexpected", [key for key in stored if key not in state]),
        (
            "of another shape",
            [
                f"{key} {list(shapes[key])} instead of {list(state[key].shape)}"
                for key in both
                if tuple(shapes[key]) != state[key].shape
            ],
        ),
        (
            "of another kind of numbers",
            [
                f"{key} {stored[key].properties.dtype} instead of {state[key].dtype}"
                for key in both
                if stored[key].properties.dtype.is_floating_point != state[key].dtype.is_floating_point
            ],
        ),
    )
    told = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults if keys]
    if told:
        raise ModelError(
            f"the checkpoint belongs to another model or optimizer; {'; '.join(told)}",
            code="bad_checkpoint",
            hint="start in another folder, or with the model that the checkpoint was made with",
        )


def _write_item(key: str, shard: FlatShard) -> WriteItem:
    start, length = torch.Size([shard.start]), torch.Size([shard.length])
    data = TensorWriteData(
        ChunkStorageMetadata(start, length), TensorProperties(shard.dtype), torch.Size([shard.numel])
    )
    return WriteItem(MetadataIndex(key, start), WriteItemType.SHARD, tensor_data=data)


def _place(item: WriteItem) -> tuple[str, int, int]:
    assert item.tensor_data is not None
    chunk = item.tensor_data.chunk
    return item.index.fqn, chunk.offsets[0], chunk.sizes[0]


def _agreed_shapes(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> Mapping[str, tuple[int, ...]]:
    for rank, others in enumerate(shapes):
        wrong = sorted(key for key in shapes[0].keys() | others if shapes[0].get(key) != others.get(key))
        if wrong:
            raise ModelError(
                f"rank {rank} has another state than rank 0: {_some(wrong)}",
                code="ranks_disagree",
                location=wrong[0],
            )
    return shapes[0]


def _writers(items: Sequence[Sequence[WriteItem]]) -> dict[tuple[str, int, int], int]:
    """The rank that writes each chunk: the one that has it, or of several the least busy, large first."""
    holders: dict[tuple[str, int, int], list[int]] = {}
    sizes: dict[tuple[str, int, int], int] = {}
    for rank, own in enumerate(items):
        for item in own:
            assert item.tensor_data is not None
            place = _place(item)
            holders.setdefault(place, []).append(rank)
            sizes[place] = place[2] * item.tensor_data.properties.dtype.itemsize
    load = [0] * len(items)
    chosen: dict[tuple[str, int, int], int] = {}
    for place in sorted(holders, key=lambda place: (len(holders[place]) > 1, -sizes[place], place)):
        writer = min(holders[place], key=lambda rank: (load[rank], rank))
        load[writer] += sizes[place]
        chosen[place] = writer
    return chosen


def _check_whole(key: str, stored: TensorStorageMetadata | None) -> None:
    numel, reached = (0, -1) if stored is None else (stored.size[0], 0)
    for chunk in sorted(stored.chunks if stored else (), key=lambda chunk: chunk.offsets[0]):
        if chunk.offsets[0] != reached:
            break
        reached += chunk.sizes[0]
    if reached != numel:
        raise ModelError(
            f"the parts of {key} that ranks have make no whole: elements from {max(reached, 0)} on",
            code="ranks_disagree",
            location=key,
        )


def _some(keys: Iterable[Any]) -> str:
    known = list(keys)
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return ", ".join(map(str, known[:NAMED])) + more
