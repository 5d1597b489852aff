"""`python -m benchmarks.data [--clips N] [--workers N]`: clips a second for training, and what
bounds them.

Ten-second clips of a film (H.264, short side 256) are packed with a keyframe every 250 and every
25 frames; from both, windows of `base` (16 frames of 224 x 224, 30,720 samples) are read at
random. Each stage includes those above it. Seconds are of one core's time, so that what else runs
on the machine counts little; the last line is by the clock, with as many processes as asked for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from perceivio import ffmpeg
from perceivio.clip_format import ClipFormat
from perceivio.config import preset
from perceivio.data.catalogue import Index
from perceivio.data.dataset import ClipDataset
from perceivio.data.indexing import build
from perceivio.data.packing import Encoding, pack
from perceivio.data.store import Place
from perceivio.excerpt import origin, packets, read_excerpt
from perceivio.media import MediaReader
from perceivio.pictures import resize
from perceivio.pipeline import clip_format
from perceivio.writer import MediaWriter

FILM = Path(__file__).parent.parent / "assets" / "bbb_scene.mp4"
FILES = 2  # clips of the data set; read again and again
FORMAT = clip_format(preset("base"))
PICTURE = ClipFormat(FORMAT.frames, FORMAT.height, FORMAT.width, FORMAT.frame_rate, 0, 0)


def make_clips(folder: Path) -> Index:
    """The film forth and back, ten seconds of it, as often as there are files."""
    with MediaReader(FILM, 25, 48_000) as reader:
        frames, samples = reader.read(125, 240_000)
    small = resize(np.stack(frames), 256, 456)
    folder.mkdir()
    for n in range(FILES):
        path = folder / f"{n}.mp4"
        with MediaWriter(path, 25, small.shape[1:3], 48_000, encoder={"crf": "10"}) as writer:
            for way in (small, small[::-1]):
                writer.write(way, samples)
    return build(str(folder))[0]


def stages(data: ClipDataset) -> dict[str, Callable[[int, Fraction], Any]]:
    index = data.index

    def excerpt(row: int, start: Fraction, clip: ClipFormat) -> None:
        with index.open(index[row]) as container:
            read_excerpt(container, start, clip)

    return {
        "open": lambda row, start: index.open(index[row]).close(),
        "+ picture": lambda row, start: excerpt(row, start, PICTURE),
        "+ sound": lambda row, start: excerpt(row, start, FORMAT),
    }


def on_the_way(index: Index, row: int, start: Fraction) -> int:
    """Frames from the keyframe that decoding starts at to the end of the window."""
    with index.open(index[row]) as container:
        stream = ffmpeg.video_stream(container)
        begin = origin(stream) + start
        return len(packets(container, stream, begin, begin + FORMAT.seconds))


def core_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def report(index: Index, clips: int, workers: int) -> None:
    data = ClipDataset(index, FORMAT)
    random = np.random.default_rng(0)
    latest = float(min(clip.duration for clip in index) - FORMAT.seconds)
    windows = [
        (int(random.integers(len(index))), ffmpeg.exact(random.uniform(0, latest)))
        for _ in range(clips)
    ]
    rate = mean(8 * clip.size / clip.duration / 1000 for clip in index)
    frames = mean(on_the_way(index, *window) for window in windows)
    print(f"  {rate:.0f} kbit/s; {frames:.0f} frames from keyframe to end of a window")
    for name, work in stages(data).items():
        spent = core_seconds(lambda work=work: [work(*window) for window in windows])
        print(f"  {name:<28}{1e3 * spent / clips:7.1f} ms a clip")
    keys = [(epoch, row) for epoch in range(-(-clips // len(data))) for row in range(len(data))]
    spent = core_seconds(lambda: [data[key] for key in keys]) / len(keys)
    print(
        f"  {'+ crop, resize: an example':<28}{1e3 * spent:7.1f} ms, {1 / spent:.1f} clips/s a core"
    )
    if workers:
        loader = iter(DataLoader(data, batch_size=None, sampler=keys, num_workers=workers))
        next(loader)  # the processes are up
        began = time.perf_counter()
        rate = sum(1 for _ in loader) / (time.perf_counter() - began)
        print(f"  {workers} processes, by the clock{rate:12.1f} clips/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=100, help="windows to read for each figure")
    parser.add_argument("--workers", type=int, default=2, help="processes of the last line")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as in a DataLoader's processes
    with tempfile.TemporaryDirectory() as folder:
        index = make_clips(Path(folder) / "clips")
        for every in (250, 25):
            place = Place.of(Path(folder) / f"keyframes-{every}")
            pack(index, place, encoding=Encoding(256, every, quality=23))
            print(f"keyframe every {every} frames")
            report(Index.read(place / "index.parquet"), asked.clips, asked.workers)


if __name__ == "__main__":
    main()
