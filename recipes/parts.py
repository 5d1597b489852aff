"""Draw the picture of docs/queries.md, by the commands that are printed there.

    python -m recipes.parts

From left: a frame of a film, the same moment asked of its latents, the middle of the film's frame
four times as large, and the same part asked of the latents.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from perceivio.clips import read_windows
from perceivio.config import preset
from perceivio.pictures import resize
from perceivio.pipeline import clip_format

CLIP, SECOND, SIDE = Path("assets/bbb_scene.mp4"), 1.24, 256
PART = (0.375, 0.25, 0.25, 0.25)  # top, left, height, width


def perceivio(*arguments: object) -> None:
    print("perceivio", *arguments)
    command = [sys.executable, "-m", "perceivio.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def original() -> tuple[np.ndarray, np.ndarray]:
    """The film's frame, as the model's crop shows it, and the part of it: uint8 (1, H, W, 3)."""
    windows = read_windows(
        CLIP, clip_format(preset("small")), SECOND, duration=0.04, keep_size=4 * SIDE
    )
    frames = next(iter(windows)).originals
    assert frames is not None
    top, left, height, width = (round(part * 4 * SIDE) for part in PART)
    return frames[:1], frames[:1, top : top + height, left : left + width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/queries.png"))
    chosen = parser.parse_args()
    whole, part = (resize(frames, SIDE, SIDE)[0] for frames in original())
    with tempfile.TemporaryDirectory() as folder:
        latents, frame, crop = (Path(folder) / name for name in ("a.latents", "f.png", "c.png"))
        perceivio("encode", CLIP, "-o", latents)
        asked = ("decode", latents, "--at", SECOND, "--size", f"{SIDE}x{SIDE}")
        perceivio(*asked, "-o", frame)
        perceivio(*asked, "--crop", ",".join(map(str, PART)), "-o", crop)
        found = [np.array(Image.open(path)) for path in (frame, crop)]
    picture = np.concatenate([whole, found[0], part, found[1]], axis=1)
    Image.fromarray(picture).save(chosen.output, optimize=True)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
