"""Indexing: real folders, Kinetics' annotations, broken files, and stores that are no disk."""

import json
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import fsspec
import pyarrow.parquet as parquet
import pytest
from data_files import command, hum, make_broken, make_clip
from media_files import make_media, numbered, read_number
from test_cli import fails_in_one_line, perceivio

from perceivio.config import preset
from perceivio.data.catalogue import DataError, Index
from perceivio.data.indexing import build
from perceivio.data.store import Place
from perceivio.excerpt import read_excerpt
from perceivio.pipeline import clip_format

FORMAT = clip_format(preset("small"))


@pytest.fixture
def folder(tmp_path):
    videos = tmp_path / "videos"
    make_clip(videos / "waving hand" / "b.mp4")
    make_clip(videos / "applauding" / "a.mkv", 30)
    make_clip(videos / "applauding" / "deeper" / "c.mp4", rate=44_100)
    (videos / "applauding" / "notes.txt").write_text("not a video")
    make_clip(videos / ".trash" / "gone.mp4")
    return videos


def test_a_folder_of_classes(folder, tmp_path):
    broken = make_broken(folder / "waving hand")
    result = perceivio("data", "index", folder, "-o", tmp_path / "i.parquet", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["clips"], found["classes"], found["other_files"]) == (3, 2, 1)
    reasons = list(broken.values())
    assert found["left_out"] == {
        reason: reasons.count(reason)
        for reason in (
            "missing",
            *dict.fromkeys(("empty", "corrupt", "truncated", "no picture")),
            "silent",
            "too short",
        )
    }
    for name, reason in broken.items():
        assert f"waving hand/{name}" in found["examples"][reason]
    rows = parquet.read_table(tmp_path / "i.parquet").to_pylist()
    assert [row["path"] for row in rows] == [
        "applauding/a.mkv",
        "applauding/deeper/c.mp4",
        "waving hand/b.mp4",
    ]
    assert [row["label"] for row in rows] == ["applauding", "applauding", "waving hand"]
    assert [row["duration"] for row in rows] == pytest.approx([1.2, 1.6, 1.6], abs=0.002)
    assert [row["sample_rate"] for row in rows] == [48_000, 44_100, 48_000]
    for row in rows:
        assert (row["width"], row["height"], row["frame_rate"]) == (96, 64, 25)
        assert row["has_audio"]
        assert row["size"] == (folder / row["path"]).stat().st_size
        assert row["start"] is row["stop"] is row["shard"] is row["offset"] is None
    assert Index.read(tmp_path / "i.parquet").classes == ("applauding", "waving hand")


def test_what_was_left_out_is_told_in_words(capsys, folder, tmp_path):
    make_broken(folder / "waving hand")
    run = ("data", "index", folder, "-o", tmp_path / "i.parquet", "--keep-silent", "--keep-short")
    result = command(capsys, *run)
    assert result.returncode == 0, result.stderr
    for line in ("left out       1 empty", "left out       2 corrupt", "kept       1 too short"):
        assert line in result.stdout
    rows = parquet.read_table(tmp_path / "i.parquet").to_pylist()
    kept = {row["path"].split("/")[-1]: row for row in rows}
    assert not kept["silent.mp4"]["has_audio"]
    assert kept["silent.mp4"]["sample_rate"] is None
    assert kept["short.mp4"]["duration"] == pytest.approx(0.2)
    fails_in_one_line(command(capsys, *run), "already exists", "--overwrite")


def test_a_flat_folder_has_no_labels(tmp_path):
    make_clip(tmp_path / "a.mp4")
    index, report = build(str(tmp_path), shortest=1.0)
    assert index[0].label is None
    assert index.classes == ()
    assert report.labelled == 0
    with pytest.raises(DataError, match="1 too short"):
        build(str(tmp_path), shortest=1.7)


def test_sizes_are_those_that_a_player_shows(tmp_path):
    make_clip(tmp_path / "turned.mp4", rotation=(90, False))
    clip = build(str(tmp_path))[0][0]
    assert (clip.width, clip.height) == (64, 96)


@pytest.mark.parametrize("inside", [True, False])
def test_an_index_moves_with_its_folder(folder, tmp_path, inside):
    home = folder if inside else tmp_path
    build(str(folder))[0].write(Place.of(home / "i.parquet"))
    moved = tmp_path / "elsewhere"
    if inside:
        shutil.move(folder, moved)
    else:
        moved.mkdir()
        shutil.move(folder, moved / "videos")
        shutil.move(home / "i.parquet", moved)
    index = Index.read(moved / "i.parquet")
    assert len(index.bytes_of(index[0])) == index[0].size


def test_an_index_far_from_its_folder_can_be_told_where_that_is(folder, tmp_path):
    (tmp_path / "far").mkdir()
    build(str(folder))[0].write(Place.of(tmp_path / "far" / "i.parquet"))
    far = Index.read(tmp_path / "far" / "i.parquet")
    assert far.bytes_of(far[0])
    shutil.move(folder, tmp_path / "new")
    told = Index.read(tmp_path / "far" / "i.parquet", root=tmp_path / "new")
    assert told.bytes_of(told[0])


@pytest.fixture
def kinetics(tmp_path):
    """Annotations of six clips, of which two are not there, and class folders spelt otherwise."""
    videos = tmp_path / "videos"
    make_clip(videos / "massaging_persons_head" / "-a_b-C9_xYz_000003_000013.mp4")
    make_clip(videos / "tasting" / "abcdefghijk_000100_000110.mkv")
    make_clip(videos / "mixed" / "twice000000_000000_000010.mp4", first=100)
    make_clip(videos / "using, slowly" / "twice000000_000000_000010.mp4", first=200)
    (videos / "tasting" / "cut00000000_000001_000011.mp4").write_bytes(b"\0" * 3000)
    table = tmp_path / "train.csv"
    table.write_text(
        "\ufefflabel,youtube_id,time_start,time_end,split\r\n"
        "massaging person's head,-a_b-C9_xYz,3,13,train\r\n"
        "tasting,abcdefghijk,100,110,train\r\n"
        '"using, slowly",twice000000,0,10,train\r\n'
        "tasting,cut00000000,1,11,train\r\n"
        "tasting,gone0000000,5,15,train\r\n"
        "tasting,abcdefghijk,101,111,train\r\n",
        "utf-8",
    )
    return table


def test_kinetics_annotations(capsys, kinetics, tmp_path):
    out = tmp_path / "i.parquet"
    result = command(capsys, "data", "index", kinetics, "--root", tmp_path, "-o", out, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["left_out"]["missing"] == 2
    assert found["left_out"]["corrupt"] == 1
    assert found["examples"]["missing"] == [
        "gone0000000_000005_000015.mp4",
        "abcdefghijk_000101_000111.mp4",
    ]
    index = Index.read(out)
    assert index.classes == ("massaging person's head", "tasting", "using, slowly")
    assert [(clip.label, clip.start, clip.stop) for clip in index] == [
        ("massaging person's head", 3, 13),
        ("tasting", 100, 110),
        ("using, slowly", 0, 10),
    ]
    assert index[2].path.startswith("videos/using, slowly/")  # its own label's, not the other


def test_a_test_set_has_no_labels(kinetics):
    lines = kinetics.read_text("utf-8-sig").splitlines()
    kinetics.write_text("youtube_id,time_start,time_end\nabcdefghijk,100,110\n")
    index, _ = build(str(kinetics))
    assert index[0].label is None
    for text, words in (
        ("\n".join(line.replace("time_start", "begin") for line in lines), "no column time_start"),
        ("youtube_id,time_start,time_end\nabc,one,2\n", "line 2"),
        ("youtube_id,time_start,time_end\n", "not one clip"),
    ):
        kinetics.write_text(text)
        with pytest.raises(DataError, match=words):
            build(str(kinetics))


def test_any_store_gives_the_same_index(folder, tmp_path):
    make_broken(folder / "waving hand")
    local, report = build(str(folder))
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/a bucket/videos", recursive=True)
    try:
        for root in (folder.as_uri(), "memory://a bucket/videos"):
            index, same = build(root)
            assert index.table.equals(local.table)
            assert same == report
        index.write(Place.of("memory://a bucket/i.parquet"))
        memory.mv("/a bucket", "/another", recursive=True)
        read = Index.read("memory://another/i.parquet")
        with read.open(read[0]) as container:
            frames, sound = read_excerpt(container, 0, FORMAT)
        with local.open(local[0]) as container:
            expected = read_excerpt(container, 0, FORMAT)
        assert all((a == b).all() for a, b in zip(frames, expected[0], strict=True))
        assert (sound == expected[1]).all()
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_a_picture_shorter_than_its_sound_is_whole(tmp_path, name):
    times = [1 + Fraction(n, 25) for n in range(50)]
    make_media(tmp_path / name, [numbered(n) for n in range(50)], times, hum(4))
    clip = build(str(tmp_path))[0][0]
    assert clip.duration == pytest.approx(2.0, abs=0.002)


def test_a_clip_cut_without_encoding_begins_where_it_shows(tmp_path):
    """As Kinetics' are: the packets before the cut are there, and an edit list hides them."""
    whole = make_clip(tmp_path / "whole.mp4", 100)  # a keyframe every 12 frames
    folder = tmp_path / "videos"
    folder.mkdir()
    with av.open(str(whole)) as source, av.open(str(folder / "cut.mp4"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        source.seek(1_320_000)
        for packet in source.demux():
            if packet.dts is not None:
                before = round(Fraction(33, 25) / packet.time_base)
                packet.pts, packet.dts = packet.pts - before, packet.dts - before
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    index = build(str(folder))[0]
    assert index[0].duration == pytest.approx(67 / 25, abs=0.002)
    for start in (0, 1):
        with index.open(index[0]) as container:
            frames, _ = read_excerpt(container, Fraction(start), FORMAT)
        assert read_number(frames[0]) == 33 + 25 * start


def test_links_are_followed_and_those_to_nowhere_are_missing(tmp_path):
    make_clip(tmp_path / "far" / "a.mp4")
    folder = tmp_path / "videos"
    (folder / "inside").mkdir(parents=True)
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / "inside" / "b.mp4").symlink_to(tmp_path / "far" / "a.mp4")
    (folder / "inside" / "gone.mp4").symlink_to(tmp_path / "gone.mp4")
    (folder / "inside" / "round").symlink_to(folder)
    index, report = build(str(folder))
    assert [clip.path for clip in index] == ["inside/b.mp4", "linked/a.mp4"]
    assert report.left_out == {"missing": ["inside/gone.mp4"]}


def test_what_is_no_index_is_told(capsys, folder, tmp_path):
    show = ("data", "show", "-o", tmp_path / "s.png")
    fails_in_one_line(command(capsys, *show, tmp_path / "no.parquet"), "no such index")
    fails_in_one_line(command(capsys, *show, folder), "no such index")
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    fails_in_one_line(command(capsys, *show, text), "not an index")
    other = tmp_path / "other.parquet"
    parquet.write_table(build(str(folder))[0].table, other)
    fails_in_one_line(command(capsys, *show, other), "another program")


def test_bad_places_are_told_in_one_line(capsys, folder, tmp_path):
    run = ("data", "index", folder, "-o")
    fails_in_one_line(command(capsys, *run, tmp_path / "no" / "i.parquet"), "no such folder")
    fails_in_one_line(command(capsys, *run, tmp_path), "is a folder")
    fails_in_one_line(command(capsys, *run, "warp://x/i.parquet"), "warp")
    out = ("-o", tmp_path / "i.parquet")
    fails_in_one_line(command(capsys, "data", "index", tmp_path / "no", *out), "no such folder")
    fails_in_one_line(command(capsys, "data", "index", tmp_path / "no.csv", *out), "no.csv")
    fails_in_one_line(command(capsys, "data", "index", folder, "--root", folder, *out), "--root")
    (tmp_path / "bare").mkdir()
    fails_in_one_line(command(capsys, "data", "index", tmp_path / "bare", *out), "not one clip")
    assert not (tmp_path / "i.parquet").exists()


def test_without_the_extra_the_command_says_what_to_install(folder, tmp_path):
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from perceivio.cli import main\n"
        f"main(['data', 'index', {str(folder)!r}, '-o', {str(tmp_path / 'i.parquet')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    fails_in_one_line(result, "pip install 'perceivio[train]'")


@pytest.mark.parametrize("verb", ["index", "pack", "show"])
def test_every_verb_has_help_with_an_example(capsys, verb):
    result = command(capsys, "data", verb, "--help")
    assert result.returncode == 0
    assert f"Example: perceivio data {verb}" in result.stdout
