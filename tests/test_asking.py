"""Parts of a file of latents, as files: by `ask`, and by `perceivio decode` in processes."""

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import beeps, make_media, numbered
from PIL import Image
from test_cli import fails_in_one_line, perceivio
from test_latents_file import header

import perceivio as package
from perceivio import latents
from perceivio.asking import Ask, ask, timeline_of
from perceivio.autoencoder import Autoencoder
from perceivio.cli import main
from perceivio.latents_writer import LatentsWriter
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
        ("a.png", {"size": (64, 64)}, "holds one frame; say of which second with --at"),
        ("a.png", {"at": (1.0,), "crop": (0, 0, 0, 1)}, "crop .* give"),
        ("a.png", {"at": (1.0,), "height": 0}, "each 1 to 8192 pixels"),
        ("a.mp4", {"rate": float("inf")}, "a frame rate of inf/s"),
        ("a.mp4", {"rate": 1e12}, "10000 at most"),
    ],
)
def test_what_cannot_be_written_is_said(small, kept, tmp_path, target, wanted, words):
    with pytest.raises(package.PerceivioError, match=words):
        ask(kept, tmp_path / target, small, Ask(**wanted))
    assert not list(tmp_path.iterdir())


def test_times_that_are_nearly_the_same_have_files_of_their_own(small, kept, tmp_path):
    answer = ask(kept, tmp_path, small, Ask(at=(1.2000001, 1.2000002, 1.2, 1.2)))
    names = [path.name for path in answer.written]
    assert names == [f"film_at_{second}.png" for second in ("1.2000001", "1.2000002", "1.2")]
    assert answer.frames == 3


def test_a_span_ends_with_the_recording(small, kept, reconstructed, tmp_path):
    answer = ask(kept, tmp_path / "a.npz", small, Ask(start=2.32, stop=100))
    assert (answer.frames, answer.samples) == (5, 2880)
    assert answer.media_seconds == pytest.approx(0.2)
    with pytest.raises(InputError, match="100 s is outside of the recording"):
        ask(kept, tmp_path / "b.npz", small, Ask(start=100, stop=101))


def test_while_sound_goes_on_the_last_frame_stays(small, tmp_path):
    frames, times = [numbered(i) for i in range(10)], [Fraction(i, 25) for i in range(10)]
    make_media(tmp_path / "a.mp4", frames, times, beeps([0.3], 1.5))
    package.encode(tmp_path / "a.mp4", tmp_path / "a.latents", small)
    whole = ask(tmp_path / "a.latents", tmp_path / "whole.npz", small)
    late = ask(tmp_path / "a.latents", tmp_path / "late.npz", small, Ask(start=1.0))
    assert whole.frames == 10
    assert late.frames == math.ceil(late.media_seconds * 25 - 1e-6) > 10
    with np.load(tmp_path / "whole.npz") as all_of_it, np.load(tmp_path / "late.npz") as end:
        held = all_of_it["image"][-1:].repeat(late.frames, 0)
        np.testing.assert_allclose(end["image"], held, atol=1e-5)


def test_the_input_is_not_written_over(small, kept, tmp_path):
    renamed = tmp_path / "a.png"
    renamed.write_bytes(kept.read_bytes())
    with pytest.raises(package.PerceivioError, match="is the input itself"):
        ask(renamed, renamed, small, Ask(at=(1.0,)), overwrite=True)
    assert renamed.read_bytes() == kept.read_bytes()


def test_to_find_where_sound_ends_few_records_are_read(small, tmp_path, monkeypatch):
    """Of a hundred windows in which sound is in the first alone."""
    head = header("float16", 168, 320, identity=small.identity)
    with LatentsWriter(tmp_path / "a.latents", head) as writer:
        for index in range(100):
            start = float(index * head.step)
            writer.add(start, start + 0.64, 16, 10_240 * (index < 1), torch.zeros(1, 168, 320))
        writer.finish()
    read, read_record = [], latents.read_record

    def told(file, head, first, index):
        read.append(index)
        return read_record(file, head, first, index)

    monkeypatch.setattr(latents, "read_record", told)
    with package.open_latents(tmp_path / "a.latents") as file:
        line = timeline_of(file, small)
    assert (line.frames_in_all, line.samples_in_all) == (14 * 99 + 16, 10_240)
    assert len(read) < 20


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
        ("--duration inf", 'Invalid value "inf" for --duration'),
        ("--start inf", 'Invalid value "inf" for --start'),
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
