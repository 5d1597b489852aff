"""From file to file: reconstruct and classify media of any length, window by window.

Memory does not grow with the file: windows are read a few ahead, encoded, answered and joined to
the one before, and measured and written a few behind, each of the three in a thread of its own.
"""

from __future__ import annotations

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
from .clips import ClipFormat, Rejoin, Window, Windows, read_windows, resize, shown_size
from .clips import side_by_side as beside
from .config import Config, preset
from .errors import PerceivioError
from .media import MediaInfo, probe
from .metrics import Fidelity
from .overlap import Behind, ahead
from .writer import MediaWriter

OVERLAP = 2  # frames of 16; chosen by `python -m recipes.seams`, see docs/log.md
SHOWN = 224  # height in pixels that a small model's picture is enlarged to, at least
SUFFIXES = {"video": ".mp4", "sound": ".wav", "image": ".png"}

Progress = Callable[[float, float], None]  # seconds done, seconds in all (0: unknown)


@dataclass
class WindowReport:
    """What is said of one window: times in seconds, its figures, its best classes."""

    start: float
    stop: float
    video: Fidelity
    audio: Fidelity
    classes: list[Prediction]


@dataclass
class Report:
    """What is said of one file.

    info      what the file holds
    written   the file that was written, if any
    seconds   that it took, and `media_seconds` that were worked on
    video     sums over the picture, at the model's resolution, before the output is compressed
    audio     the same over the sound, at the model's rate
    classes   most probable classes: probabilities averaged over the windows
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
    notes: list[str] = field(default_factory=list)
    lost: tuple[int, float] = (0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that says nothing is null."""

        def figures(video: Fidelity, audio: Fidelity) -> dict[str, Any]:
            return {
                "video_psnr_db": video.psnr,
                "mean_colour_psnr_db": video.trivial_psnr,
                "audio_psnr_db": audio.psnr,
                "silence_psnr_db": audio.trivial_psnr,
                "audio_snr_db": audio.snr,
            }

        def classes(predictions: list[Prediction]) -> list[dict[str, Any]]:
            return [prediction._asdict() for prediction in predictions]

        return {
            "file": str(self.info.path),
            "kind": self.info.kind,
            "written": str(self.written) if self.written else None,
            **(figures(self.video, self.audio) if self.written else {}),
            "classes": classes(self.classes),
            "seconds_taken": self.seconds,
            "media_seconds": self.media_seconds,
            "notes": self.notes,
            "lost_packets": self.lost[0],
            "lost_seconds": self.lost[1],
            "windows": [
                {
                    "start": w.start,
                    "stop": w.stop,
                    **(figures(w.video, w.audio) if self.written else {}),
                    "classes": classes(w.classes),
                }
                for w in self.windows
            ],
        }


def clip_format(config: Config) -> ClipFormat:
    """The clips that a model of this configuration takes from media files."""
    video, audio = config.media("video"), config.media("audio")
    if video is None and audio is None:
        raise PerceivioError("this model takes neither picture nor sound of a media file")
    frames, height, width = video[1].shape if video else (0, 0, 0)
    return ClipFormat(
        frames=frames,
        height=height,
        width=width,
        frame_rate=(video[1].rate if video else None) or 0,
        samples=audio[1].shape[0] if audio else 0,
        sample_rate=(audio[1].rate if audio else None) or 0,
        image_name=video[0] if video else "",
        audio_name=audio[0] if audio else "",
    )


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

    outputs   whole modalities of one clip, or pairs of a window and its outputs in the order in
              which `read` gave the windows (`overlap` must be the same)

    The suffix of `path` chooses the clip. It appears when it is whole; Raises MediaError where
    it exists and `overwrite` is not set, or cannot be written.
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
    rejoin = Rejoin(clip, overlap)
    with MediaWriter(path, clip.frame_rate, shape, rate, overwrite) as writer:
        for window, values in chain([first], pairs):
            image = _first(values.get(clip.image_name))
            sound = _first(values.get(clip.audio_name))
            writer.write(*rejoin.add(window, image, None if sound is None else sound[:, 0]))
        writer.write(*rejoin.finish())
    return Path(path)


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
    side_by_side: bool = False,
    start: float = 0.0,
    duration: float | None = None,
    size: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    top: int = 5,
    progress: Progress | None = None,
    name: str | None = None,
) -> Report:
    """Reconstruct a media file into another: video as MP4, sound as WAV, a still image as PNG.

    target        file or folder; None: NAME_reconstruction beside nothing, in the folder we are in
    side_by_side  original left, reconstruction right, labelled
    size          height in pixels of the picture as shown; figures are not touched by it
    overlap       frames that windows share, crossfaded; None: an eighth of a window
    progress      called with (seconds done, seconds in all)
    name          NAME, where the target is none or a folder; None: the source's, without suffix

    Returns the figures. Raises MediaError and other PerceivioErrors in one line.
    """
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
    report = Report(info, written=target)
    frame_shape = shape
    if side_by_side:
        blank = torch.zeros(1, 3, *shape)
        frame_shape = beside(blank, blank, shape[0]).shape[1:3]
    writer = MediaWriter(
        target,
        clip.frame_rate,
        frame_shape if has_picture else None,
        clip.sample_rate if has_sound else None,
        overwrite,
    )

    def finish(
        window: Window, found: WindowReport, skip: tuple[int, int],
        frames: Tensor | None, samples: Tensor | None,
    ) -> None:  # fmt: skip
        """Measure and write a stretch that begins so many frames and samples into its window."""
        _measure(clip, found, window, *skip, frames, samples)
        if frames is not None and len(frames):
            if side_by_side:
                assert window.originals is not None
                originals = window.originals[skip[0] :][: len(frames)]
                writer.write(beside(originals, frames, shape[0]))
            else:
                writer.write(resize(frames, *shape))
        if samples is not None and has_sound:
            writer.write(samples=samples)

    with writer, Behind() as behind:
        for stretch in _answers(model, windows, overlap, report, top, progress, duration):
            behind.do(partial(finish, *stretch))
    for found in report.windows:
        report.video, report.audio = report.video + found.video, report.audio + found.audio
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
    windows = read_windows(source, clip_format(model.config), start, duration)
    report = Report(windows.info)
    began = time.perf_counter()
    total = _total(windows.info, start, duration)
    summed = torch.zeros(())
    for window in ahead(windows):
        probabilities = model.probabilities(model.encode(window.inputs))[0].cpu()
        summed = summed + probabilities
        best = model.predictions(probabilities, top)
        report.windows.append(WindowReport(window.start, window.stop, Fidelity(), Fidelity(), best))
        if progress:
            progress(window.stop - start, total)
    _conclude(report, windows, model, summed, top, start)
    report.seconds = time.perf_counter() - began
    return report


def _answers(
    model: Autoencoder,
    windows: Windows,
    overlap: int,
    report: Report,
    top: int,
    progress: Progress | None,
    duration: float | None,
) -> Iterator[tuple[Window, WindowReport, tuple[int, int], Tensor | None, Tensor | None]]:
    """Each finished stretch of frames (n, 3, H, W) and samples (m,): with the window that holds
    its originals, the report of that window, and the frame and sample of it that it begins with.
    Classes go into the report."""
    clip = clip_format(model.config)
    classes = model.config.classes()
    rejoin = Rejoin(clip, overlap)
    summed = torch.zeros(())
    last: Window | None = None
    first = 0.0
    for window in ahead(windows):
        if last is None:
            first = window.start
        latents = model.encode(window.inputs)
        given = [name for name in (clip.image_name, clip.audio_name) if name in window.inputs]
        outputs = model.decode(latents, dict.fromkeys(given))
        outputs = {name: values[0].float().cpu() for name, values in outputs.items()}
        image, sound = outputs.get(clip.image_name), outputs.get(clip.audio_name)
        if image is not None:
            image = image.clamp(0, 1)
        if sound is not None:
            sound = sound[:, 0].clamp(-1, 1)
        found = WindowReport(window.start, window.stop, Fidelity(), Fidelity(), [])
        if classes:
            probabilities = model.probabilities(latents)[0].cpu()
            summed = summed + probabilities
            found.classes = model.predictions(probabilities, top)
        report.windows.append(found)
        yield window, found, (0, 0), *rejoin.add(window, image, sound)
        last = window
        if progress:
            progress(window.stop - first, _total(windows.info, first, duration))
    if last is not None:
        # What the last window has left over begins where the next window would have begun.
        here, then = clip.starts(0, overlap), clip.starts(1, overlap)
        skip = then[0] - here[0], then[1] - here[1]
        yield last, report.windows[-1], skip, *rejoin.finish()
    _conclude(report, windows, model, summed, top, first)


def _measure(
    clip: ClipFormat,
    found: WindowReport,
    window: Window,
    skip_frames: int,
    skip_samples: int,
    frames: Tensor | None,
    samples: Tensor | None,
) -> None:
    """Compare a finished stretch with the originals of its window, from where it begins."""
    if frames is not None and len(frames):
        wanted = window.inputs[clip.image_name][0, skip_frames:][: len(frames)]
        found.video.add(wanted, frames, wanted.double().mean((0, 2, 3))[:, None, None])
    if samples is not None and len(samples):
        wanted = window.inputs[clip.audio_name][0, skip_samples:, 0][: len(samples)]
        found.audio.add(wanted, samples)


def _conclude(
    report: Report,
    windows: Windows,
    model: Autoencoder,
    summed: Tensor,
    top: int,
    first: float,
) -> None:
    if not report.windows:
        raise PerceivioError(f"{windows.info.path}: holds nothing that could be read")
    if model.config.classes():
        report.classes = model.predictions(summed / len(report.windows), top)
    report.notes, report.lost = windows.notes, (windows.losses.packets, windows.losses.seconds)
    report.media_seconds = report.windows[-1].stop - first


def shown_shape(clip: ClipFormat, size: int | None) -> tuple[int, int]:
    """(height, width) of the picture in the output: `size` high, or the model's own enlarged by
    the smallest whole factor that makes it SHOWN high."""
    if not clip.frames:
        return 0, 0
    if size is not None and not 16 <= size <= 4320:
        raise PerceivioError(f"--size {size}: choose 16 to 4320 pixels")
    return shown_size(clip, size or clip.height * -(-SHOWN // clip.height))


def default_overlap(clip: ClipFormat) -> int:
    return OVERLAP * clip.units // 16


def _total(info: MediaInfo, start: float, duration: float | None) -> float:
    left = max(0.0, info.duration - start)
    return left if duration is None else min(left, duration)


def _config(model: str | Config | Autoencoder) -> Config:
    if isinstance(model, Autoencoder):
        return model.config
    return preset(model) if isinstance(model, str) else model


def _first(values: Tensor | None) -> Tensor | None:
    """The only clip of a batch of one."""
    if values is not None and len(values) != 1:
        raise PerceivioError(f"a file holds one clip, not a batch of {len(values)}")
    return None if values is None else values[0].detach().float().cpu()
