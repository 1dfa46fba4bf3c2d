"""Figures of the report as SVG text: no scripts, colours by CSS classes, words for those who do not see them.

Shapes: N residues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVELS = 8
"""Shades of a contact map; pairs of one shade share one SVG path."""
FAINTEST = 0.06
"""Probabilities below this are not drawn."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: ``value`` from 0 to 1 with its interval, ``kind`` names the CSS class of its colour."""

    label: str
    value: float
    low: float | None
    high: float | None
    kind: str


def bars(items: Sequence[Bar], *, title: str) -> str:
    """Horizontal bars from 0 to 1 with whiskers."""
    row, left, width = 24, 190, 220
    height = row * len(items) + 26
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + tick * width
        parts.append(f'<line class="grid" x1="{x:g}" y1="0" x2="{x:g}" y2="{height - 22}"/>')
        parts.append(f'<text class="tick" x="{x:g}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for k, item in enumerate(items):
        top = k * row
        middle = top + row / 2
        length = max(0.0, min(1.0, item.value)) * width
        name, base = escape(item.label), f"{middle + 4:g}"
        parts += [
            f'<text class="label" x="{left - 10}" y="{base}" text-anchor="end">{name}</text>',
            f'<rect class="bar {item.kind}" x="{left}" y="{top + 5}" width="{length:.1f}" height="14"/>',
            f'<text class="value" x="{left + width + 12}" y="{base}">{item.value:.3f}</text>',
        ]
        if item.low is not None and item.high is not None:
            a, b = left + max(0.0, item.low) * width, left + min(1.0, item.high) * width
            parts.append(
                f'<path class="whisker" d="M{a:.1f} {middle - 4:g}v8M{a:.1f} {middle:g}H{b:.1f}'
                f'M{b:.1f} {middle - 4:g}v8"/>'
            )
    words = "; ".join(f"{item.label} {item.value:.3f}" for item in items)
    return _svg(left + width + 60, height, title, words, parts)


def contact_map(
    probability: NDArray[np.floating],
    truth: NDArray[np.integer] | None,
    *,
    min_separation: int,
    title: str,
    size: int = 260,
) -> str:
    """Predicted contacts below the diagonal, true ones (or, unknown, the same again) above it."""
    N = len(probability)
    shades: dict[int, list[str]] = {level: [] for level in range(1, LEVELS + 1)}
    true_cells = []
    for i in range(N):
        for j in range(i + min_separation, N):
            p = float(probability[i, j])
            if p >= FAINTEST:
                level = max(1, math.ceil(min(p, 1.0) * LEVELS))
                shades[level].append(_cell(column=i, row=j))
                if truth is None:
                    shades[level].append(_cell(column=j, row=i))
            if truth is not None and truth[i, j]:
                true_cells.append(_cell(column=j, row=i))
    parts = [f'<rect class="map" width="{N}" height="{N}"/>']
    step = _tick_step(N)
    parts += [f'<path class="mapgrid" d="M{tick} 0V{N}M0 {tick}H{N}"/>' for tick in range(step, N, step)]
    if true_cells:
        parts.append(f'<path class="truth" d="{"".join(true_cells)}"/>')
    for level, cells in shades.items():
        if cells:
            parts.append(
                f'<path class="predicted" fill-opacity="{level / LEVELS:.3g}" d="{"".join(cells)}"/>'
            )
    parts.append(f'<path class="diagonal" d="M0 0L{N} {N}"/>')
    drawn = sum(len(cells) for cells in shades.values())
    words = f"{N} residues; {drawn} predicted pairs drawn" + (
        f"; {len(true_cells)} true contacts" if truth is not None else "; the truth is not known"
    )
    box = f'viewBox="0 0 {N} {N}" width="{size}" height="{size}" shape-rendering="crispEdges"'
    return _svg_with(box, title, words, parts)


def curve(points: Sequence[tuple[float, float]], *, title: str, x_label: str, y_label: str) -> str:
    """A line through points, its vertical axis from 0."""
    left, width, height = 52, 440, 170
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high, y_high = min(xs), max(xs), max(*ys, 1e-9)
    x_span = (x_high - x_low) or 1.0
    places = [
        (left + (x - x_low) / x_span * width, 10 + (1 - max(y, 0.0) / y_high) * height) for x, y in points
    ]
    parts = []
    for k in range(5):
        share = k / 4
        y = 10 + (1 - share) * height
        parts.append(f'<line class="grid" x1="{left}" y1="{y:g}" x2="{left + width}" y2="{y:g}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 4:g}" text-anchor="end">{share * y_high:.3g}</text>'
        )
        x = left + share * width
        parts.append(
            f'<text class="tick" x="{x:g}" y="{height + 28}" text-anchor="middle">'
            f"{x_low + share * x_span:.4g}</text>"
        )
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts.append(f'<path class="line" d="M{line}"/>')
    parts.append(
        f'<text class="label" x="{left + width / 2:g}" y="{height + 46}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    words = f"{y_label} from {ys[0]:.3g} to {ys[-1]:.3g} over {len(points)} points"
    return _svg(left + width + 30, height + 54, title, words, parts)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str) -> str:
    """An HTML table; numbers are written with three decimals, the first column names the row."""
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>"
        f'<th scope="row">{escape(_text(row[0]))}</th>'
        + "".join(f"<td>{escape(_text(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{header}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def facts(values: Mapping[str, str]) -> str:
    """Names and values as a list of definitions."""
    return (
        '<dl class="facts">'
        + "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items()
        )
        + "</dl>"
    )


def _cell(*, column: int, row: int) -> str:
    return f"M{column} {row}h1v1h-1z"


def _tick_step(length: int) -> int:
    return next(step for step in (5, 10, 20, 50, 100, 200, 500, 10**9) if length / step <= 10)


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _svg(width: float, height: float, title: str, words: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return _svg_with(box, title, words, parts)


def _svg_with(box: str, title: str, words: str, parts: Sequence[str]) -> str:
    label = escape(f"{title}: {words}", quote=True)
    return f'<svg role="img" aria-label="{label}" {box}><title>{escape(title)}</title>{"".join(parts)}</svg>'
