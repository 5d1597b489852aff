"""Curves over a logarithmic axis as SVG: what a plot of rates needs, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 390  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 84, 44  # margins in it; the legend is in the upper one
INK, GRID = "#333", "#ddd"
LEGEND, LEGEND_LINE = 36, 15  # where it begins, and its lines


@dataclass(frozen=True)
class Line:
    """Points (x, y) joined in their order, the marks written beside them, if any."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    marks: tuple[str, ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over axes; x is positive, and drawn by its logarithm."""

    title: str
    x_name: str
    y_name: str
    lines: tuple[Line, ...]


def drawn(panels: Sequence[Panel]) -> str:
    """The panels side by side, as the text of an SVG file."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}"'
        f' viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate({index * WIDTH} 0)">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    x_low, x_high = min(x for x, _ in points) / 1.3, max(x for x, _ in points) * 1.3
    step = _step(max(y for _, y in points) - min(y for _, y in points))
    y_low = math.floor(min(y for _, y in points) / step) * step
    y_high = max(math.ceil(max(y for _, y in points) / step) * step, y_low + step)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        part = math.log(x / x_low) / math.log(x_high / x_low)
        return LEFT + part * (right - LEFT)

    def up(y: float) -> float:
        return bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    parts = [_text((LEFT + right) / 2, 18, panel.title, "middle", "bold")]
    for x in _ticks(x_low, x_high):
        parts.append(_stroke([(across(x), TOP), (across(x), bottom)], GRID))
        parts.append(_text(across(x), bottom + 14, f"{x:g}", "middle"))
    for index in range(round((y_high - y_low) / step) + 1):
        y = y_low + index * step
        parts.append(_stroke([(LEFT, up(y)), (right, up(y))], GRID))
        parts.append(_text(LEFT - 6, up(y) + 4, f"{y:g}", "end"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 10, panel.x_name, "middle"))
    turned = f'<g transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)">'
    parts += [turned, _text(0, 0, panel.y_name, "middle"), "</g>"]
    for row, line in enumerate(panel.lines):
        places = [(across(x), up(y)) for x, y in line.points]
        parts.append(_stroke(places, line.colour, 1.8, line.dashed))
        for x, y in places:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{line.colour}"/>')
        for (x, y), mark in zip(places, line.marks, strict=False):
            parts.append(_text(x, y - 8, mark, "middle"))
        height = LEGEND + LEGEND_LINE * row
        parts.append(_stroke([(LEFT, height), (LEFT + 22, height)], line.colour, 1.8, line.dashed))
        parts.append(_text(LEFT + 28, height + 4, line.name, "start"))
    return parts


def _step(span: float) -> float:
    """Between marks of the upright axis: 1, 2, 5, 10, ... so that there are at most eight."""
    power = 10 ** math.floor(math.log10(max(span, 1e-6)))
    for factor in (0.2, 0.5, 1, 2, 5):
        if span / (factor * power) <= 7:
            return factor * power
    return 10 * power


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [x for x in found if low <= x <= high]


def _stroke(
    places: Sequence[tuple[float, float]], colour: str, width: float = 1, dashed: bool = False
) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="5 3"' if dashed else ""
    look = f'fill="none" stroke="{colour}" stroke-width="{width}"{dashes}'
    return f'<polyline points="{joined}" {look}/>'


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
