"""Make assets/digit.mp4: a handwritten digit that drifts while a voice says it three times.

    python -m recipes.digit_clip [--digit 5] [-o assets/digit.mp4]

The image and the voice are of the bank's test half: `small` was never trained on them. Needs
what `python -m recipes.small.gather` gathered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from perceivio.writer import MediaWriter
from recipes.small.digits import TEST_IMAGES, load_images
from recipes.small.pack import Pack

SIDE, DRAWN, FRAMES, RATE, SAMPLE_RATE = 224, 140, 48, 25, 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digit", type=int, default=5)
    parser.add_argument("--image", type=int, default=7, help="which of the hundred test images")
    parser.add_argument("--media", type=Path, help="folder with digits; else WORK/media")
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("-o", "--output", type=Path, default=Path("assets/digit.mp4"))
    chosen = parser.parse_args()

    file = (chosen.media or chosen.work / "media") / "digits" / "mnist_images.npz"
    spoken = chosen.work / "spoken"
    for needed, advice in ((file, ", or give --media FOLDER"), (spoken.with_suffix(".json"), "")):
        if not needed.exists():
            parser.error(f"no {needed}: run `python -m recipes.small.gather` first{advice}")
    images, labels = load_images(file)
    image = images[labels == chosen.digit][-TEST_IMAGES:][chosen.image]
    drawn = Image.fromarray(image).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i, frame in enumerate(frames):
        canvas = Image.new("L", (SIDE, SIDE))
        canvas.paste(drawn, (10 + round(1.3 * i), 50 - round(0.8 * i)))
        frame[:] = np.asarray(canvas)[..., None]

    pack = Pack(spoken)
    voices = pack.where(split="test", program="flite", digit=chosen.digit)
    word = pack[voices[0]].astype(np.float32) / 32768
    word = 0.5 * word[:9600] / np.abs(word).max()
    samples = np.zeros(FRAMES * SAMPLE_RATE // RATE, np.float32)
    for start in range(0, len(samples), len(samples) // 3):
        samples[start + 320 : start + 320 + len(word)] += word
    with MediaWriter(chosen.output, RATE, (SIDE, SIDE), SAMPLE_RATE, overwrite=True) as writer:
        writer.write(frames, samples)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
