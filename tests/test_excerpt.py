"""Excerpts against PyAV's own decoding, the plain reader, and signals that tell the time."""

import bisect
from fractions import Fraction

import numpy as np
import pytest
from data_files import frames_of, hum, hum_at, make_clip
from media_files import make_media, numbered, read_number

from perceivio import excerpt, ffmpeg
from perceivio.clip_format import ClipFormat
from perceivio.errors import MediaError
from perceivio.excerpt import read_excerpt
from perceivio.media import MediaReader
from perceivio.writer import MediaWriter

FORMAT = ClipFormat(16, 64, 64, 25, 10_240, 16_000)
STARTS = (Fraction(0), Fraction(1, 3), Fraction(1), Fraction(7, 4), Fraction(32_001, 16_000))
KINDS = {
    "long.mp4": {},
    "a.mkv": {"sound_codec": "libopus"},
    "a.ts": {},
    "a.mov": {"rate": 44_100},
    "a.avi": {"codec": "mpeg4", "sound_codec": "mp3"},
    "a.webm": {"codec": "libvpx-vp9", "sound_codec": "libopus"},
    "a.mpg": {"codec": "mpeg2video", "sound_codec": "mp2"},
}


def read(path, start, clip=FORMAT):
    with ffmpeg.open_media(path) as container:
        return read_excerpt(container, Fraction(start), clip)


@pytest.mark.parametrize("name", KINDS)
def test_it_shows_what_the_plain_reader_shows(tmp_path, name):
    path = make_clip(tmp_path / name, 100, **KINDS[name])
    for start in STARTS:
        frames, sound = read(path, start)
        due = [int((start + Fraction(k, 25) + Fraction(1, 1000)) * 25) for k in range(16)]
        if name != "a.avi":  # whose stamps are those of decoding, a frame late
            assert [read_number(frame) for frame in frames] == due
        with MediaReader(path, 25, 16_000, start=float(start)) as reader:
            expected, heard = reader.read(16, 10_240)
        assert all((a == b).all() for a, b in zip(frames, expected, strict=True))
        assert sound is not None
        # Stamps in whole milliseconds, and the plain reader's whole samples, leave up to 1 ms.
        assert lag(sound, heard) <= 17


def lag(sound, other):
    """How many samples one must be moved to be most like the other."""
    middle = other[2000:8000]
    errors = [np.square(sound[2000 + n : 8000 + n] - middle).mean() for n in range(-40, 41)]
    return abs(int(np.argmin(errors)) - 40)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_sound_is_where_its_timestamps_say_to_a_fraction_of_a_sample(tmp_path, rate):
    more = {"sound_codec": "pcm_s16le", "rate": rate, "sound": hum(3, rate)}
    path = make_clip(tmp_path / "a.mov", 75, **more)
    for start in (Fraction(0), Fraction(1), Fraction(23_457, 16_000)):
        sound = read(path, start)[1]
        expected = hum_at(float(start) + np.arange(10_240) / 16_000)
        inside = slice(0 if start else 200, None)  # where sound starts, resampling rings
        # On the grid of the source's samples it is exact; between two, half of one off.
        bound = 2e-3 if rate % 16_000 == 0 else 0.02
        assert np.abs(sound - expected)[inside].max() < bound


def test_frames_of_uneven_length_are_shown_while_they_last(tmp_path):
    times = np.cumsum([0] + [[1, 3, 2, 7][n % 4] for n in range(59)]) / 50
    path = make_media(tmp_path / "a.mp4", [numbered(n) for n in range(60)],
                      [Fraction(round(t * 50), 50) for t in times])  # fmt: skip
    stamps = [time for time, _ in frames_of(path)]
    for start in (0.0, 0.513, 2.0, 2.37):
        frames, sound = read(path, ffmpeg.exact(start))
        assert sound is None
        expected = [bisect.bisect_right(stamps, start + k / 25 + 1e-4) - 1 for k in range(16)]
        assert [read_number(frame) for frame in frames] == expected


def test_frames_on_the_way_that_nothing_refers_to_are_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    with MediaWriter(path, 25, (64, 96), encoder={"bf": "3", "g": "250"}) as writer:
        writer.write(np.stack([numbered(n) for n in range(120)]))
    every = [frame for _, frame in frames_of(path)]
    decoded = []
    plain = excerpt._decode
    monkeypatch.setattr(
        excerpt, "_decode", lambda *a: (decoded.append(frame) or frame for frame in plain(*a))
    )
    frames, _ = read(path, Fraction(90, 25))
    assert [read_number(frame) for frame in frames] == list(range(90, 106))
    assert all((a == b).all() for a, b in zip(frames, every[90:106], strict=True))
    assert len(decoded) < 80  # of the 106 that come before the end of the window
    decoded.clear()
    slow = ClipFormat(4, 64, 64, Fraction(25, 8), 0, 0)
    frames, _ = read(path, 1, slow)
    assert [read_number(frame) for frame in frames] == [25, 33, 41, 49]
    assert all((a == b).all() for a, b in zip(frames, every[25:50:8], strict=True))
    assert len(decoded) < 40


def test_behind_the_end_the_last_frame_and_silence(tmp_path):
    path = make_clip(tmp_path / "a.mp4", 30)
    frames, sound = read(path, Fraction(1))
    assert [read_number(frame) for frame in frames] == [25, 26, 27, 28, *[29] * 12]
    assert np.abs(sound[:2500]).max() > 0.2
    assert not sound[5000:].any()


def test_damage_where_it_is_read_is_an_error_and_elsewhere_is_not(tmp_path):
    path = make_clip(tmp_path / "a.mkv", 200, sound_codec="libopus")
    data = bytearray(path.read_bytes())
    for at in range(len(data) * 5 // 8, len(data) * 7 // 8, 97):
        data[at] ^= 0x5A
    path.write_bytes(data)
    assert read_number(read(path, 1)[0][0]) == 25
    with pytest.raises(MediaError):
        read(path, Fraction(11, 2))


def test_only_sound_is_no_clip(tmp_path):
    make_media(tmp_path / "a.mp4", sound=hum(2))
    with pytest.raises(MediaError, match="no picture"):
        read(tmp_path / "a.mp4", 0)
