"""TensorBoard: losses, rate, gradient, waiting, validation, and clips to look at and listen to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..beside_writer import time_first
from ..config import Config, Modality
from .checkpoints import CheckpointError, reason

FRAMES = 4  # of a clip, side by side in its picture


class Board:
    """The events of a run, from after step `step` on: later ones, of a run that was stopped behind
    its last checkpoint, are not shown any more.

    Every method raises CheckpointError where the events cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        with self._told():
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        with self._told():
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def clips(self, pairs: list[tuple[Any, Any]], config: Config, step: int) -> None:
        """Inputs and outputs (1, *value_shape) of some clips: pictures with the original above the
        reconstruction, and both of each sound."""
        with self._told():
            for n, (inputs, outputs) in enumerate(pairs):
                for name, modality in config.modalities.items():
                    pair = inputs[name], outputs[name]
                    if modality.media == "video":
                        self._picture(f"clip {n}/{name if modality.beside else 'picture'}",
                                      modality, pair, step)  # fmt: skip
                    elif modality.media == "audio":
                        self._sounds(f"clip {n}/{name if modality.beside else 'sound'}",
                                     modality, pair, step)  # fmt: skip
            self._writer.flush()

    def _picture(
        self, tag: str, modality: Modality, pair: tuple[Tensor, Tensor], step: int
    ) -> None:
        rows = [_strip(time_first(values[0], modality)) for values in pair]
        self._writer.add_image(tag, torch.cat(rows, dim=1).expand(3, -1, -1), step)

    def _sounds(self, tag: str, modality: Modality, pair: tuple[Tensor, Tensor], step: int) -> None:
        for word, values in zip(("original", "reconstruction"), pair, strict=True):
            sound = values.reshape(1, -1).clamp(-1, 1)
            self._writer.add_audio(f"{tag} {word}", sound, step, sample_rate=modality.rate or 1)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._writer.close()

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot write {self.folder}: {reason(error)}") from error


def _strip(frames: Tensor) -> Tensor:
    """(T, C, H, W) in [0, 1] -> (C, H, some W): frames at equal distances, side by side."""
    chosen = frames[:: max(1, len(frames) // FRAMES)][:FRAMES]
    return torch.cat(list(chosen), dim=2).clamp(0, 1)
