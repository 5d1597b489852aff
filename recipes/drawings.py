"""Draw the pictures of docs/how-it-works.md: plain SVG, the same bytes every time.

    python -m recipes.drawings

All sizes that are written in them come from the presets. Each has a ground of its own, light or
dark as the reader's screen asks for, so that it can be read wherever it is shown.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from perceivio.config import Config, Modality, preset
from perceivio.pipeline import OVERLAP
from perceivio.position import input_positions, query_positions

STYLE = """
  .ground { fill: #fcfcfb; stroke: #d5d3cd }
  text { font: 17px system-ui, sans-serif; fill: #24231f }
  .head { font-weight: 600 } .note { font-size: 15px; fill: #66645c }
  .code { font-family: monospace }
  .line { fill: none; stroke: #55534c; stroke-width: 1.5 } .tip { fill: #55534c }
  .thin { fill: none; stroke: #b4b1a8; stroke-width: 1 }
  .box { fill: #f1efe9; stroke: #55534c; stroke-width: 1.5 }
  .image { fill: #4f86c6 } .audio { fill: #d08a2e } .label { fill: #8b6bb8 }
  .position { fill: #9dbb8a } .padding { fill: #d9d6cd } .latent { fill: #c4645a }
  .on { fill: #fff; font-size: 15px }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #1b1c1f; stroke: #3a3b40 } text { fill: #e8e6e0 } .note { fill: #a6a49b }
    .line { stroke: #b9b6ad } .tip { fill: #b9b6ad } .thin { stroke: #55565c }
    .box { fill: #2a2b30; stroke: #b9b6ad } .padding { fill: #4a4b50 } .position { fill: #5f7f4d }
    .on { fill: #fff }
  }
"""
AUDIO, IMAGE, LABEL = "audio", "image", "label"


class Drawing:
    """Plain shapes, put down one after the other."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title = (width, height), title
        self.parts: list[str] = []
        self.box(1, 1, width - 2, height - 2, "ground", 10)

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{words}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, kind: str = "box", round: int = 3
    ) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{round}" class="{kind}"/>'
        )

    def dot(self, x: float, y: float, r: float, kind: str) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" class="{kind}"/>')

    def line(self, *points: tuple[float, float], kind: str = "line") -> None:
        told = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
        self.parts.append(f'<polyline points="{told}" class="{kind}"/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        (x0, y0), (x1, y1) = points[-2:]
        turn = math.degrees(math.atan2(y1 - y0, x1 - x0))
        self.line(*points)
        self.parts.append(
            f'<path d="M0 0 L-11 -5 L-11 5 Z" class="tip"'
            f' transform="translate({x1:g} {y1:g}) rotate({turn:g})"/>'
        )

    def svg(self) -> str:
        width, height = self.size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
                f"<title>{self.title}</title>",
                f"<style>{STYLE}</style>",
                *self.parts,
                "</svg>\n",
            ]
        )


def film(draw: Drawing, x: float, y: float) -> None:
    """Some frames one behind the other, and a wave below them."""
    for i in range(3):
        draw.box(x + 12 * (2 - i), y + 9 * i, 92, 58)
    draw.box(x, y + 18, 92, 58, IMAGE)
    wave(draw, x, y + 108, 116)


def wave(draw: Drawing, x: float, y: float, width: float) -> None:
    for i in range(int(width / 4)):
        tall = 3 + 13 * abs(math.sin(i * 0.9) * math.sin(i * 0.23 + 0.6))
        draw.box(x + 4 * i, y - tall, 2.5, 2 * tall, AUDIO, 1)


def array(
    draw: Drawing, x: float, y: float, rows: dict[str, list[tuple[str, int, str]]], width: float
) -> float:
    """Rows of a modality each, cut into kinds of channels; returns where it ends."""
    heights = {AUDIO: 36, IMAGE: 74, LABEL: 28}
    for name, cells in rows.items():
        total, at = sum(count for _, count, _ in cells), x
        for kind, count, words in cells:
            wide = width * count / total
            draw.box(at, y, wide, heights[name], kind, 0)
            if words and wide > 9 * len(words):
                on = "on" if kind not in ("padding", "position") else "note"
                draw.text(at + wide / 2, y + heights[name] / 2 + 5, words, on, "middle")
            at += wide
        draw.text(x - 10, y + heights[name] / 2 + 5, name, "note", "end")
        y += heights[name] + 3
    return y - 3


def tokens_of(m: Modality, channels: int) -> list[tuple[str, int, str]]:
    kind = LABEL if m.is_classes else AUDIO if m.media == "audio" else IMAGE
    rest = channels - m.content_channels - m.position_channels
    cells = [(kind, m.content_channels, f"{m.content_channels}")]
    if m.position_channels:
        cells.append(("position", m.position_channels, f"{m.position_channels}"))
    return [*cells, ("padding", rest, f"{rest}")]


def queries_of(m: Modality, channels: int) -> list[tuple[str, int, str]]:
    rest = channels - m.position_channels - m.query
    known = (
        (LABEL, m.query, f"{m.query:,}")
        if m.is_classes
        else ("position", m.position_channels, f"{m.position_channels}")
    )
    return [known, ("padding", rest, f"{rest}")]


def queries(config: Config) -> int:
    return sum(m.queries for m in config.modalities.values())


def model(base: Config, small: Config) -> Drawing:
    draw = Drawing(1000, 660, "From a file to latents and back")
    image, audio, label = (base.modalities[k] for k in (IMAGE, AUDIO, LABEL))
    frames, height, width = image.shape

    draw.text(30, 40, "encode", "head")
    film(draw, 34, 74)
    draw.text(30, 240, "a file: any length,")
    draw.text(30, 262, "size, rate")
    draw.arrow((164, 130), (206, 130))
    draw.text(214, 84, "a window", "head")
    draw.text(214, 112, f"{frames} frames of")
    draw.text(214, 134, f"{height} × {width}")
    draw.text(214, 162, f"{audio.shape[0]:,} samples")
    draw.text(214, 190, f"1 of {label.channels} classes,")
    draw.text(214, 212, "masked to classify")
    draw.arrow((352, 130), (386, 130))

    draw.text(452, 50, "input array  M × C", "head")
    rows = {k: tokens_of(m, base.input_channels) for k, m in base.modalities.items()}
    end = array(draw, 452, 66, rows, 262)
    draw.text(452, end + 24, f"{base.tokens:,} × {base.input_channels}")
    draw.text(452, end + 46, f"small: {small.tokens} × {small.input_channels}", "note")
    draw.arrow((720, 130), (812, 130))
    draw.text(766, 116, "cross-", "note", "middle")
    draw.text(766, 152, "attend", "note", "middle")

    draw.text(820, 50, "latents  N × D", "head")
    for i in range(9):
        draw.box(820, 66 + 15 * i, 96, 12, "latent", 2)
    draw.arrow((922, 172), (962, 172), (962, 90), (922, 90))
    draw.text(820, 222, f"{base.latents} × {base.latent_channels}")
    draw.text(820, 244, f"small: {small.latents} × {small.latent_channels}", "note")
    draw.text(820, 268, f"{base.self_attends} self-attends", "note")
    draw.text(820, 288, f"(small: {small.self_attends})", "note")

    for x, kind, words in (
        (452, IMAGE, "content"),
        (552, "position", "position"),
        (654, "padding", "learned padding"),
    ):
        draw.box(x, 286, 14, 14, kind, 2)
        draw.text(x + 20, 299, words, "note")

    draw.line((30, 340), (970, 340), kind="thin")
    draw.text(30, 376, "decode", "head")
    draw.text(96, 410, "output queries  O × E", "head")
    rows = {k: queries_of(m, base.query_channels) for k, m in base.modalities.items()}
    end = array(draw, 96, 426, rows, 262)
    draw.text(96, end + 24, f"{queries(base):,} × {base.query_channels:,}, or those you ask")
    draw.text(96, end + 46, f"small: {queries(small)} × {small.query_channels}", "note")
    draw.arrow((364, 490), (424, 490))
    draw.box(430, 450, 118, 80)
    draw.text(489, 485, "decoder", "", "middle")
    draw.text(489, 507, "cross-attend", "", "middle")
    draw.arrow((868, 300), (868, 360), (489, 360), (489, 444))
    draw.text(502, 384, "the latents: keys and values", "note")
    draw.arrow((548, 490), (586, 490))
    draw.box(592, 450, 118, 80)
    draw.text(651, 485, "linear maps", "", "middle")
    draw.text(651, 507, f"to {base.output_channels}, then", "note", "middle")
    draw.text(651, 558, f"{image.output_values} a pixel", "note", "middle")
    draw.text(651, 580, f"{audio.output_values} a piece of sound", "note", "middle")
    draw.text(651, 602, f"{label.output_values} for the class", "note", "middle")
    draw.arrow((710, 490), (762, 490))
    film(draw, 776, 434)
    draw.text(772, 590, "values: pixels,", "")
    draw.text(772, 612, "samples, logits", "")
    return draw


def grids(base: Config) -> Drawing:
    n = 8
    draw = Drawing(1000, 330, "The two position grids")
    image = base.modalities[IMAGE]

    def x(p: float) -> float:
        return 300 + 620 * (p + 1) / 2

    for p in (-1, 0, 1):
        draw.line((x(p), 70), (x(p), 262), kind="thin")
        draw.text(x(p), 58, f"{p:g}".replace("-", "−"), "note", "middle")
    rows = (
        (116, "tokens that are read", "both ends included", input_positions(n), IMAGE),
        (
            206,
            "queries that are asked",
            "−1 + 2 i / n: never reaches 1",
            query_positions(n),
            "latent",
        ),
    )
    for y, head, how, positions, kind in rows:
        draw.text(30, y, head, "head")
        draw.text(30, y + 24, how, "note")
        draw.line((x(-1), y), (x(1), y))
        for i, p in enumerate(positions.tolist()):
            draw.dot(x(p), y, 8, kind)
            draw.text(x(p), y + 30, str(i), "note", "middle")
    draw.dot(x(1), 206, 7, "box")
    draw.text(
        30,
        300,
        f"Drawn with n = {n}. Of base's height: {image.token_grid[1]} tokens from −1 to 1, and"
        f" {image.query_grid[1]} queries from −1 to"
        f" {query_positions(image.query_grid[1])[-1].item():.4f}.",
        "note",
    )
    return draw


def tables(base: Config) -> Drawing:
    draw = Drawing(1000, 430, "What the fast engine does with positions")
    frames, height, width = base.modalities[IMAGE].query_grid
    pixels, e, n = frames * height * width, base.query_channels, base.latents

    draw.text(30, 42, "plain", "head")
    draw.text(30, 68, "every query is written out", "note")
    for i in range(12):
        draw.box(30, 84 + 17 * i, 210, 13, "position", 2)
    draw.text(30, 312, f"{pixels:,} queries")
    draw.text(30, 334, f"of {e:,} channels")
    draw.text(30, 362, f"{pixels * e * 4 / 1e9:.1f} GB in float32", "note")

    draw.line((300, 30), (300, 400), kind="thin")
    draw.text(330, 42, "factored", "head")
    draw.text(
        330, 68, "positions are separable: three tables for each latent, one a dimension", "note"
    )
    where = {"T": (330, frames, 5), "Y": (440, height, 14), "X": (550, width, 14)}
    for name, (x, count, cells) in where.items():
        chosen = cells // 2
        for i in range(cells):
            draw.box(x, 84 + 15 * i, 60, 12, "latent" if i == chosen else "position", 2)
        draw.text(x, 84 + 15 * cells + 20, f"{name}: {count}", "")
        y = 84 + 15 * chosen + 6
        draw.line((x + 60, y), (x + 80, y), (x + 80, 176) if y != 176 else (x + 80, y))
    draw.text(424, 182, "+", "head", "middle")
    draw.text(534, 182, "+", "head", "middle")
    draw.arrow((630, 176), (674, 176))
    draw.box(680, 150, 290, 52)
    draw.text(825, 182, "score = T[t] + Y[y] + X[x]", "code", "middle")
    draw.text(680, 232, "(over std) then the softmax over latents;", "note")
    draw.text(680, 252, "no array of queries is ever written", "note")
    rows = frames + height + width
    draw.text(330, 362, f"{frames} + {height} + {width} = {rows} rows of {n} numbers:")
    draw.text(
        330, 386, f"{rows * n * 4 / 1e6:.1f} MB, made once a clip for all {pixels:,} pixels", "note"
    )
    return draw


def windows(small: Config) -> Drawing:
    draw = Drawing(1000, 400, "Windows that overlap, and how they are joined")
    image = small.modalities[IMAGE]
    frames, rate, step = image.shape[0], image.rate or 1, 18.0
    hop, x0 = frames - OVERLAP, 194
    total = 2 * hop + frames

    draw.text(30, 66, "the file's frames", "head")
    for i in range(total):
        draw.box(x0 + step * i, 48, step - 3, 26, IMAGE, 2)
    for k in range(3):
        y, x = 104 + 40 * k, x0 + step * hop * k
        draw.text(30, y + 19, f"window {k}", "")
        draw.box(x, y, step * frames - 3, 28, "latent")
        draw.text(
            x + step * frames / 2, y + 19, f"{frames} frames, {frames / rate:g} s", "on", "middle"
        )
        if k:
            for edge in (0, OVERLAP):
                draw.line((x + step * edge - 1.5, 80), (x + step * edge - 1.5, 324), kind="thin")
    draw.text(30, 270, "weight", "head")
    base, tall = 312.0, 60.0
    for k in range(3):
        first = hop * k
        points = []
        for i in range(frames * 8 + 1):
            u = first + i / 8
            weight = 1.0
            if k and u < first + OVERLAP:
                weight = (1 - math.cos(math.pi * (u - first) / OVERLAP)) / 2
            if k < 2 and u > first + hop:
                weight = (1 + math.cos(math.pi * (u - first - hop) / OVERLAP)) / 2
            points.append((x0 + step * u, base - tall * weight))
        draw.line(*points)
    draw.line((x0, base), (x0 + step * total, base), kind="thin")
    draw.text(
        30,
        356,
        f"A window begins {hop} frames after the one before and shares {OVERLAP} with it. There"
        " the later one fades in by a",
        "note",
    )
    draw.text(
        30,
        378,
        "raised cosine, the earlier one out; the weights sum to 1. Sound is joined alike.",
        "note",
    )
    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"))
    folder = parser.parse_args().output
    base, small = preset("base"), preset("small")
    drawings = {
        "drawing_model.svg": model(base, small),
        "drawing_grids.svg": grids(base),
        "drawing_tables.svg": tables(base),
        "drawing_windows.svg": windows(small),
    }
    for name, drawing in drawings.items():
        (folder / name).write_text(drawing.svg(), "utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
