"""Leads a gang: the processes that run one function together, from their start to their common result.

A gang lives once or several times. In each life every rank is a fresh process; when one is lost, all others
are ended, and the next life goes on from the checkpoint that the function left. What a rank raises ends the
gang instead: it is the error of the step. Who starts the processes (Ray, or this machine) is behind
:class:`foldase.runtime.gang_life.Hosts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foldase.runtime.context import RunningStep
from foldase.runtime.failures import GangLost
from foldase.runtime.gang_life import (
    GangLimits,
    GangUsage,
    Hosts,
    Life,
    Lost,
    NoRoom,
    RankProcess,
)
from foldase.runtime.rank_work import Raised, Returned, explains_itself
from foldase_workflows.contracts.errors import Cancelled, Unavailable
from foldase_workflows.contracts.failures import OUT_OF_MEMORY

BARREN_LIVES = 3
"""A gang that is lost so often in a row without having got further than ever before is given up."""

GangMaker = Callable[[RunningStep, GangUsage, str, Mapping[str, Any]], Any]
"""Runs a rank function for a step as a gang and gives its result; keeps the usage up to date."""


class Gang:
    """The gang of one step.

    Args:
        step: whose work it does.
        hosts: where its processes live; closed at the end.
        limits: of its patience.
        usage: kept up to date.
    """

    def __init__(self, step: RunningStep, hosts: Hosts, limits: GangLimits, usage: GangUsage) -> None:
        self._step = step
        self._hosts = hosts
        self._limits = limits
        self._usage = usage
        self._furthest = (0.0, float("-inf"))
        self._lives = 0
        self._barren = 0

    def run(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Lead it to the result of rank 0.

        Raises:
            GangLost: ranks were lost too often, or there was no memory for them.
            Unavailable: ``gang_start_failed``, the places were not to be had.
            Cancelled: the step was asked to stop.
            Exception: what the first rank that failed has raised.
        """
        try:
            while True:
                self._lives += 1
                end = self._live(function, arguments)
                if isinstance(end, Returned):
                    return end.value
                if isinstance(end, Raised):
                    if self._step.cancelled and not explains_itself(end.error):
                        raise Cancelled("the ranks have stopped") from end.error
                    raise end.error
                self._step.check_cancelled()
                if end.cause in OUT_OF_MEMORY or self._barren >= BARREN_LIVES:
                    raise GangLost(end.cause, end.how, lives=self._lives)
                self._step.log(f"{end.how}; the gang starts again from its last checkpoint", level="warning")
        finally:
            self._hosts.end()
            self._hosts.close()

    def _live(self, function: str, arguments: Mapping[str, Any]) -> Returned | Raised | Lost:
        processes = self._start()
        life = Life(self._step, processes, self._hosts, self._limits, self._usage, self._lives)
        try:
            return life.run(function, arguments)
        finally:
            self._hosts.end()
            life.close()
            best = self._furthest
            self._furthest = (max(best[0], life.furthest[0]), max(best[1], life.furthest[1]))
            self._barren = 0 if self._furthest != best else self._barren + 1

    def _start(self) -> Sequence[RankProcess]:
        """Processes for all ranks, or in a later life for as many as there is room for."""
        size, first = self._step.ranks, self._lives == 1
        patience = self._limits.start_seconds if first else self._limits.restart_seconds
        while True:
            self._step.check_cancelled()
            try:
                return self._hosts.start(size, within_seconds=patience)
            except NoRoom as full:
                if first or size == 1:
                    raise Unavailable(
                        f"there was no room for {size} ranks within {patience:g} s",
                        code="gang_start_failed",
                        hint="ask for fewer `ranks`, or try again when other work is done",
                    ) from None
                size = max(1, min(size - 1, full.room))
                message = (
                    f"there is room for {size} of {self._step.ranks} ranks, which go on without the others"
                )
                self._step.log(message, level="warning")
