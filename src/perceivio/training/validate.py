"""How well clips come back that are not trained on: the middle of each, whole, label masked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder import Autoencoder
from ..config import Config, Modality
from ..data.dataset import NO_LABEL, ClipDataset
from ..metrics import decibels
from .batches import Share, inputs_of, read
from .losses import grid_error
from .settings import Objective

TOGETHER = 4  # clips that are decoded whole at a time
LEAST = 1e-10  # mean square error: nothing is better than 100 dB
MEASURES = 3  # a clip and modality: loss, mean square error or whether it is wrong, energy


@dataclass(frozen=True)
class Scores:
    """Means over validation clips.

    loss     what training makes small: the weighted sum, of whole clips with the label masked
    figures  by name: "image_psnr", "audio_psnr", "audio_snr" (dB; peak 1), "label_top1" (share of
             the labelled clips), and each modality's loss, such as "image_loss"
    """

    loss: float
    figures: dict[str, float]


@torch.inference_mode()
def measure(
    model: Autoencoder,
    clips: ClipDataset,
    count: int,
    objectives: Mapping[str, Objective],
    share: Share,
    workers: int,
) -> Tensor:
    """(count, modalities, MEASURES) float64 of the first `count` clips: rows of the clips that
    this process takes, 0 in all others, so that the sum over processes is all. NaN: no label."""
    config = model.config
    found = torch.zeros(count, len(config.modalities), MEASURES, dtype=torch.float64)
    rows = range(share.rank, count, share.ranks)
    groups = [
        [(0, row) for row in rows[n : n + TOGETHER]] for n in range(0, len(rows), TOGETHER)
    ]
    with closing(read(clips, groups, workers)) as batches:
        for group, batch in zip(groups, batches, strict=True):
            inputs, labels = inputs_of(batch, clips, config)
            outputs = _answers(model, inputs)
            measures = [
                _measures(outputs[name], inputs.get(name), labels, modality, objectives[name].loss)
                for name, modality in config.modalities.items()
            ]
            found[[row for _, row in group]] = torch.stack(measures, 1)
    return found


def _measures(
    got: Tensor, wanted: Tensor | None, labels: Tensor, modality: Modality, loss: str
) -> Tensor:
    """(B, MEASURES) float64 of one modality."""
    if modality.is_classes:
        entropy = F.cross_entropy(got, labels, ignore_index=NO_LABEL, reduction="none")
        wrong = (got.argmax(-1) != labels).double()
        wrong[labels == NO_LABEL] = math.nan
        return torch.stack([entropy.double(), wrong, torch.zeros_like(wrong)], -1)
    assert wanted is not None
    error = grid_error(got, wanted, modality, loss)
    energy = wanted.square().flatten(1).mean(1)
    return torch.stack([error.loss.double(), error.square.double(), energy.double()], -1)


def summed_up(
    found: Tensor, objectives: Mapping[str, Objective], config: Config
) -> Scores:
    """Scores from what `measure` found, all processes together."""
    figures: dict[str, float] = {}
    total = 0.0
    for n, (name, modality) in enumerate(config.modalities.items()):
        loss, square, energy = found[:, n].unbind(-1)
        figures[f"{name}_loss"] = loss.mean().item()
        total += objectives[name].weight * figures[f"{name}_loss"]
        if modality.is_classes:
            known = square[~square.isnan()]
            if len(known):
                figures[f"{name}_top1"] = 1 - known.mean().item()
            continue
        square = square.clamp(min=LEAST)
        figures[f"{name}_psnr"] = _mean_decibels(1 / square)
        if modality.media == "audio" and (energy > 0).any():
            heard = energy > 0
            figures[f"{name}_snr"] = _mean_decibels(energy[heard] / square[heard])
    return Scores(total, figures)


@torch.inference_mode()
def look(model: Autoencoder, clips: ClipDataset, count: int) -> list[tuple[dict, dict]]:
    """The first clips and what the model makes of them: inputs and outputs (1, *value_shape)."""
    pairs = []
    for row in range(count):
        batch = torch.utils.data.default_collate([clips[0, row]])
        inputs, _ = inputs_of(batch, clips, model.config)
        pairs.append((inputs, _answers(model, inputs)))
    return pairs


def _answers(model: Autoencoder, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All modalities, whole, on the CPU, from inputs without the label."""
    classes = model.config.classes()
    seen = {name: v for name, v in inputs.items() if not classes or name != classes[0]}
    return {name: v.float().cpu() for name, v in model.reconstruct(seen).items()}


def _mean_decibels(ratios: Tensor) -> float:
    return sum(decibels(ratio) for ratio in ratios.tolist()) / len(ratios)
