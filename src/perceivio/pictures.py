"""Frames as pictures: crop, scale, and show side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from .writer import as_bytes


def centre_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of a frame (H, W, 3) with the aspect of height x width."""
    full_height, full_width = frame.shape[:2]
    crop_height, crop_width = full_height, full_width
    if full_width * height > full_height * width:
        crop_width = max(1, round(full_height * width / height))
    else:
        crop_height = max(1, round(full_width * height / width))
    top, left = (full_height - crop_height) // 2, (full_width - crop_width) // 2
    return frame[top : top + crop_height, left : left + crop_width]


def scaled(frames: Sequence[np.ndarray], height: int, width: int, flip: bool) -> torch.Tensor:
    """uint8 (T, 3, height, width) from equal uint8 (H, W, 3): bicubic, with antialiasing."""
    stack = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    if stack.shape[2:] != (height, width):
        # On bytes whose channels lie together, torch has its fast kernel.
        stack = F.interpolate(stack, (height, width), mode="bicubic", antialias=True)
    return (stack.flip(3) if flip else stack).contiguous()


def resize(frames: np.ndarray | torch.Tensor, height: int, width: int) -> np.ndarray:
    """Frames, uint8 (n, H, W, 3) or float (n, 3, H, W), as uint8 (n, height, width, 3)."""
    pictures = as_bytes(frames)
    if not len(pictures):
        return np.zeros((0, height, width, 3), np.uint8)
    return np.stack([as_bytes(resized(picture, height, width)[None])[0] for picture in pictures])


def shown_size(shape: tuple[int, int], height: int) -> tuple[int, int]:
    """(height, width) of a picture of this shape scaled to about `height`, both even."""
    height = max(2, 2 * round(height / 2))
    return height, max(2, 2 * round(height * shape[1] / shape[0] / 2))


def side_by_side(
    left: np.ndarray | torch.Tensor,
    right: np.ndarray | torch.Tensor,
    height: int,
    labels: tuple[str, str] = ("original", "reconstruction"),
) -> np.ndarray:
    """Two rows of frames next to each other, each under its label: uint8 (n, h, w, 3), h, w even.

    Frames are uint8 (n, H, W, 3) or float (n, 3, H, W) in [0, 1]; both are scaled to `height`.
    """
    height += height % 2
    bar = max(16, 2 * (height // 24))
    halves = []
    for frames, label in ((left, labels[0]), (right, labels[1])):
        pictures = as_bytes(frames)
        width = max(2, 2 * round(height * pictures.shape[2] / pictures.shape[1] / 2))
        caption = _caption(label, bar, width)
        captions = np.broadcast_to(caption, (len(pictures), *caption.shape))
        halves.append(np.concatenate([captions, resize(pictures, height, width)], axis=1))
    gap = np.zeros((*halves[0].shape[:2], 4, 3), np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=2)


def _caption(label: str, height: int, width: int) -> np.ndarray:
    """White text in the middle of a black bar, as large as fits: uint8 (height, width, 3)."""
    bar = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(bar)
    size = 0.8 * height
    while size > 6 and draw.textlength(label, ImageFont.load_default(size)) > width - 4:
        size -= 1
    font = ImageFont.load_default(size)
    draw.text((width / 2, height / 2), label, "white", font, anchor="mm")
    return np.asarray(bar)


def resized(frame: np.ndarray, height: int, width: int) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, height, width) in [0, 1], bicubic with antialiasing."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
    if frame.shape[:2] != (height, width):
        # On bytes it is five times faster than on floats, and clamps by itself.
        picture = F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]
    return picture.float() / 255
