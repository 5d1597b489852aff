"""A small model and clips of known classes for the tests of `perceivio evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from data_files import hum
from media_files import make_media, numbered, steady

from perceivio.autoencoder import Autoencoder
from perceivio.config import Attend, Config, Modality
from perceivio.evaluation.answers import Answer, Clip
from perceivio.model import MultimodalAutoencoder

FRAMES, HEIGHT, WIDTH, RATE, SAMPLES = 4, 16, 24, 8000, 1280  # 0.16 s at 25 frames/s
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def config(**changes) -> Config:
    """A model of windows of 0.16 s and six classes, smaller than anything that learns."""
    return Config(
        modalities={
            "image": Modality(
                shape=(FRAMES, HEIGHT, WIDTH), channels=3, patch=(2, 4, 4), output_patch=(2, 4, 4),
                bands=2, resolution=(2, 4, 6), channel_axis=1, media="video", rate=25,
            ),
            "audio": Modality(
                shape=(SAMPLES,), channels=1, patch=(80,), output_patch=(80,), bands=4,
                resolution=(16,), media="audio", rate=RATE,
            ),
            "label": Modality(shape=(), channels=6, query=8, names=CLASSES),
        },
        latents=6,
        latent_channels=16,
        process=Attend(heads=2),
        self_attends=1,
        output_channels=12,
        name="minute",
    ).replace(**changes)  # fmt: skip


def model(**changes) -> Autoencoder:
    """It with random weights, the same in every run."""
    torch.manual_seed(4)
    return Autoencoder(MultimodalAutoencoder(config(**changes)))


@dataclass(frozen=True)
class Perfect:
    """A baseline that gives clips back as they are."""

    name: str = "perfect"
    note: str = "the clip itself"

    def __call__(self, clip: Clip) -> Answer:
        return Answer(clip.image, clip.audio, 10_000)


@dataclass(frozen=True)
class Nothing:
    """A baseline that says grey, and nothing of the sound."""

    name: str = "grey"
    note: str = "grey, in no bits"

    def __call__(self, clip: Clip) -> Answer:
        image = None if clip.image is None else torch.full_like(clip.image, 0.5)
        return Answer(image, None, None, image_bits=0)


STAND_INS = (Perfect(), Nothing())


def make(path: Path, frames: int = 10, first: int = 0, sound: bool = True) -> Path:
    """Numbered frames at 25/s, losslessly kept, and a hum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [numbered(first + n, HEIGHT, WIDTH) for n in range(frames)]
    return make_media(
        path, pictures, steady(frames, 25), hum(frames / 25, RATE) if sound else None,
        rate=RATE, codec="ffv1", pixels="bgr0", sound_codec="pcm_s16le",
    )  # fmt: skip


def make_folder(folder: Path) -> Path:
    """Six clips: of two classes that the model knows, one that it does not, and of none."""
    for number, name in enumerate(("ant/1", "ant/2", "bee/1", "yak/1", "2", "3")):
        make(folder / f"{name}.mkv", 6 + 3 * number, 100 * number)
    return folder
