"""An index as training examples. What an example is depends on (seed, epoch, index) and on nothing
else: not on the process that makes it, not on what was made before. So a run that stops goes on
with the very examples it would have had.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from ..clip_format import ClipFormat
from ..errors import MediaError
from ..excerpt import read_excerpt
from ..pictures import centre_crop, scaled
from .catalogue import Clip, DataError, Index

log = logging.getLogger(__name__)

NO_LABEL = -1
TRIES = 10  # clips in a row that may fail before something else must be wrong


@dataclass(frozen=True)
class Augment:
    """What is drawn at random for each example, beside the window: our choice, not the paper's.

    area    of the crop as a share of the frame's, least and most, drawn evenly
    aspect  of the crop over that of the model's picture, least and most, drawn evenly in its log
    flip    probability that left and right are exchanged
    """

    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


class ClipDataset(Dataset[dict[str, Any]]):
    """Examples of a data set: `dataset[epoch, row]`, or `dataset[row]` for epoch 0.

    index    from `Index.read`: of files or of a pack
    format   the clips that the model takes: `pipeline.clip_format(config)`
    classes  the model's class names, which label indices count in; None: the index's own
    augment  None: the middle window, the largest middle crop, no flip; for evaluation

    An example is a dict of
        format.image_name   uint8 (T, 3, H, W); see `as_inputs`
        format.audio_name   float32 (S, 1); silence where the clip has no sound
        "label"             class index, or -1
        "row"               of the clip that is shown
        "failures"          clips that failed before it: 0 where "row" is the one asked for

    A clip that cannot be read is logged, and replaced by one drawn from the same key: summed over
    batches, "failures" is the exact count. Raises MediaError only when ten in a row fail, and
    DataError at once for labels that `classes` does not have.
    """

    def __init__(
        self,
        index: Index,
        format: ClipFormat,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        augment: Augment | None = Augment(),
    ) -> None:
        if not format.frames:
            raise DataError("training on clips needs a model that takes pictures")
        names = index.classes if classes is None else tuple(classes)
        unknown = sorted(set(index.classes) - set(names))
        if unknown:
            raise DataError(
                f"{len(unknown)} labels of the index are none of the model's {len(names)} classes,"
                f" {unknown[0]!r} among them"
            )
        self.index, self.format, self.seed, self.augment = index, format, seed, augment
        self._class_index = {name: n for n, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a data set of {len(self)} clips")
        shown = row
        for failures in range(TRIES):
            # One generator a try: a replacement does not depend on how far the failed one came.
            random = np.random.default_rng((self.seed, epoch, row, 1 + failures))
            if failures:
                shown = int(random.integers(len(self)))
            clip = self.index[shown]
            try:
                example = self._example(clip, random)
            except Exception as error:
                # Damaged files and stores raise anything; a defect of ours fails ten in a row.
                log.warning("clip left out: %s: %s: %s", clip.path, type(error).__name__, error)
                continue
            return {**example, "row": shown, "failures": failures}
        raise MediaError(f"{self.index.root}: {TRIES} clips in a row cannot be read; see the log")

    def _example(self, clip: Clip, random: np.random.Generator) -> dict[str, Any]:
        wanted = self.format
        start = self._start(clip, random)
        with self.index.open(clip) as container:
            frames, sound = read_excerpt(container, start, wanted)
        if len({frame.shape for frame in frames}) > 1:
            raise MediaError("its picture changes its size")
        height, width = frames[0].shape[:2]
        if self.augment is None:
            flip = False
            frames = [centre_crop(frame, wanted.height, wanted.width) for frame in frames]
        else:
            aspect = wanted.width / wanted.height
            top, left, crop_height, crop_width = random_crop(
                height, width, aspect, self.augment, random
            )
            flip = random.random() < self.augment.flip
            frames = [f[top : top + crop_height, left : left + crop_width] for f in frames]
        example: dict[str, Any] = {
            wanted.image_name: scaled(frames, wanted.height, wanted.width, flip),
            "label": NO_LABEL if clip.label is None else self._class_index[clip.label],
        }
        if wanted.samples:
            silent = np.zeros(wanted.samples, np.float32)
            heard = torch.from_numpy(silent if sound is None else sound)
            example[wanted.audio_name] = heard[:, None]
        return example

    def _start(self, clip: Clip, random: np.random.Generator) -> Fraction:
        """Where the window begins, in seconds: on a whole sample, or a 48,000th."""
        grid = self.format.sample_rate or 48_000
        latest = max(0, math.floor((clip.duration - self.format.seconds) * grid))
        at = latest // 2 if self.augment is None else int(random.integers(latest + 1))
        return Fraction(at, grid)


class Epochs(Sampler[tuple[int, int]]):
    """Keys (epoch, row) of one epoch, shuffled by (seed, epoch); the next after `set_epoch`.

    first  how many of the epoch's keys to leave out at the beginning: to go on within an epoch
    """

    def __init__(self, rows: int, seed: int = 0, epoch: int = 0, first: int = 0) -> None:
        self.rows, self.seed, self.epoch, self.first = rows, seed, epoch, first

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.rows - self.first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        return ((self.epoch, int(row)) for row in order[self.first :])


def random_crop(
    height: int, width: int, aspect: float, augment: Augment, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """top, left, height, width of a crop within a frame; `aspect` (w / h) is what it becomes."""
    area = height * width * random.uniform(*augment.area)
    ratio = aspect * math.exp(random.uniform(*np.log(augment.aspect)))
    # A crop that does not fit gives up area, never its aspect.
    crop_width = min(math.sqrt(area * ratio), width, height * ratio)
    crop_height = max(1, round(crop_width / ratio))
    crop_width = max(1, round(crop_width))
    top = int(random.integers(height - crop_height + 1))
    left = int(random.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width


def as_inputs(batch: dict[str, Any], format: ClipFormat, classes: int) -> dict[str, torch.Tensor]:
    """A collated batch as a model's inputs, on whatever device it is.

    Pictures become float32 (B, T, 3, H, W) in [0, 1], labels one-hot float32 (B, classes); the row
    of a clip without a label is all zeros.
    """
    inputs = {format.image_name: batch[format.image_name].float() / 255}
    if format.samples:
        inputs[format.audio_name] = batch[format.audio_name]
    labels = batch["label"]
    one_hot = F.one_hot(labels.clamp(min=0), classes).float()
    inputs["label"] = one_hot * (labels >= 0)[:, None]
    return inputs
