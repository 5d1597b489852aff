"""How well clips come back that are not trained on: the middle of each, whole, classes masked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoencoder import Autoencoder
from ..config import Config, Modality
from ..data.dataset import ClipDataset
from ..metrics import decibels
from .batches import Share, inputs_of, known_of, read
from .losses import class_error, grid_error
from .settings import Objective

TOGETHER = 4  # clips that are decoded whole at a time
LEAST = 1e-10  # mean square error: nothing is better than 100 dB
# A clip and modality: loss, mean square error or whether it is wrong, energy, and the mean square
# error where its input is masked. NaN for what is not there or not asked.
MEASURES = 4


@dataclass(frozen=True)
class Scores:
    """Means over validation clips.

    loss     what training makes small: the weighted sum, of whole clips with classes masked
    figures  by name: "image_psnr", "audio_psnr", "audio_snr" (dB; peak 1), "label_top1" (share of
             the labelled clips), "motion_r2" of a table (1 - square error over the square distance
             from the declared mean), and each modality's loss, such as "image_loss". Those that
             end in "_unseen" are of a modality read from a file beside whose input is masked
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
    this process takes, 0 in all others, so that the sum over processes is all."""
    config = model.config
    found = torch.zeros(count, len(config.modalities), MEASURES, dtype=torch.float64)
    rows = range(share.rank, count, share.ranks)
    groups = [
        [(0, row) for row in rows[n : n + TOGETHER]] for n in range(0, len(rows), TOGETHER)
    ]
    with closing(read(clips, groups, workers)) as batches:
        for group, batch in zip(groups, batches, strict=True):
            inputs, known = inputs_of(batch, clips, config), known_of(batch, clips, config)
            outputs = _answers(model, inputs, known)
            for n, (name, modality) in enumerate(config.modalities.items()):
                got = [outputs[name]]
                if modality.beside and not modality.is_classes and objectives[name].mask:
                    got += [_answers(model, inputs, known, unseen=name)[name]]
                measures = _measures(got, inputs[name], modality, objectives[name].loss)
                if name in known:
                    measures[~known[name], 0] = 0
                    measures[~known[name], 1:] = math.nan
                found[[row for _, row in group], n] = measures
    return found


def _measures(got: list[Tensor], wanted: Tensor, modality: Modality, loss: str) -> Tensor:
    """(B, MEASURES) float64 of one modality; `got` from all inputs, and from all but its own."""
    unseen = energy = torch.full((len(wanted),), math.nan)
    if modality.is_classes:
        error = class_error(got[0], wanted, None)
    else:
        error = grid_error(got[0], wanted, modality, loss)
        nothing = modality.mean if modality.media == "table" else 0.0
        energy = (wanted - nothing).square().flatten(1).mean(1)
    for other in got[1:]:
        unseen = grid_error(other, wanted, modality, loss).square
    return torch.stack([error.loss, error.square, energy, unseen], dim=-1).double()


def summed_up(
    found: Tensor, objectives: Mapping[str, Objective], config: Config
) -> Scores:
    """Scores from what `measure` found, all processes together."""
    figures: dict[str, float] = {}
    total = 0.0
    for n, (name, modality) in enumerate(config.modalities.items()):
        loss, *measures = found[:, n].unbind(-1)
        figures[f"{name}_loss"] = loss.mean().item()
        total += objectives[name].weight * figures[f"{name}_loss"]
        square, energy, unseen = (values[~measures[0].isnan()] for values in measures)
        if not len(square):
            continue
        if modality.is_classes:
            figures[f"{name}_top1"] = 1 - square.mean().item()
            continue
        figures |= _figures(name, modality, square, energy)
        if not unseen.isnan().any():
            masked = _figures(name, modality, unseen, energy)
            figures |= {f"{key}_unseen": value for key, value in masked.items()}
    return Scores(total, figures)


def _figures(name: str, modality: Modality, square: Tensor, energy: Tensor) -> dict[str, float]:
    """Of a grid, from what was measured of each clip."""
    square = square.clamp(min=LEAST)
    if modality.media == "table":
        total = energy.sum().item()
        return {f"{name}_r2": 1 - square.sum().item() / total} if total else {}
    figures = {f"{name}_psnr": _mean_decibels(1 / square)}
    heard = energy > 0
    if modality.media == "audio" and heard.any():
        figures[f"{name}_snr"] = _mean_decibels(energy[heard] / square[heard])
    return figures


@torch.inference_mode()
def look(
    model: Autoencoder, clips: ClipDataset, count: int
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The first clips and what the model makes of them: inputs and outputs (1, *value_shape)."""
    pairs = []
    for row in range(count):
        batch = torch.utils.data.default_collate([clips[0, row]])
        inputs, known = (each(batch, clips, model.config) for each in (inputs_of, known_of))
        pairs.append((inputs, _answers(model, inputs, known)))
    return pairs


def _answers(
    model: Autoencoder,
    inputs: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    unseen: str | None = None,
) -> dict[str, Tensor]:
    """All modalities, whole, on the CPU, from those grids that each clip has. With `unseen`, only
    that modality, from the others."""
    modalities = model.config.modalities
    grids = [name for name in inputs if not modalities[name].is_classes and name != unseen]
    asked = None if unseen is None else {unseen: None}
    alike: dict[tuple[str, ...], list[int]] = {}  # the model masks a modality for all it is given
    for n in range(len(next(iter(inputs.values())))):
        has = tuple(name for name in grids if name not in known or known[name][n])
        alike.setdefault(has, []).append(n)
    outputs: dict[str, Tensor] = {}
    for has, rows in alike.items():
        latents = model.encode({name: inputs[name][rows] for name in has})
        for name, values in model.decode(latents, asked).items():
            whole = outputs.setdefault(name, torch.zeros_like(inputs[name], device="cpu"))
            whole[rows] = values.float().cpu()
    return outputs


def _mean_decibels(ratios: Tensor) -> float:
    return sum(decibels(ratio) for ratio in ratios.tolist()) / len(ratios)
