"""The file of latents: a whole video as a row of records, one a window. docs/latents.md has it
byte by byte; latents_writer.py writes it.

    magic, version   HEAD   LATS LATS ... LATS   NOTE   DONE

Behind magic and version the file is a row of chunks: a name, a length, what the chunk holds, and a
checksum: the SHA-256 of everything from the checksum before it, that included, up to itself. So
every byte is covered, no record can be moved or left out unseen, and each can be checked alone.
All records are equally long: where one is follows from its number, and its number from its time.

Nothing is believed before it is checked: lengths come from a header whose sizes have limits, no
more is ever read than one record, and JSON and safetensors can hold nothing that runs.

Letters: N x D latents.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from .errors import PerceivioError
from .quantise import PRECISIONS, Precision, bits_of, unpack

MAGIC, VERSION = b"\x93LATENTS", 1
PREFIX = struct.Struct("<8sI")  # magic, version
FRAME = struct.Struct("<4sQ")  # name of a chunk, bytes that it holds
MOMENT = struct.Struct("<QddII")  # index, start, stop, frames, samples: before a record's latents
COUNT = struct.Struct("<Q")  # records, in DONE
HEAD, LATS, NOTE, DONE = b"HEAD", b"LATS", b"NOTE", b"DONE"
CHECK = hashlib.sha256().digest_size
DONE_SIZE = FRAME.size + COUNT.size + CHECK
UNFINISHED = ".part"  # what the name of an unfinished file ends in

MOST_JSON = 2**20  # bytes of HEAD or NOTE
MOST_NUMBERS = 2**26  # in N x D latents
MOST_BESIDE_VALUES = 2**16  # bytes of safetensors that are not values
MOST_TEXT = 4096  # characters of a name or a note
MOST_POINTS = 2**32 - 1  # frames or samples in a window
MOST_SECONDS = 1e9  # thirty years


class LatentsError(PerceivioError):
    """A file of latents that cannot be read, written, or used with a model."""


@dataclass(frozen=True)
class Picture:
    """The source's picture: its size as displayed, in square pixels, after `rotation` degrees."""

    width: int
    height: int
    frame_rate: float
    rotation: int

    def __post_init__(self) -> None:
        _whole("width", self.width, 1, 2**31)
        _whole("height", self.height, 1, 2**31)
        _number("frame_rate", self.frame_rate, 0, 1e9)
        _whole("rotation", self.rotation, -360, 360)


@dataclass(frozen=True)
class Sound:
    """The source's sound: Hz and channels, as stored."""

    rate: int
    channels: int

    def __post_init__(self) -> None:
        _whole("rate", self.rate, 1, 2**31)
        _whole("channels", self.channels, 1, 2**16)


@dataclass(frozen=True)
class FileMark:
    """A file that was encoded: its name without folder, its bytes, and the SHA-256 of its first
    and its last mebibyte."""

    name: str
    bytes: int
    ends: str

    def __post_init__(self) -> None:
        _text("name", self.name)
        _whole("bytes", self.bytes, 0, 2**63)
        _digits("ends", self.ends)


@dataclass(frozen=True)
class Header:
    """What a file of latents says of itself before its records. Times are in seconds.

    identity         of the model: `identity.identity`
    model            what that model was loaded from, as it was named then
    precision        of the latents: quantise.py
    latents, channels  N and D
    block            bytes of safetensors in each record
    window           how long a window lasts: numerator and denominator
    frames, samples  that a window has; 0 where the model takes none
    overlap          frames that a window shares with the one before it (samples, where frames is 0)
    start            of the first window, on the source's clock
    duration         that was asked for; None: to the end
    kind             of the source: "video", "sound" or "image"
    source_duration  of the whole source, as its header says; 0 for an image
    picture, sound   of the source; None where it has none
    files            the source first, then the files beside it that were read too
    """

    identity: str
    model: str
    precision: Precision
    latents: int
    channels: int
    block: int
    window: tuple[int, int]
    frames: int
    samples: int
    overlap: int
    start: float
    duration: float | None
    kind: Literal["video", "sound", "image"]
    source_duration: float
    picture: Picture | None
    sound: Sound | None
    files: tuple[FileMark, ...]

    def __post_init__(self) -> None:
        _digits("identity", self.identity)
        _text("model", self.model)
        if self.precision not in PRECISIONS:
            raise LatentsError(f"precision is {str(self.precision)[:40]!r}")
        _whole("latents", self.latents, 1, MOST_NUMBERS)
        _whole("channels", self.channels, 1, MOST_NUMBERS // self.latents)
        least = -(-bits_of(self.precision, self.latents, self.channels) // 8)
        _whole("block", self.block, least, least + MOST_BESIDE_VALUES)
        if not isinstance(self.window, tuple) or len(self.window) != 2:
            raise LatentsError("window is no fraction")
        for part in self.window:
            _whole("window", part, 1, 2**40)
        _number("window", self.window[0] / self.window[1], 1e-6, 1e6)
        _whole("frames", self.frames, 0, MOST_POINTS)
        _whole("samples", self.samples, 0, MOST_POINTS)
        _whole("frames or samples", self.units, 1, MOST_POINTS)
        _whole("overlap", self.overlap, 0, self.units // 2)
        _number("start", self.start, 0, MOST_SECONDS)
        if self.duration is not None:
            _number("duration", self.duration, 0, MOST_SECONDS)
        if self.kind not in ("video", "sound", "image"):
            raise LatentsError(f"kind is {str(self.kind)[:40]!r}")
        _number("source_duration", self.source_duration, 0, MOST_SECONDS)
        if not self.files:
            raise LatentsError("no source is named")

    @property
    def units(self) -> int:
        """What windows are counted in: frames, or samples where a window has none."""
        return self.frames or self.samples

    @property
    def seconds(self) -> Fraction:
        """How long a window lasts."""
        return Fraction(*self.window)

    @property
    def step(self) -> Fraction:
        """Seconds from one window to the next."""
        return self.seconds * (self.units - self.overlap) / self.units

    @property
    def source(self) -> str:
        """The source's name, without folder."""
        return self.files[0].name

    @property
    def record(self) -> int:
        """Bytes of a record, with its frame and its checksum."""
        return FRAME.size + MOMENT.size + self.block + CHECK

    def to_json(self) -> bytes:
        return _json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Raises LatentsError, saying which value is no value of a header."""
        plain = _object(data)
        try:
            for name, kind in (("picture", Picture), ("sound", Sound)):
                if plain[name] is not None:
                    plain[name] = kind(**plain[name])
            plain["files"] = tuple(FileMark(**each) for each in plain["files"])
            plain["window"] = tuple(plain["window"])
            return cls(**plain)
        except (KeyError, TypeError) as error:
            raise LatentsError("its header lacks a value, or has one too many") from error


@dataclass(frozen=True)
class Record:
    """The latents of one window.

    index            0, 1, ... in the row of windows
    start, stop      seconds on the source's clock; stop is where the last real frame or sample ends
    frames, samples  how many of them are real; the rest of the window was padding
    latents          (1, N, D) float32, as `model.decode` takes them
    """

    index: int
    start: float
    stop: float
    frames: int
    samples: int
    latents: Tensor


class LatentsFile:
    """A file of latents, open for reading: in order, by number, or by time; in constant memory.

    >>> with perceivio.open_latents("clip.latents") as file:
    ...     for record in file:
    ...         outputs = model.decode(record.latents)

    header    what it says of itself
    finished  whether it is whole; False for what a killed encode has left, and for a file that was
              cut off: then the records are those that are there
    notes     what was missing in the source and replaced, in words
    lost      packets of the source that could not be decoded, and seconds of them

    Raises LatentsError, in one line, for what is no file of latents, for an altered byte (of a
    record: when it is read), and for a version that is not known here. One thread at a time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.lost: tuple[int, float] = (0, 0.0)
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            raise LatentsError(f"{path}: is a pipe; write it to a file, which can be searched")
        try:
            self._file: IO[bytes] = self.path.open("rb")
        except OSError as error:
            raise LatentsError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            with _told(self.path):
                self.header, self._first, _ = read_head(self._file)
                self._size = self._file.seek(0, os.SEEK_END)
                count = self._closed_at()
                self.finished = count is not None
                self._count = self._reaches() if count is None else count
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many records there are."""
        return self._count

    def __getitem__(self, index: int) -> Record:
        """The record of window `index`; negative ones count from the end."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        with _told(self.path):
            return read_record(self._file, self.header, self._first, number)[0]

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @property
    def start(self) -> float:
        """Second at which the first window begins."""
        return self.header.start

    @property
    def stop(self) -> float:
        """Second at which the last real frame or sample ends; `start` where there is no record."""
        return self[-1].stop if len(self) else self.start

    def at(self, time: float) -> list[Record]:
        """The records whose windows cover a second of the source: one, or two where windows
        overlap; at `stop`, the last. Raises LatentsError where there is none."""
        if not len(self):
            raise LatentsError(f"{self.path}: holds no windows yet")
        found = list(self.between(time, time)) or [self[-1]]
        if not self.start <= time <= self.stop:
            raise LatentsError(
                f"{self.path}: covers {self.start:.2f} to {self.stop:.2f} s, not {time:g} s"
            )
        return found

    def between(self, start: float, stop: float) -> Iterator[Record]:
        """The records whose windows cover some of the span from `start` to `stop` seconds, which
        is not counted in itself; of a span that is empty, those that cover its start."""
        header = self.header
        # No window reaches farther than its length; one too early is only read in vain.
        ahead = min(max(start, self.start), 2 * MOST_SECONDS) - self.start - float(header.seconds)
        first = math.floor(ahead / float(header.step))
        for index in range(max(0, first), len(self)):
            record = self[index]
            if record.start >= stop and record.start != start:
                return
            if record.stop > start:
                yield record

    # ---- where the records end

    def _closed_at(self) -> int | None:
        """How many records a whole file has; None for one without its end."""
        place = self._size - DONE_SIZE
        if place < self._first:
            return None
        before, chunk = self._chunk(place, DONE_SIZE)
        if chunk[: FRAME.size] != FRAME.pack(DONE, COUNT.size):
            return None
        _check(before + chunk, "its end")
        (count,) = COUNT.unpack(chunk[FRAME.size : -CHECK])
        note = self._first + count * self.header.record
        if not note <= place <= note + FRAME.size + MOST_JSON + CHECK:
            raise LatentsError("is damaged: records are missing, or are more than it says")
        before, chunk = self._chunk(note, place - note)
        if chunk[: FRAME.size] != FRAME.pack(NOTE, len(chunk) - FRAME.size - CHECK):
            raise LatentsError("is damaged behind its records")
        _check(before + chunk, "its notes")
        self._read_notes(chunk[FRAME.size : -CHECK])
        return count

    def _reaches(self) -> int:
        """How many whole records a file without its end has. Raises LatentsError where what is
        behind them is not the beginning of what belongs there: then it is damaged, not cut off."""
        size, first = self.header.record, self._first
        frame = FRAME.pack(LATS, MOMENT.size + self.header.block)
        count = most = (self._size - first) // size
        while count:
            place = first + (count - 1) * size
            head = _read(self._file, place, FRAME.size + COUNT.size)
            if head == frame + COUNT.pack(count - 1):
                break
            if (most - count) * size > MOST_JSON + 2 * size:
                raise LatentsError("is damaged: no record is where the last should be")
            count -= 1
        rest = self._size - (first + count * size)
        _, chunk = self._chunk(first + count * size, rest)
        if not (_begins(chunk, frame) and rest < size) and not self._note_cut(count, rest):
            raise LatentsError("is damaged behind its records")
        return count

    def _note_cut(self, count: int, rest: int) -> bool:
        """Whether the `rest` bytes behind the records are the notes and the end, cut off."""
        before, chunk = self._chunk(self._first + count * self.header.record, rest)
        if len(chunk) < FRAME.size:
            return _begins(chunk, NOTE)
        name, length = FRAME.unpack(chunk[: FRAME.size])
        if name != NOTE or length > MOST_JSON:
            return False
        note = FRAME.size + length + CHECK
        if rest < note:
            return True
        check = hashlib.sha256(before + chunk[: note - CHECK]).digest()
        end = FRAME.pack(DONE, COUNT.size) + COUNT.pack(count)
        end += hashlib.sha256(check + end).digest()
        whole = chunk[note - CHECK : note] == check
        return whole and rest - note < len(end) and end.startswith(chunk[note:])

    def _chunk(self, place: int, size: int) -> tuple[bytes, bytes]:
        """The checksum before a place, and `size` bytes from there on."""
        both = _read(self._file, place - CHECK, CHECK + size)
        return both[:CHECK], both[CHECK:]

    def _read_notes(self, data: bytes) -> None:
        plain = _object(data)
        try:
            notes, packets, seconds = plain["notes"], plain["lost_packets"], plain["lost_seconds"]
            for note in notes:
                _text("notes", note)
            _whole("lost_packets", packets, 0, 2**63)
            _number("lost_seconds", seconds, 0, MOST_SECONDS)
        except (KeyError, TypeError) as error:
            raise LatentsError("its notes lack a value") from error
        self.notes, self.lost = list(notes), (packets, seconds)


def open_latents(path: str | os.PathLike[str]) -> LatentsFile:
    """A file of latents, ready to be read: see LatentsFile."""
    return LatentsFile(path)


def is_latents(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a file of latents does, whatever it is called."""
    try:
        if not Path(path).is_file():
            return False  # a pipe would be waited for, and what is read of it gone
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


# ---- pieces that the writer shares; errors do not name the file -------------------------------


def read_head(file: IO[bytes]) -> tuple[Header, int, bytes]:
    """The header, where the first record begins, and the checksum before it."""
    prefix = _read(file, 0, PREFIX.size)
    magic, version = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise LatentsError("is no file of latents; make one with `perceivio encode`")
    if version != VERSION:
        raise LatentsError(f"is of version {version}; this perceivio reads version {VERSION}")
    frame = _read(file, PREFIX.size, FRAME.size)
    name, length = FRAME.unpack(frame)
    if name != HEAD or length > MOST_JSON:
        raise LatentsError("is damaged in its header")
    rest = _read(file, PREFIX.size + FRAME.size, length + CHECK)
    check = _check(prefix + frame + rest, "its header")
    first = PREFIX.size + FRAME.size + length + CHECK
    return Header.from_json(rest[:-CHECK]), first, check


def read_record(
    file: IO[bytes], header: Header, first: int, index: int
) -> tuple[Record, bytes]:
    """Record `index` of those that begin at `first`, and its checksum."""
    chunk = _read(file, first + index * header.record - CHECK, CHECK + header.record)
    check = _check(chunk, f"record {index}")
    frame, moment, block, _ = _cut(chunk[CHECK:], FRAME.size, MOMENT.size, header.block)
    number, start, stop, frames, samples = MOMENT.unpack(moment)
    if frame != FRAME.pack(LATS, MOMENT.size + header.block) or number != index:
        raise LatentsError(f"record {index} is not where it should be")
    begin = header.start + float(index * header.step)
    length = stop - start
    in_time = abs(start - begin) < 1e-3 and -1e-3 <= length <= float(header.seconds) + 1e-3
    if not in_time or frames > header.frames or samples > header.samples:
        raise LatentsError(f"record {index} is not of the time that it should be of")
    try:
        kept = load(block)
        latents = unpack(kept, header.precision, header.latents, header.channels)
    except (SafetensorError, PerceivioError, KeyError, ValueError, RuntimeError) as error:
        raise LatentsError(f"record {index} holds no latents of its kind") from error
    if not torch.isfinite(latents).all():
        raise LatentsError(f"record {index} holds values that are not finite")
    return Record(index, start, stop, frames, samples, latents[None]), check


def chunk_of(name: bytes, held: bytes, before: bytes) -> tuple[bytes, bytes]:
    """A chunk behind what ends in `before`, its checksum included; and that checksum alone."""
    body = FRAME.pack(name, len(held)) + held
    check = hashlib.sha256(before + body).digest()
    return body + check, check


def notes_to_json(notes: Sequence[str], lost: tuple[int, float]) -> bytes:
    """What NOTE holds."""
    short = [note[:MOST_TEXT] for note in notes[:100]]
    return _json({"notes": short, "lost_packets": lost[0], "lost_seconds": lost[1]})


def _check(data: bytes, what: str) -> bytes:
    """The checksum that ends `data`, if it is that of all before it."""
    check = data[-CHECK:]
    if hashlib.sha256(data[:-CHECK]).digest() != check:
        raise LatentsError(f"{what} is damaged: its checksum is not that of its bytes")
    return check


def _read(file: IO[bytes], place: int, size: int) -> bytes:
    file.seek(place)
    data = file.read(size)
    if len(data) < size:
        raise LatentsError("ends too early")
    return data


def _cut(data: bytes, *sizes: int) -> list[bytes]:
    parts, place = [], 0
    for size in sizes:
        parts.append(data[place : place + size])
        place += size
    return [*parts, data[place:]]


def _begins(data: bytes, wanted: bytes) -> bool:
    """Whether `data` agrees with `wanted` as far as both go."""
    return wanted[: len(data)] == data[: len(wanted)]


class _told:  # noqa: N801, it reads as a function
    """Errors of reading as LatentsErrors that name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LatentsError):
            raise LatentsError(f"{self._path}: {error}") from error
        if isinstance(error, OSError):
            raise LatentsError(f"{self._path}: cannot be read: {error.strerror}") from error


# ---- JSON that is not believed -----------------------------------------------------------------


def _json(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, allow_nan=False).encode()


def _object(data: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LatentsError("holds something else than JSON where that belongs") from error
    if not isinstance(plain, dict):
        raise LatentsError("holds no object of JSON where that belongs")
    return plain


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise LatentsError(f"{name} is {str(value)[:40]}, not a whole number in {least} to {most}")


def _number(name: str, value: Any, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise LatentsError(f"{name} is {str(value)[:40]}, not a number in {least:g} to {most:g}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise LatentsError(f"{name} is no text of at most {MOST_TEXT} characters")


def _digits(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise LatentsError(f"{name} is not 64 hexadecimal digits")
