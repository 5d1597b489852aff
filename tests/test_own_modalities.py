"""Modalities of files beside clips, from the files to training to what `reconstruct` writes.

The oracles are np.interp, PyAV and the wave module by hand, and the scene that was drawn.
"""

import csv
import dataclasses
import json
import shutil
import tarfile
import wave
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from data_files import command, frames_of, hum
from media_files import make_media
from models import tiny_config
from training_runs import TINY, finish, losses, make_config
from training_runs import command as train

import perceivio
from perceivio.config import Config, ConfigError, Modality, preset
from perceivio.data.catalogue import COLUMNS, METADATA, DataError, Index
from perceivio.data.dataset import Augment, ClipDataset, as_inputs, check_beside, present
from perceivio.data.indexing import build
from perceivio.data.packing import pack
from perceivio.data.store import Place
from perceivio.errors import MediaError, PerceivioError
from perceivio.pipeline import clip_format
from perceivio.training.batches import draw_masks
from perceivio.training.settings import Objective, read_settings
from perceivio.training.start import Declared
from perceivio.writer import MediaWriter
from recipes.own import HEIGHT, RATE, SAMPLE_RATE, WIDTH, Scene, make, make_clip

SECONDS = 0.8
OWN = """
[model.config.modalities.depth]
media = "video"
beside = "{stem}.depth.mp4"
shape = [4, 8, 12]
channels = 1
channel_axis = 1
rate = 25
patch = [2, 4, 4]
output_patch = [2, 4, 4]
bands = 3
resolution = [2, 2, 3]
embed = 8
mean = 0.3
std = 0.2

[model.config.modalities.mic2]
media = "audio"
beside = "{stem}.mic2.wav"
shape = [1280]
channels = 1
rate = 8000
patch = [80]
output_patch = [40]
bands = 3
resolution = [16]
embed = 8
std = 0.1

[model.config.modalities.motion]
media = "table"
beside = "{stem}.motion.csv"
columns = ["pan", "tilt"]
shape = [8]
channels = 2
rate = 50
patch = [4]
output_patch = [4]
bands = 3
resolution = [2]
std = 14.0

[model.config.modalities.place]
beside = "{stem}.place.txt"
shape = []
channels = 2
names = ["indoors", "outdoors"]

[modalities.depth]
mask = 0.3
points = 8
[modalities.mic2]
mask = 0.3
points = 8
[modalities.motion]
loss = "l2"
weight = 0.05
mask = 0.5
[modalities.place]
mask = 0.5
"""
# What moves in the picture, and which way, must stay as it is.
STILL = ("data.area=[1.0, 1.0]", "data.aspect=[1.0, 1.0]", "data.flip=0.0")


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config"), TINY + OWN)


@pytest.fixture(scope="module")
def config(toml):
    return Declared.by(read_settings(toml)).begin(("blue", "red")).module.config


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "videos"
    make(folder, 6, SECONDS)  # the fifth, 004, has no motion.csv
    return folder


@pytest.fixture(scope="module")
def index(videos, config):
    found, _ = build(str(videos), beside=config.beside())
    return found


def rows_of(path: Path) -> np.ndarray:
    """The numbers of a CSV file with a heading: (n, columns)"""
    return np.array(list(csv.reader(path.read_text().splitlines()))[1:], float)


def wave_of(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768


def greys_of(path: Path) -> np.ndarray:
    """(T, 8, 12) of a grey video of HEIGHT x WIDTH, in [0, 1]: means of blocks"""
    grey = np.stack([frame[..., 0] for _, frame in frames_of(path)]) / 255
    return grey.reshape(len(grey), 8, HEIGHT // 8, 12, WIDTH // 12).mean((2, 4))


def copy_of(clip: Path, folder: Path, *without: str) -> Path:
    """The clip and what is beside it, but for some, in another folder."""
    for path in clip.parent.glob(f"{clip.stem}.*"):
        if not any(word in path.name for word in without):
            shutil.copy(path, folder)
    return folder / clip.name


# ---- declarations


def declare(**changes) -> Modality:
    plain = {
        "shape": (16,), "channels": 2, "patch": (4,), "output_patch": (4,), "bands": 2,
        "resolution": (4,), "media": "table", "rate": 25, "beside": "{stem}.motion.csv",
        "columns": ("a", "b"),
    }  # fmt: skip
    return Modality(**{**plain, **changes})


CLASSES = {
    "shape": (), "patch": (), "output_patch": (), "resolution": (), "media": None, "columns": (),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beside": "motion.csv"}, "{stem}"),
        ({"beside": "../{stem}.motion.csv"}, "own folder"),
        ({"beside": "{stem}.motion"}, "a .csv or a .parquet file"),
        ({"beside": ""}, "needs its file"),
        ({"media": "tabel"}, "video, audio or table"),
        ({"media": None}, "media must be"),
        ({"columns": ("a",)}, "1, not 2"),
        ({"columns": ("a", "time")}, "'time'"),
        ({"rate": None}, "needs its rate"),
        ({"media": "audio"}, "1 channel"),
        ({"media": "audio", "channels": 1}, "columns are for"),
        ({"media": "video", "columns": ()}, "1 or 3 channels"),
        ({**CLASSES, "names": ("a", "b")}, ".txt file"),
        ({**CLASSES, "beside": "{stem}.place.txt"}, "need their names"),
    ],
)
def test_a_wrong_declaration_is_told_in_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        declare(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_beside_lasts_as_long_as_the_clip():
    image = preset("small").modalities["image"]
    with pytest.raises(ConfigError, match=r"motion: 15 points at 25/s last 0.6 s.* 16 points"):
        Config({"image": image, "motion": declare(shape=(15,), patch=(5,), output_patch=(5,))})
    depth = dataclasses.replace(image, beside="{stem}.depth.mp4")
    with pytest.raises(ConfigError, match="clip itself"):
        dataclasses.replace(image, beside="{stem}.mp4")
    both = Config({"image": image, "depth": depth, "motion": declare()})
    assert both.media("video") == ("image", image)
    assert Config.from_dict(json.loads(json.dumps(both.to_dict()))) == both


def test_the_clips_own_classes_are_those_that_are_not_in_a_file():
    place = Modality((), 2, names=("in", "out"), beside="{stem}.place.txt")
    label, grid = Modality((), 3), tiny_config().modalities["depth"]
    assert Config({"a": place, "label": label, "grid": grid}).classes() == ("label", label)
    assert Config({"a": place, "z": label, "grid": grid}).class_sets() == ("z", "a")
    assert Config({"a": place, "grid": grid}).classes() is None
    with pytest.raises(ConfigError, match="label"):
        Config({"label": place, "grid": grid})


def test_configurations_from_before_are_read():
    for name in ("base", "small"):
        plain = preset(name).to_dict()
        for modality in plain["modalities"].values():
            for key in ("beside", "columns", "time"):
                del modality[key]
        assert Config.from_dict(plain) == preset(name)


def test_a_modality_of_no_file_is_told_before_any_data_is_read(toml):
    with pytest.raises(PerceivioError, match=r"model.config.modalities.place.*beside"):
        Declared.by(read_settings(toml, ["model.config.modalities.place.beside="]))


def test_small_learns_more_modalities(toml):
    """From the shipped weights: what is about the new is new, all else is kept."""
    text = toml.read_text().split("[model.config.modalities.depth]")[1]
    text = '[model]\nstart = "small"\n[model.config.modalities.depth]' + text
    for one, other in (("[4, 8, 12]", "[16, 8, 12]"), ("[1280]", "[5120]"), ("[8]", "[32]")):
        text = text.replace(f"shape = {one}", f"shape = {other}")
    path = toml.parent / "fine.toml"
    path.write_text(text)
    start = Declared.by(read_settings(path)).begin(())
    assert {each.name.split(".")[1] for each in start.anew} == {"depth", "mic2", "motion", "place"}
    assert {each.line for each in start.anew} == {
        f"modalities.{name}: {name} is a new modality"
        for name in ("depth", "mic2", "motion", "place")
    }


# ---- index and packs


def test_the_index_knows_what_is_beside(capsys, videos, toml, tmp_path):
    """Depth videos are no clips; files that are not what they should be are told and left out."""
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    clips = sorted(folder.rglob("00?.mp4"))
    assert len(clips) == 6
    one, two, three = clips[:3]
    one.with_suffix(".depth.mp4").write_bytes(b"")
    one.with_suffix(".place.txt").write_text("underwater")
    two.with_suffix(".motion.csv").write_text("time,pan\n0,1\n1,2\n")
    three.with_suffix(".mic2.wav").unlink()
    result = command(
        capsys, "data", "index", folder, "-o", tmp_path / "own.parquet", "-c", toml, "--json"
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["clips"] == 6
    assert told["beside"] == {
        "depth": {"there": 5, "missing": 0, "unfit": 1},
        "mic2": {"there": 5, "missing": 1, "unfit": 0},
        "motion": {"there": 4, "missing": 1, "unfit": 1},
        "place": {"there": 5, "missing": 0, "unfit": 1},
    }
    index = Index.read(tmp_path / "own.parquet")
    beside = {
        clip.path: {Path(b.path).name for b in clip.beside}
        for clip in map(index.__getitem__, range(6))
    }
    stem = one.stem
    assert beside[str(one.relative_to(folder))] == {f"{stem}.mic2.wav", f"{stem}.motion.csv"}
    words = command(
        capsys, "data", "index", folder, "-o", tmp_path / "b.parquet", "-c", toml
    ).stdout
    assert f"{two.stem}.motion.csv: no column 'tilt'; there are time, pan" in words
    assert "'underwater' is none of the classes indoors, outdoors" in words
    plain = command(
        capsys, "data", "index", folder, "-o", tmp_path / "plain.parquet", "--keep-silent"
    )
    assert "11 clips" in plain.stdout  # without a configuration, nobody can know


def test_clips_of_annotations_have_files_beside_them_too(config, videos, tmp_path):
    name = "abcdefghijk_000012_000022"
    (tmp_path / "clips").mkdir()
    for path in (videos / "red").glob("000.*"):
        shutil.copy(path, tmp_path / "clips" / path.name.replace("000.", f"{name}."))
    (tmp_path / "a.csv").write_text(
        "label,youtube_id,time_start,time_end\nswing,abcdefghijk,12,22\n"
    )
    index, report = build(str(tmp_path / "a.csv"), beside=config.beside())
    assert {name: found.there for name, found in report.beside.items()} == dict.fromkeys(
        ("depth", "mic2", "motion", "place"), 1
    )
    assert {Path(file.path).name.removeprefix(name) for file in index[0].beside} == {
        ".depth.mp4", ".mic2.wav", ".motion.csv", ".place.txt",
    }  # fmt: skip


def test_a_pack_goes_on_with_all_its_files(index, videos, tmp_path):
    """Behind a shard that was lost; and the tar alone says what belongs to what."""
    folder = tmp_path / "pack"
    whole = pack(index, Place.of(folder), shard_megabytes=0.1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shards = sorted(name for name in before if name.endswith(".tar"))
    assert len(shards) > 2
    assert whole.beside == 6 * 4 - 1
    for name in (shards[-1], "index.parquet"):
        (folder / name).unlink()
    pack(index, Place.of(folder), shard_megabytes=0.1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    found = {}
    for name in shards:
        with tarfile.open(folder / name) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    for row in range(6):
        clip = videos / index[row].path
        for suffix in (".mp4", ".depth.mp4", ".mic2.wav", ".motion.csv", ".place.txt"):
            if (path := clip.with_suffix(suffix)).exists():
                assert found[f"{row:09d}{suffix}"] == path.read_bytes()


def test_an_index_from_before_is_read(index, tmp_path):
    facts = {"version": 1, "root": "/nowhere", "root_is_relative": False, "classes": ["a"]}
    old = index.table.drop_columns("beside").replace_schema_metadata(
        {METADATA: json.dumps(facts).encode()}
    )
    parquet.write_table(old, tmp_path / "old.parquet")
    found = Index.read(tmp_path / "old.parquet")
    assert found.table.schema.names == COLUMNS.names
    assert found[0] == dataclasses.replace(index[0], beside=())


def test_the_files_that_are_declared_must_be_known(videos, config, index):
    plain, _ = build(str(videos), keep_silent=True)
    with pytest.raises(DataError, match=r"no file \{stem\}.depth.mp4 for depth.*--config"):
        check_beside(plain, clip_format(config))
    check_beside(index, clip_format(config))
    motion = dataclasses.replace(config.modalities["motion"], columns=("pan", "roll"))
    other = config.replace(modalities={**config.modalities, "motion": motion})
    with pytest.raises(MediaError, match="no column 'roll'; there are time, pan, tilt"):
        check_beside(index, clip_format(other))


# ---- training examples


def test_examples_hold_what_the_files_say(index, config, videos, tmp_path):
    """From files, from a pack, and from a store that is no disk."""
    pack(index, Place.of(tmp_path / "pack"))
    remote = Place.of("memory://own")
    pack(index, remote)
    fsspec.filesystem("memory").put(str(videos), "/videos", recursive=True)
    far = dataclasses.replace(index, root=Place.of("memory://videos"))
    packs = [
        Index.read(place)
        for place in (tmp_path / "pack" / "index.parquet", remote / "index.parquet")
    ]
    clip = clip_format(config)
    for row in range(6):
        path = videos / index[row].path
        examples = [
            ClipDataset(each, clip, ("blue", "red"), augment=None)[row]
            for each in (index, *packs, far)
        ]
        for other in examples[1:]:
            assert examples[0].keys() == other.keys()
            for key, value in examples[0].items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[key])), key
        example, start = examples[0], 0.32  # the middle 0.16 s of 0.8 s
        scene = Scene(int(path.stem))
        assert example["known"].tolist() == [True, True, path.stem != "004", True]
        assert config.modalities["place"].names[example["beside.place"]] == scene.place
        greys = greys_of(path.with_suffix(".depth.mp4"))[8:12]
        assert np.abs(example["beside.depth"][:, 0].numpy() / 255 - greys).mean() < 0.02
        heard = wave_of(path.with_suffix(".mic2.wav"))[round(start * SAMPLE_RATE) :: 2][:1280]
        assert np.abs(example["beside.mic2"][:, 0].numpy() - heard).max() < 2e-3
        if path.stem != "004":
            rows = rows_of(path.with_suffix(".motion.csv"))
            grid = start + np.arange(8) / 50
            wanted = [np.interp(grid, rows[:, 0], rows[:, n]) for n in (1, 2)]
            assert np.abs(example["beside.motion"].numpy() - np.stack(wanted, 1)).max() < 1e-4
            assert np.abs(np.stack(wanted, 1) - scene.motion(grid)).max() < 0.5
    batch = torch.utils.data.default_collate([ClipDataset(index, clip)[0, row] for row in range(6)])
    inputs = as_inputs(batch, clip, 2)
    assert {name: tuple(v.shape[1:]) for name, v in inputs.items()} == {
        name: m.value_shape for name, m in config.modalities.items()
    }
    assert inputs["depth"].max() <= 1
    assert present(batch, clip)["motion"].sum() == 5


def test_a_depth_video_is_cropped_and_mirrored_like_the_picture(tmp_path, config):
    """The same film at half the size beside it stays the same film; of another aspect, it is
    another view, which is only mirrored."""
    random = np.random.default_rng(0)
    film = random.integers(0, 256, (10, 8, 12, 3), np.uint8).repeat(12, 1).repeat(12, 2)
    (tmp_path / "v").mkdir()
    for name, frames in (("a.mp4", film), ("a.depth.mp4", film[:, ::2, ::2]), ("b.mp4", film),
                         ("b.depth.mp4", film[:, :, 24:-24])):  # fmt: skip
        with MediaWriter(tmp_path / "v" / name, 25, frames.shape[1:3]) as writer:
            writer.write(frames)
    image = config.modalities["image"]
    depth = dataclasses.replace(image, beside="{stem}.depth.mp4")
    clip = clip_format(Config({"image": image, "depth": depth}))
    found, _ = build(str(tmp_path / "v"), keep_silent=True, shortest=0, beside=clip.beside)
    for flip in (0.0, 1.0):
        data = ClipDataset(found, clip, augment=Augment(flip=flip))
        for epoch in range(5):
            same, other = data[epoch, 0], data[epoch, 1]
            pairs = [(e["image"].float(), e["beside.depth"].float()) for e in (same, other)]
            near, far = ((a - b).abs().mean().item() for a, b in pairs)
            assert near < 15
            assert near < far / 2


def times_and(pan, times=(0, 0.2, 0.4, 0.6, 0.8)) -> str:
    return "time,pan,tilt\n" + "".join(f"{t},{p},0\n" for t, p in zip(times, pan, strict=True))


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (times_and([1, 2, 3, 4, 5]), True),
        (times_and([1, 2, "", 4, 5]), False),  # a gap in the middle of the window
        (times_and(["", 2, 3, 4, 5]), True),  # one elsewhere
        (times_and([1, 2, 3], (0, 0.1, 0.2)), False),  # ends early
        (times_and([1, 2, 3], (0.6, 0.7, 0.8)), False),  # begins late
        (times_and([1, 2, 3], (0, 0.5, 0.4)), False),  # goes back
        ("", False),
        ("time,pan,tilt\n", False),
        ("time,pan,tilt\n0,a,b\n", False),
        ("time;pan;tilt\n0;1;1\n", False),
        (b"\xff\xfe\x00\x01" * 50, False),
    ],
)
def test_what_a_table_does_not_say_is_not_there(config, videos, tmp_path, content, known, caplog):
    """The window is from 0.32 to 0.48 s."""
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    index, _ = build(str(tmp_path), beside=config.beside())
    path = clip.with_suffix(".motion.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    example = ClipDataset(index, clip_format(config), augment=None)[0]
    assert example["known"].tolist() == [True, True, known, True]
    assert example["failures"] == 0
    assert not torch.isnan(example["beside.motion"]).any()
    if known:
        wanted = 1 + np.clip(0.32 + np.arange(8) / 50, 0, 0.8) / 0.2
        assert example["beside.motion"][:, 0].numpy() == pytest.approx(wanted, abs=1e-5)


def test_a_parquet_table_is_read_like_a_csv(config, videos, tmp_path):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    rows = rows_of(clip.with_suffix(".motion.csv"))
    names = ("tilt", "more", "s", "pan")  # in any order, of any kind of number
    columns = [rows[:, 2].astype(np.float32), rows[:, 0], rows[:, 0], rows[:, 1]]
    parquet.write_table(
        pa.table(dict(zip(names, columns, strict=True))), tmp_path / "000.imu.parquet"
    )
    motion = dataclasses.replace(config.modalities["motion"], beside="{stem}.imu.parquet", time="s")
    index, _ = build(str(tmp_path), beside=(("imu", motion), *config.beside()))
    both = dataclasses.replace(clip_format(config), beside=(("imu", motion), *config.beside()))
    example = ClipDataset(index, both, augment=None)[0]
    assert torch.allclose(example["beside.imu"], example["beside.motion"], atol=1e-4)


def test_damage_beside_a_clip_leaves_the_clip(config, videos, tmp_path, caplog):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    index, _ = build(str(tmp_path), beside=config.beside())
    depth = clip.with_suffix(".depth.mp4")
    depth.write_bytes(depth.read_bytes()[: depth.stat().st_size // 3])
    clip.with_suffix(".mic2.wav").unlink()
    clip.with_suffix(".place.txt").write_text("elsewhere")
    example = ClipDataset(index, clip_format(config), augment=None)[0]
    assert example["known"].tolist() == [False, False, True, False]
    assert (example["row"], example["failures"]) == (0, 0)
    assert sorted(record.message.split(" left out")[0] for record in caplog.records) == [
        "depth", "mic2", "place",
    ]  # fmt: skip


def test_something_is_always_left_to_tell_from(config):
    """A clip without motion does not count on it."""
    objectives = {name: Objective() for name in config.modalities}
    for name in ("image", "audio", "depth", "mic2", "motion"):
        objectives[name] = Objective(mask=0.6)
    flags = {
        name: torch.ones(400, dtype=torch.bool) for name in ("depth", "mic2", "place", "label")
    }
    flags |= {"motion": torch.arange(400) % 2 == 0}
    masked = draw_masks(3, torch.arange(400), flags, objectives, config)
    grids = torch.stack([masked[name] for name in ("image", "audio", "depth", "mic2", "motion")])
    assert not grids.all(0).any()
    assert masked["motion"][1::2].all()
    assert 60 < masked["motion"][::2].sum() < 150
    # With nothing but masked ones to be had, there is nothing to draw again for.
    objectives = {name: Objective(mask=1.0) for name in config.modalities}
    objectives["motion"] = Objective(mask=0.5)
    assert draw_masks(3, torch.arange(400), flags, objectives, config)["motion"][1::2].all()


# ---- reconstruct


class Identity:
    """Stands in for a model: its latents are its inputs, and of what it is not given it says 0."""

    def __init__(self, config):
        self.config = config

    def encode(self, inputs):
        return dict(inputs)

    def decode(self, latents, points):
        shapes = {name: self.config.modalities[name].value_shape for name in points}
        return {name: latents.get(name, torch.zeros(1, *shapes[name])) for name in points}

    def probabilities(self, latents, name):
        return torch.full((1, 2), 0.5)

    def predictions(self, probabilities, top, name):
        return []


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_what_a_model_gives_back_is_written_beside(config, tmp_path, overlap):
    """Through windows, crossfades and files: with a model that changes nothing, nothing changes."""
    clip = tmp_path / "clip.mp4"
    make_clip(clip, 3, 1.0)
    report = perceivio.reconstruct(clip, tmp_path / "out.mp4", Identity(config), overlap=overlap)
    assert report.notes == []
    rows = rows_of(clip.with_suffix(".motion.csv"))
    made = rows_of(tmp_path / "out.motion.csv")
    grid = np.arange(50) / 50
    assert made[:, 0] == pytest.approx(grid)
    for n in (1, 2):
        assert made[:, n] == pytest.approx(np.interp(grid, rows[:, 0], rows[:, n]), abs=1e-3)
    heard = wave_of(clip.with_suffix(".mic2.wav"))[::2]
    said = wave_of(tmp_path / "out.mic2.wav")
    assert len(said) == 8000
    assert np.abs(said - heard)[100:-100].max() < 3e-3
    shown = [frame for _, frame in frames_of(tmp_path / "out.depth.mp4")]
    assert len(shown) == 25
    assert shown[0].shape == (224, 336, 3)  # as high as the picture
    blocks = np.stack(shown)[..., 0].reshape(25, 8, 28, 12, 28).mean((2, 4)) / 255
    assert np.abs(blocks - greys_of(clip.with_suffix(".depth.mp4"))).mean() < 0.03
    assert report.beside["motion"].explained > 0.999
    assert (report.beside["mic2"].snr or 100) > 60
    assert set(report.written_beside) == {"depth", "mic2", "motion"}
    # And what was written are files beside a clip again.
    again = list(perceivio.read(tmp_path / "out.mp4", config))
    assert all({"depth", "mic2", "motion"} <= set(window.inputs) for window in again)


def test_windows_have_what_is_there(config, videos, tmp_path):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path, "mic2")
    clip.with_suffix(".motion.csv").write_text(times_and([1, 2, 3], (0, 0.2, 0.4)))
    clip.with_suffix(".depth.mp4").write_text("this is no film")
    windows = perceivio.read(clip, config)
    found = [sorted(set(window.inputs) - {"image", "audio"}) for window in windows]
    assert found == [["motion"]] * 3 + [[]] * 2
    assert len(windows.notes) == 3
    words = (
        ("no 000.mic2.wav beside it",),
        ("000.depth.mp4", "in 5 of 5"),
        ("ends early", "in 2 of 5"),
    )
    for several in words:
        assert any(all(word in note for word in several) for note in windows.notes), windows.notes


def test_outputs_of_a_model_are_written_in_python(config, tmp_path):
    torch.manual_seed(0)
    outputs = {name: torch.rand(1, *m.value_shape) for name, m in config.modalities.items()}
    motion = dataclasses.replace(config.modalities["motion"], beside="{stem}.imu.parquet")
    other = config.replace(modalities={**config.modalities, "motion": motion})
    perceivio.write(tmp_path / "a.mp4", outputs, other)
    made = parquet.read_table(tmp_path / "a.imu.parquet")
    assert made.column_names == ["time", "pan", "tilt"]
    assert np.array(made["tilt"]) == pytest.approx(outputs["motion"][0, :, 1].numpy())
    assert wave_of(tmp_path / "a.mic2.wav") == pytest.approx(
        outputs["mic2"][0, :, 0].numpy(), abs=1e-4
    )
    with av.open(str(tmp_path / "a.depth.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MediaError, match=r"a.depth.mp4 already exists"):
        perceivio.write(tmp_path / "a.mp4", outputs, other)
    assert sorted([*(path.name for path in tmp_path.iterdir()), "a.mp4"]) == before


def test_the_files_beside_an_input_are_not_written_over(config, videos, tmp_path):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    with pytest.raises(PerceivioError, match=r"000.depth.mp4: is an input itself"):
        perceivio.reconstruct(clip, tmp_path / "000.mkv", Identity(config), overwrite=True)


def test_two_modalities_of_one_file_are_written_to_two(config, videos, tmp_path):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    motion = config.modalities["motion"]
    parts = {
        name: dataclasses.replace(motion, columns=(name,), channels=1) for name in ("pan", "tilt")
    }
    both = Config({"image": config.modalities["image"], **parts})
    report = perceivio.reconstruct(clip, tmp_path / "o.mp4", Identity(both))
    assert {path.name for path in report.written_beside.values()} == {
        "o.motion.pan.csv", "o.motion.tilt.csv",
    }  # fmt: skip
    assert (tmp_path / "o.motion.tilt.csv").read_text().startswith("time,tilt\n0.0,")


def test_latents_that_are_kept_give_the_files_beside_too(config, videos, tmp_path):
    clip = copy_of(videos / "red" / "000.mp4", tmp_path)
    model = perceivio.Autoencoder(perceivio.MultimodalAutoencoder(config))
    wanted = perceivio.reconstruct(clip, tmp_path / "a.mp4", model)
    kept = perceivio.encode(clip, tmp_path / "x.latents", model, precision="float32")
    found = perceivio.decode(kept.written, tmp_path / "b.mp4", model)
    assert set(found.written_beside) == {"depth", "mic2", "motion"}
    for name, path in wanted.written_beside.items():
        if name != "depth":
            assert found.written_beside[name].read_bytes() == path.read_bytes()
    # x264's threads make other bytes of the same frames from run to run; the picture is the same.
    depths = (frames_of(each.written_beside["depth"]) for each in (wanted, found))
    both = (np.stack([frame for _, frame in frames]).astype(int) for frames in depths)
    assert np.abs(np.subtract(*both)).mean() < 1
    with perceivio.open_latents(kept.written) as file:
        names = {each.name for each in file.header.files}
    assert {"000.mp4", "000.depth.mp4", "000.mic2.wav", "000.motion.csv"} <= names


# ---- all of it


def test_from_files_to_training_to_reconstruct(capsys, videos, toml, tmp_path):
    """The real commands. What is learned is told from the picture where the motion is not there."""
    result = command(capsys, "data", "index", videos, "-o", tmp_path / "own.parquet", "-c", toml)
    assert result.returncode == 0, result.stderr
    result = command(capsys, "data", "pack", tmp_path / "own.parquet", "-o", tmp_path / "pack")
    assert result.returncode == 0, result.stderr
    changes = (
        f"data.validation={tmp_path / 'pack' / 'index.parquet'}",  # so that none is held out
        "schedule.steps=150", "optimiser.name=adamw", "optimiser.rate=0.005", "run.batch=6",
        "run.at_once=6", "modalities.image={weight = 0.2, points = 0}", "watch.validate=200",
        "keep.every=200", *STILL,
    )  # fmt: skip
    out = finish(train(tmp_path / "pack" / "index.parquet", tmp_path / "run", toml, *changes))
    lines = losses(tmp_path / "run")
    assert len(lines) == 150
    for name in ("motion_error", "depth", "place"):
        early, late = ([line[name] for line in part] for part in (lines[:15], lines[-15:]))
        assert np.mean(late) < 0.75 * np.mean(early), name
    for figure in ("motion_r2", "motion_r2_unseen", "depth_psnr", "depth_psnr_unseen", "mic2_snr",
                   "place_top1", "label_top1"):  # fmt: skip
        assert f"  {figure} " in out
    wanted, made = [], []
    model = tmp_path / "run" / "model"
    clips = [copy_of(clip, tmp_path, "motion") for clip in sorted(videos.rglob("00?.mp4"))]
    result = command(capsys, "reconstruct", *clips, "--model", model, "-o", tmp_path / "made")
    assert result.returncode == 0, result.stderr
    for clip in clips:
        assert f"no {clip.stem}.motion.csv beside it: motion is masked" in result.stderr
        target = tmp_path / "made" / f"{clip.stem}_reconstruction.mp4"
        made.append(rows_of(target.with_suffix(".motion.csv")))
        assert made[-1][:, 0] == pytest.approx(np.arange(40) / 50)
        wanted.append(Scene(int(clip.stem)).motion(made[-1][:, 0]))
        assert len(wave_of(target.with_suffix(".mic2.wav"))) == SECONDS * 8000
        assert len(frames_of(target.with_suffix(".depth.mp4"))) == SECONDS * RATE
    said, true = np.concatenate(made)[:, 1:], np.concatenate(wanted)
    assert np.square(said - true).sum() < 0.75 * np.square(true - true.mean(0)).sum()
    for word in ("place    indoors", "place    outdoors", "depth    PSNR", "mic2     PSNR"):
        assert word in result.stdout
    result = command(capsys, "classify", clips[0], "--model", model)
    assert "place: " in result.stdout
    result = command(capsys, "reconstruct", videos / "red" / "000.mp4", "--model", model,
                     "-o", tmp_path / "with.mp4", "--json")  # fmt: skip
    told = json.loads(result.stdout)
    assert told["notes"] == []
    assert set(told["beside"]) == {"depth", "mic2", "motion"}
    assert set(told["other_classes"]) == {"place"}
    assert Path(told["written_beside"]["motion"]).exists()


def test_training_without_the_files_is_one_line(capsys, videos, toml, tmp_path):
    command(capsys, "data", "index", videos, "-o", tmp_path / "plain.parquet", "--keep-silent")
    result = command(
        capsys, "train", tmp_path / "plain.parquet", "-o", tmp_path / "run", "-c", toml
    )
    assert result.returncode == 2
    assert "the index knows no file {stem}.depth.mp4 for depth" in result.stderr
    assert result.stderr.count("\n") == 1 or "Traceback" not in result.stderr


def test_the_example_in_the_docs_is_a_model(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "own-modalities.md").read_text()
    (tmp_path / "own.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    found = Declared.by(read_settings(tmp_path / "own.toml"))
    assert {name for name, _ in found.config.beside()} == {"depth", "mic2", "motion", "place"}
    assert set(found.settings.modalities) == set(found.config.modalities)
    for field in ("beside", "columns", "time", "media", "rate"):
        assert f"`{field}`" in page


def test_files_beside_a_clip_begin_with_its_first_frame(config, videos, tmp_path):
    """Also where its sound begins earlier."""
    frames = [frame for _, frame in frames_of(videos / "red" / "000.mp4")]
    times = [Fraction(10 + n, 25) for n in range(len(frames))]
    make_media(tmp_path / "a.mkv", frames, times, hum(1.2), sound_codec="pcm_s16le")
    (tmp_path / "a.motion.csv").write_text(times_and([0, 1, 2, 3, 4]))
    windows = [w for w in perceivio.read(tmp_path / "a.mkv", config) if "motion" in w.inputs]
    starts = [0.32, 0.48, 0.64, 0.8, 0.96, 1.12]  # the first lacks less than a tenth of a second
    assert [window.start for window in windows] == pytest.approx(starts)
    said = windows[1].inputs["motion"][0, :, 0].numpy()
    assert said == pytest.approx((0.48 - 0.4 + np.arange(8) / 50) / 0.2, abs=1e-5)
