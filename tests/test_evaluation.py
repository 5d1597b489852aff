"""Evaluations of real files, in Python: what is counted, what is written, what goes on."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import command
from evaluations import CLASSES, FRAMES, SAMPLES, STAND_INS, Perfect, make, make_folder, model

import perceivio
from perceivio.data.catalogue import Index
from perceivio.errors import PerceivioError
from perceivio.evaluation.baselines import baselines
from perceivio.evaluation.examine import Examiner, _place
from perceivio.evaluation.figures import Wanted
from perceivio.evaluation.run import evaluate
from perceivio.evaluation.sources import Sources
from perceivio.evaluation.windows import Reading
from perceivio.pipeline import clip_format, read
from perceivio.quantise import pack, unpack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "result"
    found = evaluate(model(), folder, output, baselines=STAND_INS)
    return found, output, json.loads((output / "evaluation.json").read_text())


def row_of(told, name):
    return next(row for row in told["rows"] if row["name"].endswith(name))


def rows_of(output):
    with (output / "files.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---- the figures of files


def test_a_files_figures_are_means_over_its_windows(result, folder):
    """Every window by hand: through the model alone, measured by itself, weighed by its length."""
    _, _, told = result
    own, path = model(), folder / "ant/2.mkv"
    sums, weights = dict.fromkeys(("video_psnr", "audio_snr"), 0.0), [0.0, 0.0]
    for window in read(path, own):
        inputs = {name: window.inputs[name] for name in ("image", "audio")}
        got = own.decode(own.encode(inputs), {"image": None, "audio": None})
        frames, sound = inputs["image"][0], inputs["audio"][0, :, 0]
        wanted = Wanted(frames[: window.frames], sound[: window.samples], 8000)
        figures = wanted.figures(got["image"][0], got["audio"][0, :, 0])
        sums["video_psnr"] += window.frames / FRAMES * figures["video_psnr"]
        sums["audio_snr"] += window.samples / SAMPLES * figures["audio_snr"]
        weights = [weights[0] + window.frames / FRAMES, weights[1] + window.samples / SAMPLES]
    found = row_of(told, "ant/2.mkv")["figures"]["minute"]
    assert weights == [2.25, 2.25]  # nine frames
    assert found["video_psnr"] == pytest.approx(sums["video_psnr"] / 2.25, abs=1e-4)
    assert found["audio_snr"] == pytest.approx(sums["audio_snr"] / 2.25, abs=1e-4)
    assert row_of(told, "ant/2.mkv")["windows"] == 3


def test_baselines_stand_beside_on_the_same_windows(result):
    _, _, told = result
    assert list(told["notes"]) == ["minute", "perfect", "grey"]
    perfect = told["figures"]["perfect"]
    assert perfect["video_psnr"] == {"mean": 100, "low": 100, "high": 100, "files": 6}
    assert perfect["video_ssim"]["mean"] == 1
    assert "audio_psnr" not in told["figures"]["grey"]
    assert told["kept"]["grey"] == {"image_bits": 0}
    assert told["kept"]["perfect"] == {"values": 10_000}
    assert told["kept"]["minute"] == {"values": 96}
    for row in told["rows"]:
        assert row["figures"]["grey"]["video_psnr"] == pytest.approx(
            -10 * math.log10(0.25), abs=0.05
        )  # numbered frames are black and white


def test_the_figure_of_all_is_the_mean_over_files(result):
    _, _, told = result
    for what in ("video_psnr", "audio_snr", "log_mel"):
        values = [row["figures"]["minute"][what] for row in told["rows"]]
        figure = told["figures"]["minute"][what]
        assert figure["mean"] == pytest.approx(np.mean(values), abs=1e-5)
        assert min(values) <= figure["low"] < figure["mean"] < figure["high"] <= max(values)


# ---- classes


def test_classes_are_scored_with_the_label_masked(result, folder):
    _, _, told = result
    own = model()
    for name, label in (("ant/1.mkv", 0), ("ant/2.mkv", 0), ("bee/1.mkv", 1)):
        rows = []
        for window in read(folder / name, own):
            latents = own.encode({key: window.inputs[key] for key in ("image", "audio")})
            rows.append(own.probabilities(latents)[0].numpy())
        ranks = [int((row > row[label]).sum()) for row in rows]
        mean = np.mean(rows, axis=0)
        wanted = {
            "top1": np.mean([rank < 1 for rank in ranks]),
            "top5": np.mean([rank < 5 for rank in ranks]),
            "clip_top1": int(mean.argmax() == label),
            "clip_top5": int((mean > mean[label]).sum() < 5),
            "predicted": CLASSES[mean.argmax()],
            "probability": pytest.approx(mean.max(), abs=1e-5),
        }
        assert row_of(told, name)["classified"] == wanted
    assert row_of(told, "yak/1.mkv")["classified"] is None
    assert told["unknown"] == {"yak": 1}
    assert told["unlabelled"] == 2
    assert told["figures"]["minute"]["clip_top1"]["files"] == 3
    assert told["chance"]["guessing"] == {"top1": pytest.approx(1 / 6), "top5": 5 / 6}
    assert told["chance"]["the most frequent"] == {"top1": pytest.approx(2 / 3), "top5": 1}
    assert told["classes"]["ant"]["files"] == 2
    assert sum(told["classes"]["ant"]["taken_for"].values()) == 2


def test_the_label_is_never_shown(folder, monkeypatch):
    own, given = model(), []
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda inputs: given.append(set(inputs)) or encode(inputs))
    Examiner(own, ())(Sources.of([folder], own.config)[0])
    assert given
    assert all(names == {"image", "audio"} for names in given)


def test_of_equal_probabilities_the_earlier_comes_first():
    same = torch.tensor([0.2, 0.4, 0.2, 0.2])
    assert [_place(same, n) for n in range(4)] == [1, 0, 2, 3]


# ---- latents as they are kept


@pytest.mark.parametrize("precision", ["float16", "int8", "int4"])
def test_figures_are_those_of_kept_latents(folder, precision):
    own = model()
    found = evaluate(own, folder / "2.mkv", precision=precision, windows=1, codecs=False)
    window = next(iter(read(folder / "2.mkv", own, start=0.32, duration=0.16)))
    latents = own.encode({name: window.inputs[name] for name in ("image", "audio")})
    back = unpack(pack(latents[0], precision), precision, 6, 16)[None]
    image = own.decode(back, {"image": None})["image"][0]
    wanted = Wanted(window.inputs["image"][0], None, 0).figures(image, None)["video_psnr"]
    assert found.summary.figures["minute"]["video_psnr"].mean == pytest.approx(wanted, abs=1e-4)
    bits = {"float16": 16 * 96, "int8": 8 * 96 + 32 * 16, "int4": 4 * 96 + 32 * 16}[precision]
    assert found.model["bits"] == bits
    whole = 8 * FRAMES * 16 * 24 * 3 + 16 * SAMPLES
    assert found.model["compression"]["bits"] == pytest.approx(whole / bits)


# ---- the real baselines, and the command


def test_the_real_baselines_and_the_command(folder, tmp_path, capsys, monkeypatch):
    own = model()
    own.save(tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    ran = command(capsys, "evaluate", "weights", folder / "bee", folder / "2.mkv")
    assert ran.returncode == 0, ran.err
    names = [each.name for each in baselines(own.config)]
    for word in ("minute", *names, "picture", "PSNR", "SSIM", "SNR", "log-mel", "values", "bits",
                 "over 6 x 16 latent numbers", "No file has a class"):  # fmt: skip
        assert word in ran.stdout.replace("\n", " "), word
    assert "Of 2 files only" in ran.stdout
    told = json.loads((tmp_path / "weights_evaluation/evaluation.json").read_text())
    assert list(told["notes"]) == ["minute", *names]
    assert told["kept"]["area pooling"]["values"] <= 96
    assert told["kept"]["zonal DCT"]["values"] <= 96
    assert told["figures"]["silence"]["audio_snr"]["mean"] == 0
    again = command(capsys, "evaluate", "weights", folder / "bee", folder / "2.mkv", "--json")
    assert json.loads(again.stdout) == {k: v for k, v in told.items() if k != "rows"}
    other = command(capsys, "evaluate", "weights", folder / "bee", "--no-codecs")
    assert other.returncode == 2
    assert "other settings (files, data, baselines)" in " ".join(other.stderr.split())
    assert other.stdout == ""


def test_a_file_that_cannot_be_read_is_counted(folder, tmp_path, capsys):
    model().save(tmp_path / "weights")
    data = tmp_path / "data"
    make(data / "good.mkv", 4)
    (data / "empty.mp4").touch()
    (data / "text.mp4").write_text("no film\n" * 99)
    arguments = ("evaluate", tmp_path / "weights", data, "--no-codecs", "-o", tmp_path / "out")
    ran = command(capsys, *arguments)
    assert ran.returncode == 0
    assert "2 files could not be evaluated" in ran.stdout
    assert f"left out: {data}/empty.mp4: is empty" in ran.stderr
    assert command(capsys, *arguments, "--strict").returncode == 2
    rows = rows_of(tmp_path / "out")
    assert [bool(row["failed"]) for row in rows] == [True, False, True]
    (data / "good.mkv").unlink()
    ran = command(capsys, *arguments[:4], "-o", tmp_path / "none")
    assert ran.returncode == 2
    assert "none of 2 files could be evaluated" in ran.stderr
    assert not (tmp_path / "none/evaluation.json").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [("absent", "no such file or folder"), ("clips.csv", "perceivio data index"),
     ("clips.parquet", "no such index"), ("bare", "no clips are there")],
)  # fmt: skip
def test_bad_data_is_told_in_one_line(data, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(PerceivioError, match=words):
        evaluate(model(), data)


# ---- where clips come from


def test_an_index_and_a_pack_say_the_same_as_their_folder(folder, tmp_path, capsys):
    index, pack_folder = tmp_path / "clips.parquet", tmp_path / "pack"
    assert command(capsys, "data", "index", folder, "-o", index, "--keep-short").returncode == 0
    assert command(capsys, "data", "pack", index, "-o", pack_folder).returncode == 0
    assert len(Index.read(index)) == 6
    summaries = []
    for data in (folder, index, pack_folder / "index.parquet"):
        found = evaluate(model(), data, baselines=STAND_INS).to_dict()
        summaries.append({k: v for k, v in found.items() if k not in ("settings", "places")})
        assert all(name.startswith(str(data)) for name in found["places"].values())
    assert summaries[0] == summaries[1] == summaries[2]


def test_a_file_named_itself_has_no_class_and_a_limit_takes_the_first(folder):
    config = model().config
    found = Sources.of([folder / "ant/1.mkv", folder], config)
    assert [source.label for source in found] == [None, None, None, "ant", "ant", "bee", "yak"]
    assert found[6].name == f"{folder}/yak/1.mkv"
    few = Sources.of([folder], config, limit=2)
    assert [Path(source.name).name for source in few] == ["2.mkv", "3.mkv"]
    assert few.identity != Sources.of([folder], config).identity


def test_sound_alone_and_picture_alone(folder, tmp_path):
    make(tmp_path / "mute.mkv", 8, sound=False)
    found = evaluate(model(), tmp_path / "mute.mkv", baselines=[Perfect()])
    assert set(found.summary.figures["minute"]) == {"video_psnr", "video_ssim"}
    assert set(found.summary.figures["perfect"]) == {"video_psnr", "video_ssim"}
    hums = perceivio.read(folder / "3.mkv", model())
    sound = np.concatenate([w.inputs["audio"][0, : w.samples, 0].numpy() for w in hums])
    with perceivio.writer.MediaWriter(tmp_path / "hum.wav", None, None, 8000) as writer:
        writer.write(None, sound)
    found = evaluate(model(), tmp_path / "hum.wav", tmp_path / "out", baselines=[Perfect()])
    assert set(found.summary.figures["minute"]) == {"audio_psnr", "audio_snr", "log_mel"}
    assert found.ranked_by == "audio_snr"


def test_some_windows_spread_evenly(tmp_path):
    clip = clip_format(model().config)
    path = make(tmp_path / "long.mkv", 42)  # ten windows and a half
    assert [w.start for w in Reading(path, clip, None)] == pytest.approx(
        [0.16 * n for n in range(11)]
    )
    found = list(Reading(path, clip, 2))
    assert [w.start for w in found] == pytest.approx([0.16 * 2, 0.16 * 7])
    whole = list(Reading(path, clip, 99))
    for window, same in zip(found, (whole[2], whole[7]), strict=True):
        assert torch.equal(window.inputs["image"], same.inputs["image"])
        assert (window.frames, window.samples) == (FRAMES, SAMPLES)


# ---- going on


def test_what_was_finished_is_not_done_again(folder, tmp_path, monkeypatch):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    evaluate(model(), folder, whole, baselines=STAND_INS)
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for kept, half in ((1, b""), (3, lines[3][:40]), (7, b"")):
        torn.mkdir(exist_ok=True)
        (torn / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + half)
        done = []
        examine = Examiner.__call__

        def counted(self, source, progress, done=done, examine=examine):
            done.append(source.name)
            return examine(self, source, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Examiner, "__call__", counted)
            evaluate(model(), folder, torn, baselines=STAND_INS)
        assert len(done) == 7 - kept
        for name in ("journal.jsonl", "evaluation.json", "files.csv", "report.html"):
            assert (torn / name).read_bytes() == (whole / name).read_bytes(), name


def test_other_settings_and_foreign_folders_are_refused(folder, tmp_path):
    output, own = tmp_path / "out", model()
    evaluate(own, folder / "2.mkv", output, baselines=STAND_INS)
    with pytest.raises(PerceivioError, match=r"other settings \(precision\)"):
        evaluate(own, folder / "2.mkv", output, baselines=STAND_INS, precision="int8")
    other = model(name="other")
    with torch.no_grad():
        other.module.encoder.latents.add_(1)
    with pytest.raises(PerceivioError, match=r"other settings \(model\)"):
        evaluate(other, folder / "2.mkv", output, baselines=STAND_INS)
    found = evaluate(other, folder / "2.mkv", output, baselines=STAND_INS, overwrite=True)
    assert found.summary.files == 1
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "journal.jsonl").write_text("dear diary")
    with pytest.raises(PerceivioError, match="is no journal"):
        evaluate(own, folder / "2.mkv", foreign, baselines=STAND_INS)
    assert (foreign / "journal.jsonl").read_text() == "dear diary"
    (foreign / "journal.jsonl").rename(foreign / "diary.txt")
    with pytest.raises(PerceivioError, match="is not empty"):
        evaluate(own, folder / "2.mkv", foreign, baselines=STAND_INS)


# ---- the report


def test_the_page_holds_figures_and_pictures(result):
    found, output, _ = result
    page = (output / "report.html").read_text()
    places = set(found.places)
    assert places == {"best", "median", "worst"}
    assert page.count("data:image/png;base64,") == 3
    assert {path.stem for path in (output / "pictures").iterdir()} == places
    figure = found.summary.figures["minute"]["video_psnr"]
    assert f"{figure.mean:.2f} [{figure.low:.2f}, {figure.high:.2f}]" in page
    for heading in ("Best, median and worst", "What the columns are", "What the rows are",
                    "By class", "Compression"):  # fmt: skip
        assert heading in page
    assert not re.search(r"(src|href)=.http", page)
    scores = [found.places[place].figures["minute"]["video_psnr"] for place in places]
    rows = sorted(float(row["minute: video_psnr"]) for row in rows_of(output))
    assert {min(scores), max(scores)} == {rows[0], rows[-1]}


def test_nothing_is_left_half_written_or_without_output(result, folder, tmp_path, monkeypatch):
    _, output, _ = result
    assert sorted(path.name for path in output.iterdir()) == [
        "evaluation.json", "files.csv", "journal.jsonl", "pictures", "report.html",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert perceivio.evaluate is evaluate
    evaluate(model(), [folder / "2.mkv"], baselines=STAND_INS)
    assert not list(tmp_path.iterdir())


def test_names_are_escaped(tmp_path):
    make(tmp_path / "data" / "<b>bold</b>" / "x&y.mkv", 4)
    evaluate(model(), tmp_path / "data", tmp_path / "out", baselines=[Perfect()])
    page = (tmp_path / "out/report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;bold" in page


# ---- memory

MEASURE = """
import resource, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from evaluations import model
from perceivio.evaluation.run import evaluate
found = evaluate(model(), sys.argv[1], sys.argv[2], codecs=False)
print(found.summary.windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(data, output) -> tuple[int, float]:
    """Windows that were evaluated in a process of its own, and the megabytes that it took."""
    code = MEASURE.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(data), str(output)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    windows, kilobytes = map(int, ran.stdout.split())
    return windows, kilobytes / 1024


def test_memory_does_not_grow_with_files_or_their_length(tmp_path):
    some, many, long = (tmp_path / name for name in ("some", "many", "long"))
    first = make(some / "0.mkv", 4)
    for folder, count in ((some, 20), (many, 200)):
        folder.mkdir(exist_ok=True)
        for number in range(count):
            if folder / f"{number}.mkv" != first:
                (folder / f"{number}.mkv").write_bytes(first.read_bytes())
    make(long / "0.mkv", 800)
    (windows, of_some), *others = (peak(d, tmp_path / f"{d.name} out") for d in (some, many, long))
    assert windows == 20
    assert [each[0] for each in others] == [200, 200]
    assert all(taken < of_some + 15 for _, taken in others), (of_some, others)
