"""Real files in, timed frames and samples out, and back: against timestamps computed here."""

from __future__ import annotations

import math
import os
import resource
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from command import unmeasured
from media_files import (
    RATE,
    beep_times,
    beeps,
    make_flash_and_beep,
    make_media,
    make_numbered,
    numbered,
    read_number,
    steady,
)
from PIL import Image

from perceivio import ffmpeg
from perceivio.errors import MediaError
from perceivio.latents import is_latents
from perceivio.media import MediaReader, probe
from perceivio.writer import MediaWriter, as_bytes

ASSETS = Path(__file__).parent.parent / "assets"
NTSC = Fraction(30_000, 1001)


def read_all(path, frame_rate=25, sample_rate=16_000, block=16, **more):
    """(frames, samples, reader) of the whole file, read in blocks."""
    frames, samples = [], [np.zeros(0, np.float32)]
    with MediaReader(path, frame_rate, sample_rate, **more) as reader:
        while True:
            some = reader.read(block, round(block * (sample_rate or 0) / (frame_rate or 25)))
            if not some[0] and not len(some[1]):
                return frames, np.concatenate(samples), reader
            frames += some[0]
            samples.append(some[1])


def numbers(path, rate=25, **more):
    return [read_number(frame) for frame in read_all(path, rate, None, **more)[0]]


def on_display(times, rate, end):
    """The oracle: index of the frame on display at each grid time before the end."""
    count = int(end * rate + Fraction(1, 2))
    grid = [Fraction(k) / rate for k in range(count)]
    return [max(i for i, time in enumerate(times) if time - times[0] <= at) for at in grid]


def flashes(frames):
    return [i for i, frame in enumerate(frames) if frame.mean() > 128]


# ---- frames


@pytest.mark.parametrize(
    ("start", "duration"),
    [(-1, None), (math.nan, None), (math.inf, None), (0, 0), (0, -1), (0, math.nan), (0, math.inf)],
)
def test_times_that_are_none(start, duration):
    with pytest.raises(MediaError, match="start must not be negative"):
        MediaReader(ASSETS / "digit.mp4", 25, 16_000, start, duration)


RATES = [12, Fraction(24_000, 1001), 25, NTSC, 30, 50, 60]


@pytest.mark.parametrize("fps", RATES, ids=str)
@pytest.mark.parametrize("rate", [25, 30])
def test_frame_on_display_at_every_usual_rate(tmp_path, fps, rate):
    fps = Fraction(fps)
    path = make_numbered(tmp_path / "a.mp4", 40, fps)
    # The file keeps times in ticks of 1/90000: the oracle reckons with those.
    times = [Fraction(round(time * 90_000), 90_000) for time in steady(40, fps)]
    assert numbers(path, rate) == on_display(times, rate, 40 / fps)
    assert probe(path).video.frame_rate == pytest.approx(float(fps), rel=1e-3)


@pytest.mark.parametrize("fps", [24, NTSC, 30, 60], ids=str)
def test_a_file_that_rounds_to_milliseconds_gives_back_every_frame_once(tmp_path, fps):
    path = make_numbered(tmp_path / "a.mkv", 60, Fraction(fps))
    assert numbers(path, fps) == list(range(60))


def test_variable_rate(tmp_path):
    gaps = np.random.default_rng(3).choice([0.011, 0.02, 0.04, 0.1, 0.45], 60)
    ticks = np.concatenate([[0], np.cumsum(gaps * 90_000).astype(int)])
    times = [Fraction(int(tick), 90_000) for tick in ticks]
    path = make_numbered(tmp_path / "a.mp4", len(times), times=times)
    got = numbers(path)
    expected = on_display(times, 25, times[-1])
    assert got[: len(expected)] == expected
    assert set(got[len(expected) :]) <= {60}
    assert len(got) - len(expected) <= 13


@pytest.mark.parametrize("count", [1, 2, 15, 17])
def test_very_short_files_keep_their_number_of_frames(tmp_path, count):
    assert numbers(make_numbered(tmp_path / "a.mp4", count)) == list(range(count))


@pytest.mark.parametrize("start", [0.0, 0.5, 1.01, 3.3, 3.94])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_start_and_duration(tmp_path, start, suffix):
    sound = beeps([0.2, 1.2, 3.4, 3.6], 4)
    coding = {"codec": "mpeg4", "sound_codec": "pcm_s16le"} if suffix == ".avi" else {}
    path = make_numbered(tmp_path / f"a{suffix}", 100, sound=sound, **coding)
    frames, samples, _ = read_all(path, start=start, duration=0.4)
    first = int(start * 25 + 1e-6)
    here = list(range(first, min(first + 10, 100)))
    assert [read_number(frame) for frame in frames][: len(here)] == here
    assert abs(len(frames) - min(10, (4 - start) * 25)) <= 1
    assert abs(len(samples) - len(frames) * 640) <= 640
    due = [t - start for t in (0.2, 1.2, 3.4, 3.6) if start <= t < start + 0.4]
    assert beep_times(samples, 16_000) == pytest.approx(due, abs=0.001)


def test_start_behind_the_end_says_how_long_the_file_is(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 50)
    with pytest.raises(MediaError, match=r"nothing to read from 9 s on; it lasts 2\.00 s"):
        read_all(path, start=9)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation(tmp_path, degrees, flip):
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48] = 255, 0, 0
    upright[:32, 48:] = 0, 255, 0
    upright[32:, :48] = 0, 0, 255
    # Stored so that turning it back by `degrees` counterclockwise shows it upright.
    stored = np.rot90(upright, -degrees // 90)
    if flip:
        stored = stored[:, ::-1]
    path = tmp_path / "a.mp4"
    stored = np.ascontiguousarray(stored)
    make_media(path, [stored] * 5, steady(5, 25), rotation=(degrees, flip))
    info = probe(path).video
    shown = read_all(path)[0][2]
    if not flip:
        assert info.rotation == -degrees % 360
        assert (info.height, info.width) == (64, 96) == shown.shape[:2]
        assert np.abs(shown.astype(int) - upright).mean() < 12
    else:
        # A mirrored picture is upright in one of two senses; either way it is a mirror image.
        assert shown.shape == upright.shape
        mirrored = [upright, upright[::-1, ::-1]]
        assert min(np.abs(shown.astype(int) - m).mean() for m in mirrored) < 12


@pytest.mark.parametrize("pixels", ["yuv420p10le", "gray", "gray10le", "bgra", "rgb48le"])
def test_any_pixel_format(tmp_path, pixels):
    path = make_numbered(tmp_path / "a.mkv", 10, codec="ffv1", pixels=pixels)
    frames = read_all(path)[0]
    assert [read_number(frame) for frame in frames] == list(range(10))
    assert frames[0].dtype == np.uint8
    assert frames[0].shape == (64, 96, 3)
    assert np.abs(frames[5].astype(int) - numbered(5)).mean() < 3


def test_alpha_is_over_black(tmp_path):
    rgba = np.full((32, 32, 4), 200, np.uint8)
    rgba[:16, :, 3], rgba[16:, :, 3] = 255, 0
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path)
    frames = read_all(path)[0]
    assert frames[0][4, 4].tolist() == [200] * 3
    assert frames[0][28, 4].tolist() == [0] * 3


def test_interlaced_fields_are_not_mixed(tmp_path):
    # Even lines show white, odd lines, of another time, black: one field alone is even.
    comb = np.zeros((64, 96, 3), np.uint8)
    comb[::2] = 255
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.height, video.width, video.pix_fmt = 64, 96, "yuv422p"
        video.bit_rate = 20_000_000
        video.codec_context.flags |= av.codec.context.Flags.interlaced_dct
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(comb, format="rgb24").reformat(format="yuv422p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    frame = read_all(path)[0][1]
    assert frame[4:-4].min() > 200


@pytest.mark.parametrize("size", [(63, 95), (1, 1), (2, 300), (17, 16)])
def test_odd_sizes(tmp_path, size):
    frames = [np.full((*size, 3), 90, np.uint8)] * 3
    path = make_media(tmp_path / "a.mkv", frames, steady(3, 25), codec="ffv1", pixels="yuv444p")
    got = read_all(path)[0]
    assert len(got) == 3
    assert got[0].shape == (*size, 3)
    assert abs(int(got[0][0, 0, 0]) - 90) < 4


def test_colours_of_hd_and_sd(tmp_path):
    for height, matrix in ((96, "ITU601"), (720, "ITU709")):
        colour = np.zeros((height, 96, 3), np.uint8)
        colour[:] = 200, 60, 30
        path = tmp_path / f"{height}.mkv"
        with av.open(str(path), "w") as container:
            video = container.add_stream("ffv1", rate=25)
            video.height, video.width, video.pix_fmt = height, 96, "yuv420p"
            frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.colorspace = 2  # not told
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            container.mux([*video.encode(frame), *video.encode(None)])
        got = read_all(path)[0][0][10, 10].astype(int)
        assert np.abs(got - colour[0, 0]).max() <= 4, (height, got)


# ---- stills and moving images


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_still_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(numbered(1234)).save(path)
    info = probe(path)
    assert (info.kind, info.duration, info.audio) == ("image", 0.0, None)
    frames, samples, reader = read_all(path)
    assert [read_number(frame) for frame in frames] == [1234]
    assert len(samples) == 0
    assert reader.notes == []


def test_photo_turned_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side, to be turned clockwise
    Image.fromarray(np.rot90(numbered(77))).save(tmp_path / "a.jpg", exif=exif, quality=95)
    frame = read_all(tmp_path / "a.jpg")[0][0]
    assert frame.shape == (64, 96, 3)
    assert read_number(frame) == 77


def test_animated_gif_is_video(tmp_path):
    first, *rest = (Image.fromarray(numbered(i)) for i in range(5))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=80)
    assert probe(tmp_path / "a.gif").kind == "video"
    assert numbers(tmp_path / "a.gif") == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


# ---- sound


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [
        (".wav", "pcm_s16le", 8000),
        (".wav", "pcm_f32le", 96_000),
        (".wav", "pcm_u8", 44_100),
        (".wav", "pcm_s16le", 192_000),
        (".mp3", "libmp3lame", 44_100),
        (".flac", "flac", 48_000),
        (".ogg", "libopus", 48_000),
        (".m4a", "aac", 22_050),
    ],
)
@pytest.mark.parametrize("start", [0.0, 2.5])
def test_sound_files(tmp_path, suffix, codec, rate, start):
    path = tmp_path / f"a{suffix}"
    make_media(path, sound=beeps([0.5, 1.75, 2.9], 4, rate), rate=rate, sound_codec=codec)
    info = probe(path)
    assert (info.kind, info.video, info.audio.channels) == ("sound", None, 1)
    assert info.duration == pytest.approx(4, abs=0.06)
    frames, samples, _ = read_all(path, start=start)
    assert frames == []
    assert len(samples) / 16_000 == pytest.approx(4 - start, abs=0.04)
    due = [time - start for time in (0.5, 1.75, 2.9) if time > start]
    assert beep_times(samples, 16_000) == pytest.approx(due, abs=0.001)


@pytest.mark.parametrize(("suffix", "codec"), [(".mp3", "libmp3lame"), (".flac", "flac")])
def test_cover_picture_is_not_video(tmp_path, suffix, codec):
    path = tmp_path / f"a{suffix}"
    make_media(path, sound=beeps([0.5], 2), sound_codec=codec, cover=True)
    with av.open(str(path)) as container:
        assert container.streams.video, "the file must hold a cover for this to test anything"
    assert probe(path).kind == "sound"


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1"])
def test_one_tone_in_all_channels_keeps_its_level(tmp_path, layout):
    tone = 0.5 * np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    channels = av.AudioLayout(layout).nb_channels
    path = tmp_path / "a.wav"
    make_media(path, sound=np.tile(tone, (channels, 1)), layout=layout, sound_codec="pcm_s16le")
    assert probe(path).audio.channels == channels
    mono = read_all(path, sample_rate=RATE)[1]
    assert len(mono) == RATE
    assert np.abs(mono - tone).max() < 0.001


def test_stereo_is_averaged_and_centre_is_louder_than_sides(tmp_path):
    tone = np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    levels = {}
    for layout, channel in (("stereo", 0), ("5.1", 0), ("5.1", 2), ("5.1", 3), ("5.1", 4)):
        sound = np.zeros((av.AudioLayout(layout).nb_channels, RATE), np.float32)
        sound[channel] = tone
        path = make_media(tmp_path / "a.wav", sound=sound, layout=layout, sound_codec="pcm_s16le")
        mono = read_all(path, sample_rate=RATE)[1]
        levels[layout, channel] = float(mono @ tone / (tone @ tone))
    assert levels["stereo", 0] == pytest.approx(0.5, abs=0.001)
    assert levels["5.1", 2] / levels["5.1", 0] == pytest.approx(2**0.5, abs=0.01)
    assert levels["5.1", 4] / levels["5.1", 0] == pytest.approx(0.5**0.5, abs=0.01)
    assert levels["5.1", 3] == pytest.approx(0, abs=0.001)


def test_a_gap_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for begin, at in ((0.0, 0.2), (3.0, 3.5)):
            sound = beeps([at - begin], 1)
            frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = round(begin * RATE)
            for packet in audio.encode(frame):
                container.mux(packet)
        container.mux(audio.encode(None))
    _, samples, reader = read_all(path)
    assert len(samples) == 4 * 16_000
    assert beep_times(samples, 16_000) == pytest.approx([0.2, 3.5], abs=0.001)
    assert reader.notes == ["2.00 s of gaps in the sound: silence is used"]


# ---- both


@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        (".mp4", {}),
        (".mov", {}),
        (".mkv", {"sound_codec": "libopus"}),
        (".mkv", {"sound_codec": "libmp3lame"}),
        (".webm", {"codec": "libvpx", "sound_codec": "libopus"}),
        (".ts", {"sound_codec": "mp2"}),
        (".ts", {"options": {"output_ts_offset": "1000"}}),
        (".mp4", {"sound_start": 0.5}),
        (".mkv", {"sound_start": 0.5, "sound_codec": "libopus"}),
        (".avi", {"codec": "mpeg4", "sound_codec": "pcm_s16le"}),
    ],
    ids=str,
)
def test_flash_and_beep_come_together(tmp_path, suffix, more):
    at = [20, 41, 62]
    path = make_flash_and_beep(tmp_path / f"a{suffix}", at, **more)
    frames, samples, reader = read_all(path)
    assert len(frames) == 75
    assert len(samples) == 3 * 16_000
    assert flashes(frames) == at
    # Matroska rounds to a millisecond.
    assert beep_times(samples, 16_000) == pytest.approx([n / 25 for n in at], abs=0.0011)
    late = more.get("sound_start", 0)
    # AAC and Opus begin a few milliseconds early, with silence.
    assert any(
        note.startswith(("the sound starts 0.5", "the sound starts 0.4")) for note in reader.notes
    ) == bool(late)


def test_sound_that_starts_before_the_picture_is_kept(tmp_path):
    sound = beeps([0.3, 1.5], 3)
    times = [time + Fraction(1, 2) for time in steady(50, 25)]
    path = make_media(tmp_path / "a.mkv", [numbered(i) for i in range(50)], times, sound)
    frames, samples, _ = read_all(path)
    # Half a second is 12 whole frames and a half: the clock starts 12 frames earlier.
    assert [read_number(frame) for frame in frames][:14] == [0] * 13 + [1]
    assert beep_times(samples, 16_000) == pytest.approx([0.28, 1.48], abs=0.0015)


def test_no_sound_is_silence_and_said(tmp_path):
    frames, samples, reader = read_all(make_numbered(tmp_path / "a.mp4", 50))
    assert len(samples) == 32_000
    assert not samples.any()
    assert len(frames) == 50
    assert reader.notes == ["no sound: silence is used"]
    assert reader.info.audio is None


def test_short_sound_is_filled_and_said(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 50, sound=beeps([0.5], 1))
    _, samples, reader = read_all(path)
    assert len(samples) == 32_000
    assert not samples[17_500:].any()
    assert len(reader.notes) == 1
    assert "ends" in reader.notes[0]
    assert "early" in reader.notes[0]


def test_long_sound_is_kept_to_its_end(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 25, sound=beeps([0.5, 1.5], 2))
    frames, samples, _ = read_all(path)
    assert len(frames) == 25
    assert abs(len(samples) - 32_000) < 400
    assert beep_times(samples, 16_000) == pytest.approx([0.5, 1.5], abs=0.001)


def test_sound_longer_by_less_than_a_frame_is_cut(tmp_path):
    path = make_numbered(tmp_path / "a.mkv", 25, sound=beeps([0.5], 1.03), sound_codec="pcm_s16le")
    for block in (1, 5, 16, 100):
        frames, samples, _ = read_all(path, block=block)
        assert (len(frames), len(samples)) == (25, 16_000), block


def test_joined_transport_streams_play_one_after_the_other(tmp_path):
    for shift in ("0", "5000"):
        one = make_flash_and_beep(tmp_path / "one.ts", [20], sound_codec="mp2")
        options = {"output_ts_offset": shift}
        two = make_flash_and_beep(tmp_path / "two.ts", [30], sound_codec="mp2", options=options)
        both = tmp_path / "both.ts"
        both.write_bytes(one.read_bytes() + two.read_bytes())
        frames, samples, _ = read_all(both)
        assert len(frames) == pytest.approx(150, abs=2)
        first, second = flashes(frames)
        assert first == 20
        assert abs(second - 105) <= 1
        assert beep_times(samples, 16_000) == pytest.approx([first / 25, second / 25], abs=0.03)


def test_blocks_of_any_size_give_the_same(tmp_path):
    path = make_flash_and_beep(tmp_path / "a.mp4", [20, 60])
    frames, samples, _ = read_all(path, block=16)
    for block in (1, 7, 1000):
        other = read_all(path, block=block)
        assert np.array_equal(np.stack(other[0]), np.stack(frames))
        assert np.array_equal(other[1], samples)


# ---- bad files


@pytest.fixture
def good(tmp_path):
    return make_flash_and_beep(tmp_path / "good.mkv", [20, 60], seconds=6)


def test_flipped_bytes_in_the_middle(good, tmp_path):
    data = bytearray(good.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 3, len(data) // 2, 60):
        data[at] ^= 0xFF
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(bytes(data))
    frames, samples, reader = read_all(bad)
    assert reader.losses.packets > 0
    assert len(frames) == 150
    assert abs(len(samples) - 96_000) < 640
    assert flashes(frames)[-1] == 60


def test_a_damaged_timestamp_does_not_make_days_of_nothing(tmp_path):
    path = tmp_path / "a.mkv"
    options = {"cluster_time_limit": "1000"}
    make_flash_and_beep(path, [20, 60, 130], 6, sound_codec="mp2", options=options)
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(4):  # the fourth cluster says that it is at 65 s
        at = data.index(b"\x1f\x43\xb6\x75", at + 1)
    stamp = data.index(b"\xe7", at + 4)
    size = data[stamp + 1] & 0x7F
    assert size == 2
    data[stamp + 2 : stamp + 4] = b"\xff\xff"
    path.write_bytes(bytes(data))
    frames, samples, _ = read_all(path)
    # What follows the damage is in its place again, sound as well as picture.
    assert len(frames) == 150
    assert len(samples) == 96_000
    assert flashes(frames) == [20, 60, 130]
    assert beep_times(samples, 16_000) == pytest.approx([0.8, 2.4, 5.2], abs=0.002)


def test_sound_of_a_video_whose_picture_cannot_be_decoded(tmp_path):
    path = make_flash_and_beep(tmp_path / "a.avi", [20], codec="mpeg4", sound_codec="pcm_s16le")
    data = path.read_bytes()
    assert data.count(b"FMP4") >= 1
    path.write_bytes(data.replace(b"FMP4", b"ZZZZ"))
    info = probe(path)
    assert info.kind == "sound"
    assert info.undecodable == ("picture",)
    frames, samples, reader = read_all(path)
    assert frames == []
    assert beep_times(samples, 16_000) == pytest.approx([0.8], abs=0.001)
    assert reader.notes == ["the picture cannot be decoded: it is left out"]


def test_zeroed_stretch_of_an_mp4(tmp_path):
    path = make_flash_and_beep(tmp_path / "a.mp4", [20, 140], seconds=6)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 4
    span = (len(data) - middle) // 5
    data[middle + span : middle + 2 * span] = bytes(span)
    path.write_bytes(bytes(data))
    frames, _, reader = read_all(path)
    assert reader.losses.packets > 0
    assert reader.losses.seconds > 0
    assert len(frames) == 150


def test_start_seeks_over_what_is_before(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 150)
    data = bytearray(path.read_bytes())
    payload = data.index(b"mdat") + 4
    span = (data.index(b"moov") - payload) // 10
    data[payload + 2 * span : payload + 4 * span] = bytes(2 * span)
    path.write_bytes(bytes(data))
    assert read_all(path)[2].losses.packets > 0
    frames, _, reader = read_all(path, start=5)
    assert reader.losses.packets == 0
    assert [read_number(frame) for frame in frames] == list(range(125, 150))


def test_truncated_file_gives_what_is_there_and_says_so(good):
    data = good.read_bytes()
    good.write_bytes(data[: len(data) // 2])
    frames, _, reader = read_all(good)
    assert 25 < len(frames) < 150
    assert any(note.startswith("the file ends early") for note in reader.notes)


def test_index_cut_off_an_mp4(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 50)
    whole = path.read_bytes()
    path.write_bytes(whole[:-800])
    with pytest.raises(MediaError, match="no video or sound that can be decoded"):
        probe(path)
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(MediaError, match="not a media file, or damaged beyond reading"):
        probe(path)


def test_what_is_not_media_is_told_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is not a video. " * 500)
    (tmp_path / "notes.txt").write_text("Neither is this.\n" * 50)
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(1).bytes(50_000))
    (tmp_path / "subtitles.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    with av.open(str(tmp_path / "zero.avi"), "w") as container:
        container.add_stream("mpeg4", rate=25).pix_fmt = "yuv420p"
        container.start_encoding()
    reasons = {
        "empty.mp4": "empty",
        "text.mp4": "not a media",
        "notes.txt": "not a media",
        "noise.avi": "not a media",
        "subtitles.srt": "no video or sound",
        "zero.avi": "not one frame",
        "missing.mp4": "no such file",
        ".": "folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=reason) as caught:
            probe(tmp_path / name)
        assert "\n" not in str(caught.value), name
        assert str(tmp_path) in str(caught.value), name


def test_a_playlist_fetches_nothing(tmp_path):
    path = tmp_path / "list.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(MediaError, match=r"list\.m3u8"):
            probe(path)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("named", ["full", "beside"])
@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_a_list_does_not_show_other_files_of_this_machine(tmp_path, kind, named):
    secret = make_numbered(tmp_path / "secret.ts", 20)
    name = secret.name if named == "beside" else secret
    texts = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile {name}\n",
    }
    path = tmp_path / f"list.{kind}"
    path.write_text(texts[kind])
    with pytest.raises(MediaError, match=rf"list\.{kind}: not a media file"):
        probe(path)


def test_a_pattern_in_a_name_means_nothing(tmp_path):
    make_media(tmp_path / "001.png", [numbered(1)], [Fraction(0)], codec="png", pixels="rgb24",
               format="image2", options={"update": "1"})  # fmt: skip
    (tmp_path / "001.png").rename(tmp_path / "%03d.png")
    make_media(tmp_path / "001.png", [numbered(2)], [Fraction(0)], codec="png", pixels="rgb24",
               format="image2", options={"update": "1"})  # fmt: skip
    frames, _, _ = read_all(tmp_path / "%03d.png")
    assert [read_number(frame) for frame in frames] == [1]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="is no file but a device or a pipe"):
        probe(tmp_path / "a.mp4")
    assert not is_latents(tmp_path / "a.mp4")


def test_a_pause_of_hours_is_left_out_and_said(tmp_path):
    times = [Fraction(i, 25) + 36_000 * (i >= 10) for i in range(20)]
    path = make_media(tmp_path / "a.mkv", [numbered(i) for i in range(20)], times)
    frames, _, reader = read_all(path)
    assert [read_number(frame) for frame in frames] == list(range(20))
    assert "36000 s in which nothing goes on: they are left out" in reader.notes
    assert not any("ends early" in note for note in reader.notes)


def test_a_pause_of_picture_and_sound_is_counted_once(tmp_path):
    for name, first in (("a.mkv", 0), ("b.mkv", 10)):
        frames = [numbered(first + i) for i in range(10)]
        make_media(tmp_path / name, frames, steady(10, 25), beeps([0.1], 0.4), sound_codec="flac")
    with av.open(str(tmp_path / "both.mkv"), "w") as taken:
        given = [av.open(str(tmp_path / name)) for name in ("a.mkv", "b.mkv")]
        copies = [taken.add_stream_from_template(stream) for stream in given[0].streams]
        for container, shift in zip(given, (0, 3600), strict=True):
            for packet in container.demux():
                if packet.dts is not None:
                    packet.pts, packet.dts = (
                        t + round(shift / packet.time_base) for t in (packet.pts, packet.dts)
                    )
                    packet.stream = copies[packet.stream.index]
                    taken.mux(packet)
            container.close()
    frames, samples, reader = read_all(tmp_path / "both.mkv")
    assert [read_number(frame) for frame in frames] == list(range(20))
    assert beep_times(samples, 16_000) == pytest.approx([0.1, 0.5], abs=0.002)
    assert "3600 s in which nothing goes on: they are left out" in reader.notes


def test_a_picture_that_stands_while_sound_goes_on_is_kept(tmp_path):
    times = [Fraction(0), Fraction(70)]
    sound = np.full(75 * 8_000, 0.1, np.float32)
    path = make_media(tmp_path / "a.mkv", [numbered(i) for i in range(2)], times, sound,
                      rate=8_000, sound_codec="flac")  # fmt: skip
    frames, samples, reader = read_all(path)
    assert [read_number(frame) for frame in frames[:1751]] == [0] * 1750 + [1]
    assert len(samples) == 75 * 16_000
    assert not any("left out" in note for note in reader.notes)


def test_a_stamp_behind_its_time_costs_no_frames(tmp_path):
    """Two streams joined, the second of which begins before the first has ended."""
    parts = [make_numbered(tmp_path / f"{n}.ts", n, codec="mpeg2video") for n in (20, 5)]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers(tmp_path / "a.ts") == [*range(19), 4]


def test_nothing_behind_a_transport_stream_is_nothing(tmp_path):
    """FFmpeg gives up looking for a packet in so many zeros, with an error of its own."""
    path = make_numbered(tmp_path / "a.ts", 20, codec="mpeg2video")
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 2**24)
    assert len(read_all(path)[0]) == 20


def test_matroska_that_begins_late_has_not_ended_early(tmp_path):
    times = [3600 + t for t in steady(20, 25)]
    path = make_media(tmp_path / "a.mkv", [numbered(i) for i in range(20)], times)
    assert probe(path).duration == pytest.approx(0.8, abs=0.05)
    assert read_all(path)[2].notes == ["no sound: silence is used"]


def test_wide_pixels_do_not_widen_a_picture_without_end():
    frame = SimpleNamespace(width=8_000, height=8_000)
    width, height = ffmpeg.shown_size(frame, Fraction(4))
    assert width * height <= ffmpeg.MAX_PIXELS * 1.001
    assert width / height == pytest.approx(4, rel=1e-3)


def test_asking_only_for_what_is_not_there(tmp_path):
    silent = make_numbered(tmp_path / "a.mp4", 5)
    sound = make_media(tmp_path / "a.wav", sound=beeps([0.1], 1), sound_codec="pcm_s16le")
    with pytest.raises(MediaError, match="holds no sound"):
        MediaReader(silent, None, 16_000)
    with pytest.raises(MediaError, match="holds no picture"):
        MediaReader(sound, 25, None)


def test_metadata_that_is_not_utf8(tmp_path):
    path = make_media(tmp_path / "a.wav", sound=beeps([0.1], 1), sound_codec="pcm_s16le")
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xe4\xf6\xfc\xff"))
    assert probe(path).kind == "sound"


# ---- writing


def colours(count, height=64, width=96):
    """Frames of one colour each, all different."""
    values = np.random.default_rng(5).integers(20, 235, (count, 1, 1, 3), np.uint8)
    return np.broadcast_to(values, (count, height, width, 3)).copy()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".m4v"])
@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_written_sound_and_picture_are_in_sync(tmp_path, suffix, rate):
    at = [20, 41, 62]
    frames = np.zeros((75, 64, 96, 3), np.uint8)
    frames[at] = 255
    sound = beeps([n / 25 for n in at], 3, rate)
    path = tmp_path / f"a{suffix}"
    with MediaWriter(path, 25, (64, 96), rate) as writer:
        for k in range(0, 75, 10):
            spoken = sound[k * rate // 25 : (k + 10) * rate // 25]
            writer.write(frames[k : k + 10], spoken)
    # Decoded by plain timestamps, without the reader under test.
    heard, seen = np.zeros(4 * 48_000), []
    with av.open(str(path)) as container:
        assert container.duration / 1e6 == pytest.approx(3, abs=0.04)
        mixer = av.AudioResampler(
            format="fltp", layout="mono", rate=container.streams.audio[0].rate
        )
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                seen += [float(frame.time)] * int(frame.to_ndarray(format="gray").mean() > 128)
                continue
            for part in mixer.resample(frame):
                begin = round(frame.time * frame.sample_rate)
                samples = part.to_ndarray()[0]
                heard[max(0, begin) : begin + len(samples)] = samples[max(0, -begin) :]
        actual = container.streams.audio[0].rate
    assert seen == pytest.approx([n / 25 for n in at], abs=0.001)
    assert beep_times(heard, actual) == pytest.approx([n / 25 for n in at], abs=0.001)
    back, samples, _ = read_all(path, sample_rate=rate)
    assert len(back) == 75
    assert abs(len(samples) - 3 * rate) <= rate // 25
    assert flashes(back) == at
    assert beep_times(samples, rate) == pytest.approx([n / 25 for n in at], abs=0.001)


def test_written_colours_come_back(tmp_path):
    frames = colours(10)
    with MediaWriter(tmp_path / "a.mp4", NTSC, (64, 96)) as writer:
        writer.write(frames)
    back, _, reader = read_all(tmp_path / "a.mp4", NTSC, None)
    assert reader.info.video.frame_rate == pytest.approx(float(NTSC))
    assert np.abs(np.stack(back).astype(int) - frames).mean() < 2.5


def test_float_frames_and_odd_sizes(tmp_path):
    import torch

    frames = torch.linspace(-0.2, 1.2, 5).reshape(5, 1, 1, 1).expand(5, 3, 33, 47)
    expected = [0, 38, 128, 217, 255]
    assert as_bytes(frames)[:, 0, 0, 0].tolist() == expected
    with MediaWriter(tmp_path / "a.mp4", 25, (33, 47)) as writer:
        writer.write(frames)
    back = read_all(tmp_path / "a.mp4")[0]
    assert back[0].shape == (34, 48, 3)
    assert [int(frame.mean()) for frame in back] == pytest.approx(expected, abs=3)


def test_wav_and_flac_and_images_are_exact(tmp_path):
    sound = (np.random.default_rng(0).integers(-20_000, 20_000, 20_000) / 32_768).astype("f4")
    for name in ("a.wav", "a.flac"):
        with MediaWriter(tmp_path / name, None, sample_rate=16_000) as writer:
            writer.write(samples=sound[:7000])
            writer.write(samples=sound[7000:])
        assert np.abs(read_all(tmp_path / name)[1] - sound).max() < 1e-4
    for name, error in (("a.png", 0), ("a.jpg", 3)):
        with MediaWriter(tmp_path / name, None, (63, 95)) as writer:
            writer.write(numbered(99, 63, 95)[None])
        back = read_all(tmp_path / name)[0]
        assert np.abs(back[0].astype(int) - numbered(99, 63, 95)).mean() <= error
        assert probe(tmp_path / name).kind == "image"


def test_faststart(tmp_path):
    with MediaWriter(tmp_path / "a.mp4", 25, (64, 96)) as writer:
        writer.write(colours(5))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_existing_file_is_refused_then_overwritten(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(MediaError, match="already exists; add --overwrite or choose another"):
        MediaWriter(path, None, (8, 8))
    assert path.read_text() == "precious"
    with MediaWriter(path, None, (8, 8), overwrite=True) as writer:
        writer.write(np.zeros((1, 8, 8, 3), np.uint8))
        assert path.read_text() == "precious", "until the new one is whole"
    assert probe(path).kind == "image"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_failure_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.mp4"

    def interrupted():
        with MediaWriter(path, 25, (64, 96), 16_000) as writer:
            writer.write(colours(30), np.zeros(19_200, np.float32))
            assert list(tmp_path.iterdir()), "there must be something to clear away"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(MediaError, match="nothing to write"), MediaWriter(path, 25, (64, 96)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_impossible_targets(tmp_path):
    cases = {
        ("a.xyz", (8, 8), None): r"unknown suffix; choose one of \.mp4",
        ("a", (8, 8), None): "unknown suffix",
        ("a.wav", (8, 8), 16_000): "holds no picture",
        ("a.png", (8, 8), 16_000): "holds no sound",
        ("none/a.mp4", (8, 8), None): "no such folder",
    }
    for (name, size, rate), reason in cases.items():
        with pytest.raises(MediaError, match=reason):
            MediaWriter(tmp_path / name, 25, size, rate)
    with (
        pytest.raises(MediaError, match="one frame only"),
        MediaWriter(tmp_path / "a.png", None, (64, 96)) as writer,
    ):
        writer.write(colours(2))
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
import numpy as np
from perceivio import ffmpeg
from perceivio.errors import MediaError
from perceivio.latents import is_latents
from perceivio.writer import MediaWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
name, limit, size = sys.argv[1], int(sys.argv[2]), (64, 96)
frames = np.random.default_rng(0).integers(0, 256, (100, *size, 3), np.uint8)
sound = np.random.default_rng(0).uniform(-1, 1, 64_000).astype("f4")
kind = name.rsplit(".")[-1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with MediaWriter(name, 25, size if kind != "wav" else None, 16_000) as writer:
        for _ in range(3):
            writer.write(frames if kind != "wav" else None, sound)
except MediaError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.wav"])
@pytest.mark.parametrize("limit", [0, 5_000, 100_000])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, name, limit):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name), str(limit)],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parent.parent / "src")},
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be written: file too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_length(tmp_path):
    """All of a minute takes no more memory than its first six seconds."""
    size, seconds = (360, 640), 60
    path = tmp_path / "long.mp4"
    sound = np.zeros(1600, np.float32)
    with MediaWriter(path, 5, size, 8_000) as writer:
        frame = np.zeros((1, *size, 3), np.uint8)
        for _ in range(seconds * 5):
            writer.write(frame, sound)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with MediaReader(path, 25, 16_000) as reader:
        for _ in range(10):
            reader.read(16, 10_240)
        before, count = peak(), 160
        while got := len(reader.read(16, 10_240)[0]):
            count += got
    assert count == seconds * 25
    # A minute of these frames takes a gigabyte.
    assert peak() - before < 200_000


# ---- the clips that ship


@pytest.mark.parametrize("name", ["bbb_scene.mp4", "band.3gp", "hello.avi"])
def test_real_clips(name):
    folder = Path(os.environ.get("PERCEIVIO_CLIPS", ASSETS))
    if not (folder / name).exists():
        pytest.skip("clip is not here")
    frames, samples, reader = read_all(folder / name, 5, 8_000, duration=8.5)
    length = min(reader.info.duration, 8.5)
    assert len(frames) / 5 == pytest.approx(length, abs=0.2)
    assert len(samples) / 8_000 == pytest.approx(length, abs=0.2)
    assert np.stack(frames).std() > 10
    assert samples.std() > 0.001
    assert not reader.losses.packets


def test_nothing_of_a_closed_file_is_read():
    """The last frame is shown behind the end of its file. glibc fills what is freed with rubbish
    here, over which a process that reads it dies."""
    code = """
import sys
from perceivio.media import MediaReader
for path in sys.argv[1:] * 3:
    with MediaReader(path, 25, 16_000) as reader:
        while reader.read(16, 10_240)[0]:
            pass
"""
    paths = [str(ASSETS / name) for name in ("digit.mp4", "hello.avi")]
    rubbish = {**os.environ, "MALLOC_PERTURB_": "1"}
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *paths],
        env=rubbish, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[:2000]
