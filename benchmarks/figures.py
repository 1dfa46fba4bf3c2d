"""What benchmarks of several parts share: figures with goals, parts by name, the table, the exit status.

A part is a function that yields its figures as it has them, :class:`Row` or the fields of one without
``part``. A goal that is missed, a part that fails and one that no time was left for end with 1.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels_cpu import machine
from rank_processes import RanksFailed

Part = Callable[[], Iterator[Any]]
HEAD = "| part | what | figure | goal | |\n|---|---|---:|---:|---|"


@dataclass(frozen=True)
class Row:
    """A figure, and what it should be: ``at_most``, ``at_least`` or both, None for a figure without a goal.

    A figure that is None could not be had; ``what`` says why, and a goal for it is missed.
    """

    part: str
    what: str
    figure: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.at_most is None and self.at_least is None:
            return None
        if self.figure is None:
            return False
        above = self.at_least is None or self.figure >= self.at_least
        return above and (self.at_most is None or self.figure <= self.at_most)

    def told(self) -> str:
        """A line of the table."""
        goals = [
            f"{sign} {bound:.4g}"
            for sign, bound in ((">=", self.at_least), ("<=", self.at_most))
            if bound is not None
        ]
        verdict = {True: "met", False: "**missed**", None: ""}[self.met]
        figure = "" if self.figure is None else f"{self.figure:.4g} {self.unit}".rstrip()
        return f"| {self.part} | {self.what} | {figure} | {', '.join(goals)} | {verdict} |"


def rows_of(part: str, run: Part) -> Iterator[Row]:
    """The rows of a part; one that fails ends with a missed row, and the parts after it still run."""
    try:
        for found in run():
            yield found if isinstance(found, Row) else Row(part, **found)
    except (Exception, RanksFailed) as error:  # noqa: BLE001  # whatever it was, it is told and missed
        traceback.print_exc()
        yield Row(part, f"failed: {first_line(f'{type(error).__name__}: {error}')}", None, at_most=0.0)


def arguments(description: str | None, parts: Collection[str], seconds: float) -> argparse.ArgumentParser:
    """What can be asked of every such benchmark; ``seconds`` where they are not given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--seconds", type=float, default=seconds, help="no part begins after these")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser


def measure(parts: Mapping[str, Part], given: argparse.Namespace) -> int:
    """Run the parts that were asked for, printing and writing what they find; 1 where a goal is missed."""
    print(", ".join(f"{key} {value}" for key, value in machine(1).items()), f"\n{HEAD}", sep="\n", flush=True)
    began = time.monotonic()
    rows: list[Row] = []
    left_out = []
    spent: dict[str, float] = {}
    for part in given.parts:
        part_began = time.monotonic()
        if part_began - began > given.seconds:
            left_out.append(part)
            continue
        for row in rows_of(part, parts[part]):
            rows.append(row)
            print(row.told(), flush=True)
        spent[part] = time.monotonic() - part_began
    missed = [row for row in rows if row.met is False]
    print(f"\n{len(rows)} figures, {len(missed)} goals missed, {time.monotonic() - began:.0f} s", end=": ")
    print(", ".join(f"{part} {seconds:.0f}" for part, seconds in spent.items()))
    if left_out:
        print(f"no time was left for {', '.join(left_out)}")
    if given.json:
        found = {"machine": machine(1), "seconds": spent, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(found, indent=1))
    if given.markdown:
        given.markdown.write_text("\n".join([HEAD, *(row.told() for row in rows)]) + "\n")
    return 1 if missed or left_out else 0


def first_line(text: str) -> str:
    """As it fits into a table."""
    return text.partition("\n")[0].replace("|", "/")
