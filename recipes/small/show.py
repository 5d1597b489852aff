"""Draw what `small` does with clips that it was never trained on, the worst of them too.

    python -m recipes.small.show [MODEL] [--work .data/small] [--all] [-o docs/small_clips.png]

For sources of the test half, the clips of highest, median and lowest PSNR: a frame of the original,
of what the model made of it, and of area pooling to 2 x 2 pixels, which keeps 49,152 numbers of the
picture, where the latents are 53,760 for picture and sound. Figures are printed for every source;
drawn are those whose pictures may be shown in this repository, and with --all every source.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from perceivio.weights import load_module
from recipes.small.bank import Bank
from recipes.small.score import batches, enumerate_sources, psnr

SIDE, GAP, HEAD, LABEL, FONT = 112, 6, 22, 128, 12  # pixels
FRAME = 7  # of sixteen
PLACES = ("best", "median", "worst")
FREE = ("digits", "hello (screencast)")  # MIT, and CC-BY-SA 4.0
SHOWN = ("original", "small", "2 x 2 pooling")


def pooled(image: Tensor) -> Tensor:
    """(B, T, 3, H, W): means of 2 x 2 pixels, enlarged again without steps."""
    frames = F.avg_pool2d(image.flatten(0, 1), 2)
    larger = F.interpolate(frames, scale_factor=2, mode="bilinear")
    return larger.view_as(image)


@torch.inference_mode()
def answers(module, bank: Bank) -> dict[str, list[tuple[float, float, np.ndarray]]]:
    """By source: PSNR, that of pooling, and the three frames, uint8 (3, H, W, 3)."""
    names = {s: str(about["name"]) for s, about in enumerate_sources(bank.sources)}
    rows: dict[str, list[tuple[float, float, np.ndarray]]] = {}
    for batch in batches(bank):
        made = module.reconstruct({"image": batch.image, "audio": batch.audio})["image"]
        simple = pooled(batch.image)
        figures = psnr(batch.image, made), psnr(batch.image, simple)
        three = torch.stack([batch.image, made.clamp(0, 1), simple], 1)[:, :, FRAME]
        frames = (255 * three).round().byte().permute(0, 1, 3, 4, 2).numpy()
        for i, source in enumerate(batch.source.tolist()):
            name = "digits" if batch.label[i] >= 0 else names[source]
            told = (figures[0][i].item(), figures[1][i].item(), frames[i])
            rows.setdefault(name, []).append(told)
    return rows


def sheet(rows: dict[str, list[tuple[float, float, np.ndarray]]]) -> Image.Image:
    """A line a source: the best clip on the left, the worst on the right."""
    group = 3 * (SIDE + GAP)
    width, line = LABEL + len(PLACES) * (group + 2 * GAP), SIDE + GAP + HEAD
    page = Image.new("RGB", (width, HEAD + len(rows) * line), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)
    for which, title in enumerate(PLACES):
        for i, what in enumerate(SHOWN):
            left = LABEL + which * (group + 2 * GAP) + i * (SIDE + GAP)
            pen.text((left, 3), f"{title}: {what}" if not i else what, "black", font)
    for place, (name, found) in enumerate(sorted(rows.items())):
        order = sorted(found, key=lambda row: row[0])
        top = HEAD + place * line
        pen.multiline_text((4, top + 8), name.replace("-", "-\n", 1), "black", font)
        chosen = order[-1], order[len(order) // 2], order[0]
        for which, (ours, simple, frames) in enumerate(chosen):
            for i, frame in enumerate(frames):
                left = LABEL + which * (group + 2 * GAP) + i * (SIDE + GAP)
                picture = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                page.paste(picture, (left, top))
                told = ("", f"{ours:.1f} dB", f"{simple:.1f} dB")[i]
                pen.text((left, top + SIDE + 2), told, "black", font)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--all", action="store_true", help="draw every source")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/small_clips.png"))
    chosen = parser.parse_args()
    rows = answers(load_module(chosen.model), Bank(chosen.work / "test"))
    drawn = {name: found for name, found in rows.items() if chosen.all or name in FREE}
    sheet(drawn).save(chosen.output, optimize=True)
    print(f"{'source':32} {'small':>6} {'pooling':>8}")
    for name, found in sorted(rows.items()):
        means = np.mean([row[:2] for row in found], axis=0)
        print(f"{name[:32]:32} {means[0]:6.2f} {means[1]:8.2f}")
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
