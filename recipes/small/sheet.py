"""Look at a bank: a contact sheet of clips (sheet.png) and figures about its sound.

python -m recipes.small.sheet --work .data/small --side train
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROWS, COLUMNS, SHOWN = 6, 2, [0, 5, 10, 15]  # 12 clips of each kind, four frames of each
CELL = 68


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--side", default="train", choices=["train", "test"])
    parser.add_argument("--start", type=int, default=0, help="first row looked at")
    arguments = parser.parse_args()
    folder = arguments.work / arguments.side
    video, audio, label, source = (
        np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("video", "audio", "label", "source")
    )
    sources = json.loads((folder / "sources.json").read_text())
    kinds = np.array([sources[str(i)]["kind"] for i in source])
    print(f"{len(video)} clips of {arguments.side}")
    for i, count in zip(*np.unique(source, return_counts=True), strict=True):
        print(f"  {count:6d}  {sources[str(i)]['kind']:6} {sources[str(i)]['name']}")
    sheet = Image.new("RGB", (3 * COLUMNS * (len(SHOWN) * CELL + 8), ROWS * (CELL + 12)), "grey")
    draw = ImageDraw.Draw(sheet)
    for k, kind in enumerate(("film", "photo", "digit")):
        rows = np.flatnonzero(kinds == kind)
        rows = rows[rows >= arguments.start]
        for place, row in enumerate(rows[: ROWS * COLUMNS]):
            left = (k * COLUMNS + place // ROWS) * (len(SHOWN) * CELL + 8)
            top = place % ROWS * (CELL + 12)
            name = sources[str(source[row])]["name"][-30:]
            draw.text((left, top), f"{row} {name}, label {label[row]}")
            for number, frame in enumerate(SHOWN):
                sheet.paste(Image.fromarray(video[row, frame]), (left + number * CELL, top + 12))
        some = rows[:500]
        pixels = video[some].astype(np.float32)
        sound = audio[some].astype(np.float32) / 32768
        level = np.sqrt((sound**2).mean(axis=1))
        power = np.abs(np.fft.rfft(sound, axis=1)) ** 2
        below = power[:, : power.shape[1] // 8].sum() / power.sum()
        change = np.abs(np.diff(pixels, axis=1)).mean(axis=(1, 2, 3, 4))
        dark = (pixels.max(axis=(1, 2, 3, 4)) < 40).mean()
        levels = np.round(np.percentile(level, [5, 50, 95]), 4)
        print(
            f"{kind}: mean pixel {pixels.mean():.0f}, dark clips {dark:.1%}, "
            f"change a frame {np.median(change):.2f} (still: {(change < 0.01).mean():.0%}); "
            f"level 5/50/95% {levels}, silent {(level < 1e-3).mean():.1%}, "
            f"clipped {(np.abs(sound) > 0.999).mean():.3%}, power below 1 kHz {below:.0%}"
        )
    sheet.save(arguments.work / "sheet.png")


if __name__ == "__main__":
    main()
