"""Draw docs/nearest.png: windows of the clips in assets/, and the windows nearest to each.

    python -m recipes.nearest [-o docs/nearest.png]

Embeds all clips by `perceivio embed`, asks by `perceivio search`, and shows the middle frame of
every window: left the one that was asked for, then the five nearest, each with its cosine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from perceivio.media import MediaReader
from perceivio.pictures import centre_crop

CLIPS = ("bbb_scene.mp4", "band.3gp", "hello.avi", "digit.mp4")
ASKED = (("bbb_scene.mp4", 1.28), ("band.3gp", 20.48), ("band.3gp", 5.12), ("hello.avi", 3.2),
         ("digit.mp4", 0.64))  # fmt: skip
NEAREST, CELL, GAP, LINE, WIDE = 5, 112, 6, 16, 24


def perceivio(*arguments: object) -> str:
    command = [sys.executable, "-m", "perceivio.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


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
    width = (NEAREST + 1) * (CELL + GAP) + WIDE + GAP
    sheet = Image.new("RGB", (width, LINE + len(ASKED) * (CELL + 2 * LINE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pen.text((GAP, 2), "asked for", "black", font)
    pen.text((CELL + GAP + WIDE, 2), "nearest windows, by cosine", "black", font)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "assets.parquet"
        clips = [chosen.assets / name for name in CLIPS]
        print(perceivio("embed", *clips, "-o", table, "--model", chosen.model), end="")
        for row, (name, at) in enumerate(ASKED):
            path = str(chosen.assets / name)
            told = perceivio(
                "search", path, "--at", at, "--in", table, "--top", NEAREST + 1, "--json"
            )
            own, *hits = json.loads(told)["hits"]
            assert own["file"] == path
            assert abs(own["start"] - at) < 0.01
            for place, hit in enumerate([own, *hits]):
                x = GAP + place * (CELL + GAP) + (WIDE - GAP if place else 0)
                y = LINE + GAP + row * (CELL + 2 * LINE + GAP)
                sheet.paste(middle(hit["file"], hit["start"], hit["stop"]), (x, y))
                where = f"{Path(hit['file']).stem} {hit['start']:.2f} s"
                pen.text((x, y + CELL), where, "black", font)
                if place:
                    pen.text((x, y + CELL + LINE - 2), f"{hit['cosine']:.3f}", "grey", font)
    sheet.save(chosen.output, optimize=True)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
