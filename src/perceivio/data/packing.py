"""Clips packed into tar shards: a few large files instead of many small ones.

A shard is a plain tar file, and what it holds says all about it: each clip is two members,
`000000042.json` with its row of the index and `000000042.mp4`, numbered as in the index that was
packed, and behind them the files beside it that the index knows, as `000000042.depth.mp4`. The
pack's own index tells the shard, the first byte and the size of each, so one read fetches it, from
a disk as from an object store.

Shards appear when they are whole. After a kill, packing reads which clips the finished shards
hold and goes on behind them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from .. import ffmpeg
from ..errors import MediaError
from ..media import MediaReader
from ..overlap import several_ahead
from ..pictures import resize
from ..writer import MediaWriter
from .catalogue import VERSION, Beside, Clip, DataError, Index
from .indexing import UnfitError, examine
from .store import Place

INDEX, SETTINGS = "index.parquet", "pack.json"
MEGABYTE = 1_000_000
MAX_RATE = 60  # frames/s kept when encoding; some containers claim a thousand
THREADS = os.cpu_count() or 1

Progress = Callable[[float, float], None]  # clips done, clips in all


@dataclass(frozen=True)
class Encoding:
    """How clips are encoded anew: H.264 + AAC (mono) MP4, upright, in square pixels.

    short_side  pixels of the shorter side; a smaller picture stays as it is
    keyframes   frames between two keyframes at most: a seek decodes half as many on average
    quality     x264's rate factor: lower is better and larger
    """

    short_side: int = 256
    keyframes: int = 25
    quality: int = 18


@dataclass
class Report:
    """clips, files beside them and bytes that the pack holds, in how many shards, how many of them
    were there before; `failed` are paths of clips that could not be packed."""

    clips: int = 0
    beside: int = 0
    size: int = 0
    shards: int = 0
    shards_before: int = 0
    failed: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        return {**plain, "failed": len(self.failed), "failed_examples": self.failed[:3]}


def pack(
    index: Index,
    folder: Place,
    *,
    shard_megabytes: float = 500,
    encoding: Encoding | None = None,
    threads: int = THREADS,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Pack the clips of an index into shards of a folder, and write the pack's own index there.

    shard_megabytes  a shard is full before it would be larger; a larger clip has its own
    encoding         None copies the clips as they are; files beside them always are

    A clip that is gone or damaged is left out, and so is a file beside it that is gone. The same
    call after an interruption goes on where it stopped, and leaves what an uninterrupted one would
    have. Raises DataError where the folder holds another pack, and MediaError where a store or the
    disk fails.
    """
    _claim(folder, index, shard_megabytes, encoding)
    packed = _finished(folder, index)  # by shard: (row in the index, clip)
    report = Report(shards_before=len(packed))
    first = 1 + max((row for shard in packed for row, _ in shard), default=-1)

    def fetch(row: int) -> Fetched | None:
        clip = index[row]
        try:
            data = index.bytes_of(clip)
            whole, data = (clip, data) if encoding is None else encode(clip, data, encoding)
            return Fetched(row, whole, data, _fetch_beside(index, clip))
        except (MediaError, UnfitError) as error:
            # A store that is away for a while, or a full disk, must not thin out the pack.
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise
            return None
        except OSError as error:
            raise DataError(f"{clip.path}: {ffmpeg.reason(error)}") from error

    limit = int(shard_megabytes * MEGABYTE)
    fetched = several_ahead(fetch, range(first, len(index)), threads)
    source = _Peekable(enumerate(fetched, first), lambda row: progress(row + 1, len(index)))
    suffix = None if encoding is None else ".mp4"
    while source.more():
        place = folder / f"shard-{len(packed):05d}.tar"
        packed.append(_write_shard(place, source, limit, suffix))
    clips = [clip for shard in packed for _, clip in shard]
    if not clips:
        raise DataError(f"{index.root}: not one clip could be packed")
    done = {row for shard in packed for row, _ in shard}
    report.failed = [index[row].path for row in range(len(index)) if row not in done]
    report.clips, report.shards = len(clips), len(packed)
    beside = [file for clip in clips for file in clip.beside]
    report.beside = len(beside)
    report.size = sum(file.size for file in [*clips, *beside])
    whole = Index.of(folder, clips)
    dataclasses.replace(whole, classes=index.classes).write(folder / INDEX)
    return report


def encode(clip: Clip, data: bytes, encoding: Encoding) -> tuple[Clip, bytes]:
    """The clip encoded anew, and its row. Raises MediaError where it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / f"before{PurePosixPath(clip.path).suffix}"
        after = Path(folder) / "after.mp4"
        before.write_bytes(data)
        scale = min(1.0, encoding.short_side / min(clip.height, clip.width))
        size = 2 * round(clip.height * scale / 2), 2 * round(clip.width * scale / 2)
        rate = ffmpeg.exact(min(clip.frame_rate or 25, MAX_RATE))
        # The same bytes in every run and on every processor: one thread a clip (several clips are
        # encoded at once), and none of x264's arithmetic that varies by processor.
        encoder = {
            "g": str(encoding.keyframes),
            "crf": str(encoding.quality),
            "threads": "1",
            "x264-params": "cpu-independent=1",
        }
        with (
            MediaReader(before, rate, clip.sample_rate) as reader,
            MediaWriter(after, rate, size, clip.sample_rate, encoder=encoder) as writer,
        ):
            second = 0
            while True:
                samples = clip.sample_rate or 0
                frames = [ffmpeg.nearest(n * rate) for n in (second, second + 1)]
                pictures, sound = reader.read(frames[1] - frames[0], samples)
                if not pictures:
                    break
                for picture in pictures:
                    writer.write(resize(picture[None], *size))
                writer.write(samples=sound)
                second += 1
            if reader.losses.packets:  # which nobody could see any more
                raise MediaError(f"{clip.path}: damaged")
        with ffmpeg.open_media(after) as container:
            facts = examine(container)
        encoded = after.read_bytes()
    return dataclasses.replace(clip, **dataclasses.asdict(facts)), encoded


@dataclass(frozen=True)
class Fetched:
    """A clip to pack, by its row in the index: its bytes, and those of files beside it."""

    row: int
    clip: Clip
    data: bytes
    beside: dict[str, bytes]

    @property
    def size(self) -> int:
        return len(self.data) + sum(map(len, self.beside.values()))


def _fetch_beside(index: Index, clip: Clip) -> dict[str, bytes]:
    """By path, those that are there."""
    found = {}
    for file in clip.beside:
        try:
            found[file.path] = index.bytes_beside(clip, file)
        except MediaError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return found


class _Peekable:
    """Fetched clips in order, one of which can be looked at before it is taken."""

    def __init__(
        self, fetched: Iterator[tuple[int, Fetched | None]], passed: Callable[[int], None]
    ) -> None:
        self._fetched, self._passed = fetched, passed
        self._next: Fetched | None = None

    def more(self) -> Fetched | None:
        """The next clip that could be fetched; None behind the last."""
        while self._next is None:
            row, found = next(self._fetched, (None, None))
            if row is None:
                return None
            self._passed(row)
            self._next = found
        return self._next

    def take(self) -> None:
        self._next = None


def _write_shard(
    place: Place, source: _Peekable, limit: int, suffix: str | None
) -> list[tuple[int, Clip]]:
    """Fill one shard, and say what it holds. Members bear the clip's own suffix without another."""
    held: list[tuple[int, Clip]] = []
    try:
        with place.write() as file, tarfile.open(fileobj=file, mode="w") as tar:
            while (upcoming := source.more()) is not None:
                row, clip, data = upcoming.row, upcoming.clip, upcoming.data
                if held and file.tell() + upcoming.size > limit:
                    break
                beside = tuple(Beside(path, len(b)) for path, b in upcoming.beside.items())
                clip = dataclasses.replace(
                    clip, size=len(data), shard=place.name, offset=None, beside=beside
                )
                _add(tar, f"{row:09d}.json", json.dumps(dataclasses.asdict(clip)).encode())
                name = f"{row:09d}{suffix or PurePosixPath(clip.path).suffix}"
                offsets = [_add(tar, name, data)]
                for path, content in upcoming.beside.items():
                    offsets.append(_add(tar, _member(row, clip.path, path), content))
                held.append((row, _placed(clip, offsets)))
                source.take()
    except OSError as error:
        raise DataError(f"{place}: cannot be written: {ffmpeg.reason(error)}") from error
    return held


def _member(row: int, clip: str, path: str) -> str:
    """What a file beside a clip is called in a shard: the clip's number and what is left of its
    name, so that tools that group members up to the first dot keep them together."""
    name, stem = PurePosixPath(path).name, PurePosixPath(clip).stem
    return f"{row:09d}.{name.removeprefix(stem + '.')}"


def _placed(clip: Clip, offsets: list[int]) -> Clip:
    """The clip, its first byte and those of the files beside it told."""
    pairs = zip(clip.beside, offsets[1:], strict=True)
    beside = tuple(dataclasses.replace(file, offset=offset) for file, offset in pairs)
    return dataclasses.replace(clip, offset=offsets[0], beside=beside)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member that bears no time or owner; returns where its bytes begin."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


def _claim(folder: Place, index: Index, megabytes: float, encoding: Encoding | None) -> None:
    """Note in the folder what is packed there, and how; or see that it is the same as before."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, index.table.schema) as stream:
        stream.write_table(index.table.combine_chunks())
    settings = {
        "version": VERSION,
        "index": hashlib.sha256(sink.getvalue()).hexdigest(),
        "shard_megabytes": megabytes,
        "encoding": None if encoding is None else dataclasses.asdict(encoding),
    }
    note = folder / SETTINGS
    if note.exists():
        try:
            same = json.loads(note.read()) == settings
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{note}: damaged; choose another folder for the pack") from error
        if not same:
            raise DataError(f"{folder}: holds a pack of other clips or settings; choose another")
        return
    folder.make_folder()
    if any(not name.endswith(".part") for name in folder.files()):
        raise DataError(f"{folder}: is not empty; choose a new folder for the pack")
    try:
        with note.write() as file:
            file.write(json.dumps(settings).encode())
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {ffmpeg.reason(error)}") from error


def _finished(folder: Place, index: Index) -> list[list[tuple[int, Clip]]]:
    """What the finished shards hold: (row in the index, clip), read from the shards alone.

    Raises DataError for one that is damaged, or holds what was not packed from this index.
    """
    shards: list[list[tuple[int, Clip]]] = []
    while (place := folder / f"shard-{len(shards):05d}.tar").exists():
        try:
            held = _held(place)
            Index.of(folder, [clip for _, clip in held])  # whose values are of the columns' types
            after = shards[-1][-1][0] if shards else -1
            rows = [after, *(row for row, _ in held), len(index)]
            ordered = held and sorted(set(rows)) == rows
            if not ordered or any(clip.path != index[row].path for row, clip in held):
                raise ValueError("not the clips of the index")
        except (
            tarfile.TarError, OSError, LookupError, TypeError, ValueError, RecursionError,
            pa.ArrowException,
        ) as error:  # fmt: skip
            raise DataError(
                f"{place}: damaged, or of another pack; delete it, and it is packed again"
            ) from error
        shards.append(held)
    return shards


def _held(place: Place) -> list[tuple[int, Clip]]:
    held = []
    with place.open() as file, tarfile.open(fileobj=file) as tar:
        members = iter(tar.getmembers())
        for member in members:  # the description of a clip, then its files
            clip = Clip(**json.load(tar.extractfile(member) or io.BytesIO()))
            files = list(itertools.islice(members, 1 + len(clip.beside)))
            placed = _placed(clip, [each.offset_data for each in files])
            row = int(member.name.split(".")[0])
            held.append((row, placed))
        blocks = -(-(tar.offset + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE)
        if file.seek(0, io.SEEK_END) != blocks * tarfile.RECORDSIZE:
            raise ValueError("members were lost")
    return held
