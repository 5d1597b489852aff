"""Packs: read by tarfile and PyAV, killed for real, and fetched from a store that is no disk."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import av
import fsspec
import numpy as np
import pyarrow.parquet as parquet
import pytest
from data_files import command, frames_of, make_broken, make_clip
from media_files import beep_times, make_flash_and_beep, read_number
from PIL import Image
from test_cli import fails_in_one_line

from perceivio.data.catalogue import Index
from perceivio.data.indexing import build
from perceivio.data.packing import Encoding, pack
from perceivio.data.store import Place
from perceivio.errors import MediaError
from perceivio.media import MediaReader


@pytest.fixture
def folder(tmp_path):
    videos = tmp_path / "videos"
    for n in range(6):
        make_clip(videos / f"class {n % 2}" / f"{n}.{'mkv' if n % 3 else 'mp4'}", first=50 * n)
    build(str(videos))[0].write(Place.of(tmp_path / "i.parquet"))
    return videos


def test_a_copy_is_a_tar_of_the_same_bytes(capsys, folder, tmp_path):
    out = tmp_path / "pack"
    run = ("data", "pack", tmp_path / "i.parquet", "-o", out, "--shard-mb", 0.1, "--json")
    report = json.loads(command(capsys, *run).stdout)
    index, packed = Index.read(tmp_path / "i.parquet"), Index.read(out / "index.parquet")
    shards = sorted(out.glob("*.tar"))
    assert report["clips"] == len(packed) == len(index) == 6
    assert report["shards"] == len(shards) > 1
    assert report["size"] == sum(clip.size for clip in index)
    assert packed.classes == index.classes
    members = {}
    for shard in shards:
        assert shard.stat().st_size < 0.1e6 + tarfile.RECORDSIZE
        with tarfile.open(shard) as tar:
            members |= {(shard.name, m.name): tar.extractfile(m).read() for m in tar}
    assert len(members) == 12
    for row, (before, after) in enumerate(zip(index, packed, strict=True)):
        source = (folder / before.path).read_bytes()
        suffix = before.path.rsplit(".")[-1]
        assert members[after.shard, f"{row:09d}.{suffix}"] == source
        whole = (out / after.shard).read_bytes()
        assert whole[after.offset : after.offset + after.size] == source == packed.bytes_of(after)
        told = json.loads(members[after.shard, f"{row:09d}.json"])
        assert (told["path"], told["label"]) == (before.path, before.label)
        assert (after.path, after.label, after.duration, after.sample_rate) == (
            (before.path, before.label, before.duration, before.sample_rate)
        )  # fmt: skip


def test_encoded_anew_it_is_small_and_quick_to_seek_in(folder, tmp_path):
    index = Index.read(tmp_path / "i.parquet")
    pack(index, Place.of(tmp_path / "pack"), encoding=Encoding(short_side=32, keyframes=8))
    packed = Index.read(tmp_path / "pack" / "index.parquet")
    for before, after in zip(index, packed, strict=True):
        assert (after.width, after.height, after.label) == (48, 32, before.label)
        assert after.path == before.path
        assert after.duration == pytest.approx(before.duration, abs=0.002)
        with packed.open(after) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.streams.audio[0].codec_context.name == "aac"
            keys = [p.is_keyframe for p in container.demux(video=0) if p.dts is not None]
        gaps = np.diff([n for n, key in enumerate([*keys, True]) if key])
        assert gaps.max() <= 8
        first = 50 * int(before.path.split("/")[1][0])
        numbers = [read_number(frame) for _, frame in frames_of(packed.bytes_of(after))]
        assert numbers == list(range(first, first + 40))


def test_encoded_anew_sound_stays_with_the_picture_and_the_picture_upright(tmp_path):
    (tmp_path / "videos").mkdir()
    make_flash_and_beep(tmp_path / "videos" / "a.mov", [10, 60], rotation=(90, False))
    index = build(str(tmp_path / "videos"))[0]
    pack(index, Place.of(tmp_path / "pack"), encoding=Encoding(short_side=256))
    packed = Index.read(tmp_path / "pack" / "index.parquet")
    assert (packed[0].width, packed[0].height) == (64, 96)  # turned, and never enlarged
    path = tmp_path / "b.mp4"
    path.write_bytes(packed.bytes_of(packed[0]))
    with MediaReader(path, 25, 48_000) as reader:
        frames, sound = reader.read(75, 144_000)
    assert [n for n, frame in enumerate(frames) if frame.mean() > 128] == [10, 60]
    assert beep_times(sound, 48_000) == pytest.approx([0.4, 2.4], abs=0.005)


def test_killed_it_goes_on_and_leaves_what_an_uninterrupted_run_leaves(folder, tmp_path):
    for n in range(6, 14):
        make_clip(folder / "more" / f"{n}.mp4", 100, first=50 * n)
    index = tmp_path / "i.parquet"
    build(str(folder))[0].write(Place.of(index))
    lost = folder / "class 0" / "2.mkv"
    lost.unlink()

    def run(out, **how):
        command = [sys.executable, "-m", "perceivio.cli", "data", "pack", str(index)]
        options = ["-o", str(out), "--shard-mb", "0.1", "--short-side", "48", "--json"]
        return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, **how)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    (killed / ".pack.json.part").write_bytes(b"{")  # killed before it had begun
    process = run(killed)
    deadline = time.monotonic() + 60
    while not (killed / "shard-00000.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not (killed / "index.parquet").exists()
    # Whether the kill hit a half-written shard is chance; so leave one behind in any case.
    finished = {path: path.stat() for path in killed.glob("*.tar")}
    (killed / f".shard-{len(finished):05d}.tar.part").write_bytes(b"half a shard")

    again, straight = run(killed).communicate()[0], run(whole).communicate()[0]
    first, second = json.loads(again), json.loads(straight)
    assert first["shards_before"] == len(finished) > 0 == second["shards_before"]
    assert first["shards"] == second["shards"] > len(finished)
    assert first["failed"] == second["failed"] == 1
    for path, before in finished.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    kept = parquet.read_table(whole / "index.parquet").column("path").to_pylist()
    assert "class 0/2.mkv" not in kept
    assert len(kept) == 13


def test_a_folder_with_something_else_in_it_is_left_alone(capsys, folder, tmp_path):
    run = ("data", "pack", tmp_path / "i.parquet", "-o")
    fails_in_one_line(command(capsys, *run, folder), "not empty")
    out = tmp_path / "pack"
    assert command(capsys, *run, out).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    fails_in_one_line(command(capsys, *run, out, "--keyframes", 5), "other clips or settings")
    make_clip(folder / "class 1" / "new.mp4")
    build(str(folder))[0].write(Place.of(tmp_path / "j.parquet"))
    again = ("data", "pack", tmp_path / "j.parquet", "-o", out)
    fails_in_one_line(command(capsys, *again), "other clips or settings")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert "from before" in command(capsys, *run, out).stdout  # nothing left to do


def test_a_damaged_pack_is_told_and_mended(capsys, folder, tmp_path):
    out, random = tmp_path / "pack", np.random.default_rng(0)
    run = ("data", "pack", tmp_path / "i.parquet", "-o", out, "--shard-mb", 0.02)
    assert command(capsys, *run).returncode == 0
    whole = {path: path.read_bytes() for path in out.iterdir()}
    shard = out / "shard-00001.tar"
    data = whole[shard]
    with tarfile.open(shard) as tar:
        row = tar.getmembers()[0]
    told = data[row.offset_data : row.offset_data + row.size]
    altered = [b"", b"no tar", data[:-1], data[: len(data) // 2], data[:700], bytes(len(data))]
    altered += [data[:512] + data[1024:], whole[out / "shard-00000.tar"], data + data]
    for text in (b"[" * row.size, b"{}", b"5", told.replace(b'"path"', b'"bath"'),
                 told.replace(b'"width": ', b'"width":"'), b"\xff" + told[1:]):  # fmt: skip
        text = text[: row.size].ljust(row.size)
        altered.append(data[: row.offset_data] + text + data[row.offset_data + row.size :])
    for place in random.integers(0, 512, 30):  # every byte of a header is under a checksum
        altered.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for each in altered:
        shard.write_bytes(each)
        fails_in_one_line(command(capsys, *run), "shard-00001.tar: damaged, or of another pack")
        assert shard.read_bytes() == each
    shard.unlink()  # which is what the line says to do
    assert command(capsys, *run).returncode == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == whole
    for note in (b"", b"{", b"\xff", b"[" * 100_000):
        (out / "pack.json").write_bytes(note)
        fails_in_one_line(command(capsys, *run), "pack.json: damaged")


def test_a_pack_lives_on_any_store(folder, tmp_path):
    index = Index.read(tmp_path / "i.parquet")
    memory = fsspec.filesystem("memory")
    try:
        pack(index, Place.of("memory://bucket/pack"), shard_megabytes=0.1)
        pack(index, Place.of(tmp_path / "pack"), shard_megabytes=0.1)
        local = {path.name: path.read_bytes() for path in (tmp_path / "pack").iterdir()}
        assert {path.rsplit("/")[-1]: memory.cat(path) for path in memory.find("/bucket")} == local
        packed = Index.read("memory://bucket/pack/index.parquet")
        assert packed.bytes_of(packed[5]) == (folder / packed[5].path).read_bytes()
        again = pack(index, Place.of("memory://bucket/pack"), shard_megabytes=0.1)
        assert again.shards_before == again.shards
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


def test_a_store_that_fails_stops_the_pack_and_thins_it_not(folder, tmp_path, monkeypatch):
    index, out = Index.read(tmp_path / "i.parquet"), Place.of(tmp_path / "pack")
    read = Place.read

    def unsteady(place, *span):
        if place.name == "5.mkv":
            raise ConnectionResetError("connection reset by peer")
        return read(place, *span)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", unsteady)
        with pytest.raises(MediaError, match=r"5\.mkv: cannot be read: connection reset"):
            pack(index, out, shard_megabytes=0.04)
    assert not (out / "index.parquet").exists()
    report = pack(index, out, shard_megabytes=0.04)
    assert (report.clips, report.failed) == (6, [])
    assert report.shards_before == 2


def test_encoded_anew_a_clip_with_damage_in_it_is_left_out(tmp_path):
    path = make_clip(tmp_path / "videos" / "bad.mkv", 100)
    make_clip(tmp_path / "videos" / "good.mkv")
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data) // 2, 97):
        data[at] ^= 0x5A
    path.write_bytes(data)
    index = build(str(tmp_path / "videos"))[0]
    assert len(index) == 2  # its beginning and its end are well
    report = pack(index, Place.of(tmp_path / "pack"), encoding=Encoding(short_side=32))
    assert report.failed == ["bad.mkv"]


def test_a_contact_sheet_shows_the_middle_of_clips(capsys, folder, tmp_path):
    out = tmp_path / "sheet.png"
    run = ("data", "show", tmp_path / "i.parquet", "-o", out, "--count", 4)
    assert command(capsys, *run).returncode == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (4 + 2 * 142, 4 + 2 * 164, 3)
    shown = {
        read_number(sheet[4 + 142 * line + 30 : 4 + 142 * line + 90, left : left + 96])
        for line in range(2)
        for left in (4 + 32, 4 + 164 + 32)
    }
    assert len(shown) == 4
    assert shown <= {50 * n + 20 for n in range(6)}  # frame 20 of 40
    fails_in_one_line(command(capsys, *run), "already exists")
    assert command(capsys, *run, "--seed", 1, "--overwrite").returncode == 0
    assert (np.asarray(Image.open(out)) != sheet).any()
    fails_in_one_line(command(capsys, *run[:4], tmp_path / "x.jpg"), ".png")


def test_a_contact_sheet_notes_what_it_cannot_read(capsys, folder, tmp_path):
    (folder / "class 0" / "0.mp4").write_bytes(b"\0" * 5000)
    result = command(capsys, "data", "show", tmp_path / "i.parquet", "-o", tmp_path / "s.png")
    assert result.returncode == 0
    assert "class 0/0.mp4: cannot be read" in result.stderr
    assert "6 of 6 clips" in result.stdout


def test_broken_clips_break_no_pack(tmp_path):
    broken = make_broken(tmp_path / "videos")
    make_clip(tmp_path / "videos" / "good.mp4")
    index = build(str(tmp_path / "videos"), keep_silent=True, keep_short=True)[0]
    report = pack(index, Place.of(tmp_path / "pack"), encoding=Encoding(short_side=32))
    packed = Index.read(tmp_path / "pack" / "index.parquet")
    assert report.failed == []
    assert {clip.path for clip in packed} == {"good.mp4", "silent.mp4", "short.mp4"}
    assert "silent.mp4" in broken
    with av.open(str(tmp_path / "videos" / "silent.mp4")) as container:
        frames = container.streams.video[0].frames
    silent = next(clip for clip in packed if not clip.has_audio)
    assert len(frames_of(packed.bytes_of(silent))) == frames
