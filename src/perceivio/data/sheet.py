"""A contact sheet: some clips of an index, each with its label and how long it lasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..clip_format import ClipFormat
from ..excerpt import read_excerpt
from ..overlap import several_ahead
from .catalogue import Index

CELL = 160, 120  # width and height of a picture, in pixels
CAPTION, GAP = 18, 4
FONT_SIZE = 12
THREADS = 4
ONE_FRAME = ClipFormat(1, 1, 1, 25, 0, 0)

Progress = Callable[[float, float], None]  # clips done, clips in all


def draw(
    index: Index,
    count: int = 24,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> tuple[Image.Image, list[str]]:
    """The middle frames of `count` clips chosen by `seed`, in the index's order.

    Returns the sheet, and the paths of clips that could not be read: their pictures stay grey.
    """
    rows = np.random.default_rng(seed).permutation(len(index))[:count]
    rows = sorted(int(row) for row in rows)
    columns = math.ceil(math.sqrt(len(rows)))
    width, height = CELL[0] + GAP, CELL[1] + CAPTION + GAP
    lines = math.ceil(len(rows) / columns)
    sheet = Image.new("RGB", (columns * width + GAP, lines * height + GAP), "black")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    unread = []

    def middle(row: int) -> Image.Image | None:
        clip = index[row]
        try:
            with index.open(clip) as container:
                frames, _ = read_excerpt(container, Fraction(clip.duration) / 2, ONE_FRAME)
        except Exception:  # damaged files raise anything
            return None
        picture = Image.fromarray(frames[0])
        picture.thumbnail(CELL)
        return picture

    for place, (row, picture) in enumerate(
        zip(rows, several_ahead(middle, rows, THREADS), strict=True)
    ):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        if picture is None:
            unread.append(index[row].path)
            pen.rectangle((left, top, left + CELL[0] - 1, top + CELL[1] - 1), "grey")
        else:
            inset = (CELL[0] - picture.width) // 2, (CELL[1] - picture.height) // 2
            sheet.paste(picture, (left + inset[0], top + inset[1]))
        clip = index[row]
        length, label = f"{clip.duration:.1f} s", clip.label or clip.path
        room = CELL[0] - GAP - pen.textlength(length, font)
        if pen.textlength(label, font) > room:
            while label and pen.textlength(label + "…", font) > room:
                label = label[:-1]
            label += "…"
        baseline = top + CELL[1] + CAPTION // 2
        pen.text((left, baseline), label, "white", font, anchor="lm")
        pen.text((left + CELL[0], baseline), length, "grey", font, anchor="rm")
        progress(place + 1, len(rows))
    return sheet, unread
