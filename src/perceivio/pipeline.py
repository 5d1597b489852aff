"""From file to file: reconstruct and classify media of any length, window by window.

Memory does not grow with the file: windows are read a few ahead, encoded, answered and joined to
the one before, and measured and written a few behind, each of the three in a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .autoencoder import Autoencoder, Prediction, load
from .beside_writer import BesideWriter, names_beside, time_first
from .clip_format import ClipFormat
from .clips import Rejoin, Window, Windows, read_windows
from .config import Config, preset
from .errors import PerceivioError
from .latents import is_latents
from .media import MediaInfo, probe
from .metrics import Fidelity
from .overlap import Behind, ahead
from .pictures import resize, shown_size
from .pictures import side_by_side as both
from .writer import MediaWriter

OVERLAP = 2  # frames of 16; chosen by `python -m recipes.seams`, see docs/log.md
SHOWN = 224  # height in pixels that a small model's picture is enlarged to, at least
SUFFIXES = {"video": ".mp4", "sound": ".wav", "image": ".png"}

Progress = Callable[[float, float], None]  # seconds done, seconds in all (0: unknown)
Pairs = Iterator[tuple[Window, Tensor]]  # windows and their latents
Passing = Callable[[Windows, Pairs], Pairs]


@dataclass
class WindowReport:
    """What is said of one window: times in seconds, its figures, its best classes; `beside` and
    `others` as in `Report`."""

    start: float
    stop: float
    video: Fidelity = field(default_factory=Fidelity)
    audio: Fidelity = field(default_factory=Fidelity)
    classes: list[Prediction] = field(default_factory=list)
    beside: dict[str, Fidelity] = field(default_factory=dict)
    others: dict[str, list[Prediction]] = field(default_factory=dict)


@dataclass
class Report:
    """What is said of one file.

    info      what the file holds
    written   the file that was written, if any
    seconds   that it took, and `media_seconds` that were worked on
    video     sums over the picture, at the model's resolution, before the output is compressed
    audio     the same over the sound, at the model's rate
    classes   most probable classes: probabilities averaged over the windows
    beside    sums over each grid that is read from a file beside, where there was something to
              compare with; `written_beside` are the files that were written for them, `media`
              says of what kind they are
    others    most probable classes of other sets than the clips' own
    notes     what was missing and replaced, in words
    lost      packets that could not be decoded, and seconds of them
    """

    info: MediaInfo
    written: Path | None = None
    seconds: float = 0.0
    media_seconds: float = 0.0
    windows: list[WindowReport] = field(default_factory=list)
    video: Fidelity = field(default_factory=Fidelity)
    audio: Fidelity = field(default_factory=Fidelity)
    classes: list[Prediction] = field(default_factory=list)
    beside: dict[str, Fidelity] = field(default_factory=dict)
    written_beside: dict[str, Path] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[Prediction]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: tuple[int, float] = (0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that says nothing is null."""

        def figures(about: Report | WindowReport) -> dict[str, Any]:
            video, audio = about.video, about.audio
            found: dict[str, Any] = {
                "video_psnr_db": video.psnr,
                "mean_colour_psnr_db": video.trivial_psnr,
                "audio_psnr_db": audio.psnr,
                "silence_psnr_db": audio.trivial_psnr,
                "audio_snr_db": audio.snr,
            }
            if self.written_beside:
                found["beside"] = {
                    name: told_of(fidelity, self.media[name])
                    for name, fidelity in about.beside.items()
                }
            return found if self.written else {}

        def classes(about: Report | WindowReport) -> dict[str, Any]:
            plain = {name: [p._asdict() for p in found] for name, found in about.others.items()}
            others = {"other_classes": plain} if plain else {}
            return {"classes": [p._asdict() for p in about.classes], **others}

        return {
            "file": str(self.info.path),
            "kind": self.info.kind,
            "written": str(self.written) if self.written else None,
            **({"written_beside": _texts(self.written_beside)} if self.written_beside else {}),
            **figures(self),
            **classes(self),
            "seconds_taken": self.seconds,
            "media_seconds": self.media_seconds,
            "notes": self.notes,
            "lost_packets": self.lost[0],
            "lost_seconds": self.lost[1],
            "windows": [
                {"start": w.start, "stop": w.stop, **figures(w), **classes(w)} for w in self.windows
            ],
        }


def told_of(fidelity: Fidelity, media: str) -> dict[str, float | None]:
    """The figures that say something about a grid of this kind, by name; None for silence."""
    if media == "table":
        return {"r2": fidelity.explained}
    psnr = {"psnr_db": fidelity.psnr}
    return {**psnr, "snr_db": fidelity.snr} if media == "audio" else psnr


def clip_format(config: Config) -> ClipFormat:
    """The clips that a model of this configuration takes from media files."""
    video, audio = config.media("video"), config.media("audio")
    if video is None and audio is None:
        raise PerceivioError("this model takes neither picture nor sound of a media file")
    frames, height, width = video[1].shape if video else (0, 0, 0)
    try:
        return ClipFormat(
            frames=frames,
            height=height,
            width=width,
            frame_rate=(video[1].rate if video else None) or 0,
            samples=audio[1].shape[0] if audio else 0,
            sample_rate=(audio[1].rate if audio else None) or 0,
            image_name=video[0] if video else "",
            audio_name=audio[0] if audio else "",
            beside=config.beside(),
        )
    except ValueError as error:
        raise PerceivioError(f"picture and sound must last equally long: {error}") from error


def read(
    path: str | os.PathLike[str],
    model: str | Config | Autoencoder = "small",
    *,
    start: float = 0.0,
    duration: float | None = None,
    overlap: int = 0,
) -> Windows:
    """The windows of a media file, as inputs of a model with their times, in constant memory.

    model     whose clips to make: a model, a configuration, or the name of a preset
    start, duration  seconds; duration None: to the end
    overlap   frames that a window shares with the one before it

    Iterate over it once: each `Window` has `.inputs` for `model.encode`, `.start` and `.stop`.
    Grids that are declared to be in files beside it are among them where these files are there.
    Raises MediaError, in one line, for what cannot be read.
    """
    return read_windows(path, clip_format(_config(model)), start, duration, overlap)


def write(
    path: str | os.PathLike[str],
    outputs: Mapping[str, Tensor] | Iterable[tuple[Window, Mapping[str, Tensor]]],
    model: str | Config | Autoencoder = "small",
    *,
    overlap: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write what a model gave to a media file; the counterpart of `read`.

    outputs   whole modalities of one clip, (1, *value_shape) each, or pairs of a window and its
              outputs in the order in which `read` gave the windows
    model     whose outputs they are: a model, a configuration, or the name of a preset
    overlap   frames that windows share, as `read` was asked for

    The suffix of `path` chooses the clip. What is declared to be in files beside it is written
    beside it. Each file appears when it is whole. Raises MediaError where one exists and
    `overwrite` is not set, or cannot be written.
    """
    clip = clip_format(_config(model))
    if isinstance(outputs, Mapping):
        whole = Window(0, 0.0, float(clip.seconds), {}, clip.frames, clip.samples)
        pairs = iter([(whole, cast("Mapping[str, Tensor]", outputs))])
    else:
        pairs = iter(outputs)
    first = next(pairs, None)
    if first is None:
        raise PerceivioError(f"{path}: there was nothing to write")
    shape = (clip.height, clip.width) if clip.image_name in first[1] else None
    rate = clip.sample_rate if clip.audio_name in first[1] else None
    rejoin, height = Rejoin(clip, overlap), clip.height or SHOWN
    beside = {k: v for k, v in names_beside(Path(path), clip).items() if k in first[1]}
    with contextlib.ExitStack() as files:
        writer = MediaWriter(path, clip.frame_rate, shape, rate, overwrite)
        files.enter_context(writer)
        writers = open_writers(files, beside, clip, height, overwrite)

        def put(stretch: Mapping[str, Tensor]) -> None:
            writer.write(stretch.get(clip.image_name), stretch.get(clip.audio_name))
            for name, each in writers.items():
                each.write(stretch[name])

        for window, values in chain([first], pairs):
            grids = {name: _one(v) for name, v in values.items() if name in rejoin.points}
            put(rejoin.add(window, {name: _in_time(v, name, clip) for name, v in grids.items()}))
        put(rejoin.finish())
    return Path(path)


def open_writers(
    files: contextlib.ExitStack,
    paths: Mapping[str, Path],
    clip: ClipFormat,
    height: int,
    overwrite: bool,
) -> dict[str, BesideWriter]:
    """Writers of what goes beside a clip, which `files` closes."""
    declared = dict(clip.beside)
    return {
        name: files.enter_context(BesideWriter(path, declared[name], height, overwrite))
        for name, path in paths.items()
    }


def _in_time(values: Tensor, name: str, clip: ClipFormat) -> Tensor:
    """One clip's values of a modality with time as the first dimension; sound as samples (m,)."""
    if name == clip.image_name:
        return values
    if name == clip.audio_name:
        return values[:, 0]
    return time_first(values, dict(clip.beside)[name])


def default_output(name: str, info: MediaInfo, folder: Path | None = None) -> Path:
    """Where a reconstruction goes that nobody named: NAME_reconstruction.mp4, .wav or .png."""
    return (folder or Path()) / f"{name}_reconstruction{SUFFIXES[info.kind]}"


def names_for(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """What to call what is made of each of several files, in one folder: its name without suffix;
    with it where others have the same, and with its folder where others have even that."""
    paths = [Path(source) for source in sources]
    names = [path.stem for path in paths]
    for longer in ([p.name for p in paths], [f"{p.parent.name}_{p.name}" for p in paths]):
        pairs = zip(names, longer, strict=True)
        names = [other if names.count(name) > 1 else name for name, other in pairs]
    return names


def reconstruct(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: Autoencoder | str = "small",
    *,
    side_by_side: bool | Path = False,
    start: float = 0.0,
    duration: float | None = None,
    size: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    top: int = 5,
    progress: Progress | None = None,
    name: str | None = None,
    passing: Passing | None = None,
) -> Report:
    """Reconstruct a media file into another: video as MP4, sound as WAV, a still image as PNG.

    target        file or folder; None: NAME_reconstruction.mp4 (.wav, .png) in the current folder
    model         a model, or what `load` takes
    side_by_side  original left, reconstruction right, labelled; a path: in a file of its own there,
                  beside the reconstruction alone
    start, duration  seconds of the source to work on; duration None: to its end
    size          height in pixels of the picture as shown; figures are not touched by it
    overlap       frames that windows share, crossfaded; None: an eighth of a window
    overwrite     replace a target that is there
    top           classes to name
    progress      called with (seconds done, seconds in all)
    name          NAME, where the target is none or a folder; None: the source's, without suffix
    passing       is given the windows' row and each window with its latents, and passes these on

    Returns the figures: PSNR and SNR in dB at the model's resolution. Raises MediaError for files
    that cannot be read or written, and other PerceivioErrors, in one line.
    """
    if is_latents(source):
        raise PerceivioError(f"{source}: holds latents, no media; use `perceivio decode`")
    model = load(model) if isinstance(model, str) else model
    began = time.perf_counter()
    clip = clip_format(model.config)
    info = probe(source)
    folder = Path(target) if target is not None and Path(target).is_dir() else None
    if target is None or folder:
        target = default_output(name or Path(source).stem, info, folder)
    target = Path(target)
    if target.exists() and target.samefile(source):
        raise PerceivioError(f"{target}: is the input itself; choose another name with -o")

    has_picture = info.video is not None and info.kind != "sound" and bool(clip.frames)
    has_sound = info.kind != "image" and bool(clip.samples)
    shape = shown_shape(clip, size)
    overlap = default_overlap(clip) if overlap is None else overlap
    if side_by_side and not has_picture:
        raise PerceivioError(f"{source}: has no picture to show side by side")
    windows = read_windows(
        source, clip, start, duration, overlap, keep_size=shape[0] if side_by_side else 0
    )
    beside = names_beside(target, clip) if info.kind != "image" else {}
    for path in beside.values():
        if path.exists() and any(path.samefile(read) for read in windows.beside.paths):
            raise PerceivioError(f"{path}: is an input itself; choose another name with -o")
    media = {name: m.media or "" for name, m in clip.beside}
    report = Report(info, written=target, written_beside=beside, media=media)
    rate = clip.sample_rate if has_sound else None

    with contextlib.ExitStack() as files:
        # The film alone, the one side by side, or both.
        alone = seen = None
        if side_by_side:
            path = target if side_by_side is True else side_by_side
            blank = torch.zeros(1, 3, *shape)
            seen_shape = both(blank, blank, shape[0]).shape[1:3]
            seen = MediaWriter(path, clip.frame_rate, seen_shape, rate, overwrite)
            files.enter_context(seen)
        if side_by_side is not True:
            size_alone = shape if has_picture else None
            alone = MediaWriter(target, clip.frame_rate, size_alone, rate, overwrite)
            files.enter_context(alone)
        films = [film for film in (alone, seen) if film is not None]
        writers = open_writers(files, beside, clip, shape[0] or SHOWN, overwrite)

        def finish(stretch: Stretch) -> None:
            measure(clip, stretch)
            frames = stretch.values.get(clip.image_name)
            if frames is not None and len(frames):
                if seen:
                    assert stretch.window.originals is not None
                    begin = stretch.begins[clip.image_name]
                    originals = stretch.window.originals[begin:][: len(frames)]
                    seen.write(both(originals, frames, shape[0]))
                if alone:
                    alone.write(resize(frames, *shape))
            if has_sound and clip.audio_name in stretch.values:
                for film in films:
                    film.write(samples=stretch.values[clip.audio_name])
            for name, each in writers.items():
                each.write(stretch.values[name])

        total = total_seconds(info, start, duration)

        def told(window: Window) -> None:
            if progress:
                progress(window.stop - report.windows[0].start, total)

        asked = [clip.image_name] * has_picture + [clip.audio_name] * has_sound + [*beside]
        with Behind() as behind:
            pairs = encoded(model, windows, told)
            if passing:
                pairs = passing(windows, pairs)
            for stretch in answers(model, pairs, asked, overlap, report, top):
                behind.do(partial(finish, stretch))
    report.notes, report.lost = windows.notes, (windows.losses.packets, windows.losses.seconds)
    add_up(report)
    report.seconds = time.perf_counter() - began
    return report


def classify(
    source: str | os.PathLike[str],
    model: Autoencoder | str = "small",
    *,
    top: int = 5,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """The most probable classes of a media file: of each window, and of all together."""
    model = load(model) if isinstance(model, str) else model
    began = time.perf_counter()
    windows = read_windows(source, clip_format(model.config), start, duration)
    total = total_seconds(windows.info, start, duration)
    report = Report(windows.info)

    def told(window: Window) -> None:
        if progress:
            progress(window.stop - start, total)

    tell_classes(model, encoded(model, windows, told), report, top)
    report.notes, report.lost = windows.notes, (windows.losses.packets, windows.losses.seconds)
    report.seconds = time.perf_counter() - began
    return report


def tell_classes(
    model: Autoencoder, pairs: Iterable[tuple[Window, Tensor]], report: Report, top: int
) -> None:
    """Most probable classes of windows by their latents, and of all together, into the report."""
    if not model.config.class_sets():
        raise PerceivioError("this model has no classes")
    classes = Classes(model, top)
    for window, latents in pairs:
        found = WindowReport(window.start, window.stop)
        classes.tell(latents, found)
        report.windows.append(found)
    conclude(report, classes)


class Classes:
    """Most probable classes of each window, and of all of them together, in every set."""

    def __init__(self, model: Autoencoder, top: int) -> None:
        self._model, self._top = model, top
        self._summed = dict.fromkeys(model.config.class_sets(), torch.zeros(()))
        self._count = 0

    def tell(self, latents: Tensor, found: WindowReport) -> None:
        self._count += 1
        for name in self._summed:
            probabilities = self._model.probabilities(latents, name)[0].cpu()
            self._summed[name] = self._summed[name] + probabilities
            self._put(found, name, probabilities)

    def conclude(self, report: Report) -> None:
        for name, probabilities in self._summed.items():
            self._put(report, name, probabilities / self._count)

    def _put(self, report: Report | WindowReport, name: str, probabilities: Tensor) -> None:
        best = self._model.predictions(probabilities, self._top, name)
        own = self._model.config.classes()
        if own and own[0] == name:
            report.classes = best
        else:
            report.others[name] = best


@dataclass
class Stretch:
    """What is finished of a file: values by modality, with time as the first dimension.

    window  that holds their originals, and `found` the report of it
    begins  point of the window that each modality's values begin with
    """

    window: Window
    found: WindowReport
    begins: dict[str, int]
    values: dict[str, Tensor]


def answers(
    model: Autoencoder,
    pairs: Iterable[tuple[Window, Tensor]],
    asked: Sequence[str],
    overlap: int,
    report: Report,
    top: int,
) -> Iterator[Stretch]:
    """Each finished stretch of the modalities that are asked for, from windows and their latents.
    Windows, classes and the seconds worked on go into the report.

    Raises PerceivioError where there are no windows.
    """
    clip = clip_format(model.config)
    rejoin, classes = Rejoin(clip, overlap), Classes(model, top)
    last: Window | None = None
    for window, latents in pairs:
        outputs = model.decode(latents, dict.fromkeys(asked))
        values = {
            name: _limited(_in_time(values[0].float().cpu(), name, clip), name, model.config)
            for name, values in outputs.items()
        }
        found = WindowReport(window.start, window.stop)
        classes.tell(latents, found)
        report.windows.append(found)
        finished = rejoin.add(window, values)
        yield Stretch(window, found, dict.fromkeys(finished, 0), finished)
        last = window
    if last is not None:
        # What the last window has left over begins where the next window would have begun.
        finished = rejoin.finish()
        begins = {name: rejoin.step(name) for name in finished}
        yield Stretch(last, report.windows[-1], begins, finished)
    conclude(report, classes)


def encoded(
    model: Autoencoder, windows: Iterable[Window], told: Callable[[Window], None]
) -> Iterator[tuple[Window, Tensor]]:
    """Each window and its latents, windows being read ahead; `told` is called behind each."""
    for window in ahead(windows):
        yield window, model.encode(window.inputs)
        told(window)


def _limited(values: Tensor, name: str, config: Config) -> Tensor:
    """Within what a picture or a sound can be."""
    media = config.modalities[name].media
    least = {"video": 0.0, "audio": -1.0}.get(media or "")
    return values if least is None else values.clamp(least, 1)


def measure(clip: ClipFormat, stretch: Stretch) -> None:
    """Compare a finished stretch with the originals of its window, where there are any."""
    found, declared = stretch.found, dict(clip.beside)
    for name, values in stretch.values.items():
        if not len(values) or name not in stretch.window.inputs:
            continue
        wanted = _in_time(stretch.window.inputs[name][0], name, clip)
        wanted = wanted[stretch.begins[name] :][: len(values)]
        modality = declared.get(name)
        if name == clip.audio_name:
            found.audio.add(wanted, values)
            continue
        guess: Tensor | float = 0.0 if modality is None else modality.mean
        if modality is None or modality.media == "video":
            guess = wanted.double().mean((0, 2, 3))[:, None, None]
        fidelity = found.beside.setdefault(name, Fidelity()) if modality else found.video
        fidelity.add(wanted, values, guess)


def add_up(report: Report) -> None:
    """The figures of the whole file, from those of its windows."""
    for found in report.windows:
        report.video, report.audio = report.video + found.video, report.audio + found.audio
        for name, fidelity in found.beside.items():
            report.beside[name] = report.beside.get(name, Fidelity()) + fidelity


def conclude(report: Report, classes: Classes) -> None:
    """What is said of all windows together. Raises PerceivioError where there are none."""
    if not report.windows:
        raise PerceivioError(f"{report.info.path}: holds nothing that could be read")
    classes.conclude(report)
    report.media_seconds = report.windows[-1].stop - report.windows[0].start


def shown_shape(clip: ClipFormat, size: int | None) -> tuple[int, int]:
    """(height, width) of the picture in the output: `size` high, or the model's own enlarged by
    the smallest whole factor that makes it SHOWN high."""
    if not clip.frames:
        return 0, 0
    if size is not None and not 16 <= size <= 4320:
        raise PerceivioError(f"--size {size}: choose 16 to 4320 pixels")
    return shown_size((clip.height, clip.width), size or clip.height * -(-SHOWN // clip.height))


def default_overlap(clip: ClipFormat) -> int:
    return OVERLAP * clip.units // 16


def total_seconds(info: MediaInfo, start: float, duration: float | None) -> float:
    left = max(0.0, info.duration - start)
    return left if duration is None else min(left, duration)


def _config(model: str | Config | Autoencoder) -> Config:
    if isinstance(model, Autoencoder):
        return model.config
    return preset(model) if isinstance(model, str) else model


def _one(values: Tensor) -> Tensor:
    """The only clip of a batch of one."""
    if len(values) != 1:
        raise PerceivioError(f"a file holds one clip, not a batch of {len(values)}")
    return values[0].detach().float().cpu()


def _texts(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}
