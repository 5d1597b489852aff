"""What page and API do: an upload in, files in the workspace and plain values out.

Each job is one function of files. What a visitor did wrong is raised as PerceivioError in one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import keep
from ..asking import Ask, ask, timeline_of
from ..autoencoder import Autoencoder
from ..latents import LatentsFile, is_latents
from ..looking import look
from ..pipeline import SUFFIXES, Progress, Report
from ..quantise import PRECISIONS, Precision
from .limits import Limits, RefusalError, check_count, check_number
from .workspace import Workspace

FRAMES_KEPT = 8  # of a result, the newest ones


@dataclass(frozen=True)
class Made:
    """What was made of one upload. The files lie in one folder, whose name is `token`.

    start, stop   seconds that the latents cover
    side_by_side  None for sound, and where there is no original
    """

    token: str
    model: str
    report: Report
    start: float
    stop: float
    reconstruction: Path
    latents: Path
    side_by_side: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """What there is to be taken home, by what it is."""
        found = {"side_by_side": self.side_by_side, "reconstruction": self.reconstruction}
        return {k: v for k, v in {**found, "latents": self.latents}.items() if v is not None}


@dataclass(frozen=True)
class Answers:
    """The functions, with what they need.

    models   that are served, by the names under which a visitor chooses; the first is the default
    threads  that a job may use
    """

    models: Mapping[str, Autoencoder]
    limits: Limits
    workspace: Workspace
    threads: int = field(default_factory=torch.get_num_threads)

    def reconstruct(
        self, upload: str, model: str, owner: str = "", progress: Progress | None = None
    ) -> Made:
        """Make of a media file its reconstruction, the two side by side and its latents; of a file
        of latents what can be made without the source."""
        with self._upload(upload) as source, self._new_result(owner) as folder:
            return self._reconstruct(source, folder, model, self._watched(progress))

    def _reconstruct(self, source: Path, folder: Path, model: str, progress: Progress) -> Made:
        stem, side = source.stem, None
        latents = folder / f"{stem}.latents"
        if is_latents(source):
            name = self._maker(source)
            source.replace(latents)
            with LatentsFile(latents) as file:
                kind = file.header.kind
            target = folder / f"{stem}_reconstruction{SUFFIXES[kind]}"
            report = keep.decode(latents, target, self.models[name], progress=progress)
        else:
            name, info = self._chosen(model), self.limits.check_media(source)
            suffix = SUFFIXES[info.kind]
            target = folder / f"{stem}_reconstruction{suffix}"
            if info.kind != "sound":
                side = folder / f"{stem}_side_by_side{suffix}"
            report = keep.reconstruct(
                source, target, latents, self.models[name], side_by_side=side or False,
                duration=self.limits.seconds, progress=progress,
            )  # fmt: skip
        with LatentsFile(latents) as file:
            line = timeline_of(file, self.models[name])
        return Made(folder.name, name, report, line.start, line.stop, target, latents, side)

    def classify(
        self, upload: str, model: str, top: int = 5, progress: Progress | None = None
    ) -> dict[str, Any]:
        """The most probable classes of each window and of all, of media or latents."""
        check_count("top", top, 100)
        with self._upload(upload) as source:
            ready = self._ready(source, model)
            report = keep.classify(
                source, ready, top=top, duration=self.limits.seconds,
                progress=self._watched(progress),
            )  # fmt: skip
            return self.told(report, source.name)

    def encode(
        self,
        upload: str,
        model: str,
        precision: Precision = "float16",
        progress: Progress | None = None,
    ) -> Path:
        """The latents of a media file."""
        if precision not in PRECISIONS:
            raise RefusalError(f"precision: choose one of {', '.join(PRECISIONS)}")
        with self._upload(upload) as source:
            self.limits.check_media(source)
            ready = self.models[self._chosen(model)]
            with self._new_result() as folder:
                return keep.encode(
                    source, folder, ready, precision=precision, duration=self.limits.seconds,
                    progress=self._watched(progress),
                ).written  # fmt: skip

    def frame_of(self, upload: str, at: float, height: int) -> Path:
        """One frame of a file of latents that was uploaded."""
        with self._upload(upload) as source, self._new_result() as folder:
            return self._frame(source, folder, at, height)

    def frame(self, token: str, latents: str, model: str, at: float, height: int) -> Path:
        """One frame of kept latents; nothing is encoded again."""
        with self.workspace.result(token) as folder:
            drawn = self._frame(folder / latents, folder, at, height, self.models[model])
            frames = sorted(folder.glob("frame_*.png"), key=lambda path: path.stat().st_mtime_ns)
            for old in frames[:-FRAMES_KEPT]:
                old.unlink(missing_ok=True)
            return drawn

    def attention_of(self, upload: str, model: str, at: float, top: int = 2) -> list[Path]:
        """Where latents read and write in the window of an upload at a time, as pictures; of
        latents where they write."""
        check_count("top", top, 16)
        check_number("at", at)
        with self._upload(upload) as source:
            ready = self._ready(source, model)
            with self._new_result() as folder:
                return list(look(source, folder, ready, at=at, top=top).written)

    def attention(self, token: str, latents: str, model: str, at: float) -> Path:
        """Where the strongest latents write in the window of kept latents at a time."""
        with self.workspace.result(token) as folder:
            found = look(folder / latents, folder, self.models[model], at=at, overwrite=True)
            # A name of its own for every picture, or a browser shows the one it has.
            return found.written[0].replace(folder / f"attention_{found.start:.2f}.png")

    def example(self, path: Path) -> str:
        """A copy of a file of ours as an upload."""
        place = self.workspace.new_upload() / path.name
        place.write_bytes(path.read_bytes())
        return str(place)

    def classes_of(self, model: str) -> tuple[str, ...]:
        """The names of a model's classes."""
        found = self.models[model].config.classes()
        return tuple(found[1].names) if found else ()

    def told(self, report: Report, name: str) -> dict[str, Any]:
        """A report as plain values, without a path of this machine."""
        plain = report.to_dict()
        plain.pop("written")
        plain.pop("written_beside", None)
        return {**plain, "file": name}

    # ---- what they share

    @contextlib.contextmanager
    def _upload(self, path: str) -> Generator[Path]:
        # A thread that meets torch while another shares its work out would stay with one core.
        torch.set_num_threads(self.threads)
        with self.workspace.use(path) as source:
            yield source

    @contextlib.contextmanager
    def _new_result(self, owner: str = "") -> Generator[Path]:
        """A folder that stays while it is filled, even if its visitor leaves; not on failure."""
        folder = self.workspace.new_result(owner)
        try:
            with self.workspace.result(folder.name):
                yield folder
        except BaseException:
            self.workspace.drop(folder.name)
            raise

    def _frame(
        self, source: Path, folder: Path, at: float, height: int, model: Autoencoder | None = None
    ) -> Path:
        self.limits.check_frame(at, height)
        if not is_latents(source):
            raise RefusalError(f"{source}: holds no latents; give what /encode or the page wrote")
        model = model or self.models[self._maker(source)]
        target = folder / f"frame_{at:.3f}_{height}.png"
        ask(source, target, model, Ask(at=(at,), height=int(height)), overwrite=True)
        return target

    def _watched(self, progress: Progress | None) -> Progress:
        return self.limits.watch(progress, lambda: self.workspace.ended)

    def _chosen(self, model: str) -> str:
        if not isinstance(model, str) or model not in self.models:
            raise RefusalError(f"model {str(model)[:40]!r}: choose one of {', '.join(self.models)}")
        return model

    def _ready(self, source: Path, model: str) -> Autoencoder:
        """The model for an upload within the limits: the chosen one, or the one that made it."""
        if is_latents(source):
            return self.models[self._maker(source)]
        self.limits.check_media(source)
        return self.models[self._chosen(model)]

    def _maker(self, source: Path) -> str:
        """The model served here that made these latents. No name in a visitor's file is loaded."""
        with LatentsFile(source) as file:
            for name, model in self.models.items():
                if model.identity == file.header.identity:
                    self.limits.check_latents(file)
                    return name
            raise RefusalError(
                f"{source}: was made by the model {file.header.model!r}, which is not served here"
            )
