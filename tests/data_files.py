"""Small data sets of real clips, good and broken, for the tests of `perceivio data`."""

from __future__ import annotations

import io
from pathlib import Path
from subprocess import CompletedProcess

import av
import numpy as np
import pytest
from media_files import RATE, make_media, make_numbered, numbered, steady

from perceivio.cli import main


def hum(seconds: float, rate: int = RATE) -> np.ndarray:
    """float32 (samples,) of two rising tones: no two moments of it are alike."""
    return hum_at(np.arange(round(seconds * rate)) / rate)


def hum_at(t: np.ndarray) -> np.ndarray:
    low, high = 200 * t + 40 * t * t, 610 * t + 25 * t * t
    return (0.3 * np.sin(2 * np.pi * low) + 0.2 * np.sin(2 * np.pi * high)).astype(np.float32)


def make_clip(path: Path, count: int = 40, first: int = 0, **more) -> Path:
    """Numbered frames `first`, first + 1, ... at 25/s, and a hum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    more.setdefault("sound", hum(count / 25))
    return make_media(path, [numbered(first + n) for n in range(count)], steady(count, 25), **more)


def make_broken(folder: Path) -> dict[str, str]:
    """One clip for each way to be broken; returns what is wrong by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no film\n" * 100)
    whole = make_clip(folder / "cut.mkv", 75).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    front = make_clip(folder / "front.mp4", 75, options={"movflags": "faststart"}).read_bytes()
    (folder / "front.mp4").write_bytes(front[: len(front) * 2 // 3])
    (folder / "head.mp4").write_bytes(make_clip(folder / "head.mp4").read_bytes()[:2000])
    make_media(folder / "sound.mp4", sound=hum(2))
    make_numbered(folder / "silent.mp4", 40)
    make_clip(folder / "short.mp4", 5)
    return {
        "empty.mp4": "empty",
        "text.mp4": "corrupt",
        "cut.mkv": "truncated",
        "front.mp4": "truncated",
        "head.mp4": "corrupt",
        "sound.mp4": "no picture",
        "silent.mp4": "silent",
        "short.mp4": "too short",
    }


def command(capsys, *arguments) -> CompletedProcess[str]:
    """`perceivio` with these arguments, in this process: what it printed, and its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return CompletedProcess(arguments, int(left.value.code or 0), out, err)


def frames_of(media: Path | bytes) -> list[tuple[float, np.ndarray]]:
    """(seconds, RGB) of every frame, decoded by PyAV from the first to the last."""
    source = io.BytesIO(media) if isinstance(media, bytes) else str(media)
    with av.open(source) as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
