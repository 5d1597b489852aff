"""What pooled latents are worth as features, beside raw pixels: the table of docs/embed.md.

    python -m recipes.features [MODEL] [--work .data/small] [--examples 3000]

Two questions, both asked of clips as they are, picture and sound, no class given:

digits  which of ten? Examples are some of the bank's train half, asked are the 500 of its test
        half: other images, other voices. (`small` was taught digits on the train half.)
films   which of six sources? Windows of the recipe's films, one after the other: of each file the
        first half of its time are examples, the second half is asked, but for the one window
        between them. Never neighbours, though a scene may come back.

5-nearest: the five examples of highest cosine vote with their cosines. Linear: logistic regression
on standardised features, weight decay 0.01, one of four that were looked at. Raw features are the
clip's mean frame in 8 x 8 x 3 pixels, and the logarithm of the sound's spectrum pooled to 32 bands
x 8 moments. Needs what `python -m recipes.small.gather` gathered.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.embeddings import POOLINGS, Pooler
from perceivio.pictures import centre_crop, resized
from recipes.small.bank import Bank
from recipes.small.common import FRAMES, SAMPLES, SIDE
from recipes.small.films import FILMS

EXAMPLES, NEAREST, DECAY, BATCH = 3000, 5, 0.01, 32

Features = dict[str, Tensor]  # by name, (clips, F)
Clips = Iterator[tuple[Tensor, Tensor]]  # image (B, T, 3, H, W), audio (B, S, 1)


def raw(image: Tensor, audio: Tensor) -> Features:
    """Pooled pixels, and those beside the pooled spectrum of the sound."""
    pixels = F.adaptive_avg_pool2d(image.mean(1), 8).flatten(1)
    window = torch.hann_window(512)
    spectrum = torch.stft(audio[..., 0], 512, 256, window=window, return_complex=True)
    bands = F.adaptive_avg_pool2d(spectrum.abs().square(), (32, 8)).flatten(1)
    sound = 0.1 * (bands + 1e-4).log10()  # about as large as pixels
    return {"raw pixels": pixels, "raw pixels and sound": torch.cat([pixels, sound], 1)}


def features(model: Autoencoder, clips: Clips) -> Features:
    """Every kind of features of all clips."""
    poolers = {pooling: Pooler(model, pooling) for pooling in POOLINGS}
    found: dict[str, list[Tensor]] = {}
    for image, audio in clips:
        latents = model.encode({"image": image, "audio": audio})
        some = raw(image, audio)
        some |= {pooling: pooler(latents) for pooling, pooler in poolers.items()}
        some |= {"mean, nothing taken off": latents.mean(1).cpu()}
        some |= {"spread, nothing taken off": latents.std(1).cpu()}
        for name, values in some.items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(parts) for name, parts in found.items()}


def digits(bank: Bank, count: int | None) -> tuple[np.ndarray, Tensor]:
    """Rows of clips that are digits, `count` drawn by chance or all, and which digits they are."""
    rows = np.flatnonzero(bank.label >= 0)
    if count is not None:
        rows = np.sort(np.random.default_rng(0).choice(rows, min(count, len(rows)), replace=False))
    return rows, torch.from_numpy(bank.label[rows]).long()


def clips_of(bank: Bank, rows: np.ndarray) -> Clips:
    for first in range(0, len(rows), BATCH):
        batch = bank.batch(rows[first : first + BATCH])
        yield batch.image, batch.audio


def films(folder: Path) -> tuple[Clips, Tensor, Tensor]:
    """Windows of all films, their sources, and whether each is an example, asked, or between."""
    there = [film for film in FILMS if (folder / f"{film[0]}.npy").exists()]
    sources = sorted({film[1] for film in there})
    frames = {film[0]: np.load(folder / f"{film[0]}.npy", mmap_mode="r") for film in there}
    labels, sides = [], []
    for name, source, *_ in there:
        count = len(frames[name]) // FRAMES
        labels += [sources.index(source)] * count
        sides += [0 if 2 * i + 1 < count else 1 if 2 * i > count else 2 for i in range(count)]

    def windows() -> Clips:
        for name, film in frames.items():
            sound = np.load(folder / f"{name}.sound.npy", mmap_mode="r")
            for i in range(len(film) // FRAMES):
                some = film[i * FRAMES : (i + 1) * FRAMES]
                cut = [resized(centre_crop(np.asarray(f), SIDE, SIDE), SIDE, SIDE) for f in some]
                samples = np.zeros(SAMPLES, np.float32)
                heard = sound[i * SAMPLES : (i + 1) * SAMPLES]
                samples[: len(heard)] = heard / 32768
                yield torch.stack(cut)[None], torch.from_numpy(samples)[None, :, None]

    return windows(), torch.tensor(labels), torch.tensor(sides)


def nearest(known: Tensor, classes: Tensor, asked: Tensor, wanted: Tensor) -> float:
    """Share of the asked whose five nearest vote for what is wanted."""
    cosines = F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T
    best = cosines.topk(NEAREST)
    votes = torch.zeros(len(asked), int(classes.max()) + 1)
    votes.scatter_add_(1, classes[best.indices], best.values)
    return (votes.argmax(1) == wanted).double().mean().item()


def linear(known: Tensor, classes: Tensor, asked: Tensor, wanted: Tensor) -> float:
    """Share of the asked that logistic regression tells right."""
    mean, std = known.mean(0), known.std(0) + 1e-6
    known, asked = (known - mean) / std, (asked - mean) / std
    weight = torch.zeros(known.shape[1], int(classes.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        value = F.cross_entropy(known @ weight + bias, classes) + DECAY * weight.square().sum()
        value.backward()
        return value

    steps.step(loss)  # pyright: ignore[reportArgumentType]
    return ((asked @ weight + bias).argmax(1) == wanted).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of digits")
    chosen = parser.parse_args()
    model = perceivio.load(chosen.model, "cpu")

    train, test = Bank(chosen.work / "train"), Bank(chosen.work / "test")
    (known, classes), (asked, wanted) = digits(train, chosen.examples), digits(test, None)
    pairs = features(model, clips_of(train, known)), features(model, clips_of(test, asked))
    windows, sources, sides = films(chosen.work / "films")
    found, first, second = features(model, windows), sides == 0, sides == 1

    print(f"digits: {len(classes)} examples, {len(wanted)} asked")
    print(f"films:  {int(first.sum())} examples, {int(second.sum())} asked")
    print(f"{'':27} {'':>7}   {'digits':^16}   {'films':>11}")
    print(f"{'features':27} {'numbers':>7}" + f"   {'5-nearest':>9} {'linear':>6}" * 2)
    common = [w.bincount().max().item() / len(w) for w in (wanted, sources[second])]
    print(f"{'always the commonest':27} {'':>7}" + "".join(f"   {c:16.1%}" for c in common))
    for name in pairs[0]:
        sets = (
            (pairs[0][name], classes, pairs[1][name], wanted),
            (found[name][first], sources[first], found[name][second], sources[second]),
        )
        told = "".join(f"   {nearest(*each):9.1%} {linear(*each):6.1%}" for each in sets)
        print(f"{name:27} {pairs[0][name].shape[1]:7}{told}", flush=True)


if __name__ == "__main__":
    main()
