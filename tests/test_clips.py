"""Windows of a clip and their rejoining: an identity model must give back the input."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import (
    beep_times,
    beeps,
    make_flash_and_beep,
    make_media,
    make_numbered,
    numbered,
    read_number,
)
from PIL import Image

from perceivio.clip_format import ClipFormat
from perceivio.clips import Rejoin, Windows, read_windows
from perceivio.errors import MediaError, PerceivioError
from perceivio.ffmpeg import Losses
from perceivio.media import MediaInfo, probe
from perceivio.pictures import centre_crop, resize, shown_size, side_by_side
from perceivio.writer import MediaWriter, as_bytes

SMALL = ClipFormat(16, 64, 96, 25, 10_240, 16_000)


def rejoined(windows, format, overlap, model=lambda window, values: values):
    """What an identity model (or another one) gives for the whole row of windows."""
    join, piles = Rejoin(format, overlap), {"image": [], "audio": []}

    def keep(pieces):
        for name, piece in pieces.items():
            piles[name].append(piece)

    for window in windows:
        values = {name: model(window, v[0]) for name, v in window.inputs.items()}
        if "audio" in values:
            values["audio"] = values["audio"][:, 0]
        keep(join.add(window, values))
    keep(join.finish())
    return tuple(torch.cat(pile) if pile else None for pile in piles.values())


class Tape:
    """Stands in for a MediaReader: known frames and samples of any two lengths."""

    def __init__(self, frames: int, samples: int, height: int = 2, width: int = 3) -> None:
        rng = np.random.default_rng(0)
        self.frames = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
        self.samples = rng.uniform(-1, 1, samples).astype(np.float32)
        self.notes, self.losses, self.lead = [], Losses(), Fraction(0)
        self.info = MediaInfo("tape", "video", 0.0, None, None)
        self._at = [0, 0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, frames, samples):
        first, second = self._at
        self._at = [first + frames, second + samples]
        return list(self.frames[first : first + frames]), self.samples[second : second + samples]


# ---- formats


def test_format_spans_must_agree_exactly():
    assert SMALL.seconds == Fraction(16, 25)
    assert ClipFormat(30, 8, 8, Fraction(30_000, 1001), 48_048, 48_000).seconds == Fraction(
        1001, 1000
    )
    assert ClipFormat(30, 8, 8, 30_000 / 1001, 48_048, 48_000).seconds == Fraction(1001, 1000)
    with pytest.raises(ValueError, match="last"):
        ClipFormat(16, 8, 8, 25, 10_241, 16_000)
    with pytest.raises(ValueError, match="needs frames or samples"):
        ClipFormat(0, 8, 8, 25, 0, 16_000)
    assert ClipFormat(0, 0, 0, 25, 8_000, 16_000).seconds == Fraction(1, 2)
    assert ClipFormat(16, 8, 8, 25, 0, 0).seconds == Fraction(16, 25)


# ---- split and rejoin


FORMATS = [
    ClipFormat(4, 2, 3, 25, 16, 100),
    ClipFormat(5, 2, 3, 10, 7, 14),  # 1.4 samples a frame
    ClipFormat(8, 2, 3, Fraction(24_000, 1001), 8008, 24_000),
    ClipFormat(6, 2, 3, 25, 0, 0),
    ClipFormat(0, 0, 0, 25, 12, 100),
]


@given(
    st.sampled_from(FORMATS),
    st.integers(0, 40),
    st.integers(0, 120),
    st.integers(0, 6),
)
@settings(max_examples=400, deadline=None)
def test_identity_gives_back_the_input(format, frames, samples, overlap):
    """Over all lengths and overlaps, also where one of the two streams ends long before."""
    overlap = min(overlap, format.units // 2)
    frames = frames if format.frames else 0
    samples = samples * max(1, format.samples // 20) if format.samples else 0
    tape = Tape(frames, samples)
    windows = list(Windows(tape, format, 0.0, overlap, 0))
    for window in windows:
        assert window.frames + window.samples > 0
        if format.frames and frames:
            assert window.inputs["image"].shape == (1, format.frames, 3, 2, 3)
        if format.samples:
            assert window.inputs["audio"].shape == (1, format.samples, 1)
    image, audio = rejoined(windows, format, overlap)
    if frames:
        assert np.array_equal(as_bytes(image), tape.frames)
        expected = torch.from_numpy(tape.frames).permute(0, 3, 1, 2).float() / 255
        assert torch.equal(image, expected)
    if samples:
        assert np.array_equal(audio.numpy(), tape.samples)


@given(st.integers(1, 60), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_no_window_without_anything_new(frames, overlap):
    clip = ClipFormat(16, 2, 3, 25, 0, 0)
    windows = list(Windows(Tape(frames, 0), clip, 0.0, overlap, 0))
    assert len(windows) == max(1, -(-(frames - overlap) // (16 - overlap)))


@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_weights_add_up_to_one_and_rise_smoothly(overlap):
    """Windows of alternating value show the weight that each has at every frame."""
    clip = ClipFormat(16, 2, 3, 25, 10_240, 16_000)
    count = 16 + 2 * (16 - overlap)
    windows = list(Windows(Tape(count, count * 640), clip, 0.0, overlap, 0))
    assert len(windows) == 3
    ones, _ = rejoined(windows, clip, overlap, lambda window, v: torch.ones_like(v))
    assert torch.equal(ones, torch.ones_like(ones))
    image, audio = rejoined(
        windows, clip, overlap, lambda window, v: torch.full_like(v, window.index % 2)
    )
    hop = 16 - overlap
    rise = image[hop:16, 0, 0, 0]
    assert torch.all(rise.diff() > 0)
    assert torch.allclose(rise + rise.flip(0), torch.ones(overlap))
    assert torch.all(image[:hop] == 0)
    assert torch.all(image[16 : 2 * hop] == 1)
    # In sound no step is larger than the steepest of a raised cosine.
    if overlap:
        assert audio.diff().abs().max() < 1.6 / (overlap * 640)


def test_finished_stretches_come_as_soon_as_they_are_finished():
    tape = Tape(50, 32_000)
    join, given_frames = Rejoin(SMALL, 4), []
    for window in Windows(tape, ClipFormat(16, 2, 3, 25, 10_240, 16_000), 0.0, 4, 0):
        done = join.add(window, {name: values[0] for name, values in window.inputs.items()})
        assert len(done["audio"]) == len(done["image"]) * 640
        given_frames.append(len(done["image"]))
    assert given_frames == [12, 12, 12, 12]
    assert len(join.finish()["image"]) == 2


def test_overlap_out_of_range(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 5)
    for overlap in (-1, 9):
        with pytest.raises(PerceivioError, match="choose 0 to 8 frames"):
            read_windows(path, SMALL, overlap=overlap)


# ---- windows of real files


def test_windows_of_a_file(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 50, sound=beeps([0.5, 1.5], 2))
    for overlap, starts in ((0, [0, 0.64, 1.28, 1.92]), (4, [0, 0.48, 0.96, 1.44])):
        windows = list(read_windows(path, SMALL, overlap=overlap))
        assert [window.start for window in windows] == pytest.approx(starts)
        assert windows[0].stop == pytest.approx(0.64)
        assert windows[-1].stop == pytest.approx(2.0)
        for window in windows:
            image, audio = window.inputs["image"], window.inputs["audio"]
            assert image.shape == (1, 16, 3, 64, 96)
            assert image.dtype == torch.float32
            assert audio.shape == (1, 10_240, 1)
            assert audio.dtype == torch.float32
            assert image.min() >= 0
            assert image.max() <= 1
            first = round(window.start * 25)
            shown = [read_number(frame) for frame in as_bytes(image[0])]
            assert shown == [min(first + k, 49) for k in range(16)]
            assert window.samples == window.frames * 640 == min(16, 50 - first) * 640
        image, audio = rejoined(windows, SMALL, overlap)
        assert [read_number(frame) for frame in as_bytes(image)] == list(range(50))
        assert beep_times(audio.numpy(), 16_000) == pytest.approx([0.5, 1.5], abs=0.001)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17])
def test_short_files_are_padded_and_cut_back(tmp_path, count):
    path = make_numbered(tmp_path / "a.mp4", count)
    windows = list(read_windows(path, SMALL))
    assert len(windows) == (2 if count > 16 else 1)
    image, audio = rejoined(windows, SMALL, 0)
    assert len(image) == count
    assert len(audio) == count * 640
    assert windows[-1].stop == pytest.approx(count / 25)


def test_start_counts_on_the_files_clock(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 100)
    windows = list(read_windows(path, SMALL, start=1.0, duration=1.0, overlap=2))
    assert windows[0].start == 1.0
    assert windows[1].start == pytest.approx(1.56)
    assert read_number(as_bytes(windows[1].inputs["image"][0])[0]) == 39
    assert len(rejoined(windows, SMALL, 2)[0]) == 25


def test_sound_only_has_no_image(tmp_path):
    path = make_media(tmp_path / "a.wav", sound=beeps([0.3], 1), sound_codec="pcm_s16le")
    windows = list(read_windows(path, SMALL, overlap=4, keep_size=64))
    assert all(set(window.inputs) == {"audio"} and window.frames == 0 for window in windows)
    assert windows[0].originals is None
    image, audio = rejoined(windows, SMALL, 4)
    assert image is None
    assert len(audio) == 16_000
    assert beep_times(audio.numpy(), 16_000) == pytest.approx([0.3], abs=0.001)


def test_image_is_held_for_one_window_and_has_no_sound(tmp_path):
    Image.fromarray(numbered(1234)).save(tmp_path / "a.png")
    (window,) = read_windows(tmp_path / "a.png", SMALL)
    assert set(window.inputs) == {"image"}
    assert (window.frames, window.samples) == (1, 0)
    assert {read_number(f) for f in as_bytes(window.inputs["image"][0])} == {1234}
    image, audio = rejoined([window], SMALL, 0)
    assert image.shape == (1, 3, 64, 96)
    assert audio is None


def test_sound_beyond_the_picture_holds_the_last_frame(tmp_path):
    path = make_numbered(
        tmp_path / "a.mkv", 20, sound=beeps([0.2, 1.7], 2), sound_codec="pcm_s16le"
    )
    windows = list(read_windows(path, SMALL, overlap=2))
    assert windows[-1].frames == 0
    assert windows[-1].samples > 0
    assert read_number(as_bytes(windows[-1].inputs["image"][0])[3]) == 19
    image, audio = rejoined(windows, SMALL, 2)
    assert len(image) == 20
    assert len(audio) == 32_000


def test_models_of_one_modality(tmp_path):
    path = make_flash_and_beep(tmp_path / "a.mp4", [20])
    sound = ClipFormat(0, 0, 0, 25, 8_000, 16_000, audio_name="heard")
    windows = list(read_windows(path, sound))
    assert len(windows) == 6
    assert all(set(window.inputs) == {"heard"} for window in windows)
    picture = ClipFormat(25, 32, 32, 25, 0, 0, image_name="seen")
    windows = list(read_windows(path, picture))
    assert len(windows) == 3
    assert all(set(window.inputs) == {"seen"} for window in windows)
    Image.fromarray(numbered(1)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="holds no sound"):
        read_windows(tmp_path / "a.png", sound)


# ---- crop and resize


def test_centre_crop_keeps_the_middle_and_the_aspect():
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[:, 100:200] = 255
    assert centre_crop(frame, 64, 64).shape == (100, 100, 3)
    assert centre_crop(frame, 64, 64).min() == 255
    tall = centre_crop(frame.transpose(1, 0, 2), 2, 3)
    assert tall.shape == (67, 100, 3)
    assert tall.min() == 255
    assert centre_crop(frame, 1, 3).shape == frame.shape
    assert centre_crop(frame[:1, :1], 64, 96).shape == (1, 1, 3)


def test_resize_does_not_alias(tmp_path):
    """Black and white noise becomes grey: every pixel is a mean of many."""
    noise = np.random.default_rng(0).integers(0, 2, (512, 768), np.uint8) * 255
    Image.fromarray(noise).convert("RGB").save(tmp_path / "a.png")
    (window,) = read_windows(tmp_path / "a.png", SMALL)
    assert window.inputs["image"].std() < 0.12
    assert abs(window.inputs["image"].mean() - 0.5) < 0.01


def test_originals_are_cropped_alike_and_larger(tmp_path):
    Image.fromarray(numbered(1365, 200, 500)).save(tmp_path / "a.png")
    clip = ClipFormat(16, 64, 64, 25, 0, 0)
    (window,) = read_windows(tmp_path / "a.png", clip, keep_size=128)
    assert window.originals.shape == (1, 128, 128, 3)
    assert window.originals.dtype == np.uint8
    small = resize(window.originals, 64, 64).astype(int)
    assert np.abs(small - as_bytes(window.inputs["image"][0])[:1]).mean() < 4
    assert shown_size((64, 96), 241) == (240, 360)


def test_originals_follow_overlapping_windows(tmp_path):
    path = make_numbered(tmp_path / "a.mp4", 40)
    for window in read_windows(path, SMALL, overlap=5, keep_size=128):
        first = round(window.start * 25)
        assert window.originals.shape == (window.frames, 128, 192, 3)
        assert [read_number(f) for f in window.originals] == [
            first + k for k in range(window.frames)
        ]


# ---- side by side


def test_side_by_side_shows_both_under_their_labels(tmp_path):
    left = np.full((3, 90, 120, 3), (250, 10, 10), np.uint8)
    right = torch.zeros(3, 3, 33, 44)
    right[:, 2] = 1
    both = side_by_side(left, right, height=121)
    assert both.dtype == np.uint8
    assert len(both) == 3
    assert both.shape[1] % 2 == 0
    assert both.shape[2] % 2 == 0
    height, width = both.shape[1:3]
    picture = both[0, -122:]
    assert picture[60, width // 4].tolist() == [250, 10, 10]
    assert picture[60, 3 * width // 4].tolist() == [0, 0, 255]
    bar = both[0, : height - 122].astype(int)
    # Each label is white on black, in the middle of its half, and the two differ.
    for half in (bar[:, : width // 2], bar[:, width // 2 :]):
        columns = np.flatnonzero(half.max((0, 2)) > 128)
        assert len(columns) > 20
        assert abs((columns[0] + columns[-1]) / 2 - half.shape[1] / 2) < 6
        assert columns[0] > 0
        assert columns[-1] < half.shape[1] - 1
    with MediaWriter(tmp_path / "a.mp4", 25, both.shape[1:3]) as writer:
        writer.write(both)
    assert (probe(tmp_path / "a.mp4").video.height, probe(tmp_path / "a.mp4").video.width) == (
        height,
        width,
    )


def test_side_by_side_of_no_frames():
    both = side_by_side(np.zeros((0, 64, 96, 3), np.uint8), torch.zeros(0, 3, 32, 48), height=64)
    assert both.shape[0] == 0


# ---- all of it


def test_file_to_file_keeps_length_and_sync(tmp_path):
    at = [20, 41, 62]
    path = make_flash_and_beep(tmp_path / "in.mp4", at)
    windows, join = read_windows(path, SMALL, overlap=4), Rejoin(SMALL, 4)
    with MediaWriter(tmp_path / "out.mp4", 25, (64, 96), 16_000) as writer:
        for window in windows:
            values = {"image": window.inputs["image"][0], "audio": window.inputs["audio"][0, :, 0]}
            writer.write(*join.add(window, values).values())
        writer.write(*join.finish().values())
    image, audio = rejoined(read_windows(tmp_path / "out.mp4", SMALL), SMALL, 0)
    assert len(image) == 75
    assert len(audio) == 48_000
    assert [i for i, frame in enumerate(image) if frame.mean() > 0.5] == at
    assert beep_times(audio.numpy(), 16_000) == pytest.approx([n / 25 for n in at], abs=0.001)
    assert probe(tmp_path / "out.mp4").duration == pytest.approx(3, abs=0.04)
