"""Latents that one keeps: media file -> file of latents, and from there to media and to classes.

Decoding a file of latents in float32 gives what `pipeline.reconstruct` gives of the source itself:
the same windows, the same way of joining them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from . import pipeline
from .autoencoder import Autoencoder, load
from .beside_writer import names_beside
from .clip_format import ClipFormat
from .clips import Window, Windows, read_windows
from .errors import PerceivioError
from .ffmpeg import exact, nearest
from .identity import short
from .latents import (
    MOST_SECONDS,
    FileMark,
    Header,
    LatentsError,
    LatentsFile,
    Picture,
    Record,
    Sound,
    is_latents,
)
from .latents_writer import LatentsWriter, block_size
from .media import AudioInfo, MediaInfo, VideoInfo
from .overlap import Behind, ahead
from .pictures import resize
from .pipeline import SHOWN, Progress, Report, Stretch, clip_format
from .quantise import PRECISIONS, Precision
from .weights import HUB_MODEL, SHIPPED
from .writer import MediaWriter

SUFFIX = ".latents"
ENDS = 2**20  # bytes at either end of a source by which it is known again
PRECISION: Precision = "float16"

Load = Callable[[str], Autoencoder]


@dataclass
class Kept:
    """What is said of one file that was encoded.

    info           what the source holds
    written        the file of latents, `bytes` long, with so many `windows`
    gone_on        windows that a killed encode had left and that were not encoded again
    seconds        that it took, and `media_seconds` that the windows cover
    notes, lost    as in `pipeline.Report`
    """

    info: MediaInfo
    written: Path
    precision: Precision
    bytes: int = 0
    windows: int = 0
    gone_on: int = 0
    seconds: float = 0.0
    media_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    lost: tuple[int, float] = (0, 0.0)

    @property
    def kilobits_a_second(self) -> float | None:
        return self.bytes * 8 / 1000 / self.media_seconds if self.media_seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": str(self.info.path),
            "kind": self.info.kind,
            "written": str(self.written),
            "precision": self.precision,
            "bytes": self.bytes,
            "windows": self.windows,
            "windows_gone_on_from": self.gone_on,
            "kilobits_a_second": self.kilobits_a_second,
            "seconds_taken": self.seconds,
            "media_seconds": self.media_seconds,
            "notes": self.notes,
            "lost_packets": self.lost[0],
            "lost_seconds": self.lost[1],
        }


def encode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: Autoencoder | str = "small",
    *,
    precision: Precision = PRECISION,
    start: float = 0.0,
    duration: float | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    name: str | None = None,
) -> Kept:
    """Encode a media file, window by window, into a file of latents.

    target        file (its name ends in .latents) or folder; None: NAME.latents in the current
                  folder
    model         a model, or what `load` takes
    precision     of a number in the file: "float32", "float16" (the default), "int8" or "int4"
    start, duration  seconds of the source to encode; duration None: to its end
    overlap       frames that windows share, crossfaded when they are decoded; None: an eighth of a
                  window
    progress      called with (seconds done, seconds in all)
    name          NAME, where the target is none or a folder; None: the source's, without suffix

    It is written to NAME.latents.part. Stopped at any moment, the same call goes on from there, and
    the file comes out to the byte as without the stop; the source is read from the beginning, what
    was encoded is not encoded again. Raises PerceivioError, in one line, for what cannot be read
    or written, for a target that is there unless `overwrite`, and for a NAME.latents.part that was
    begun with another source, model or setting.
    """
    if precision not in PRECISIONS:
        raise PerceivioError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if is_latents(source):
        raise PerceivioError(f"{source}: holds latents already")
    model = load(model) if isinstance(model, str) else model
    began = time.perf_counter()
    clip = clip_format(model.config)
    overlap = pipeline.default_overlap(clip) if overlap is None else overlap
    windows = read_windows(source, clip, start, duration, overlap)
    info = windows.info
    path = _target(target, f"{name or Path(source).stem}{SUFFIX}")
    if path.suffix != SUFFIX:
        raise PerceivioError(f"{path}: choose a name that ends in {SUFFIX}")
    if path.exists() and path.samefile(source):
        raise PerceivioError(f"{path}: is the input itself; choose another name with -o")
    header = _header(windows, model, clip, precision, start, duration, overlap)
    total = pipeline.total_seconds(info, start, duration)
    kept = Kept(info, path, precision)
    with LatentsWriter(path, header, overwrite) as writer:
        kept.gone_on = writer.done
        with Behind() as behind:
            for window in ahead(windows):
                if window.index >= kept.gone_on:
                    latents = model.encode(window.inputs)
                    behind.do(partial(_add, writer, window, latents))
                kept.windows, kept.media_seconds = window.index + 1, window.stop - start
                if progress:
                    progress(kept.media_seconds, total)
        if not kept.windows:
            raise PerceivioError(f"{source}: holds nothing that could be read")
        kept.notes = windows.notes
        kept.lost = (windows.losses.packets, windows.losses.seconds)
        writer.finish(kept.notes, kept.lost)
    if kept.gone_on:
        kept.notes = [f"went on behind {kept.gone_on} windows of {writer.part.name}", *kept.notes]
    kept.bytes = path.stat().st_size
    kept.seconds = time.perf_counter() - began
    return kept


def reconstruct(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    latents: str | os.PathLike[str],
    model: Autoencoder,
    *,
    precision: Precision = PRECISION,
    duration: float | None = None,
    overwrite: bool = False,
    **more: Any,
) -> Report:
    """`pipeline.reconstruct`, which takes the rest, into files: `latents` is what `encode` would
    have written of the source, and nothing is encoded twice."""
    clip = clip_format(model.config)
    overlap = pipeline.default_overlap(clip)

    def kept(windows: Windows, pairs: pipeline.Pairs) -> pipeline.Pairs:
        header = _header(windows, model, clip, precision, 0.0, duration, overlap)
        with LatentsWriter(latents, header, overwrite) as writer:
            there = writer.done
            for window, found in pairs:
                if window.index >= there:
                    _add(writer, window, found)
                yield window, found
            if writer.done:
                writer.finish(windows.notes, (windows.losses.packets, windows.losses.seconds))

    return pipeline.reconstruct(
        source, target, model, duration=duration, overlap=overlap, overwrite=overwrite,
        passing=kept, **more,
    )  # fmt: skip


def decode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: Autoencoder | str | None = None,
    *,
    start: float | None = None,
    duration: float | None = None,
    size: int | None = None,
    overwrite: bool = False,
    top: int = 5,
    progress: Progress | None = None,
    name: str | None = None,
) -> Report:
    """Make media of a file of latents: video as MP4, sound as WAV, a still image as PNG.

    target           file or folder; None: NAME_reconstruction.mp4 (.wav, .png) in the current
                     folder
    model            the one that made the latents; None: it is loaded by the name in the file
    start, duration  seconds on the source's clock; None: from the first window, to the last
    size             height in pixels of the picture as shown
    progress, name   as in `encode`

    Returns classes and what was written; without the source there are no other figures. A file
    that is unfinished or was cut off is decoded as far as it goes, which a note tells. Raises
    PerceivioError, in one line, for damage, and for a model that did not make the latents.
    """
    with LatentsFile(source) as file:
        model = maker(file, model)
        began = time.perf_counter()
        clip, header = clip_format(model.config), file.header
        info = source_info(file)
        default = pipeline.default_output(name or Path(source).stem, info)
        path = _target(target, default.name)
        if path.exists() and path.samefile(source):
            raise PerceivioError(f"{path}: is the input itself; choose another name with -o")
        has_picture = header.picture is not None and info.kind != "sound" and bool(clip.frames)
        has_sound = info.kind != "image" and bool(clip.samples)
        shape = pipeline.shown_shape(clip, size)
        beside = names_beside(path, clip) if info.kind != "image" else {}
        media = {each: m.media or "" for each, m in clip.beside}
        report = Report(info, written=path, written_beside=beside, media=media)
        span = _Span(file, clip, start, duration)
        with contextlib.ExitStack() as files:
            writer = MediaWriter(
                path,
                clip.frame_rate,
                shape if has_picture else None,
                clip.sample_rate if has_sound else None,
                overwrite,
            )
            files.enter_context(writer)
            writers = pipeline.open_writers(files, beside, clip, shape[0] or SHOWN, overwrite)

            def finish(stretch: Stretch) -> None:
                values = span.cut(stretch)
                if has_picture:
                    writer.write(resize(values[clip.image_name], *shape))
                if has_sound:
                    writer.write(samples=values[clip.audio_name])
                for each, beside_writer in writers.items():
                    beside_writer.write(values[each])

            asked = [clip.image_name] * has_picture + [clip.audio_name] * has_sound + [*beside]
            with Behind() as behind:
                pairs = _pairs(span.records(), span, progress)
                for stretch in pipeline.answers(model, pairs, asked, header.overlap, report, top):
                    behind.do(partial(finish, stretch))
        report.media_seconds = span.seconds(report)
        report.notes, report.lost = notes_of(file), file.lost
        report.seconds = time.perf_counter() - began
        return report


def classify(
    source: str | os.PathLike[str],
    model: Autoencoder | str | None = None,
    *,
    top: int = 5,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """The most probable classes of a media file or of a file of latents: of each window, and of all
    together, the label masked.

    model     a model, or what `load` takes; None: "small", or the one that made the latents
    top       classes to name
    start, duration  seconds of the source to look at; duration None: to its end
    progress  called with (seconds done, seconds in all)

    Raises PerceivioError, in one line, for what cannot be read and for another model than the one
    that made the latents.
    """
    if not is_latents(source):
        model = model_for(source, model)
        return pipeline.classify(
            source, model, top=top, start=start, duration=duration, progress=progress
        )
    with LatentsFile(source) as file:
        model = maker(file, model)
        began = time.perf_counter()
        report = Report(source_info(file))
        span = _Span(file, clip_format(model.config), start or None, duration)
        pipeline.tell_classes(model, _pairs(span.records(), span, progress), report, top)
        report.notes, report.lost = notes_of(file), file.lost
        report.seconds = time.perf_counter() - began
        return report


def model_for(
    path: str | os.PathLike[str],
    model: Autoencoder | str | None = None,
    loaded: Load = load,
) -> Autoencoder:
    """The model to read a file with: `model`; without it, the one that made a file of latents by
    the name that the file has for it, or "small" for media. `loaded` loads what has a name.

    Raises LatentsError, naming both, where it is not the model that made the latents.
    """
    if is_latents(path):
        with LatentsFile(path) as file:
            return maker(file, model, loaded)
    model = "small" if model is None else model
    return loaded(model) if isinstance(model, str) else model


def maker(
    file: LatentsFile, model: Autoencoder | str | None = None, loaded: Load = load
) -> Autoencoder:
    """The model that made the latents of a file, as `model_for` says.

    A name in a file is loaded only where that can do no harm: shipped and published weights, and
    folders and files that are here.
    """
    header = file.header
    made_by = f"model {header.model!r} ({short(header.identity)})"
    if model is None:
        model, here = header.model, Path(header.model).expanduser()
        if model not in (*SHIPPED, HUB_MODEL) and not (here.is_dir() or here.is_file()):
            raise LatentsError(f"{file.path}: was made by {made_by}; say where it is with --model")
    model = loaded(model) if isinstance(model, str) else model
    if model.identity != header.identity:
        other = f"{model.source or model.config.name!r} ({short(model.identity)})"
        raise LatentsError(
            f"{file.path}: was made by {made_by}, not by {other}; only the model that made latents"
            " can decode them: name it with --model"
        )
    return model


def window_of(record: Record) -> Window:
    """A record as a window without inputs, as `Rejoin` and `answers` take it."""
    return Window(record.index, record.start, record.stop, {}, record.frames, record.samples)


# ---- encoding


def _header(
    windows: Windows,
    model: Autoencoder,
    clip: ClipFormat,
    precision: Precision,
    start: float,
    duration: float | None,
    overlap: int,
) -> Header:
    info, config = windows.info, model.config
    picture = sound = None
    if info.video is not None:
        rate = float(info.video.frame_rate)
        picture = Picture(info.video.width, info.video.height, rate, info.video.rotation)
    if info.audio is not None:
        sound = Sound(info.audio.rate, info.audio.channels)
    return Header(
        identity=model.identity,
        model=model.source or config.name,
        precision=precision,
        latents=config.latents,
        channels=config.latent_channels,
        block=block_size(precision, config.latents, config.latent_channels),
        window=clip.seconds.as_integer_ratio(),
        frames=clip.frames,
        samples=clip.samples,
        overlap=overlap,
        start=float(start),
        duration=None if duration is None else float(duration),
        kind=info.kind,
        source_duration=min(max(float(info.duration), 0.0), MOST_SECONDS),
        picture=picture,
        sound=sound,
        files=tuple(_mark(path) for path in (info.path, *windows.beside.paths)),
    )


def _mark(path: Path) -> FileMark:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha256(file.read(ENDS))
            file.seek(max(0, size - ENDS))
            digest.update(file.read(ENDS))
    except OSError as error:
        raise PerceivioError(f"{path}: cannot be read: {error.strerror or error}") from error
    return FileMark(path.name, size, digest.hexdigest())


def _add(writer: LatentsWriter, window: Window, latents: Tensor) -> None:
    writer.add(window.start, window.stop, window.frames, window.samples, latents)


# ---- decoding


class _Span:
    """What is asked for of a file of latents: the records of it, and where its first and its last
    are to be cut. start, stop in seconds, None for where the file begins and ends."""

    def __init__(
        self, file: LatentsFile, clip: ClipFormat, start: float | None, duration: float | None
    ) -> None:
        header = file.header
        same = (header.frames, header.samples) == (clip.frames, clip.samples)
        if not same or header.seconds != clip.seconds:
            raise LatentsError(f"{file.path}: its windows are not those of its model")
        if not len(file):
            raise LatentsError(f"{file.path}: holds no windows yet")
        begin = file.start if start is None else start
        if not file.start <= begin < file.stop:
            raise LatentsError(
                f"{file.path}: covers {file.start:.2f} to {file.stop:.2f} s, not {begin:g} s"
            )
        self.start = begin
        self.stop = file.stop if duration is None else min(begin + duration, file.stop)
        self._file, self._clip, self._overlap = file, clip, header.overlap
        self._whole = start is None and duration is None
        self._rates = {clip.image_name: exact(clip.frame_rate), clip.audio_name: clip.sample_rate}
        self._points = {clip.image_name: clip.frames, clip.audio_name: clip.samples}
        for name, modality in clip.beside:
            if not modality.is_classes:
                self._rates[name], self._points[name] = modality.rate or 1, modality.shape[0]
        self._passed: dict[str, int] = {}  # points of the file's whole stream, by modality

    def records(self) -> Iterator[Record]:
        return self._file.between(self.start, self.stop)

    def cut(self, stretch: Stretch) -> dict[str, Tensor]:
        """The values of a stretch that lie in the span; stretches must come in their order."""
        if self._whole:
            return stretch.values
        found = {}
        for name, values in stretch.values.items():
            place = self._passed.get(name)
            if place is None:
                index = stretch.window.index
                place = self._clip.start_of(self._points[name], index, self._overlap)
            self._passed[name] = place + len(values)
            first, last = self._point(self.start, name), self._point(self.stop, name)
            last = max(last, first + 1)
            found[name] = values[max(0, first - place) : max(0, last - place)]
        return found

    def seconds(self, report: Report) -> float:
        return min(self.stop, report.windows[-1].stop) - self.start

    def _point(self, moment: float, name: str) -> int:
        since = exact(moment) - exact(self._file.start)
        return nearest(since * Fraction(self._rates[name]))


def _pairs(
    records: Iterable[Record], span: _Span, progress: Progress | None
) -> Iterator[tuple[Window, Tensor]]:
    for record in ahead(records):
        yield window_of(record), record.latents
        if progress:
            progress(min(record.stop, span.stop) - span.start, span.stop - span.start)


def source_info(file: LatentsFile) -> MediaInfo:
    """The source, as far as the file tells of it, under the file's own name."""
    header, video, audio = file.header, None, None
    if (picture := header.picture) is not None:
        video = VideoInfo(picture.width, picture.height, picture.frame_rate, picture.rotation)
    if (sound := header.sound) is not None:
        audio = AudioInfo(sound.rate, sound.channels)
    return MediaInfo(file.path, header.kind, header.source_duration, video, audio)


def notes_of(file: LatentsFile) -> list[str]:
    if file.finished:
        return file.notes
    return [f"unfinished, or cut off: {len(file)} windows, up to {file.stop:.2f} s, are there"]


def _target(target: str | os.PathLike[str] | None, default: str) -> Path:
    if target is None:
        return Path(default)
    return Path(target) / default if Path(target).is_dir() else Path(target)
