"""From a file of latents to a part of what it holds: some frames, a crop, another size or frame
rate, sound alone, classes alone; as media, PNG or NumPy. Only what is asked is computed.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .autoencoder import Autoencoder, Prediction
from .errors import PerceivioError
from .keep import maker, notes_of, source_info
from .latents import LatentsFile
from .media import MediaInfo
from .model import InputError
from .pipeline import SUFFIXES, Progress, clip_format, shown_shape
from .queries import Look
from .timeline import Timeline
from .writer import TARGETS, MediaWriter, check_free, part_of

Part = Literal["image", "audio", "classes"]

PREVIEW = 4  # one pixel in so many, along height and width
ARRAYS = (".npy", ".npz")
MOST_BYTES = 2**31  # of arrays, which are put together in memory


@dataclass(frozen=True)
class Ask:
    """What is wanted of a file. Times are seconds on the source's clock.

    at          single frames at these times; none: a span
    start, stop of a span; None: of the whole recording, which also ends what would go beyond it
    rate        frames/s of a span; None: the model's own
    size        (height, width) in pixels; None: for arrays as dense as the model's own, for eyes
                as `decode` shows it
    height      instead of it: the width is what the crop makes of it
    crop        (top, left, height, width) as fractions of the picture
    preview     ask for one pixel in 4 x 4, and enlarge
    only        this part; None: of single frames the picture, of a span all that the file can hold
    """

    at: tuple[float, ...] = ()
    start: float | None = None
    stop: float | None = None
    rate: float | None = None
    size: tuple[int, int] | None = None
    height: int | None = None
    crop: tuple[float, float, float, float] | None = None
    preview: bool = False
    only: Part | None = None

    def __post_init__(self) -> None:
        if self.at and (self.start is not None or self.stop is not None or self.rate is not None):
            raise PerceivioError("ask for single times or for a span with its rate, not for both")
        if self.at and self.only not in (None, "image"):
            raise PerceivioError(f"single times are for frames; of {self.only}, ask for a span")

    def look(self, model: Autoencoder, enlarge: bool) -> Look:
        """At the picture that is wanted; `enlarge`d for eyes where no size is given."""
        look = Look(self.size, self.crop, PREVIEW if self.preview else 1)
        if self.size is not None or (self.height is None and not enlarge):
            return look
        tall, wide = (self.crop or (0.0, 0.0, 1.0, 1.0))[2:]
        shown = shown_shape(clip_format(model.config), None)
        height = max(1, round(tall * shown[0])) if self.height is None else self.height
        width = max(1, round(height * wide * shown[1] / (tall * shown[0])))
        return replace(look, size=(height, width))


@dataclass
class Answer:
    """What is said of one file that was asked.

    info      what its source holds
    written   files that were written
    frames, samples  in them, and the `size` of the frames
    classes   most probable ones, where they were asked for
    seconds   that it took, and `media_seconds` of the span that was asked, or of the recording
    notes, lost  as in `pipeline.Report`
    """

    info: MediaInfo
    written: list[Path] = field(default_factory=list)
    frames: int = 0
    size: tuple[int, int] | None = None
    samples: int = 0
    classes: list[Prediction] = field(default_factory=list)
    seconds: float = 0.0
    media_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    lost: tuple[int, float] = (0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": str(self.info.path),
            "written": [str(path) for path in self.written],
            "frames": self.frames,
            "size": self.size,
            "samples": self.samples,
            "classes": [p._asdict() for p in self.classes],
            "seconds_taken": self.seconds,
            "media_seconds": self.media_seconds,
            "notes": self.notes,
        }


def timeline_of(file: LatentsFile, model: Autoencoder | str | None = None) -> Timeline:
    """The windows of a file of latents, to be asked by the source's clock.

    model  the one that made the latents; None: it is loaded by the name in the file
    """
    ready = maker(file, model)
    clip, overlap = clip_format(ready.config), file.header.overlap
    if not len(file):
        raise PerceivioError(f"{file.path}: holds no windows yet")

    def real(kind: Literal["frames", "samples"]) -> int:
        # Where one of the two ends earlier, windows behind its end have none of it.
        index = bisect_left(range(len(file)), True, key=lambda i: not getattr(file[i], kind)) - 1
        if index < 0:
            return 0
        return clip.start_of(getattr(clip, kind), index, overlap) + getattr(file[index], kind)

    return Timeline(ready, _Kept(file), overlap, file.start, real("frames"), real("samples"))


@dataclass(frozen=True)
class _Kept:
    """The latents of a file, read when they are needed."""

    file: LatentsFile

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> Tensor:
        return self.file[index].latents[0]


def ask(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    model: Autoencoder | str | None = None,
    wanted: Ask = Ask(),
    *,
    overwrite: bool = False,
    top: int = 5,
    progress: Progress | None = None,
    name: str | None = None,
) -> Answer:
    """Answer for a part of a file of latents, and write it.

    target  file, whose suffix says what is written, or folder. None or a folder: single frames as
            NAME_at_SECONDS.png, sound as NAME_part.wav, all else as NAME_part.mp4; classes alone
            are told and not written
    model   the one that made the latents; None: it is loaded by the name in the file
    name    NAME; None: the source's, without suffix

    .png, .jpg hold one frame, .wav, .flac sound, .mp4 and other films a span. .npy holds one array,
    .npz several by name: image (T, 3, H, W) float32 in [0, 1] with image_times, audio (samples,)
    with audio_rate, label (classes,) probabilities with label_names.

    Raises PerceivioError, in one line, for what the file does not hold and for what cannot be
    written.
    """
    began = time.perf_counter()
    with LatentsFile(source) as file, _named(file):
        line = timeline_of(file, model)
        if wanted.stop is not None:
            wanted = replace(wanted, stop=min(wanted.stop, line.stop))
        answer = Answer(source_info(file))
        folder = Path(target) if target is not None and Path(target).is_dir() else None
        path = None if folder or target is None else Path(target)
        parts = _parts(wanted, line, path)
        if path is not None and path.exists() and path.samefile(source):
            raise PerceivioError(f"{path}: is the input itself; choose another name with -o")
        stem = name or Path(source).stem
        if "classes" in parts:
            answer.classes = line.classes(top, wanted.start, wanted.stop)
        if wanted.at and (path is None or path.suffix.lower() not in ARRAYS):
            _write_pictures(answer, line, wanted, path, folder or Path(), stem, overwrite)
        elif path is not None and path.suffix.lower() in ARRAYS:
            _write_arrays(answer, line, wanted, parts, path, overwrite)
        elif set(parts) != {"classes"}:
            suffix = SUFFIXES[answer.info.kind if "image" in parts else "sound"]
            path = path or (folder or Path()) / f"{stem}_part{suffix}"
            _write_media(answer, line, wanted, parts, path, overwrite, progress)
        elif path is not None:
            raise PerceivioError(f"{path}: classes are written to .npy or .npz")
        start = line.start if wanted.start is None else wanted.start
        answer.media_seconds = (line.stop if wanted.stop is None else wanted.stop) - start
        answer.notes, answer.lost = notes_of(file), file.lost
    answer.seconds = time.perf_counter() - began
    return answer


@contextmanager
def _named(file: LatentsFile) -> Iterator[None]:
    """What was asked and is not there is told with the file's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error


def _parts(wanted: Ask, line: Timeline, path: Path | None) -> list[Part]:
    """What is to be computed: what was asked for, as far as the target can hold it."""
    if wanted.only or wanted.at:
        return [wanted.only or "image"]
    suffix = path.suffix.lower() if path else ""
    if suffix in (".png", ".jpg") and (line.frames_in_all or 0) > 1:
        raise PerceivioError(f"{path}: holds one frame; say of which second with --at")
    if suffix == ".npy":
        raise PerceivioError(f"{path}: holds one array; say which with --only, or choose .npz")
    if suffix in TARGETS and TARGETS[suffix].video is None:
        return ["audio"]
    there: dict[Part, bool] = {
        "image": bool(line.frames_in_all),
        "audio": bool(line.samples_in_all),
        "classes": suffix == ".npz" and line.model.config.classes() is not None,
    }
    return [part for part, is_there in there.items() if is_there]


def _write_pictures(
    answer: Answer,
    line: Timeline,
    wanted: Ask,
    path: Path | None,
    folder: Path,
    stem: str,
    overwrite: bool,
) -> None:
    """Single frames, each in a file of its own."""
    look = wanted.look(line.model, enlarge=True)
    if path is not None and len(wanted.at) > 1:
        raise PerceivioError(
            f"{path}: holds one frame, not {len(wanted.at)}; choose a folder, .npy or .npz"
        )
    times = list(dict.fromkeys(wanted.at))
    names = (np.format_float_positional(second, trim="-") for second in times)
    paths = [path or folder / f"{stem}_at_{each}.png" for each in names]
    for each in paths:
        check_free(each, overwrite)
    pictures = (frame for stretch in line.pictures(times, look) for frame in stretch)
    for each, frame in zip(paths, pictures, strict=True):
        answer.size = (frame.shape[1], frame.shape[2])
        with MediaWriter(each, None, answer.size, overwrite=overwrite) as writer:
            writer.write(frame[None])
        answer.frames += 1
        answer.written.append(each)


def _write_media(
    answer: Answer,
    line: Timeline,
    wanted: Ask,
    parts: Sequence[Part],
    path: Path,
    overwrite: bool,
    progress: Progress | None,
) -> None:
    """A span, as a film with sound or either alone, in constant memory."""
    has_picture, has_sound = "image" in parts, "audio" in parts
    look, rate = wanted.look(line.model, enlarge=True), line.clip.sample_rate
    times = line.times(wanted.start, wanted.stop, wanted.rate) if has_picture else []
    frame_rate = float(wanted.rate or line.clip.frame_rate)
    answer.size = look.size if has_picture else None
    sounds = line.sounds(wanted.start, wanted.stop) if has_sound else iter(())
    hertz = rate if has_sound else None
    with MediaWriter(path, frame_rate, answer.size, hertz, overwrite) as writer:
        for stretch in line.pictures(times, look) if has_picture else ():
            writer.write(stretch)
            answer.frames += len(stretch)
            if progress:
                progress(answer.frames / frame_rate, len(times) / frame_rate)
            # Sound goes beside the frames that it belongs to, not behind all of them.
            while has_sound and answer.samples / rate < answer.frames / frame_rate:
                if not _write_next(writer, sounds, answer):
                    break
        while _write_next(writer, sounds, answer):
            pass
    answer.written.append(path)


def _write_next(writer: MediaWriter, sounds: Iterator[Tensor], answer: Answer) -> bool:
    """The next stretch of sound, if there is one."""
    stretch = next(sounds, None)
    if stretch is None:
        return False
    writer.write(samples=stretch)
    answer.samples += len(stretch)
    return True


def _write_arrays(
    answer: Answer,
    line: Timeline,
    wanted: Ask,
    parts: Sequence[Part],
    path: Path,
    overwrite: bool,
) -> None:
    check_free(path, overwrite)
    arrays: dict[str, np.ndarray] = {}
    if "image" in parts:
        look = wanted.look(line.model, enlarge=False)
        times = wanted.at or line.times(wanted.start, wanted.stop, wanted.rate)
        height, width = look.sides(line.model.config.modalities[line.clip.image_name])
        if len(times) * height * width * 12 > MOST_BYTES:
            raise PerceivioError(f"{path}: more than 2 GiB of pixels; ask for less, or choose .mp4")
        frames = [stretch.numpy() for stretch in line.pictures(times, look)]
        arrays["image"], arrays["image_times"] = np.concatenate(frames), np.array(times)
        answer.frames, answer.size = len(times), (height, width)
    if "audio" in parts:
        arrays["audio"] = line.audio(wanted.start, wanted.stop).numpy()
        arrays["audio_rate"] = np.array(line.clip.sample_rate)
        answer.samples = len(arrays["audio"])
    if "classes" in parts:
        arrays["label"] = line.probabilities(wanted.start, wanted.stop).numpy()
        classes = line.model.config.classes()
        arrays["label_names"] = np.array(classes[1].names if classes else (), str)
    part = part_of(path)
    try:
        with part.open("xb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, next(iter(arrays.values())))
            else:
                np.savez(file, allow_pickle=False, **arrays)
        check_free(path, overwrite)
        part.replace(path)
    except OSError as error:
        raise PerceivioError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    answer.written.append(path)
