"""Windows as vectors to search and to learn from: pooled latents, one row a window, in Parquet.

The latents (N, D) of a window are pooled over N, so that a vector has as many numbers for every
window, and none of them belongs to one place of the picture. Every latent carries a code of its
own that is the same in all windows and much larger than what differs; so first what the model
makes of nothing, every modality masked, is taken off. That needs no data, only the model.

    spread   standard deviation of each channel over the latents      D numbers
    mean     mean of each channel                                     D
    both     mean and spread                                          2 D

docs/embed.md says what each is worth.

Letters: B batch, N x D latents, F numbers of a vector.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import Autoencoder, load
from .clips import Window
from .embedding_table import Facts, TableWriter
from .errors import PerceivioError
from .keep import maker, notes_of
from .latents import LatentsFile, is_latents
from .model import MultimodalAutoencoder
from .overlap import ahead
from .pipeline import read

Pooling = Literal["spread", "mean", "both"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
MOST_AT_ONCE = 2**22  # values of clips that are encoded together

Span = tuple[float, float]  # start and stop of a window, in seconds on its file's clock


@torch.inference_mode()
def nothing(module: MultimodalAutoencoder) -> Tensor:
    """Latents (N, D) of a clip of which nothing is given: every modality masked.

    All tokens of a masked modality are the same, so one stands for all of them, with the logarithm
    of their number added to its score.
    """
    encoder, modalities = module.encoder, module.config.modalities
    layer = encoder.cross_attend
    attention = layer.attention
    tokens = layer.attended_norm(torch.stack([module.io(name).mask_token for name in modalities]))
    counts = tokens.new_tensor([modality.tokens for modality in modalities.values()]).log()

    def split(x: Tensor) -> Tensor:  # n x (heads c) -> heads x n x c
        return x.unflatten(1, (attention.heads, -1)).transpose(0, 1)

    queries = attention.query(layer.query_norm(encoder.latents))
    gathered = F.scaled_dot_product_attention(
        split(queries),
        split(attention.key(tokens)),
        split(attention.value(tokens)),
        attn_mask=counts.expand(len(queries), -1),
    )
    x = attention.output(gathered.transpose(0, 1).flatten(1))
    x = encoder.latents + x if layer.query_residual else x
    return encoder.process((x + layer.mlp(layer.mlp_norm(x)))[None])[0]


class Pooler:
    """Makes vectors of latents.

    channels  F
    """

    def __init__(self, model: Autoencoder, pooling: Pooling = "spread") -> None:
        """Raises PerceivioError for a pooling that is not known, or says nothing of this model."""
        if pooling not in POOLINGS:
            raise PerceivioError(f"no pooling is called {pooling!r}; choose {', '.join(POOLINGS)}")
        if pooling == "spread" and model.config.latents == 1:
            raise PerceivioError("the spread of one latent is 0: choose the pooling mean")
        self.pooling: Pooling = pooling
        self.channels = model.config.latent_channels * (2 if pooling == "both" else 1)
        self._nothing = nothing(model.module).float()

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (B, N, D) -> vectors (B, F), float32 on the CPU"""
        moved = latents.float() - self._nothing
        parts = []
        if self.pooling != "spread":
            parts.append(moved.mean(1))
        if self.pooling != "mean":
            parts.append(moved.std(1, correction=0))
        return torch.cat(parts, 1).cpu()


def latents_of(
    path: str | os.PathLike[str],
    model: Autoencoder,
    start: float = 0.0,
    duration: float | None = None,
    notes: list[str] | None = None,
) -> Iterator[tuple[list[Span], Tensor]]:
    """The windows of a file, some at a time: where they are, and their latents (B, N, D).

    path   a media file, or a file of latents
    notes  is given, at the end, what was missing in the file and replaced

    Raises PerceivioError in one line for what cannot be read.
    """
    if is_latents(path):
        with LatentsFile(path) as file:
            maker(file, model)
            stop, found = inf if duration is None else start + duration, False
            for record in file.between(start, stop):
                found = True
                yield [(record.start, record.stop)], record.latents.to(model.device)
            if not found:
                raise PerceivioError(
                    f"{path}: holds no window from {start:g} s on; it covers {file.start:.2f} to"
                    f" {file.stop:.2f} s"
                )
            if notes is not None:
                notes += notes_of(file)
        return
    windows = read(path, model, start=start, duration=duration)
    size = sum(prod(modality.value_shape) for modality in model.config.modalities.values())
    for some in _alike(ahead(windows), max(1, MOST_AT_ONCE // size)):
        inputs = {name: torch.cat([w.inputs[name] for w in some]) for name in some[0].inputs}
        yield [(window.start, window.stop) for window in some], model.encode(inputs)
    if notes is not None:
        notes += windows.notes


def _alike(windows: Iterator[Window], most: int) -> Iterator[list[Window]]:
    """Neighbours that have the same modalities, `most` at a time."""
    for _, run in groupby(windows, key=lambda window: sorted(window.inputs)):
        some: list[Window] = []
        for window in run:
            some.append(window)
            if len(some) == most:
                yield some
                some = []
        if some:
            yield some


def vectors_of(
    path: str | os.PathLike[str],
    model: Autoencoder,
    pooler: Pooler,
    start: float = 0.0,
    duration: float | None = None,
    notes: list[str] | None = None,
) -> Iterator[tuple[list[Span], Tensor]]:
    """As `latents_of`, with vectors (B, F) in place of latents."""
    for spans, latents in latents_of(path, model, start, duration, notes):
        vectors = pooler(latents)
        if not torch.isfinite(vectors).all():
            raise PerceivioError(f"{path}: the model's latents are not finite at {spans[0][0]:g} s")
        yield spans, vectors


@dataclass
class EmbedReport:
    """What `embed` did.

    written   the table
    facts     what it says of itself
    files     that have rows in it, `windows` rows in all, `media_seconds` long together
    skipped   files that could not be read, or not to their end: why
    seconds   that it took
    """

    written: Path
    facts: Facts
    files: int = 0
    windows: int = 0
    media_seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": self.files,
            "windows": self.windows,
            "media_seconds": self.media_seconds,
            "seconds_taken": self.seconds,
            "skipped": self.skipped,
        }


def embed(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    model: Autoencoder | str = "small",
    *,
    pooling: Pooling = "spread",
    start: float = 0.0,
    duration: float | None = None,
    overwrite: bool = False,
    progress: Callable[[float, float], None] | None = None,
    tell: Callable[[str, str | PerceivioError], None] | None = None,
) -> EmbedReport:
    """A table of vectors: one row for each window of each file, in their order, in constant memory.

    model     a model, or what `load` takes
    progress  called with (files done, files in all)
    tell      called with a file and either a note on it or the error for which it is left out

    A file that cannot be read is left out; of one that fails on the way, the windows before stay.
    Raises PerceivioError where the table cannot be written, and where no file could be read.
    """
    began = time.perf_counter()
    place = Path(target)
    if place.exists() and any(Path(each).exists() and place.samefile(each) for each in sources):
        raise PerceivioError(f"{target}: is an input itself; choose another name with -o")
    ready = load(model) if isinstance(model, str) else model
    pooler = Pooler(ready, pooling)
    facts = Facts(ready.identity, ready.source or ready.config.name, pooling, pooler.channels)
    report = EmbedReport(Path(target), facts)
    with TableWriter(target, facts, overwrite) as table:
        for done, source in enumerate(sources):
            before, notes = report.windows, list[str]()
            try:
                for spans, vectors in vectors_of(source, ready, pooler, start, duration, notes):
                    table.add(str(source), spans, vectors.numpy())
                    report.windows += len(spans)
                    report.media_seconds += sum(stop - start for start, stop in spans)
            except PerceivioError as error:
                report.skipped[str(source)] = str(error)
                if tell:
                    tell(str(source), error)
            if tell:
                for note in notes:
                    tell(str(source), note)
            report.files += report.windows > before
            if progress:
                progress(done + 1, len(sources))
        if not report.windows:
            raise PerceivioError(f"{target}: not written: no file could be read")
    report.seconds = time.perf_counter() - began
    return report
