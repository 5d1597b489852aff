"""Attention as a picture: heat maps over frames and over curves, one row a latent.

A grid of three dimensions is shown as some of its frames, grey, with the weights in colour over
them; of one dimension as a curve, with the weights in colour behind it. Classes, which have no
grid, are only in the figures on the left.

Each panel has its own scale, which is written under it: full colour is its highest weight, but no
less than what each would be if all were the same, so that next to nothing is not made to look like
much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .attention_maps import Attention, by_dimensions
from .config import Config, Modality

Side = Literal["reads", "writes"]

FRAMES = 4  # of a grid of three dimensions
CELL = 96  # height of a frame and of a curve, in pixels
CURVE = 300  # width of a curve
FIGURES = 132  # width of the figures on the left
GAP, MARGIN, LINE, BIG = 4, 14, 16, 18
COLOUR = np.array([224, 62, 26], np.float32)
STRONGEST = 0.85  # of the colour over a frame where the weight is the panel's highest
PAPER, INK, PALE = (255, 255, 255), (28, 28, 28), (110, 110, 110)
TITLES: dict[Side, str] = {
    "reads": "where latents read from",
    "writes": "where latents write to",
}
LEGENDS: dict[Side, str] = {
    "reads": "Weights that the latent gives to tokens; over all modalities they sum to 100 %.",
    "writes": "Weights that output queries give to the latent; over all latents they sum to 100 %.",
}
BEFORE: dict[Side, str] = {"reads": "from", "writes": "of"}


@dataclass(frozen=True)
class Panel:
    """A column of the picture: one modality.

    ground  (T, h, w) float32 in [0, 1] of the frames shown, or (columns, 2) lowest and highest of a
            curve, in [-1, 1]
    moments indices of the frames shown, in the modality's own grid
    times   what is written above the frames
    """

    name: str
    modality: Modality
    given: bool
    ground: np.ndarray
    moments: tuple[int, ...]
    times: tuple[str, ...]

    @property
    def is_curve(self) -> bool:
        return not self.moments

    @property
    def cell(self) -> int:
        """Width of one frame, or of the curve."""
        if self.is_curve:
            return CURVE
        height, width = self.modality.shape[1:]
        return min(3 * CELL, max(CELL // 3, round(CELL * width / height)))

    @property
    def width(self) -> int:
        return self.cell if self.is_curve else len(self.moments) * (self.cell + GAP) - GAP


def draw(
    attention: Attention,
    side: Side,
    config: Config,
    inputs: Mapping[str, Tensor],
    title: str,
    start: float = 0.0,
) -> Image.Image:
    """The picture of one side.

    inputs  of the window, each (1, *value_shape), to lay the maps over; what is not there is grey
    title   what is written first, such as the file's name
    start   of the window, in seconds
    """
    maps = attention.reads if side == "reads" else attention.writes
    assert maps is not None
    panels = _panels(config, inputs, start)
    width = 2 * MARGIN + FIGURES + sum(panel.width + MARGIN for panel in panels) - MARGIN
    top, row = MARGIN + BIG + LINE // 2 + 2 * LINE, CELL + LINE + 2 * GAP
    height = top + row * len(attention.latents) + 2 * LINE + MARGIN
    sheet = Image.new("RGB", (max(width, 640), height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (MARGIN, MARGIN), f"{title}: {TITLES[side]}", BIG)
    left = MARGIN + FIGURES
    equal = 1 / (config.tokens if side == "reads" else config.latents)
    for panel in panels:
        _head(pen, panel, left, top)
        for number, weights in enumerate(maps[panel.name].mean(1).numpy()):
            place, full = (left, top + number * row), max(float(weights.max()), equal)
            _put(sheet, panel, weights / full, place)
            _write(pen, (left, place[1] + CELL + 1), f"full colour: {_percent(full)}", 11, PALE)
        left += panel.width + MARGIN
    for number, latent in enumerate(attention.latents):
        y = top + number * row
        _write(pen, (MARGIN, y), f"latent {latent}", 15)
        for line, told in enumerate(_figures(attention, side, config, number)[:5]):
            _write(pen, (MARGIN, y + 20 + line * LINE), told, 12, PALE)
    _legend(sheet, pen, side, height - MARGIN - LINE)
    return sheet


def _panels(config: Config, inputs: Mapping[str, Tensor], start: float) -> list[Panel]:
    """A panel for each modality that can be shown, pictures first."""
    panels = []
    for name in by_dimensions(config):
        modality = config.modalities[name]
        if len(modality.shape) not in (1, 3):
            continue
        values = inputs.get(name)
        array = None if values is None else _channels_last(values, modality)
        if len(modality.shape) == 1:
            panels.append(Panel(name, modality, array is not None, _curve(array), (), ()))
            continue
        count = modality.shape[0]
        some = min(FRAMES, count)
        moments = tuple((2 * i + 1) * count // (2 * some) for i in range(some))
        rate = modality.rate
        times = tuple(f"{start + t / rate:.2f} s" if rate else f"{t}" for t in moments)
        ground = np.full((some, *modality.shape[1:]), 0.75, np.float32)
        if array is not None:
            ground = _grey(array[list(moments)])
        panels.append(Panel(name, modality, array is not None, ground, moments, times))
    return panels


def _channels_last(values: Tensor, modality: Modality) -> np.ndarray:
    axis = modality.channel_axis % (len(modality.shape) + 1)
    return values[0].detach().float().cpu().movedim(axis, -1).numpy()


def _grey(frames: np.ndarray) -> np.ndarray:
    """(T, h, w, channels) -> (T, h, w) in [0, 1]"""
    grey = frames.mean(-1)
    low, high = min(0.0, float(grey.min())), max(1.0, float(grey.max()))
    return (grey - low) / (high - low)


def _curve(values: np.ndarray | None) -> np.ndarray:
    """(n, channels) -> (CURVE, 2): lowest and highest value of each column of pixels"""
    if values is None:
        return np.zeros((CURVE, 2), np.float32)
    values = values / max(float(np.abs(values).max()), 1e-6)
    edges = np.arange(CURVE + 1) * len(values) // CURVE
    spans = [values[a : max(b, a + 1)] for a, b in pairwise(edges)]
    return np.array([(span.min(), span.max()) for span in spans], np.float32)


def _head(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    given = "" if panel.given else ", not given"
    _write(pen, (left, top - 2 * LINE - 2), f"{panel.name}{given}", 14)
    for number, told in enumerate(panel.times):
        _write(pen, (left + number * (panel.cell + GAP), top - LINE), told, 11, PALE)
    if panel.is_curve and panel.modality.seconds:
        told = f"{float(panel.modality.seconds):.2f} s from left to right"
        _write(pen, (left, top - LINE), told, 11, PALE)


def _put(
    sheet: Image.Image, panel: Panel, strength: np.ndarray, place: tuple[int, int]
) -> None:
    """One latent's map (*grid), in [0, 1], over one panel."""
    if panel.is_curve:
        sheet.paste(Image.fromarray(_over_curve(panel.ground, strength)), place)
        return
    for number, (moment, frame) in enumerate(zip(panel.moments, panel.ground, strict=True)):
        there = strength[moment * len(strength) // panel.modality.shape[0]]
        cell = _over_frame(frame, there, panel.cell)
        sheet.paste(cell, (place[0] + number * (panel.cell + GAP), place[1]))


def _over_frame(frame: np.ndarray, strength: np.ndarray, width: int) -> Image.Image:
    """Grey (h, w) under colour of a strength (h', w') in [0, 1]"""
    size = width, CELL
    grey = Image.fromarray((frame * 255).round().astype(np.uint8))
    below = np.asarray(grey.resize(size, Image.Resampling.BICUBIC), np.float32)[..., None]
    mask = Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    alpha = STRONGEST * np.asarray(mask)[..., None]
    return Image.fromarray((below * (1 - alpha) + COLOUR * alpha).round().astype(np.uint8))


def _over_curve(curve: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """A curve in ink over columns of a strength (n,) in [0, 1]: uint8 (CELL, CURVE, 3)"""
    edges = np.arange(CURVE + 1) * len(strength) // CURVE
    alpha = np.array([strength[a : max(b, a + 1)].max() for a, b in pairwise(edges)], np.float32)
    alpha = alpha[None, :, None]
    ground = np.full((CELL, CURVE, 3), 240, np.float32) * (1 - alpha) + COLOUR * alpha
    height = np.arange(CELL)[:, None]
    highest, lowest = ((0.5 - 0.38 * curve[:, i]) * (CELL - 1) for i in (1, 0))
    ground[(height >= np.floor(highest)) & (height <= np.ceil(lowest))] = INK
    return ground.round().astype(np.uint8)


def _figures(attention: Attention, side: Side, config: Config, number: int) -> list[str]:
    """What is written beside a row: how much of the latent goes where."""
    names = by_dimensions(config)
    if side == "reads":
        told = {name: float(attention.read_shares(name)[number]) for name in names}
    else:
        latent = attention.latents[number]
        told = {name: float(attention.shares[name][latent]) for name in names}
    return [f"{_percent(share)} {BEFORE[side]} {name}" for name, share in told.items()]


def _legend(sheet: Image.Image, pen: ImageDraw.ImageDraw, side: Side, y: int) -> None:
    bar = np.linspace(0, 1, 80, dtype=np.float32)[None, :, None]
    colours = np.repeat(240 * (1 - bar) + COLOUR * bar, 10, axis=0)
    sheet.paste(Image.fromarray(colours.round().astype(np.uint8)), (MARGIN, y + 3))
    told = f"no weight to full colour. {LEGENDS[side]} Mean over heads."
    _write(pen, (MARGIN + 88, y), told, 12, PALE)


def _percent(share: float) -> str:
    if share < 1e-4:
        return "< 0.01 %" if share else "0 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: Sequence[int] = INK,
) -> None:
    pen.text(place, text, tuple(colour), ImageFont.load_default(size))
