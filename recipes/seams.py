"""How much of a seam shows between windows, for several overlaps.

    python -m recipes.seams [FILES ...]

A seam is a jump that the original does not have. For the picture and for the sound, the table
gives the mean size of the reconstruction's error steps (the difference of the error from one
frame, or sample, to the next) at the joints, over the same anywhere else: 1 is a seam that
nobody can see or hear. Beside it, what the overlap costs and gains.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import perceivio
from perceivio.clips import Rejoin
from perceivio.pipeline import clip_format

OVERLAPS = (0, 1, 2, 4, 8)
FILES = ["assets/bbb_scene.mp4", "assets/hello.avi", "assets/band.3gp"]


def errors(model, path: str, overlap: int, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of the rejoined stream: picture (n, 3, H, W), sound (m,)."""
    clip = clip_format(model.config)
    streams: list[list[dict[str, torch.Tensor]]] = [[], []]
    both = Rejoin(clip, overlap), Rejoin(clip, overlap)
    for window in perceivio.read(path, model, duration=seconds, overlap=overlap):
        got = model.reconstruct(window.inputs)
        for rejoin, values in zip(both, (got, window.inputs), strict=True):
            own = {"image": values["image"][0], "audio": values["audio"][0, :, 0]}
            streams[rejoin is both[1]].append(rejoin.add(window, own))
    for i, rejoin in enumerate(both):
        streams[i].append(rejoin.finish())
    image, sound = (
        torch.cat([part[k] for part in streams[0]]) - torch.cat([part[k] for part in streams[1]])
        for k in ("image", "audio")
    )
    return image, sound


def steps(error: torch.Tensor, joints: np.ndarray) -> float:
    """Mean square step of the error at the joints over that elsewhere."""
    step = (error[1:] - error[:-1]).square().flatten(1).mean(1).numpy()
    at = np.zeros(len(step), bool)
    at[joints[joints <= len(step)] - 1] = True
    return float(np.sqrt(step[at].mean() / step[~at].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--model", default="small")
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    model = perceivio.load(chosen.model)
    clip = clip_format(model.config)
    print(f"{'file':16} {'overlap':>7} {'windows':>8} {'PSNR':>6} {'picture':>8} {'sound':>6}")
    for path in chosen.files:
        for overlap in OVERLAPS:
            image, sound = errors(model, path, overlap, chosen.seconds)
            hop = clip.frames - overlap
            frames = np.arange(hop, len(image), hop)
            samples = frames * clip.samples // clip.frames
            psnr = -10 * image.square().mean().log10().item()
            print(
                f"{Path(path).name:16} {overlap:7} {clip.frames / hop:7.2f}x {psnr:6.2f}"
                f" {steps(image, frames):8.2f} {steps(sound[:, None], samples):6.2f}"
            )


if __name__ == "__main__":
    main()
