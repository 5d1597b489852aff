"""The bank of clips that `gather` builds, read back as batches for a model.

A batch is keyed by (seed, step) alone, so that a run that was stopped goes on with the very
clips that it would have seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FAINTEST = 0.05  # contrast that a faded clip keeps at least


@dataclass(frozen=True)
class Batch:
    """image (B, T, 3, H, W) in [0, 1], audio (B, S, 1) in [-1, 1], label (B,): -1 where none"""

    image: Tensor
    audio: Tensor
    label: Tensor
    source: Tensor

    def inputs(self, classes: int) -> dict[str, Tensor]:
        """As a model takes them; the label one-hot, all zeros where there is none."""
        known = self.label.clamp(min=0)
        one_hot = torch.nn.functional.one_hot(known, classes) * (self.label >= 0)[:, None]
        return {"image": self.image, "audio": self.audio, "label": one_hot.float()}


def fade(clips: Tensor, rng: np.random.Generator) -> Tensor:
    """Clips (B, T, 3, H, W) on their way to a plain colour, half of them to black or white: films
    have such moments, and next to nothing of a picture is the hardest to be better than."""
    count = len(clips)
    colour = rng.random((count, 3))
    ends = rng.random(count) < 0.5
    colour[ends] = rng.integers(0, 2, (ends.sum(), 1))
    left = np.exp(rng.uniform(np.log(FAINTEST), 0.0, (count, 1, 1, 1, 1)))
    ground = torch.from_numpy(colour[:, None, :, None, None]).float()
    return ground + (clips - ground) * torch.from_numpy(left).float()


class Bank:
    """One half (train or test) of the bank, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.video = np.load(folder / "video.npy", mmap_mode="r")
        self.audio = np.load(folder / "audio.npy", mmap_mode="r")
        self.label = np.load(folder / "label.npy")
        self.source = np.load(folder / "source.npy")
        self.sources = json.loads((folder / "sources.json").read_text())

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: np.ndarray) -> Batch:
        """The clips of these rows as they are."""
        video = torch.from_numpy(self.video[rows]).permute(0, 1, 4, 2, 3)
        return Batch(
            image=video.float() / 255,
            audio=torch.from_numpy(self.audio[rows].astype(np.float32))[..., None] / 32768,
            label=torch.from_numpy(self.label[rows]).long(),
            source=torch.from_numpy(self.source[rows]).long(),
        )

    def random(self, size: int, seed: int, step: int, digits: float = 0.3) -> Batch:
        """A random batch with this share of digits, varied: clips that are no digits are mirrored,
        played backwards, their colours changed, faded and their sound exchanged; all sound is made
        louder or softer."""
        rng = np.random.default_rng((seed, step))
        labelled = self.label >= 0
        counts = round(digits * size), size - round(digits * size)
        kinds = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        rows = [rng.choice(k, n, replace=False) for k, n in zip(kinds, counts, strict=True)]
        batch = self.batch(np.sort(np.concatenate(rows)))
        image, audio = batch.image, batch.audio
        free = np.flatnonzero(batch.label.numpy() < 0)

        def some(share: float) -> np.ndarray:
            return free[rng.random(len(free)) < share]

        chosen = some(0.5)
        image[chosen] = image[chosen].flip(-1)
        chosen = some(0.3)
        image[chosen] = image[chosen].flip(1)
        chosen = some(0.3)
        image[chosen] = image[chosen][:, :, rng.permutation(3)]
        chosen = some(0.3)
        gain = torch.from_numpy(rng.uniform(0.6, 1.2, (len(chosen), 1, 1, 1, 1))).float()
        image[chosen] = (image[chosen] * gain).clamp(0, 1)
        chosen = some(0.3)
        image[chosen] = fade(image[chosen], rng)
        chosen = some(0.5)
        audio[chosen] = audio[rng.permutation(chosen)]
        gain = torch.from_numpy(np.exp(rng.normal(0, 0.7, (size, 1, 1)))).float()
        loudest = audio.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-4)
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], (size, 1, 1))).float()
        audio = audio * torch.minimum(gain, 1 / loudest) * sign
        return Batch(image, audio, batch.label, batch.source)
