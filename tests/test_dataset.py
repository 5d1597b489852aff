"""Training examples: what they are depends on (seed, epoch, index) and on nothing else."""

import logging

import numpy as np
import pytest
import torch
from data_files import hum_at, make_broken, make_clip
from hypothesis import given
from hypothesis import strategies as st
from media_files import RATE, beep_times, make_flash_and_beep, make_media, read_number, steady
from torch.utils.data import DataLoader

from perceivio.clip_format import ClipFormat
from perceivio.config import preset
from perceivio.data.catalogue import DataError, Index
from perceivio.data.dataset import (
    Augment,
    ClipDataset,
    Epochs,
    as_inputs,
    random_crop,
)
from perceivio.data.indexing import build
from perceivio.data.packing import pack
from perceivio.data.store import Place
from perceivio.errors import MediaError
from perceivio.model import MultimodalAutoencoder
from perceivio.pictures import scaled
from perceivio.pipeline import clip_format

FORMAT = ClipFormat(8, 64, 96, 25, 5120, 16_000)
MIRROR = Augment(area=(1, 1), aspect=(1, 1), flip=1.0)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Four clips of 60 frames, numbered from 0, 100, 200 and 300, of two classes and none."""
    folder = tmp_path_factory.mktemp("videos")
    for n, place in enumerate(("a/0.mp4", "a/1.mkv", "b/2.mp4", "3.mp4")):
        make_clip(folder / place, 60, first=100 * n)
    return build(str(folder))[0]


def numbers(example):
    """What the frames say, before they were flipped or cropped."""
    return [read_number(frame) for frame in example["image"].permute(0, 2, 3, 1).numpy()]


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)


def test_an_example_has_the_shapes_of_the_format(index):
    example = ClipDataset(index, FORMAT)[0]
    assert (example["image"].shape, example["image"].dtype) == ((8, 3, 64, 96), torch.uint8)
    assert (example["audio"].shape, example["audio"].dtype) == ((5120, 1), torch.float32)
    assert (example["row"], example["failures"]) == (0, 0)


def test_windows_are_whole_and_sound_is_theirs(index):
    data = ClipDataset(index, FORMAT, augment=Augment((1, 1), (1, 1), 0))
    seen = set()
    for epoch in range(20):
        shown = numbers(data[epoch, 1])  # paths are sorted: "3.mp4", "a/0.mp4", ...
        first = shown[0]
        assert shown == list(range(first, first + 8))
        seen.add(first)
        # The sound is that of a moment at which its first frame is on display.
        sound = data[epoch, 1]["audio"][500:1000, 0].numpy()
        begins = first / 25 + np.arange(0, 0.04, 1 / 16_000)
        heard = hum_at(begins[:, None] + np.arange(500, 1000) / 16_000)
        assert np.abs(heard - sound).mean(1).min() < 0.02
    assert min(seen) < 10
    assert max(seen) > 42
    assert len(seen) > 10


def test_a_flash_and_its_beep_stay_together(tmp_path):
    make_flash_and_beep(tmp_path / "a.mp4", [15])
    long = ClipFormat(50, 64, 96, 25, 96_000, RATE)
    data = ClipDataset(build(str(tmp_path))[0], long, augment=Augment((1, 1), (1, 1), 0))
    for epoch in range(5):
        example = data[epoch, 0]
        flashes = [n for n, frame in enumerate(example["image"]) if frame.float().mean() > 128]
        beeps = beep_times(example["audio"][:, 0].numpy(), RATE)
        if flashes and flashes[0] > 3:
            assert beeps[0] == pytest.approx(flashes[0] / 25, abs=0.041)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_order_change_nothing(index, workers):
    data = ClipDataset(index, FORMAT, seed=3)
    keys = [(epoch, row) for epoch in (1, 2) for row in (3, 1, 0, 2)]
    alone = {key: data[key] for key in reversed(keys)}
    loader = DataLoader(data, batch_size=None, sampler=keys, num_workers=workers,
                        multiprocessing_context="fork")  # fmt: skip
    for key, example in zip(keys, loader, strict=True):
        assert same(example, alone[key])
    assert not same(data[1, 0], data[2, 0])
    assert not same(data[1, 0], ClipDataset(index, FORMAT, seed=4)[1, 0])


def test_a_pack_gives_the_same_examples(index, tmp_path):
    pack(index, Place.of(tmp_path / "pack"))
    packed = ClipDataset(Index.read(tmp_path / "pack" / "index.parquet"), FORMAT)
    files = ClipDataset(index, FORMAT)
    assert all(same(packed[5, row], files[5, row]) for row in range(4))


def test_without_augmentation_the_middle_is_shown(index):
    square = ClipFormat(8, 32, 32, 25, 0, 0)
    data = ClipDataset(index, square, augment=None)
    example = data[7, 1]
    assert same(example, data[8, 1])
    assert "audio" not in example
    wide = numbers(ClipDataset(index, FORMAT, augment=None)[1])
    assert wide == list(range(26, 34))


def test_flips_mirror_every_frame(index):
    mirrored = ClipDataset(index, FORMAT, augment=MIRROR)[1]
    mirrored["image"] = mirrored["image"].flip(3)
    straight = ClipDataset(index, FORMAT, augment=Augment((1, 1), (1, 1), 0))[1]
    assert same(mirrored, straight)


@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(0.3, 3),
    st.integers(0, 2**32),
)
def test_crops_are_inside_and_as_asked(height, width, aspect, seed):
    augment = Augment(area=(0.2, 0.6))
    random = np.random.default_rng(seed)
    top, left, tall, wide = random_crop(height, width, aspect, augment, random)
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert tall * wide <= 0.6 * height * width + height + width
    if min(tall, wide) > 20:
        assert 0.74 * 0.95 < wide / tall / aspect < 1.34 * 1.05


def test_pictures_are_scaled_like_anybody_would():
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (64, 128, 3))
    small = scaled([ramp, ramp], 32, 64, flip=False)
    assert small.shape == (2, 3, 32, 64)
    assert (small[0, 0, 5, 2:-2].float() - (2 * torch.arange(64) + 0.5)[2:-2]).abs().max() <= 1
    assert torch.equal(scaled([ramp], 32, 64, flip=True), small[:1].flip(3))


def test_labels_count_in_the_models_classes(index):
    assert [ClipDataset(index, FORMAT)[row]["label"] for row in range(4)] == [-1, 0, 0, 1]
    data = ClipDataset(index, FORMAT, classes=("z", "b", "a"))
    assert [data[row]["label"] for row in range(4)] == [-1, 2, 2, 1]
    with pytest.raises(DataError, match=r"1 labels .* 'b' among them"):
        ClipDataset(index, FORMAT, classes=("a", "c"))


def test_a_clip_that_fails_is_replaced_counted_and_logged(tmp_path, caplog):
    for n in range(4):
        make_clip(tmp_path / f"{n}.mp4", first=100 * n)
    index = build(str(tmp_path))[0]
    make_broken(tmp_path / "worse")
    (tmp_path / "1.mp4").write_bytes((tmp_path / "worse" / "head.mp4").read_bytes())
    (tmp_path / "2.mp4").unlink()
    data = ClipDataset(index, FORMAT, seed=1)
    with caplog.at_level(logging.WARNING, "perceivio.data"):
        examples = [data[epoch, 1] for epoch in range(8)]
    assert {example["row"] for example in examples} == {0, 3}
    assert sum(example["failures"] for example in examples) == len(caplog.records) >= 8
    assert "1.mp4" in caplog.text
    assert all(same(data[epoch, 1], example) for epoch, example in enumerate(examples))
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    with pytest.raises(MediaError, match="10 clips in a row"):
        data[0]


def test_a_silent_clip_has_silence(tmp_path):
    frames = [np.full((64, 96, 3), n, np.uint8) for n in range(40)]
    make_media(tmp_path / "a.mp4", frames, steady(40, 25))
    example = ClipDataset(build(str(tmp_path), keep_silent=True)[0], FORMAT)[0]
    assert example["audio"].shape == (5120, 1)
    assert not example["audio"].any()


def test_epochs_shuffle_by_seed_and_epoch_and_go_on_anywhere():
    order = Epochs(100, seed=5, epoch=2)
    keys = list(order)
    assert sorted(keys) == [(2, row) for row in range(100)]
    assert keys == list(Epochs(100, seed=5, epoch=2)) != sorted(keys)
    order.set_epoch(3)
    assert [row for _, row in order] != [row for _, row in keys]
    order.set_epoch(2, first=60)
    assert list(order) == keys[60:]
    assert len(order) == 40


def test_a_batch_goes_into_the_model(index):
    config = preset("small")
    data = ClipDataset(index, clip_format(config), classes=[*"ab", *"01234567"])
    batch = next(iter(DataLoader(data, batch_size=4, sampler=Epochs(len(data)))))
    inputs = as_inputs(batch, data.format, 10)
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    assert shapes == {
        name: (4, *modality.value_shape) for name, modality in config.modalities.items()
    }
    assert inputs["image"].max() <= 1
    assert inputs["label"].sum() == 3  # one clip has no label
    with torch.inference_mode():
        assert MultimodalAutoencoder(config).encode(inputs).shape == (
            4,
            config.latents,
            config.latent_channels,
        )


def test_what_cannot_be_trained_on_is_told(index):
    with pytest.raises(DataError, match="pictures"):
        ClipDataset(index, ClipFormat(0, 0, 0, 25, 5120, 16_000))
    with pytest.raises(IndexError):
        ClipDataset(index, FORMAT)[4]
