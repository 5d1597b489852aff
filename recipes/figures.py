"""Draw the pictures of the README: frames of real reconstructions, made by the command itself.

    python -m recipes.figures

Each row is one clip: four moments of the file that `perceivio reconstruct CLIP --side-by-side`
writes. Also prints the figures that the command prints, for the table beside the picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

CLIPS = {"bbb_scene.mp4": 0.0, "band.3gp": 20.0, "hello.avi": 0.0, "digit.mp4": 0.0}
SECONDS, MOMENTS, HEIGHT = 5.0, 3, 128


def moments(path: Path) -> list[np.ndarray]:
    """Frames evenly spread over a file."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(frames) - 1, MOMENTS + 2)[1:-1].round().astype(int)
    return [frames[i] for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/reconstructions.png"))
    parser.add_argument("--model", default="small")
    chosen = parser.parse_args()
    rows = []
    print(f"{'clip':16} {'PSNR':>6} {'mean colour':>11} {'SNR':>6}  classes")
    with tempfile.TemporaryDirectory() as folder:
        for name, start in CLIPS.items():
            target = Path(folder) / f"{name}.mp4"
            command = [sys.executable, "-m", "perceivio.cli", "reconstruct"]
            command += [str(chosen.assets / name), "-o", str(target), "--side-by-side", "--json"]
            command += ["--start", str(start), "--duration", str(SECONDS), "--size", str(HEIGHT)]
            command += ["--model", chosen.model]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(ran.stdout)
            best = found["classes"][0]
            print(
                f"{name:16} {found['video_psnr_db']:6.2f} {found['mean_colour_psnr_db']:11.2f}"
                f" {found['audio_snr_db'] or float('nan'):6.2f}"
                f"  {best['name']} ({best['probability']:.0%})"
            )
            rows.append(np.concatenate(moments(target), axis=1))
    Image.fromarray(np.concatenate(rows)).save(chosen.output, optimize=True)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()
