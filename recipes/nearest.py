"""Draw docs/nearest.png: windows of the clips in assets/, and the windows nearest to each.

    python -m recipes.nearest [-o docs/nearest.png]

Embeds all clips, searches, and shows the middle frame of every window: left the one that was asked
for, then the five nearest, each with its cosine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import perceivio
from perceivio.media import MediaReader
from perceivio.pictures import centre_crop

CLIPS = ("bbb_scene.mp4", "band.3gp", "hello.avi", "digit.mp4")
ASKED = (("bbb_scene.mp4", 1.28), ("band.3gp", 20.48), ("band.3gp", 5.12), ("hello.avi", 3.2),
         ("digit.mp4", 0.64))  # fmt: skip
NEAREST, CELL, GAP, LINE, WIDE = 5, 88, 22, 16, 44


def middle(path: str, start: float, stop: float) -> Image.Image:
    """The middle frame of a window, as the model sees it but larger."""
    with MediaReader(path, 25, None, (start + stop) / 2, 0.04) as reader:
        frames, _ = reader.read(1, 0)
    picture = Image.fromarray(centre_crop(frames[0], CELL, CELL))
    return picture.resize((CELL, CELL), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/nearest.png"))
    parser.add_argument("--model", default="small")
    chosen = parser.parse_args()
    model = perceivio.load(chosen.model)
    width = (NEAREST + 1) * (CELL + GAP) + WIDE + GAP
    sheet = Image.new("RGB", (width, LINE + len(ASKED) * (CELL + 2 * LINE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pen.text((GAP, 2), "asked for", "black", font)
    pen.text((CELL + GAP + WIDE, 2), "nearest windows, by cosine", "black", font)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "assets.parquet"
        clips = [chosen.assets / name for name in CLIPS]
        report = perceivio.embed(clips, table, model)
        print(f"{report.windows} windows of {report.files} files")
        for row, (name, at) in enumerate(ASKED):
            path = str(chosen.assets / name)
            own, *hits = perceivio.search(path, table, model, at=at, top=NEAREST + 1)
            if own.file != path or abs(own.start - at) > 0.01:
                raise SystemExit(f"{path}: its window at {at} s is not nearest to itself")
            for place, hit in enumerate([own, *hits]):
                x = GAP + place * (CELL + GAP) + (WIDE - GAP if place else 0)
                y = LINE + GAP + row * (CELL + 2 * LINE + GAP)
                sheet.paste(middle(hit.file, hit.start, hit.stop), (x, y))
                where = f"{Path(hit.file).stem} {hit.start:.2f} s"
                pen.text((x, y + CELL), where, "black", font)
                if place:
                    pen.text((x, y + CELL + LINE - 2), f"{hit.cosine:.3f}", "grey", font)
    sheet.save(chosen.output, optimize=True)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
