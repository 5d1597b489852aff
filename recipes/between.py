"""What asking between the trained positions does to quality, against resampling what was decoded.

    python -m recipes.between [--steps 2000]

Real clips are read twice as dense, in pixels and in frames, as the model is fed, so what is truly
between its positions is known. Two models are asked:

`small`   answers in blocks of 8 x 8 x 8. Other sizes and times are resampled from its blocks
          (queries.py), so what is measured are blocks asked half-way between two trained ones,
          alone and mixed with these by a raised cosine.
`points`  answers point by point, as `base` does. `base` needs published weights; this one is a
          small stand-in that the recipe trains first, on these very clips: what is compared are two
          ways to read one function, not how good it is.

PSNR in dB, peak 1, over all windows of a clip.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.clip_format import ClipFormat
from perceivio.clips import read_windows
from perceivio.config import Attend, Config, Modality
from perceivio.media import probe
from perceivio.metrics import Fidelity
from perceivio.modalities import unpatch
from perceivio.model import MultimodalAutoencoder
from perceivio.position import Grid
from perceivio.queries import Look

CLIPS = ["assets/bbb_scene.mp4", "assets/band.3gp"]
SECONDS = 5.0

POINTS = Config(
    modalities={
        "image": Modality(
            shape=(8, 32, 32),
            channels=3,
            patch=(1, 4, 4),
            output_patch=(1, 1, 1),
            bands=8,
            resolution=(8, 16, 16),
            channel_axis=1,
            mean=0.5,
            std=0.25,
            media="video",
            rate=25,
        )
    },
    latents=48,
    latent_channels=128,
    process=Attend(heads=4),
    self_attends=2,
    decode=Attend(heads=2, widening=2),
    output_channels=128,
    query_padding=77,
    name="points",
)


@dataclass(frozen=True)
class Dense:
    """Windows of a clip, twice as dense in time as the model is fed: `low` (W, 2 T, 3, H, W) in its
    pixels, `high` (W, 2 T, 3, 2 H, 2 W)."""

    low: Tensor
    high: Tensor

    @property
    def fed(self) -> Tensor:
        return self.low[:, ::2]


def read(path: str, modality: Modality) -> Dense:
    """Whole windows of a clip, at its own frame rate."""
    frames, height, width = modality.shape
    info = probe(path)
    assert info.video
    clip = ClipFormat(2 * frames, height, width, info.video.frame_rate, 0, 0)
    windows = read_windows(path, clip, duration=SECONDS, keep_size=2 * height)
    low, high = [], []
    for window in windows:
        if window.frames == 2 * frames and window.originals is not None:
            low.append(window.inputs["image"][0])
            high.append(torch.from_numpy(window.originals).permute(0, 3, 1, 2).float() / 255)
    return Dense(torch.stack(low), torch.stack(high))


def trained(clips: Sequence[Dense], steps: int) -> Autoencoder:
    """`points`, after so many steps on all windows of these clips at once."""
    torch.manual_seed(0)
    module = MultimodalAutoencoder(POINTS)
    fed = torch.cat([clip.fed for clip in clips])
    wanted = fed.movedim(2, -1).flatten(1, 3)
    optimiser = torch.optim.AdamW(module.parameters(), 2e-3, weight_decay=0.0)
    warm = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1, step / 100) * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))),
    )
    for step in range(steps):
        some = torch.randperm(len(fed))[:8]
        points = torch.randint(wanted.shape[1], (512,))
        found = module.decode(module.encode({"image": fed[some]}), {"image": points})["image"]
        loss = F.mse_loss(found, wanted[some][:, points])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        warm.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"  step {step}: {-10 * math.log10(loss.item()):.2f} dB", flush=True)
    return Autoencoder(module)


def psnr(wanted: Tensor, got: Tensor) -> float:
    fidelity = Fidelity()
    fidelity.add(wanted, got.clamp(0, 1))
    return fidelity.psnr or math.inf


def line(clip: str, what: str, *values: float) -> None:
    print(f"{clip:14} {what:50} {'  '.join(f'{value:6.2f}' for value in values)}")


def enlarged(frames: Tensor, size: Sequence[int]) -> Tensor:
    """(W, T, 3, h, w) resampled to another size, bicubic with antialiasing."""
    flat = F.interpolate(frames.flatten(0, 1), tuple(size), mode="bicubic", antialias=True)
    return flat.unflatten(0, frames.shape[:2])


def sizes(name: str, model: Autoencoder, clip: Dense) -> None:
    """Twice the size, half the size, and previews."""
    video = model.config.modalities["image"]
    frames, height, width = video.shape
    times = [i / (video.rate or 1) for i in range(frames)]
    latents = model.encode({"image": clip.fed})
    decoded, truth = model.decode(latents)["image"].clamp(0, 1), clip.high[:, ::2]
    double, half = (2 * height, 2 * width), (height // 2, width // 2)
    line(name, f"decoded at {height} x {width}", psnr(clip.fed, decoded))
    line(name, "  enlarged to twice that, bicubic", psnr(truth, enlarged(decoded, double)))
    if max(video.output_patch) == 1:
        asked = model.pictures(latents, times, Look(double))
        line(name, "  asked at twice that", psnr(truth, asked))
    ceiling = enlarged(clip.fed, double)
    line(name, "  (the original, enlarged, bicubic)", psnr(truth, ceiling))
    if max(video.output_patch) == 1:
        truth = enlarged(clip.fed, half)
        line(name, "made half the size, antialiased", psnr(truth, enlarged(decoded, half)))
        asked = model.pictures(latents, times, Look(half))
        line(name, "  asked at half the size", psnr(truth, asked))
        for coarse in (2, 4):
            asked = model.pictures(latents, times, Look(coarse=coarse))
            line(name, f"preview, one pixel in {coarse} x {coarse}", psnr(clip.fed, asked))


def between_frames(name: str, model: Autoencoder, clip: Dense) -> None:
    """The frames that the model was not fed."""
    video = model.config.modalities["image"]
    latents = model.encode({"image": clip.fed})
    decoded, truth = model.decode(latents)["image"].clamp(0, 1), clip.low[:, 1:-1:2]
    line(name, "frames half-way: the one before, held", psnr(truth, decoded[:, :-1]))
    mixed = (decoded[:, :-1] + decoded[:, 1:]) / 2
    line(name, "  the mean of the two beside", psnr(truth, mixed))
    if max(video.output_patch) == 1:
        times = [(i + 0.5) / (video.rate or 1) for i in range(video.shape[0] - 1)]
        line(name, "  asked half-way", psnr(truth, model.pictures(latents, times, Look())))
    originals = (clip.fed[:, :-1] + clip.fed[:, 1:]) / 2
    line(name, "  (the mean of the two originals)", psnr(truth, originals))


def half_way_blocks(name: str, model: Autoencoder, clip: Dense) -> None:
    """Blocks asked half a block further along one dimension: what they say of what is there, in
    the pixels that they cover: trained blocks, these, and both mixed."""
    video = model.config.modalities["image"]
    latents = model.encode({"image": clip.fed})
    for axis, along in enumerate(("time", "height", "width")):
        axes = [torch.arange(float(n)) for n in video.query_grid]
        here = _blocks(model, latents, axes)
        axes[axis] = axes[axis][:-1] + 0.5
        there = _blocks(model, latents, axes)
        patch, dim = video.output_patch[axis], (1, 3, 4)[axis]
        inner = slice(patch // 2, -(patch // 2))
        here, truth = (x.movedim(dim, -1)[..., inner] for x in (here, clip.fed))
        there = there.movedim(dim, -1)
        weight = torch.sin(math.pi * (torch.arange(here.shape[-1]) + 0.5) / patch).square()
        mixed = torch.lerp(here, there, weight)
        line(
            name,
            f"blocks along {along}: trained, half-way, both mixed",
            *(psnr(truth, x) for x in (here, there, mixed)),
        )


def _blocks(model: Autoencoder, latents: Tensor, axes: Sequence[Tensor]) -> Tensor:
    video, grid = model.config.modalities["image"], Grid(tuple(axes))
    values = model.decode(latents, {"image": grid})["image"]
    return unpatch(values, video, video.output_patch, grid.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", default=CLIPS)
    parser.add_argument("--steps", type=int, default=2000, help="of training `points`")
    chosen = parser.parse_args()
    small = perceivio.load("small", device="cpu")
    names = [Path(path).name for path in chosen.clips]
    print("small: 16 frames of 64 x 64, in blocks of 8 x 8 x 8")
    for name, path in zip(names, chosen.clips, strict=True):
        clip = read(path, small.config.modalities["image"])
        sizes(name, small, clip)
        between_frames(name, small, clip)
        half_way_blocks(name, small, clip)
    clips = [read(path, POINTS.modalities["image"]) for path in chosen.clips]
    print(f"points: 8 frames of 32 x 32, point by point, after {chosen.steps} steps")
    points = trained(clips, chosen.steps)
    for name, clip in zip(names, clips, strict=True):
        sizes(name, points, clip)
        between_frames(name, points, clip)
    print("base: not measured, its published weights are not here")


if __name__ == "__main__":
    main()
