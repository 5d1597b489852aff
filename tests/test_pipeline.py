"""File to file: figures, durations, sync and what is written, on real files and small weights."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import beep_times, beeps, make_media, numbered

import perceivio
from perceivio.pipeline import (
    clip_format,
    default_output,
    names_for,
    reconstruct,
    shown_shape,
)

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def small():
    return perceivio.load("small")


class Identity:
    """Stands in for a model where only the way of files through the pipeline is tested: its
    latents are the inputs themselves."""

    def __init__(self, config):
        self.config = config

    def encode(self, inputs):
        return dict(inputs)

    def decode(self, latents, points):
        return {name: latents[name] for name in points}

    def probabilities(self, latents, name):
        return torch.full((1, 10), 0.1)

    def predictions(self, probabilities, top, name):
        return []


@pytest.fixture(scope="module")
def identity():
    return Identity(perceivio.preset("small"))


def streams(path):
    """(width, height, frames, seconds of picture, seconds of sound), by FFmpeg alone."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0)) if container.streams.video else []
    with av.open(str(path)) as container:
        sound = list(container.decode(audio=0)) if container.streams.audio else []
    size = (pictures[0].width, pictures[0].height) if pictures else (0, 0)
    last = float(pictures[-1].time) + 1 / 25 if pictures else 0.0
    heard = sum(f.samples for f in sound) / sound[0].rate if sound else 0.0
    return (*size, len(pictures), last, heard)


def psnr(wanted, got):
    return -10 * np.log10(np.mean((wanted - got) ** 2))


def test_figures_are_those_of_plain_numpy(small, tmp_path):
    """Without overlap the figures are simple sums over windows, done here again by hand."""
    report = reconstruct(
        ASSETS / "band.3gp", tmp_path / "out.mp4", small, start=10, duration=2.0, overlap=0
    )
    images, sounds, wanted_images, wanted_sounds, guesses = [], [], [], [], []
    for window in perceivio.read(ASSETS / "band.3gp", small, start=10, duration=2.0):
        outputs = small.reconstruct(window.inputs)
        wanted = window.inputs["image"][0, : window.frames].numpy()
        wanted_images.append(wanted)
        guesses.append(np.broadcast_to(wanted.mean((0, 2, 3))[:, None, None], wanted.shape))
        images.append(outputs["image"][0, : window.frames].clamp(0, 1).numpy())
        wanted_sounds.append(window.inputs["audio"][0, : window.samples, 0].numpy())
        sounds.append(outputs["audio"][0, : window.samples, 0].clamp(-1, 1).numpy())
    wanted, got = np.concatenate(wanted_images), np.concatenate(images)
    heard, said = np.concatenate(wanted_sounds), np.concatenate(sounds)
    assert len(wanted) == 50
    assert report.video.psnr == pytest.approx(psnr(wanted, got), abs=1e-3)
    assert report.video.trivial_psnr == pytest.approx(
        psnr(wanted, np.concatenate(guesses)), abs=1e-3
    )
    assert report.audio.psnr == pytest.approx(psnr(heard, said), abs=1e-3)
    assert report.audio.snr == pytest.approx(
        10 * np.log10(np.sum(heard**2) / np.sum((heard - said) ** 2)), abs=1e-3
    )
    assert report.video.psnr > report.video.trivial_psnr + 6


def test_figures_do_not_depend_on_how_the_picture_is_shown(small, tmp_path):
    source = ASSETS / "bbb_scene.mp4"
    one = reconstruct(source, tmp_path / "a.mp4", small, duration=1.0)
    two = reconstruct(source, tmp_path / "b.mp4", small, duration=1.0, size=96, side_by_side=True)
    assert one.video == two.video
    assert one.audio == two.audio


@pytest.mark.parametrize("overlap", [0, 4, 8])
def test_what_the_model_gives_back_is_what_is_written(identity, tmp_path, overlap):
    """With a model that changes nothing, every frame and the sound come out where they went in."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    frames = [numbered(i) for i in range(60)]
    times = [Fraction(i, 25) for i in range(60)]
    make_media(source, frames, times, beeps([0.5, 1.4, 2.0], 2.4))
    report = reconstruct(source, target, identity, overlap=overlap)
    width, height, count, _, heard = streams(target)
    assert (width, height, count) == (256, 256, 60)
    assert heard == pytest.approx(2.4, abs=0.05)
    assert report.video.psnr is None or report.video.psnr > 100
    assert report.audio.psnr is None or report.audio.psnr > 100
    got = np.concatenate(
        [w.inputs["audio"][0, : w.samples, 0].numpy() for w in perceivio.read(target)]
    )
    assert beep_times(got, 16_000) == pytest.approx([0.5, 1.4, 2.0], abs=2e-3)


def test_duration_is_the_inputs_within_a_frame(small, tmp_path):
    for frames in (1, 2, 15, 16, 17, 33):
        source, target = tmp_path / f"{frames}.mkv", tmp_path / f"{frames}.mp4"
        times = [Fraction(i, 25) for i in range(frames)]
        make_media(source, [numbered(i) for i in range(frames)], times, beeps([], frames / 25))
        report = reconstruct(source, target, small)
        assert streams(target)[2] == frames
        assert report.media_seconds == pytest.approx(frames / 25, abs=0.04)


def test_side_by_side_has_the_original_left(identity, tmp_path):
    red = [np.full((64, 64, 3), (200, 30, 30), np.uint8)] * 20
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    make_media(source, red, [Fraction(i, 25) for i in range(20)])

    class Blue(Identity):
        def decode(self, latents, points):
            blue = torch.tensor([0.1, 0.1, 0.8])[None, None, :, None, None]
            return {n: blue.expand_as(latents[n]) for n in points if n == "image"}

    reconstruct(source, target, Blue(identity.config), side_by_side=True, size=128)
    with av.open(str(target)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape[1] > 2 * 128
    bottom = picture[-100:]
    left, right = bottom[:, :120].mean((0, 1)), bottom[:, -120:].mean((0, 1))
    assert left[0] > 150 > left[2]
    assert right[2] > 150 > right[0]
    bar = picture[: picture.shape[0] - 128]
    assert bar.max() > 200  # the labels
    assert bar.min() < 30


def test_sound_alone_becomes_a_wav(small, tmp_path):
    source, target = tmp_path / "tone.flac", tmp_path / "out.wav"
    make_media(source, sound=beeps([0.2, 0.9], 1.7), sound_codec="flac")
    report = reconstruct(source, target, small)
    assert streams(target)[4] == pytest.approx(1.7, abs=0.01)
    assert report.video.psnr is None
    assert report.audio.snr is not None
    assert report.info.kind == "sound"


def test_a_still_image_becomes_a_png(small, tmp_path):
    with av.open(str(ASSETS / "bbb_scene.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "still.jpg")
    report = reconstruct(tmp_path / "still.jpg", tmp_path / "out.png", small)
    assert streams(tmp_path / "out.png")[:3] == (256, 256, 1)
    assert report.video.psnr > report.video.trivial_psnr + 6
    assert report.audio.count == 0


def test_no_sound_is_silence_and_said_so(small, tmp_path):
    source, target = tmp_path / "mute.mp4", tmp_path / "out.mp4"
    make_media(source, [numbered(i) for i in range(20)], [Fraction(i, 25) for i in range(20)])
    report = reconstruct(source, target, small)
    assert report.notes == ["no sound: silence is used"]
    assert streams(target)[4] == pytest.approx(0.8, abs=0.05)


def test_start_and_duration(identity, tmp_path):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
    frames = [numbered(i) for i in range(75)]
    make_media(source, frames, [Fraction(i, 25) for i in range(75)], beeps([1.5], 3.0))
    report = reconstruct(source, target, identity, start=1.0, duration=1.2)
    assert streams(target)[2] == 30
    assert report.windows[0].start == 1.0
    assert report.windows[-1].stop == pytest.approx(2.2)
    got = np.concatenate(
        [w.inputs["audio"][0, : w.samples, 0].numpy() for w in perceivio.read(target)]
    )
    assert beep_times(got, 16_000) == pytest.approx([0.5], abs=2e-3)


def test_read_and_write_are_counterparts(small, tmp_path):
    source, target = tmp_path / "in.mkv", tmp_path / "again.mp4"
    make_media(
        source,
        [numbered(i) for i in range(40)],
        [Fraction(i, 25) for i in range(40)],
        beeps([1.0], 1.6),
    )
    pairs = ((w, w.inputs) for w in perceivio.read(source, small, overlap=4))
    perceivio.write(target, pairs, small, overlap=4)
    before = np.concatenate(
        [w.inputs["image"][0, : w.frames].numpy() for w in perceivio.read(source, small)]
    )
    after = np.concatenate(
        [w.inputs["image"][0, : w.frames].numpy() for w in perceivio.read(target, small)]
    )
    assert before.shape == after.shape
    assert psnr(before, after) > 25  # H.264 in 4:2:0 lies between
    window = next(iter(perceivio.read(source, small)))
    perceivio.write(tmp_path / "one.mp4", small.reconstruct(window.inputs), small)
    assert streams(tmp_path / "one.mp4")[2] == 16
    with pytest.raises(perceivio.MediaError, match="already exists"):
        perceivio.write(tmp_path / "one.mp4", small.reconstruct(window.inputs), small)


def test_the_input_is_never_overwritten(small, tmp_path):
    source = tmp_path / "in.mp4"
    make_media(source, [numbered(i) for i in range(5)], [Fraction(i, 25) for i in range(5)])
    before = source.read_bytes()
    with pytest.raises(perceivio.PerceivioError, match="is the input itself"):
        reconstruct(source, source, small, overwrite=True)
    assert source.read_bytes() == before


def test_an_error_in_the_middle_leaves_nothing(identity, tmp_path):
    class Fails(Identity):
        def decode(self, latents, points):
            raise perceivio.PerceivioError("out of luck")

    with pytest.raises(perceivio.PerceivioError, match="out of luck"):
        reconstruct(ASSETS / "bbb_scene.mp4", tmp_path / "out.mp4", Fails(identity.config))
    assert list(tmp_path.iterdir()) == []


def test_classify_averages_the_windows(small):
    report = perceivio.classify(ASSETS / "digit.mp4", small)
    assert len(report.windows) == 3
    assert report.windows[1].start == pytest.approx(0.64)
    logits = [
        small.module.classify(window.inputs)[0].detach().double().numpy()
        for window in perceivio.read(ASSETS / "digit.mp4", small)
    ]
    wanted = np.mean([np.exp(row) / np.exp(row).sum() for row in logits], axis=0)
    assert report.classes[0].name == str(wanted.argmax()) == "5"
    assert report.classes[0].probability == pytest.approx(wanted.max(), abs=1e-5)


def test_names_and_sizes(small):
    info = type("Info", (), {"kind": "sound"})
    assert default_output("b.c", info) == Path("b.c_reconstruction.wav")
    clip = clip_format(small.config)
    assert shown_shape(clip, None) == (256, 256)
    assert shown_shape(clip_format(perceivio.preset("base")), None) == (224, 224)
    with pytest.raises(perceivio.PerceivioError, match="--size 5"):
        shown_shape(clip, 5)


def test_files_of_one_name_get_outputs_of_their_own():
    given = ["a.mp4", "b.webm", "b.avi", "x/c.mp4", "y/c.mp4", "/c.mp4"]
    wanted = ["a", "b.webm", "b.avi", "x_c.mp4", "y_c.mp4", "_c.mp4"]
    assert names_for(given) == wanted
