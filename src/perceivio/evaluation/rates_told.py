"""Rates as a table in Markdown and as a plot."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import PerceivioError
from .plot import Line, Panel, drawn
from .rates import ALONE, LATENTS, MEDIA, WHOLE, Curve, Medium, Point, Rates

CODECS: dict[Medium, str] = {"picture": "H.264", "sound": "Opus"}
MEASURES: dict[Medium, str] = {"picture": "PSNR", "sound": "SNR"}
COLOURS = {LATENTS: "#c0392b", ALONE: "#2471a3", WHOLE: "#2471a3"}


NAMES = ("rates.md", "rates.svg", "rates.json")
FILES_TOLD = 3  # by name, in titles


def write_rates(rates: Rates, folder: Path) -> None:
    """The table, the plot and all figures into a folder, each when it is whole.

    Raises PerceivioError where that fails.
    """
    page = f"{told_files(rates)}: {rates.windows:,} windows, {rates.model}\n\n{table(rates)}\n"
    figures = json.dumps(rates.to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    try:
        for name, text in zip(NAMES, (page, plot(rates), figures), strict=True):
            part = folder / f".{name}.part"
            part.write_text(text, "utf-8")
            part.replace(folder / name)
    except OSError as error:
        raise PerceivioError(
            f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}"
        ) from error


def told_files(rates: Rates) -> str:
    names = ", ".join(rates.files[:FILES_TOLD])
    more = len(rates.files) - FILES_TOLD
    return f"{names} and {more:,} more" if more > 0 else names


def table(rates: Rates) -> str:
    """A row for each precision: its bits, what comes back, and what codecs need for the same."""
    settings = sorted(rates.kilobits, key=lambda setting: rates.kilobits[setting])
    heads = ["latents as", "kbit/s"]
    columns = [settings, [f"{rates.kilobits[setting]:,.0f}" for setting in settings]]
    for medium in MEDIA:
        curve = rates.curve(medium, LATENTS)
        if curve is None:
            continue
        if medium == "picture":
            heads.append("bits a pixel")
            columns.append([f"{_bits_a_pixel(rates, point):.2f}" for point in curve.points])
        heads.append(f"{medium}: {MEASURES[medium]}")
        columns.append([_decibels(point) for point in curve.points])
        for way in (ALONE, WHOLE):
            heads.append(f"{CODECS[medium]} for the same, {way}")
            columns.append([_needed(rates, medium, way, point) for point in curve.points])
    rows = [heads, ["---:" if i else "---" for i in range(len(heads))]]
    rows += [list(row) for row in zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plot(rates: Rates) -> str:
    """Both media over their bits, as the text of an SVG file."""
    panels = []
    for medium in MEDIA:
        lines = [_line(rates, c) for c in rates.curves if c.medium == medium]
        lines = [line for line in lines if line.points]
        if lines:
            panels.append(
                Panel(
                    f"{medium}: {told_files(rates)}",
                    f"kbit/s of the {medium}",
                    f"{MEASURES[medium]}, dB",
                    tuple(lines),
                )
            )
    return drawn(panels)


def _line(rates: Rates, curve: Curve) -> Line:
    known = [(p.kilobits, p.decibels, p.setting) for p in curve.points if p.decibels is not None]
    ours = curve.way == LATENTS
    name = f"latents of {rates.model}" if ours else f"{CODECS[curve.medium]}, {curve.way}"
    return Line(
        name,
        COLOURS[curve.way],
        tuple((x, y) for x, y, _ in known),
        tuple(setting for _, _, setting in known) if ours else (),
        dashed=curve.way == ALONE,
    )


def _bits_a_pixel(rates: Rates, point: Point) -> float:
    return point.kilobits * 1000 / rates.pixels_a_second


def _decibels(point: Point) -> str:
    return "-" if point.decibels is None else f"{point.decibels:.2f} dB"


def _needed(rates: Rates, medium: Medium, way: str, point: Point) -> str:
    """What a codec needs to be as near, and how many times fewer bits that is."""
    curve = rates.curve(medium, way)
    if curve is None or point.decibels is None:
        return "-"
    needed = curve.kilobits_for(point.decibels)
    if needed is not None:
        return f"{needed:,.1f} kbit/s, {_times(point.kilobits / needed)}"
    first = curve.points[0]
    if first.decibels is not None and first.decibels > point.decibels:
        return f"below {first.kilobits:,.1f} kbit/s, over {_times(point.kilobits / first.kilobits)}"
    return "not reached"


def _times(factor: float) -> str:
    return f"{factor:,.0f}x fewer" if factor >= 10 else f"{factor:.2g}x fewer"

