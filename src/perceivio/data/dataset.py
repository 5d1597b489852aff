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
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from ..beside import as_values, open_beside
from ..clip_format import ClipFormat
from ..config import Modality
from ..errors import MediaError
from ..excerpt import read_excerpt
from ..pictures import centre_crop, scaled
from .catalogue import Clip, DataError, Index

log = logging.getLogger(__name__)

NO_LABEL = -1
PROBED = 16  # files of each kind beside clips that are looked at before a run
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
        "beside.NAME"       of each modality that is read from a file beside: see `as_inputs`
        "known"             bool, one for each of these: whether it is there; without them, no key
        "label"             class index, or -1
        "row"               of the clip that is shown
        "failures"          clips that failed before it: 0 where "row" is the one asked for

    A clip that cannot be read is logged, and replaced by one drawn from the same key: summed over
    batches, "failures" is the exact count. Raises MediaError only when ten in a row fail, and
    DataError at once for labels that `classes` does not have. A file beside a clip that cannot be
    read is logged, and counts as not there.
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
        crop, flip = None, False
        if self.augment is None:
            frames = [centre_crop(frame, wanted.height, wanted.width) for frame in frames]
        else:
            aspect = wanted.width / wanted.height
            top, left, crop_height, crop_width = random_crop(
                height, width, aspect, self.augment, random
            )
            flip = bool(random.random() < self.augment.flip)
            place = (top, left, crop_height, crop_width)
            crop = _Crop((height, width), place, (wanted.height, wanted.width))
            frames = [crop(frame) for frame in frames]
        example: dict[str, Any] = {
            wanted.image_name: scaled(frames, wanted.height, wanted.width, flip),
            "label": NO_LABEL if clip.label is None else self._class_index[clip.label],
        }
        if wanted.samples:
            silent = np.zeros(wanted.samples, np.float32)
            heard = torch.from_numpy(silent if sound is None else sound)
            example[wanted.audio_name] = heard[:, None]
        if wanted.beside:
            known = []
            stop = min(start + wanted.seconds, Fraction(clip.duration))
            for name, modality in wanted.beside:
                values = self._beside(clip, name, modality, start, stop, crop, flip)
                known.append(values is not None)
                example[f"beside.{name}"] = _nothing(modality) if values is None else values
            example["known"] = torch.tensor(known)
        return example

    def _beside(
        self,
        clip: Clip,
        name: str,
        modality: Modality,
        start: Fraction,
        stop: Fraction,
        crop: _Crop | None,
        flip: bool,
    ) -> torch.Tensor | None:
        """What a file beside the clip says of its window, if there is one that can be read."""
        file = self.index.beside(clip, modality)
        if file is None:
            return None
        shape = (self.format.height, self.format.width)
        alike = modality.media == "video" and same_aspect(modality.shape[1:], shape)
        try:
            companion = open_beside(modality, file)
            return companion.read(start, stop, crop if alike else None, flip)
        except Exception as error:  # as damaged clips do, it may raise anything
            log.warning("%s left out: %s: %s", name, type(error).__name__, error)
            return None

    def _start(self, clip: Clip, random: np.random.Generator) -> Fraction:
        """Where the window begins, in seconds: on a whole sample, or a 48,000th."""
        grid = self.format.sample_rate or 48_000
        latest = max(0, math.floor((clip.duration - self.format.seconds) * grid))
        at = latest // 2 if self.augment is None else int(random.integers(latest + 1))
        return Fraction(at, grid)


def check_beside(index: Index, format: ClipFormat) -> None:
    """Look whether there are files beside clips for all that is declared, and whether some of them
    are what it says.

    Raises DataError where there are none, and MediaError for one that is something else.
    """
    order = np.random.default_rng(0).permutation(len(index)).tolist()
    for name, modality in format.beside:
        files = (index.beside(index[row], modality) for row in order)
        found = list(islice((file for file in files if file is not None), PROBED))
        if not found:
            raise DataError(
                f"the index knows no file {modality.beside} for {name}; make it with `perceivio"
                " data index --config`, and the configuration you train with"
            )
        for file in found:
            open_beside(modality, file).read(Fraction(0), Fraction(0))


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


@dataclass(frozen=True)
class _Crop:
    """A crop of the clip's picture, for that of a file beside it too: of one aspect, both show the
    same, at whatever size; of another, it is another view, and the largest middle part is taken.

    full    (height, width) of the clip's picture
    place   top, left, height, width of the crop in it
    wanted  (height, width) that it is scaled to
    """

    full: tuple[int, int]
    place: tuple[int, int, int, int]
    wanted: tuple[int, int]

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        if not same_aspect(frame.shape, self.full):
            return centre_crop(frame, *self.wanted)
        down, across = (n / m for n, m in zip(frame.shape[:2], self.full, strict=True))
        top, left, height, width = self.place
        first = round(top * down), round(left * across)
        last = round((top + height) * down), round((left + width) * across)
        return frame[first[0] : max(first[0] + 1, last[0]), first[1] : max(first[1] + 1, last[1])]


def same_aspect(one: Sequence[int], other: Sequence[int]) -> bool:
    """Of two shapes (height, width), but for what rounding sizes to pixels does."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) < 0.02


def _nothing(modality: Modality) -> torch.Tensor:
    """What stands for a file that is not there; it is masked, and no loss counts it."""
    if modality.is_classes:
        return torch.tensor(0)
    kind = torch.uint8 if modality.media == "video" else torch.float32
    return torch.zeros(modality.value_shape, dtype=kind)


def present(batch: dict[str, Any], format: ClipFormat) -> dict[str, torch.Tensor]:
    """Which clips of a collated batch have the label, and what is read from files beside them:
    (B,) booleans by modality, those of the label as "label"."""
    found = {"label": batch["label"] != NO_LABEL}
    for n, (name, _) in enumerate(format.beside):
        found[name] = batch["known"][:, n]
    return found


def as_inputs(batch: dict[str, Any], format: ClipFormat, classes: int) -> dict[str, torch.Tensor]:
    """A collated batch as a model's inputs, on whatever device it is.

    Pictures become float32 (B, T, 3, H, W) in [0, 1], labels one-hot float32 (B, classes); the row
    of a clip without a label is all zeros. Modalities of files beside have the shapes they are
    declared with; for what is not there, see `present`.
    """
    inputs = {format.image_name: batch[format.image_name].float() / 255}
    if format.samples:
        inputs[format.audio_name] = batch[format.audio_name]
    labels = batch["label"]
    one_hot = F.one_hot(labels.clamp(min=0), classes).float()
    inputs["label"] = one_hot * (labels >= 0)[:, None]
    for n, (name, modality) in enumerate(format.beside):
        values = batch[f"beside.{name}"]
        if modality.is_classes:
            one_hot = F.one_hot(values, modality.channels).float()
            inputs[name] = one_hot * batch["known"][:, n, None]
        else:
            inputs[name] = as_values(values, modality)
    return inputs
