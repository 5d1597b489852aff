"""Asking for a part: frames at any time, any size, crops, sound, previews, from one window and from
all windows of a file. Oracles: the plain module, Pillow, torch's own resampling, `Rejoin`."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_model import build, tiny

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.clips import Rejoin, Window
from perceivio.config import Modality
from perceivio.model import InputError
from perceivio.pipeline import clip_format
from perceivio.position import Grid, query_positions
from perceivio.queries import Look
from perceivio.timeline import Timeline

CLIP = Path(__file__).parent.parent / "assets" / "bbb_scene.mp4"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def small() -> Autoencoder:
    return perceivio.load("small", device="cpu")


@pytest.fixture(scope="module")
def kept(small) -> list[tuple[Window, torch.Tensor]]:
    """Windows of 2.1 s of a film, the last one not full, that share two frames; their latents."""
    windows = perceivio.read(CLIP, small, duration=2.1, overlap=2)
    return [(window, small.encode(window.inputs)) for window in windows]


@pytest.fixture(scope="module")
def latents(kept) -> torch.Tensor:
    return kept[1][1]


@pytest.fixture(scope="module")
def whole(small, latents) -> dict[str, torch.Tensor]:
    return small.decode(latents)


def points_model() -> Autoencoder:
    """One whose picture is asked point by point, as in `base`; its sound by patches of 4."""
    image = Modality(
        (4, 6, 8), 3, (1, 2, 2), (1, 1, 1), 3, (4, 3, 4), channel_axis=1, media="video", rate=10
    )
    audio = Modality((80,), 1, (4,), (4,), 5, (20,), media="audio", rate=200)
    return Autoencoder(build(tiny(modalities={"image": image, "audio": audio})))


def asked_of(model: Autoencoder, monkeypatch) -> list[dict]:
    """What the engine is asked from now on."""
    asked, decode = [], model.engine.decode

    def spy(latents, points=None):
        asked.append({"latents": latents, **(points or {})})
        return decode(latents, points)

    monkeypatch.setattr(model.engine, "decode", spy)
    return asked


# ---- positions


def test_whole_coordinates_have_the_trained_positions_to_the_bit():
    for n in (1, 3, 224, 1920):
        at = torch.arange(n)
        assert torch.equal(query_positions(n, at), query_positions(n))
        assert torch.equal(query_positions(n, at.double()), query_positions(n))
    np.testing.assert_allclose(query_positions(4, torch.tensor([0.5, 2.25])), [-0.75, 0.125])


def test_a_grid_of_trained_coordinates_asks_the_trained_queries():
    io = points_model().module.io("image")
    grid = Grid((torch.tensor([2.0]), torch.arange(6.0), torch.tensor([1.0, 7.0])))
    points = [(2 * 6 + y) * 8 + x for y in range(6) for x in (1, 7)]
    assert torch.equal(io.queries(grid), io.queries(torch.tensor(points)))
    assert len(grid) == 12


def test_features_between_are_those_of_the_formula():
    io = points_model().module.io("image")
    t, y, x = 1.5, 0.25, 6.75
    grid = Grid(tuple(torch.tensor([c], dtype=torch.float64) for c in (t, y, x)))
    p = np.array([-1 + 2 * t / 4, -1 + 2 * y / 6, -1 + 2 * x / 8])
    bands = [np.linspace(1, r / 2, 3) for r in (4, 3, 4)]
    angles = np.concatenate([np.pi * f * c for f, c in zip(bands, p, strict=True)])
    wanted = np.concatenate([p, np.sin(angles), np.cos(angles)])
    found = io.queries(grid)[0, : len(wanted)].detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([[0.0], [0.0]], "a grid of image needs 3 axes, not 2"),
        ([[0.0], [5.1], [0.0]], r"coordinates of image must lie in 0 .. 5"),
        ([[-0.1], [0.0], [0.0]], r"coordinates of image must lie in 0 .. 3"),
        ([[float("nan")], [0.0], [0.0]], r"must lie in 0 .. 3"),
        ([[], [0.0], [0.0]], "must be a 1-D tensor of coordinates"),
    ],
)
def test_grids_that_do_not_fit_are_refused(axes, words):
    model = points_model()
    grid = Grid(tuple(map(torch.tensor, axes)))
    for decode in (model.decode, model.module.decode):
        with pytest.raises(InputError, match=words):
            decode(torch.zeros(1, 6, 8), {"image": grid})


# ---- one window, a query a pixel


def test_every_pixel_is_asked_where_it_is():
    """Against the plain module, pixel by pixel, at positions written out here."""
    model = points_model()
    module, z = model.module, torch.randn(2, 6, 8)
    height, width, crop = 5, 3, (0.25, 0.5, 0.5, 0.4)
    found = model.frame(z, 0.13, size=(height, width), crop=crop)
    assert found.shape == (2, 3, height, width)
    for i, j in ((0, 0), (2, 1), (4, 2)):
        y = 6 * (crop[0] + crop[2] * (i + 0.5) / height) - 0.5
        x = 8 * (crop[1] + crop[3] * (j + 0.5) / width) - 0.5
        grid = Grid(tuple(torch.tensor([c]) for c in (0.13 * 10, y, x)))
        with torch.no_grad():
            wanted = module.decode(z, {"image": grid})["image"]
        torch.testing.assert_close(found[:, :, i, j], wanted[:, 0], **CLOSE)


def test_the_trained_size_gives_the_trained_pixels():
    model, z = points_model(), torch.randn(1, 6, 8)
    image = model.decode(z)["image"]
    torch.testing.assert_close(model.frames(z), image, **CLOSE)
    torch.testing.assert_close(model.frame(z, 0.2, size=(6, 8)), image[:, 2], **CLOSE)
    part = model.frame(z, 0.3, crop=(0.5, 0.25, 0.5, 0.5))
    torch.testing.assert_close(part, image[:, 3, :, 3:, 2:6], **CLOSE)


def test_beyond_the_outermost_pixels_they_are_asked_again():
    """Twice the size sees the same field of view: its outermost positions are a quarter of a step
    beyond the trained ones, where nothing was trained."""
    model = points_model()
    grid = perceivio.queries.Pictures.of(
        model.config.modalities["image"], [0.35], Look((12, 16))
    ).grid
    np.testing.assert_allclose(grid.axes[0], [3.0])  # until 0.4 s the last frame is on display
    np.testing.assert_allclose(grid.axes[1], [0, *np.arange(0.25, 5, 0.5), 5])
    np.testing.assert_allclose(grid.axes[2], [0, *np.arange(0.25, 7, 0.5), 7])


def test_a_preview_asks_for_few_pixels(monkeypatch):
    model, z = points_model(), torch.randn(1, 6, 8)
    asked = asked_of(model, monkeypatch)
    found = model.frame(z, 0.1, size=(6, 8), coarse=2)
    assert asked[0]["image"].shape == (1, 3, 4)
    few = model.frame(z, 0.1, size=(3, 4))
    wanted = F.interpolate(few, (6, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, wanted, **CLOSE)


# ---- one window, a query a block


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (97, 40), (24, 16)])
def test_other_sizes_of_blocks_are_resampled(small, latents, whole, size):
    wanted = F.interpolate(whole["image"][:, 5], size, mode="bicubic", antialias=True)
    torch.testing.assert_close(small.frame(latents, 0.2, size=size), wanted, **CLOSE)


def test_a_crop_enlarged_is_what_pillow_makes_of_it(small, latents, whole):
    found = small.frame(latents, 0.2, size=(90, 120), crop=(0.2, 0.3, 0.375, 0.5))[0]
    box = (0.3 * 64, 0.2 * 64, 0.8 * 64, 0.575 * 64)
    for channel, plane in zip(found, whole["image"][0, 5], strict=True):
        picture = Image.fromarray(plane.numpy())
        wanted = np.array(picture.resize((120, 90), Image.Resampling.BICUBIC, box=box))
        # Pillow looks no further than the box, so its edges differ.
        np.testing.assert_allclose(channel[8:-8, 8:-8], wanted[8:-8, 8:-8], atol=1e-4)


def test_between_frames_of_blocks_the_two_are_mixed(small, latents, whole):
    wanted = torch.lerp(whole["image"][:, 5], whole["image"][:, 6], 0.25)
    torch.testing.assert_close(small.frame(latents, 5.25 / 25), wanted, **CLOSE)
    found = small.frames(latents, 0.1, 0.26, rate=50)
    assert found.shape == (1, 8, 3, 64, 64)
    torch.testing.assert_close(found[:, 1::2], whole["image"][:, 3:7], **CLOSE)
    last = small.frame(latents, 0.64)
    torch.testing.assert_close(last, whole["image"][:, 15], **CLOSE)


def test_only_the_blocks_that_are_needed_are_asked(small, latents, monkeypatch):
    asked = asked_of(small, monkeypatch)
    small.frame(latents, 0.2)
    small.frame(latents, 0.2, crop=(0, 0.5, 0.25, 0.5))
    small.frames(latents, 0.28, 0.4)
    small.audio(latents, 0.1, 0.15)
    assert [a["image"].shape for a in asked[:3]] == [(1, 8, 8), (1, 2, 4), (2, 8, 8)]
    assert asked[3]["audio"].tolist() == [5, 6, 7]
    assert all(len(a) == 2 for a in asked)


def test_sound_alone(small, latents, whole):
    torch.testing.assert_close(small.audio(latents), whole["audio"], **CLOSE)
    found = small.audio(latents, 0.1, 0.2345)
    torch.testing.assert_close(found, whole["audio"][:, 1600:3752], **CLOSE)


def test_a_second_video_is_asked_by_its_name():
    depth = Modality(
        (2, 4, 4), 1, (1, 2, 2), (1, 1, 1), 3, (2, 2, 2), media="video", rate=10,
        beside="{stem}.depth.mp4",
    )  # fmt: skip
    image = Modality(
        (2, 4, 4), 3, (1, 2, 2), (1, 1, 1), 3, (2, 2, 2), channel_axis=1, media="video", rate=10
    )
    model = Autoencoder(build(tiny(modalities={"image": image, "depth": depth})))
    z = torch.randn(1, 6, 8)
    found = model.pictures(z, [0.0, 0.1], Look(), "depth")
    wanted = model.decode(z, {"depth": None})["depth"]
    torch.testing.assert_close(found, wanted.movedim(-1, 2), **CLOSE)
    with pytest.raises(InputError, match="this model has no sound"):
        model.audio(z)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m, z: m.frame(z, 0.65), "0.65 s is outside of the window, which lasts 0.64 s"),
        (lambda m, z: m.frame(z, -0.1), "outside of the window"),
        (lambda m, z: m.frame(z, 0.1, size=(0, 5)), "give .height, width., each 1 to 8192"),
        (lambda m, z: m.frame(z, 0.1, crop=(0.5, 0, 0.6, 1)), "as fractions of the picture"),
        (lambda m, z: m.frame(z, 0.1, crop=(0, 0, 0, 1)), "as fractions of the picture"),
        (lambda m, z: m.frame(z, 0.1, coarse=0), "coarse 0: give 1 or more"),
        (lambda m, z: m.frames(z, 0.3, 0.3), "stop must come later"),
        (lambda m, z: m.frames(z, 0.3, 0.4, rate=-1), "give more than 0"),
        (lambda m, z: m.audio(z, 0.3, 0.7), "a window lasts 0.64 s"),
        (lambda m, z: m.audio(z, 0.3, 0.2), "stop comes after start"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(small, latents, ask, words):
    with pytest.raises(InputError, match=words) as found:
        ask(small, latents)
    assert "\n" not in str(found.value)


# ---- all windows of a file


def timeline(small, kept, **more) -> Timeline:
    hop = 14
    windows = [window for window, _ in kept]
    frames = hop * (len(windows) - 1) + windows[-1].frames
    samples = 8960 * (len(windows) - 1) + windows[-1].samples
    z = torch.cat([latents for _, latents in kept])
    return Timeline(small, z, 2, more.pop("start", 0.0), frames, samples)


def rejoined(small, kept) -> dict[str, torch.Tensor]:
    """What `reconstruct` makes of the same windows: picture (T, 3, H, W), sound (m,)."""
    rejoin, parts = Rejoin(clip_format(small.config), 2), []
    for window, z in kept:
        found = small.decode(z, {"image": None, "audio": None})
        values = {"image": found["image"][0].clamp(0, 1), "audio": found["audio"][0, :, 0]}
        parts.append(rejoin.add(window, values | {"audio": values["audio"].clamp(-1, 1)}))
    parts.append(rejoin.finish())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_trained_times_are_answered_as_reconstruct_does(small, kept):
    line, wanted = timeline(small, kept), rejoined(small, kept)
    assert len(wanted["image"]) == line.frames_in_all == 53
    torch.testing.assert_close(line.frames(), wanted["image"], **CLOSE)
    torch.testing.assert_close(line.audio(), wanted["audio"], **CLOSE)
    for frame in (0, 13, 14, 15, 16, 29, 52):
        torch.testing.assert_close(line.frame(frame / 25), wanted["image"][frame], **CLOSE)
    part = line.audio(0.55, 1.25)
    torch.testing.assert_close(part, wanted["audio"][8800:20_000], **CLOSE)


@pytest.mark.parametrize("overlap", [0, 1, 3, 8])
def test_trained_times_agree_at_any_overlap(small, overlap):
    """Of a film that ends in the middle of a window."""
    windows = list(perceivio.read(CLIP, small, duration=2.0, overlap=overlap))
    rejoin, parts, latents = Rejoin(clip_format(small.config), overlap), [], []
    for window in windows:
        latents.append(small.encode(window.inputs))
        found = small.decode(latents[-1], {"image": None, "audio": None})
        values = {"image": found["image"][0].clamp(0, 1), "audio": found["audio"][0, :, 0]}
        parts.append(rejoin.add(window, values | {"audio": values["audio"].clamp(-1, 1)}))
    parts.append(rejoin.finish())
    wanted = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    line = Timeline(small, torch.cat(latents), overlap, 0.0, *map(len, wanted.values()))
    torch.testing.assert_close(line.frames(), wanted["image"], **CLOSE)
    torch.testing.assert_close(line.audio(), wanted["audio"], **CLOSE)
    odd = [line.frame(frame / 25) for frame in range(1, 50, 2)]
    torch.testing.assert_close(torch.stack(odd), wanted["image"][1::2], **CLOSE)


def test_times_between_windows_are_continuous(small, kept):
    """Over the fade from one window to the next, in steps of a twentieth of a frame."""
    line = timeline(small, kept)
    times = (torch.arange(13 * 20, 17 * 20, dtype=torch.float64) / 500).tolist()
    found = torch.cat(list(line.pictures(times, Look((16, 16)))))
    steps = (found[1:] - found[:-1]).abs().amax((1, 2, 3))
    frames = line.frames(13 / 25, 18 / 25, size=(16, 16))
    assert steps.max() < 0.35 * (frames[1:] - frames[:-1]).abs().amax()


def test_without_an_overlap_the_nearer_window_answers(small, kept):
    z = torch.cat([latents for _, latents in kept])
    line, image = Timeline(small, z), small.decode(z, {"image": None})["image"].clamp(0, 1)
    assert line.stop == pytest.approx(len(kept) * 0.64)
    torch.testing.assert_close(line.frame(15.4 / 25), image[0, 15], **CLOSE)
    torch.testing.assert_close(line.frame(15.6 / 25), image[1, 0], **CLOSE)
    torch.testing.assert_close(line.frame(line.stop), image[-1, 15], **CLOSE)


def test_only_the_windows_that_know_are_asked(small, kept, monkeypatch):
    line = timeline(small, kept)
    asked = asked_of(small, monkeypatch)
    line.frame(0.2)  # in the first window alone
    line.frame(0.59)  # in the fade to the second
    line.audio(0.70, 0.75)
    known = [next(k for k in range(4) if torch.equal(a["latents"][0], line.latents[k]))
             for a in asked]  # fmt: skip
    assert known == [0, 1, 0, 1]


def test_the_files_clock_is_kept(small, kept):
    late, line = timeline(small, kept, start=10.0), timeline(small, kept)
    torch.testing.assert_close(late.frame(10.5), line.frame(0.5), **CLOSE)
    assert late.times(rate=5) == pytest.approx([10 + i / 5 for i in range(11)])
    for ask in (late.frame, lambda second: late.frames(10, second)):
        with pytest.raises(InputError, match=r"12.2 s is outside of the recording, .* 10 to 12.1"):
            ask(12.2)
    with pytest.raises(InputError, match="stop must come after start"):
        late.audio(11.0, 10.5)


def test_more_frames_than_are_answered_at_once(small, kept):
    line = timeline(small, kept)
    stretches = list(line.pictures(line.times(0.0, 0.5, 200), Look((8, 8))))
    assert [len(part) for part in stretches] == [32, 32, 32, 4]
    torch.testing.assert_close(torch.cat(stretches)[::8], line.frames(0, 0.5, size=(8, 8)), **CLOSE)


def test_classes_are_the_mean_over_the_windows(small, kept):
    line = timeline(small, kept)
    each = torch.cat([small.probabilities(z) for _, z in kept])
    torch.testing.assert_close(line.probabilities(), each.mean(0))
    torch.testing.assert_close(line.probabilities(0.0, 0.5), each[0])
    assert line.classes(1) == small.predictions(each.mean(0), 1)


def test_a_recording_of_nothing_is_refused(small):
    with pytest.raises(InputError, match="at least one window"):
        Timeline(small, [])


def test_times_are_exact_where_fractions_are():
    """NTSC: frame 1,001 at 30000/1001 a second is no neighbour's."""
    from perceivio.queries import times_of

    rate = Fraction(30_000, 1001)
    assert len(times_of(0.0, 1001 / 30, float(rate))) == 1000
