"""Pieces of clips that a started model reads on their own: half the frames, or only the sound.

An untrained `small` already reads each block of video, and each stretch of sound, with a latent of
its own (see start.py). So a piece needs only its own tokens, latents and output queries, and the
self-attends see a few dozen latents instead of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from perceivio.config import preset
from perceivio.modalities import ModalityIO, patches
from perceivio.model import MultimodalAutoencoder
from perceivio.position import grid_features

from .common import FRAMES


@dataclass(frozen=True, eq=False)
class Piece:
    """What is looked at.

    frames   the first frame, and the one behind the last
    tokens   by modality: which of its tokens there are
    latents  rows of the latents, as start.py places them: video, sound, those that are free
    points   by modality: which of its output queries are asked
    """

    name: str
    frames: tuple[int, int]
    tokens: dict[str, Tensor]
    latents: Tensor
    points: dict[str, Tensor]


def piece(name: str, frames: tuple[int, int], sound: bool) -> Piece:
    config = preset("small")
    image, audio = config.modalities["image"], config.modalities["audio"]

    def in_time(count: int) -> Tensor:
        first, last = (count * frame // FRAMES for frame in frames)
        return torch.arange(first, last)

    tokens, latents, points = {}, [], {}
    if sound:
        tokens["audio"], points["audio"] = torch.arange(audio.tokens), torch.arange(audio.queries)
    if frames[0] < frames[1]:
        tokens["image"], points["image"] = in_time(image.tokens), in_time(image.queries)
        latents.append(points["image"])
    if sound:
        latents.append(image.queries + points["audio"])
    latents.append(torch.arange(image.queries + audio.queries, config.latents))
    return Piece(name, frames, tokens, torch.cat(latents), points)


HALF = FRAMES // 2
WHOLE = piece("whole", (0, FRAMES), sound=True)
PIECES = (  # and how often each is looked at
    (piece("half", (0, HALF), sound=False), 0.44),
    (piece("half", (HALF, FRAMES), sound=False), 0.44),
    (piece("half+sound", (0, HALF), sound=True), 0.06),
    (piece("half+sound", (HALF, FRAMES), sound=True), 0.06),
)


def choose(seed: int) -> Piece:
    shares = [share for _, share in PIECES]
    return PIECES[np.random.default_rng(seed).choice(len(PIECES), p=shares)][0]


def patches_in(io: ModalityIO, values: Tensor, patch: tuple[int, ...]) -> Tensor:
    """The patches of as many frames as there are; sound is whole."""
    modality = io.modality
    if modality.media == "video":
        modality = replace(modality, shape=(values.shape[1], *modality.shape[1:]))
    return patches(values, modality, patch)


def tokens_of(module: MultimodalAutoencoder, inputs: Mapping[str, Tensor], piece: Piece) -> Tensor:
    """The rows of the input array that a piece has, (B, some, C)."""
    array = []
    for name, rows in piece.tokens.items():
        io = module.io(name)
        values = (inputs[name] - io.modality.mean) / io.modality.std
        content = io.embed(patches_in(io, values, io.modality.patch))
        position = grid_features(io.token_axes(), rows).to(content)
        shared = torch.cat([position, io.padding.expand(len(rows), -1)], dim=1)
        array.append(torch.cat([content, shared.expand(len(content), -1, -1)], dim=2))
    return torch.cat(array, dim=1)


def look(
    module: MultimodalAutoencoder, inputs: Mapping[str, Tensor], piece: Piece
) -> tuple[Tensor, Tensor]:
    """The logits (B, classes) that the model answers to a piece, its label unknown, and the
    latents that it made (B, some, D)."""
    array = tokens_of(module, inputs, piece)
    latents = module.encoder.latents[piece.latents].expand(len(array), -1, -1)
    latents = module.encoder.process(module.encoder.cross_attend(latents, array))
    return module.decode(latents, {"label": None})["label"], latents
