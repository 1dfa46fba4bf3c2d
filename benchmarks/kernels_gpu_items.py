"""What was measured so far, a file an item, so that an ended stage goes on where it stood; and the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from kernels_gpu_shapes import Shape, floor

MODES = ("forward", "backward")


@dataclass(frozen=True)
class Item:
    """One system at one shape in one mode; ``problem`` tells in words why there are no figures.

    ``difference``: the largest of our float32 reference over a few rows, relative to its largest value.
    ``copy_ms``: of a copy of as many bytes, measured in the same run, where that is the yardstick.
    """

    system: str
    shape: str
    mode: str
    ms: float | None = None
    all_ms: tuple[float, ...] = ()
    peak_bytes: int | None = None
    difference: float | None = None
    copy_ms: float | None = None
    problem: str = ""

    @property
    def key(self) -> str:
        """The name of its file."""
        return f"{self.system}-{self.shape}-{self.mode}".replace(" ", "_")


class Items:
    """The items of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, item: Item) -> bool:
        """Whether it is there already."""
        return self._file(item.key).exists()

    def put(self, item: Item) -> None:
        """Keep it, whole or not at all."""
        text = json.dumps(asdict(item), indent=1)
        unfinished = self._file(item.key).with_suffix(".new")
        unfinished.write_text(text)
        unfinished.replace(self._file(item.key))
        self._begun(item.system).unlink(missing_ok=True)

    def begin(self, item: Item) -> None:
        """Note what is tried, in case the process dies of it."""
        self._begun(item.system).write_text(json.dumps(asdict(item)))

    def begun(self, system: str) -> Item | None:
        """What a dead process of that system was at."""
        if not self._begun(system).exists():
            return None
        return _item(self._begun(system).read_text())

    def all(self) -> list[Item]:
        """Every item there is."""
        return [_item(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _begun(self, system: str) -> Path:
        return self.folder / f"{system.replace(' ', '_')}.begun"


def _item(text: str) -> Item:
    values = json.loads(text)
    return Item(**{**values, "all_ms": tuple(values["all_ms"])})


class Named(Protocol):
    """A shape of any operation."""

    @property
    def name(self) -> str:
        """As it stands in the table."""


AnyShape = TypeVar("AnyShape", bound=Named)


def floor_of_attention(shape: Shape, mode: str) -> float:
    """The least milliseconds."""
    return floor(shape, mode).ms


def table(
    items: Iterable[Item],
    shapes: Iterable[AnyShape],
    machine: str,
    least: Callable[[AnyShape, str], float],
) -> str:
    """The figures as Markdown: times, per cent of the floor, peak memory; reasons where there are none.

    ``least`` tells the floor of a shape in a mode, in milliseconds.
    """
    items, shapes = list(items), list(shapes)
    lines = [f"Machine: {machine}. Medians; floor = least time by products, exponentials or memory traffic."]
    problems = []
    for mode in MODES:
        lines += [
            "",
            f"## {mode}",
            "",
            "| shape | floor ms | system | ms | of floor | peak GB | difference |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        for shape in shapes:
            here = [item for item in items if (item.shape, item.mode) == (shape.name, mode)]
            for item in sorted(here, key=lambda item: (item.ms is None, item.ms or 0.0, item.system)):
                lines.append(_row(item, least(shape, mode)))
                if item.problem:
                    problems.append(f"- {item.system}, {item.shape}, {mode}: {item.problem}")
    if problems:
        lines += ["", "## without figures", "", *problems]
    return "\n".join(lines) + "\n"


def _row(item: Item, least: float) -> str:
    if item.ms is None:
        return f"| {item.shape} | {least:.3f} | {item.system} | - | - | - | - |"
    peak = "-" if item.peak_bytes is None else f"{item.peak_bytes / 1e9:.2f}"
    difference = "-" if item.difference is None else f"{item.difference:.1e}"
    share = f"{100 * least / item.ms:.0f} %"
    return f"| {item.shape} | {least:.3f} | {item.system} | {item.ms:.3f} | {share} | {peak} | {difference} |"
