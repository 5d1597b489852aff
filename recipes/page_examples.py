"""Make the examples of the page: src/perceivio/page/examples.

    python -m recipes.page_examples

The digit as it is, and four seconds of the cartoon, small enough to ship with the package.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from perceivio.media import MediaReader
from perceivio.pictures import resize
from perceivio.writer import MediaWriter

ASSETS, EXAMPLES = Path("assets"), Path("src/perceivio/page/examples")
SECONDS, HEIGHT, WIDTH, RATE, SAMPLE_RATE = 4.0, 270, 480, 25, 32_000


def main() -> None:
    shutil.copyfile(ASSETS / "digit.mp4", EXAMPLES / "digit.mp4")
    reader = MediaReader(ASSETS / "bbb_scene.mp4", RATE, SAMPLE_RATE, duration=SECONDS)
    frames, samples = reader.read(round(SECONDS * RATE), round(SECONDS * SAMPLE_RATE))
    target, size = EXAMPLES / "cartoon.mp4", (HEIGHT, WIDTH)
    options = {"crf": "26", "preset": "slow"}
    with MediaWriter(target, RATE, size, SAMPLE_RATE, overwrite=True, encoder=options) as writer:
        writer.write(resize(np.stack(frames), HEIGHT, WIDTH), samples)
    for path in sorted(EXAMPLES.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
