"""Parts of a file of latents, as files: by `ask`, and by `perceivio decode` in processes."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import beeps, make_media, numbered
from PIL import Image
from test_cli import fails_in_one_line, perceivio

import perceivio as package
from perceivio.asking import Ask, ask, timeline_of
from perceivio.autoencoder import Autoencoder
from perceivio.cli import main
from perceivio.model import InputError

CLIP = Path(__file__).parent.parent / "assets" / "bbb_scene.mp4"


@pytest.fixture(scope="module")
def small() -> Autoencoder:
    return package.load("small", device="cpu")


@pytest.fixture(scope="module")
def kept(small, tmp_path_factory) -> Path:
    """1.5 s of a film from its first second on: three windows, the last one not full."""
    path = tmp_path_factory.mktemp("kept") / "film.latents"
    package.encode(CLIP, path, small, start=1.0, duration=1.5, precision="float32")
    return path


@pytest.fixture(scope="module")
def reconstructed(small, kept) -> torch.Tensor:
    """The frames that `decode` writes of it, before they are enlarged and compressed."""
    with package.open_latents(kept) as file:
        return timeline_of(file, small).frames()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def frames_of(path: Path) -> tuple[np.ndarray, Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), stream.average_rate


def test_single_frames_as_pngs(small, kept, reconstructed, tmp_path):
    wanted = Ask(at=(1.2, 2.02), size=(64, 64))
    answer = ask(kept, tmp_path, small, wanted)
    assert [p.name for p in answer.written] == ["film_at_1.2.png", "film_at_2.02.png"]
    assert (answer.frames, answer.size, answer.samples) == (2, (64, 64), 0)
    found = pixels(answer.written[0]) / 255
    np.testing.assert_allclose(found, reconstructed[5].permute(1, 2, 0), atol=0.003)
    between = (reconstructed[25] + reconstructed[26]).permute(1, 2, 0) / 2
    found = pixels(answer.written[1]) / 255
    np.testing.assert_allclose(found, between, atol=0.01)  # mixed before they are cut to [0, 1]
    with pytest.raises(package.MediaError, match="already exists"):
        ask(kept, tmp_path, small, wanted)
    ask(kept, tmp_path, small, wanted, overwrite=True)


def test_a_span_as_a_film(small, kept, tmp_path):
    wanted = Ask(start=1.5, stop=2.0, rate=50, crop=(0.25, 0.25, 0.5, 0.5))
    answer = ask(kept, tmp_path / "part.mp4", small, wanted)
    assert (answer.frames, answer.size, answer.samples) == (25, (128, 128), 8000)
    frames, rate = frames_of(answer.written[0])
    assert (frames.shape, rate) == ((25, 128, 128, 3), 50)
    with package.open_latents(kept) as file:
        line = timeline_of(file, small)
        same = line.frames(1.5, 2.0, 50, (128, 128), (0.25, 0.25, 0.5, 0.5))
    assert np.abs(frames / 255 - same.permute(0, 2, 3, 1).numpy()).mean() < 0.02


def test_sound_alone_and_arrays(small, kept, reconstructed, tmp_path):
    found = ask(kept, tmp_path / "a.wav", small, Ask(start=1.25, stop=1.75))
    assert (found.frames, found.samples, found.classes) == (0, 8000, [])
    ask(kept, tmp_path / "all.npz", small, Ask(start=1.0, stop=1.2))
    with np.load(tmp_path / "all.npz") as arrays:
        np.testing.assert_allclose(arrays["image"], reconstructed[:5], atol=1e-5)
        np.testing.assert_allclose(arrays["image_times"], 1 + np.arange(5) / 25)
        assert (arrays["audio"].shape, int(arrays["audio_rate"])) == ((3200,), 16_000)
        assert arrays["label"].sum() == pytest.approx(1, abs=1e-5)
        assert list(arrays["label_names"]) == list("0123456789")
    ask(kept, tmp_path / "some.npy", small, Ask(at=(1.0, 1.04, 1.5), height=32))
    assert np.load(tmp_path / "some.npy").shape == (3, 3, 32, 32)


def test_a_still_image_and_sound_by_itself(small, tmp_path):
    Image.fromarray(numbered(5)).save(tmp_path / "still.png")
    package.encode(tmp_path / "still.png", tmp_path / "still.latents", small)
    answer = ask(tmp_path / "still.latents", tmp_path, small, Ask(crop=(0, 0, 1, 0.5)))
    assert [p.suffix for p in answer.written] == [".png"]
    assert answer.size == (256, 128)
    make_media(tmp_path / "a.wav", sound=beeps([0.3], 0.8), sound_codec="pcm_s16le")
    package.encode(tmp_path / "a.wav", tmp_path / "a.latents", small)
    answer = ask(tmp_path / "a.latents", tmp_path, small, Ask(start=0.2, stop=0.7))
    assert (answer.written[0].name, answer.samples) == ("a_part.wav", 8000)
    with pytest.raises(InputError, match="this recording has no picture"):
        ask(tmp_path / "a.latents", tmp_path, small, Ask(at=(0.3,)))


@pytest.mark.parametrize(
    ("target", "wanted", "words"),
    [
        ("a.png", {"at": (1.1, 1.2)}, "holds one frame, not 2"),
        ("a.png", {"at": (0.9,)}, "film.latents: 0.9 s is outside of the recording, .* 1 to 2.5"),
        ("a.npy", {}, "holds one array"),
        ("a.mp4", {"only": "classes"}, "classes are written to .npy or .npz"),
        ("a.wav", {"only": "image"}, "holds no picture"),
        ("a.npz", {"size": (8192, 8192)}, "more than 2 GiB of pixels"),
        ("none/a.npz", {"at": (1.0,)}, "no such folder"),
    ],
)
def test_what_cannot_be_written_is_said(small, kept, tmp_path, target, wanted, words):
    with pytest.raises(package.PerceivioError, match=words):
        ask(kept, tmp_path / target, small, Ask(**wanted))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked_is_said():
    with pytest.raises(package.PerceivioError, match="not for both"):
        Ask(at=(1.0,), start=0.5)
    with pytest.raises(package.PerceivioError, match="of audio, ask for a span"):
        Ask(at=(1.0,), only="audio")


def test_the_command(kept, tmp_path):
    size = ["--size", "96x128", "--crop", "0,0,0.5,0.5", "--preview"]
    found = perceivio("decode", kept, "--at", 1.25, *size, "-o", tmp_path / "a.png", "--json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert (told["frames"], told["size"], told["written"]) == (1, [96, 128], [f"{tmp_path}/a.png"])
    assert pixels(tmp_path / "a.png").shape == (96, 128, 3)
    found = perceivio("decode", kept, "--only", "classes", "--start", 1.2, "--duration", 0.5)
    assert found.returncode == 0, found.stderr
    assert "classes" in found.stdout
    assert "wrote" not in found.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--crop 1,2,3", "--crop 1,2,3: give TOP,LEFT,HEIGHT,WIDTH"),
        ("--crop a,b,c,d", "--crop a,b,c,d: give TOP,LEFT,HEIGHT,WIDTH"),
        ("--size 9xB", "--size 9xB: give HEIGHTxWIDTH"),
    ],
)
def test_options_that_are_no_numbers_are_refused_in_one_line(kept, capsys, options, words):
    with pytest.raises(SystemExit) as left:
        main(["decode", str(kept), "--at", "1.2", *options.split(), "--device", "cpu"])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_the_command_refuses_in_one_line(kept, tmp_path):
    result = perceivio("decode", kept, "--at", "9", cwd=tmp_path)
    fails_in_one_line(result, "film.latents: 9 s is outside of the recording")
    assert not list(tmp_path.iterdir())
