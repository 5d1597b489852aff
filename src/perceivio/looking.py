"""From a file to pictures of what latents read and write in one of its windows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .attention_maps import Attention, attention, attention_of_latents
from .attention_pictures import Side, draw
from .autoencoder import Autoencoder
from .clips import Window
from .errors import PerceivioError
from .keep import maker, window_of
from .latents import LatentsFile, is_latents
from .pipeline import clip_format, read
from .writer import check_free, part_of


@dataclass(frozen=True)
class Look:
    """What was looked at, and the pictures that were written."""

    file: str
    start: float
    stop: float
    attention: Attention
    written: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = self.attention
        rows = []
        for number, latent in enumerate(found.latents):
            row: dict[str, Any] = {"latent": latent}
            if found.reads is not None:
                row["reads"] = {k: float(found.read_shares(k)[number]) for k in found.reads}
            row["writes"] = {name: float(share[latent]) for name, share in found.shares.items()}
            rows.append(row)
        return {
            "file": self.file,
            "start": self.start,
            "stop": self.stop,
            "latents": rows,
            "written": [str(path) for path in self.written],
        }


def look(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    model: Autoencoder,
    *,
    at: float = 0.0,
    latents: list[int] | None = None,
    top: int = 2,
    overwrite: bool = False,
) -> Look:
    """Draw what latents read and write in the window of a file that begins at a second; of a file
    of latents what they write, in the window that covers it.

    target   folder, or what the names begin with; None: the source's name, in the folder we are in
    latents  that are looked at; None: the `top` strongest of every modality

    Raises PerceivioError, in one line, for what cannot be read or written.
    """
    stem = Path(source).stem
    begin = Path(target or stem)
    begin = begin / stem if begin.is_dir() else begin
    of_latents = is_latents(source)
    sides: tuple[Side, ...] = ("writes",) if of_latents else ("reads", "writes")
    paths: dict[Side, Path] = {side: begin.with_name(f"{begin.name}_{side}.png") for side in sides}
    for path in paths.values():
        check_free(path, overwrite)
    if of_latents:
        with LatentsFile(source) as file:
            maker(file, model)
            record = file.at(at)[-1]
        window = window_of(record)
        found = attention_of_latents(model, record.latents, latents, top)
    else:
        window = _window(source, model, at)
        found = attention(model, window.inputs, latents, top)
    for side, path in paths.items():
        title = f"{Path(source).name}, {window.start:.2f} to {window.stop:.2f} s"
        picture = draw(found, side, model.config, window.inputs, title, window.start)
        _save(picture, path)
    return Look(os.fspath(source), window.start, window.stop, found, tuple(paths.values()))


def _window(source: str | os.PathLike[str], model: Autoencoder, at: float) -> Window:
    """The window of a media file that begins at a second."""
    length = float(clip_format(model.config).seconds)
    for window in read(source, model, start=at, duration=length):
        return window
    raise PerceivioError(f"{source}: holds nothing that could be read at {at:g} s")


def _save(picture: Image.Image, path: Path) -> None:
    part = part_of(path)
    try:
        picture.save(part, "png", optimize=True)
        part.replace(path)
    except OSError as error:
        told = error.strerror or error
        raise PerceivioError(f"{path}: cannot be written: {told}") from error
    finally:
        part.unlink(missing_ok=True)
