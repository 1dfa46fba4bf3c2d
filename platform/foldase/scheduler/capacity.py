"""Which ready steps may start now: ranks, resources, and nobody starved."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from foldase.scheduler.model import Shape, Step
from foldase_workflows.contracts.operator import Hardware, Resources

PATIENCE_SECONDS = 60.0
"""A step that waited so long for room lets none of lower rank pass any more."""

_EPSILON = 1e-9
_NOTHING = Resources(cpu=0.0, memory_bytes=0, gpu=0.0)


class Capacity:
    """What the cluster offers, and what is taken of it; made anew for each round of claims."""

    def __init__(self, total: Resources, taken: Iterable[Shape]) -> None:
        self._total = total
        self._long = _NOTHING
        self._tiny = _NOTHING
        for shape in taken:
            self.take(shape)

    def take(self, shape: Shape) -> None:
        """A step of this shape starts."""
        if shape.depth > 1:
            self._tiny = _sum(self._tiny, shape.resources.total)
        else:
            self._long = _sum(self._long, shape.resources.total)

    def fits(self, shape: Shape) -> bool:
        """Whether one more of this shape may start.

        Tiny steps may queue on slots that no longer step holds; they leave soon, so that a longer one only
        has to find room beside others of its kind.
        """
        return self.lacking(shape) is None

    def lacking(self, shape: Shape) -> str | None:
        """What a step of this shape waits for, in words, or None when it may start."""
        need = shape.resources.total
        checks = (
            ("cores", need.cpu, self._total.cpu, self._long.cpu, self._tiny.cpu),
            (
                "memory",
                need.memory_bytes,
                self._total.memory_bytes,
                self._long.memory_bytes,
                self._tiny.memory_bytes,
            ),
            ("GPUs", need.gpu, self._total.gpu, self._long.gpu, self._tiny.gpu),
        )
        for what, wanted, total, by_long, by_tiny in checks:
            if wanted <= 0:
                continue
            if by_long + wanted > total + _EPSILON:
                return f"free {what}"
            if shape.depth > 1 and by_tiny + wanted > shape.depth * (total - by_long) + _EPSILON:
                return f"free {what}"
        return None


class ReadyQueue:
    """Ready steps by shape, best rank first in each."""

    def __init__(self) -> None:
        self._heaps: dict[Shape, list[tuple[tuple[int, str, int, int], int, Step]]] = {}
        self._shape_of: dict[Step, Shape] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._shape_of)

    def push(self, step: Step, shape: Shape) -> None:
        """Let a step wait for its turn."""
        self._count += 1
        self._shape_of[step] = shape
        heapq.heappush(self._heaps.setdefault(shape, []), (step.rank, self._count, step))

    def discard(self, step: Step) -> None:
        """A step waits no longer; it may not be there at all."""
        self._shape_of.pop(step, None)

    def claimable(self, capacity: Capacity, now: float, limit: int) -> Iterator[tuple[Step, Shape]]:
        """Take out steps that may start, best first; the caller must take their capacity at once.

        ``now`` is monotonic, in seconds.
        """
        blocked: set[Shape] = set()
        while limit > 0:
            best = self._best(blocked)
            if best is None:
                return
            step, shape = best
            if not capacity.fits(shape):
                blocked.add(shape)
                if step.blocked_since is None:
                    step.blocked_since = now
                if now - step.blocked_since >= PATIENCE_SECONDS:
                    return
                continue
            heapq.heappop(self._heaps[shape])
            del self._shape_of[step]
            step.blocked_since = None
            limit -= 1
            yield step, shape

    def waiting(self, each: int) -> Iterator[tuple[Step, Shape]]:
        """Up to ``each`` steps of every shape, near the head of its queue."""
        for shape, heap in self._heaps.items():
            for _, _, step in heap[:each]:
                if self._shape_of.get(step) == shape:
                    yield step, shape

    def _best(self, blocked: set[Shape]) -> tuple[Step, Shape] | None:
        found: tuple[tuple[int, str, int, int], Step, Shape] | None = None
        for shape, heap in list(self._heaps.items()):
            if shape in blocked:
                continue
            while heap and self._shape_of.get(heap[0][2]) != shape:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[shape]
            elif found is None or heap[0][0] < found[0]:
                found = (heap[0][0], heap[0][2], shape)
        return (found[1], found[2]) if found else None


def shortfall(wanted: Resources, node: Hardware, cluster: Resources) -> str | None:
    """Why a step can never start, in words; None when it can.

    Each of its ranks must find room on ``node``, the largest, and all of them in the ``cluster``.
    """
    if wanted.cpu > node.cpus + _EPSILON:
        return f"it asks for {wanted.cpu:g} cores, the largest node has {node.cpus:g}"
    if wanted.memory_bytes > node.memory_bytes:
        return (
            f"it asks for {_gib(wanted.memory_bytes)} of memory, the largest node has "
            f"{_gib(node.memory_bytes)}"
        )
    if wanted.gpu > len(node.gpus) + _EPSILON:
        return f"it asks for {wanted.gpu:g} GPUs, the largest node has {len(node.gpus)}"
    if wanted.ranks > 1 and (ranks := wanted.ranks_within(cluster)) < wanted.ranks:
        return f"it asks for {wanted.ranks} ranks, and all nodes together have room for {ranks}"
    return None


def _sum(first: Resources, second: Resources) -> Resources:
    return Resources(
        cpu=first.cpu + second.cpu,
        memory_bytes=first.memory_bytes + second.memory_bytes,
        gpu=first.gpu + second.gpu,
    )


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB"
