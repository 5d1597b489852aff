"""Pieces of clips that a started model reads on their own: a square of half the frames, a sound.

An untrained `small` already reads each block of video, and each stretch of sound, with a latent of
its own (see start.py). So a piece needs only its own tokens, latents and output queries, and the
self-attends see a few dozen latents instead of all: what an example costs falls with them.
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

from .common import FRAMES, SIDE


@dataclass(frozen=True, eq=False)
class Piece:
    """What is looked at.

    frames   the first frame, and the one behind the last
    area     top, left and side in pixels of what is looked at in them
    tokens   by modality: which of its tokens there are
    latents  rows of the latents, as start.py places them: video, sound, those that are free
    points   by modality: which of its output queries are asked
    """

    name: str
    frames: tuple[int, int]
    area: tuple[int, int, int]
    tokens: dict[str, Tensor]
    latents: Tensor
    points: dict[str, Tensor]


def piece(
    name: str, frames: tuple[int, int], sound: bool, area: tuple[int, int, int] = (0, 0, SIDE)
) -> Piece:
    config = preset("small")
    image, audio = config.modalities["image"], config.modalities["audio"]
    top, left, side = area

    def inside(grid: tuple[int, ...]) -> Tensor:
        """Flat indices of those cells of a grid of the video that are in these frames and area."""
        cells = torch.arange(grid[0] * grid[1] * grid[2]).view(grid)
        times = slice(*(grid[0] * frame // FRAMES for frame in frames))
        rows, columns = (
            slice(size * first // SIDE, size * (first + side) // SIDE)
            for size, first in zip(grid[1:], (top, left), strict=True)
        )
        return cells[times, rows, columns].flatten()

    tokens, latents, points = {}, [], {}
    if sound:
        tokens["audio"], points["audio"] = torch.arange(audio.tokens), torch.arange(audio.queries)
    if frames[0] < frames[1]:
        tokens["image"], points["image"] = inside(image.token_grid), inside(image.query_grid)
        latents.append(points["image"])
    if sound:
        latents.append(image.queries + points["audio"])
    latents.append(torch.arange(image.queries + audio.queries, config.latents))
    return Piece(name, frames, area, tokens, torch.cat(latents), points)


WHOLE = piece("whole", (0, FRAMES), sound=True)
SOUND = piece("sound", (0, 0), sound=True)
BLOCK = SIDE // 8
# Kinds of pieces and how often each is looked at: squares of so many blocks, in half the frames,
# with or without the sound; 0 blocks: only the sound.
KINDS = (
    *(((4, False), 0.14), ((5, False), 0.14), ((6, False), 0.14), ((8, False), 0.24)),
    *(((8, True), 0.06), ((0, True), 0.28)),
)


def choose(seed: int, kinds: str = "all") -> Piece:
    """A random piece; of the picture alone, or the sound alone, where `kinds` says so."""
    rng = np.random.default_rng(seed)
    alone = {"image": [(8, False)], "sound": [(0, True)]}.get(kinds)
    chosen = [(kind, share) for kind, share in KINDS if alone is None or kind in alone]
    shares = np.array([share for _, share in chosen])
    blocks, sound = chosen[rng.choice(len(chosen), p=shares / shares.sum())][0]
    if not blocks:
        return SOUND
    top, left = (BLOCK * int(rng.integers(8 - blocks + 1)) for _ in range(2))
    first = FRAMES // 2 * int(rng.integers(2))
    name = f"{blocks}+sound" if sound else str(blocks)
    return piece(name, (first, first + FRAMES // 2), sound, (top, left, blocks * BLOCK))


def patches_in(io: ModalityIO, values: Tensor, patch: tuple[int, ...]) -> Tensor:
    """The patches of as many frames as there are; sound is whole."""
    modality = io.modality
    if modality.media == "video":
        modality = replace(modality, shape=(values.shape[1], *modality.shape[1:]))
    return patches(values, modality, patch)


def tokens_of(module: MultimodalAutoencoder, inputs: Mapping[str, Tensor], piece: Piece) -> Tensor:
    """The rows of the input array that a piece has, (B, some, C). `inputs` are of its frames."""
    array = []
    for name, rows in piece.tokens.items():
        io = module.io(name)
        values = (inputs[name] - io.modality.mean) / io.modality.std
        here = patches_in(io, values, io.modality.patch)
        first = rows[0] - rows[0] % (here.shape[1]) if name == "image" else 0
        content = io.embed(here[:, rows - first])
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
