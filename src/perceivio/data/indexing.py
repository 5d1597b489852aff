"""Every clip checked: an index of the good ones, and a count of the others by what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Literal, get_args

import av
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from .. import ffmpeg
from ..beside import File, open_beside
from ..config import Modality
from ..errors import PerceivioError
from ..excerpt import origin, packets, time_of
from ..ffmpeg import Losses
from ..overlap import several_ahead
from .catalogue import Clip, DataError, Index, open_file, path_beside
from .sources import Candidate, of_folder, of_kinetics
from .store import Place

Reason = Literal["missing", "empty", "corrupt", "truncated", "no picture", "silent", "too short"]
REASONS: tuple[Reason, ...] = get_args(Reason)
SHORTEST = 0.64  # seconds: a clip of the published model, and of `small`
EXAMPLES = 3  # names told for each reason
# A picture that ends this long before its header says so was cut off: seconds, and of the whole.
CUT_SECONDS, CUT_SHARE = Fraction(1, 2), Fraction(1, 50)
THREADS = 2 * (os.cpu_count() or 1)  # checking waits for the store as much as for the processor

Progress = Callable[[float, float], None]  # clips done, clips in all


class UnfitError(Exception):
    """A clip that is left out, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass
class BesideReport:
    """Clips that have a modality's file, and that have none; why some files cannot be used, a line
    for each."""

    there: int = 0
    missing: int = 0
    unfit: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What was found.

    clips, seconds, labelled  what the index holds
    classes                   how many
    left_out                  paths of clips that were left out, by reason
    kept                      paths of clips that are silent or too short and were kept, by reason
    others                    files in the folder that are no video by their name
    beside                    what was found of each modality that is read from files beside clips
    """

    clips: int = 0
    seconds: float = 0.0
    labelled: int = 0
    classes: int = 0
    left_out: dict[Reason, list[str]] = field(default_factory=dict)
    kept: dict[Reason, list[str]] = field(default_factory=dict)
    others: int = 0
    beside: dict[str, BesideReport] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts, and a few names for each reason."""
        return {
            "clips": self.clips,
            "seconds": self.seconds,
            "labelled": self.labelled,
            "classes": self.classes,
            "left_out": {reason: len(self.left_out.get(reason, ())) for reason in REASONS},
            "kept": {reason: len(paths) for reason, paths in self.kept.items()},
            "other_files": self.others,
            "examples": {reason: paths[:EXAMPLES] for reason, paths in self.left_out.items()},
            "beside": {
                name: {**dataclasses.asdict(found), "unfit": len(found.unfit)}
                for name, found in self.beside.items()
            },
        }


@dataclass(frozen=True)
class Facts:
    """What a look at a clip shows; the fields are those of `catalogue.Clip`."""

    duration: float
    frame_rate: float
    width: int
    height: int
    sample_rate: int | None


def build(
    source: str,
    root: str | None = None,
    *,
    keep_silent: bool = False,
    keep_short: bool = False,
    shortest: float = SHORTEST,
    beside: Sequence[tuple[str, Modality]] = (),
    threads: int = THREADS,
    progress: Progress = lambda done, total: None,
) -> tuple[Index, Report]:
    """Check the clips of a folder, or those that an annotation CSV names, `threads` at a time.

    root      folder in which the clips of a CSV are; None: the CSV's own
    shortest  seconds; a clip below is too short
    beside    names and declarations of what is read from files beside clips; files that are not
              what they are declared to be are counted, and the clip is kept without them

    A bad clip is counted and left out, whatever is wrong with it; silent and short ones can be
    kept. Raises DataError where not one good clip is left, and for a bad folder or CSV.
    """
    place, others, declared = Place.of(source), 0, [modality for _, modality in beside]
    if place.name.lower().endswith(".csv"):
        home = place.parent if root is None else Place.of(root)
        candidates = of_kinetics(place, home, declared)
    else:
        if root is not None:
            raise DataError("--root is for the clips of a CSV; a folder is its own root")
        home = place
        candidates, others = of_folder(place, declared)
    tolerated: set[Reason] = set()
    if keep_silent:
        tolerated.add("silent")
    if keep_short:
        tolerated.add("too short")

    def check(candidate: Candidate) -> tuple[Facts | None, list[Reason], dict[str, str]]:
        """What the clip holds, if it can be told, what is wrong with it, and what with files
        beside it, by modality: "" where there is none."""
        try:
            facts = look(home, candidate)
        except UnfitError as error:
            return None, [error.reason], {}
        flaws: list[Reason] = []
        if facts.sample_rate is None:
            flaws.append("silent")
        if facts.duration < shortest:
            flaws.append("too short")
        return facts, flaws, troubles(home, candidate, beside)

    report, clips = Report(others=others), []
    checked = several_ahead(check, candidates, threads)
    report.beside = {name: BesideReport() for name, _ in beside}
    for done, (candidate, (facts, flaws, bad)) in enumerate(
        zip(candidates, checked, strict=True), 1
    ):
        progress(done, len(candidates))
        grave: list[Reason] = [flaw for flaw in flaws if flaw not in tolerated]
        if facts is None or grave:
            report.left_out.setdefault(grave[0], []).append(candidate.path)
            continue
        for name, found in report.beside.items():
            if name not in bad:
                found.there += 1
            elif bad[name]:
                found.unfit.append(bad[name])
            else:
                found.missing += 1
        fit = {path_beside(candidate.path, m) for name, m in beside if name not in bad}
        files = tuple(file for file in candidate.beside if file.path in fit)
        clips.append(dataclasses.replace(row(candidate, facts), beside=files))
        for flaw in flaws:
            report.kept.setdefault(flaw, []).append(candidate.path)
    if not clips:
        counts = ", ".join(f"{len(paths)} {reason}" for reason, paths in report.left_out.items())
        raise DataError(f"{source}: not one clip to use" + (f": {counts}" if counts else ""))
    index = Index.of(home, clips)
    report.clips, report.classes = len(index), len(index.classes)
    report.seconds = sum(clip.duration for clip in clips)
    report.labelled = sum(clip.label is not None for clip in clips)
    return index, report


def look(root: Place, candidate: Candidate) -> Facts:
    """What a candidate's file holds. Raises UnfitError where it cannot be used at all."""
    if candidate.size is None:
        raise UnfitError("missing")
    if candidate.size == 0:
        raise UnfitError("empty")
    try:
        with open_file(root / candidate.path) as container:
            return examine(container)
    except UnfitError:
        raise
    except Exception as error:  # damaged files raise anything, and none may stop the others
        raise UnfitError("corrupt") from error


def troubles(
    root: Place, candidate: Candidate, beside: Sequence[tuple[str, Modality]]
) -> dict[str, str]:
    """What is wrong with files beside a clip, by modality, in one line; "" where there is none."""
    found, there = {}, {file.path for file in candidate.beside}
    for name, modality in beside:
        path = path_beside(candidate.path, modality)
        if path not in there:
            found[name] = ""
            continue
        place = root / path
        try:
            file = File(path, partial(open_file, place), place.read)
            open_beside(modality, file).read(Fraction(0), Fraction(0))
        except PerceivioError as error:
            found[name] = str(error)
        except Exception as error:  # damaged files raise anything
            found[name] = f"{path}: cannot be read: {type(error).__name__}"
    return found


def examine(container: Any) -> Facts:
    """What an open clip holds, from its header, its first frames and its last packets.

    Raises UnfitError, and MediaError where it cannot be read.
    """
    picture, sound = ffmpeg.video_stream(container), ffmpeg.audio_stream(container)
    if picture is None:
        raise UnfitError("no picture")
    picture.thread_type = "NONE"  # clips are checked beside each other
    frame = _first(container, picture)
    if frame is None:
        raise UnfitError("corrupt")
    height, width = ffmpeg.to_rgb(frame, ffmpeg.aspect(picture), VideoReformatter()).shape[:2]
    heard = None if sound is None else _first(container, sound)
    rate = picture.guessed_rate or picture.average_rate or Fraction(25)
    first, last = _declared(container, picture)
    begin, end = origin(picture), _end(container, picture, last, 1 / Fraction(rate))
    furthest = end
    if picture.duration is None and heard is not None:  # then the header tells the longest stream
        furthest = max(end, _end(container, sound, last, Fraction(0)))
    if furthest < last - max(CUT_SECONDS, CUT_SHARE * (last - first)):
        raise UnfitError("truncated")
    return Facts(float(end - begin), float(rate), width, height, heard and heard.sample_rate)


def _first(container: Any, stream: Any) -> Any:
    """The stream's first frame that can be decoded, or None."""
    with contextlib.suppress(FFmpegError):  # what cannot seek reads on from where it is
        container.seek(container.start_time or 0)
    return next(ffmpeg.decode(container, stream, Losses()), None)


def _declared(container: Any, picture: Any) -> tuple[Fraction, Fraction]:
    """Where the picture begins and ends by the header, or where that does not tell, the file:
    timestamps in seconds."""
    if picture.duration is not None:
        first, length = origin(picture), picture.duration * picture.time_base
    else:
        first = Fraction(container.start_time or 0, av.time_base)
        length = ffmpeg.header_duration(container) or Fraction(0)
    return first, first + length


def _end(container: Any, stream: Any, near: Fraction, usual: Fraction) -> Fraction:
    """The timestamp, in seconds, at which the last frame of the stream ends.

    `near` is where that is about, `usual` how long a frame lasts that does not tell.
    """
    ends = [
        time_of(packet) + (packet.duration * packet.time_base if packet.duration else usual)
        for packet in packets(container, stream, near, None)
    ]
    return max(ends, default=origin(stream))


def row(candidate: Candidate, facts: Facts) -> Clip:
    """The index's row of a checked clip."""
    return Clip(
        candidate.path,
        candidate.label,
        candidate.start,
        candidate.stop,
        facts.duration,
        facts.frame_rate,
        facts.width,
        facts.height,
        facts.sample_rate is not None,
        facts.sample_rate,
        candidate.size or 0,
    )
