"""The paper's table, end to end: clips as Kinetics has them, DeepMind's pickle, random weights.

Names, annotations, class folders and broken files are as in Kinetics-700-2020. One test has the
real classes and the published model's sizes; the others a model of six classes that takes no time.
"""

import json
import pickle
import shutil

import numpy as np
import pytest
from data_files import command, make_broken, make_clip
from evaluations import model
from models import deepmind_parameters

import perceivio
from perceivio.evaluation import paper


def make_kinetics(folder, good):
    """val.csv beside class folders: the good clips, one that is missing, two that are broken."""
    bad = [
        ("zumba", "gone0000000", 5, 15),
        ("yoga", "empty000000", 0, 10),
        ("yoga", "text0000000", 0, 10),
    ]
    for first, (label, video, start, end) in enumerate(good):
        place = folder / "val" / label.replace("'", "") / f"{video}_{start:06}_{end:06}.mp4"
        make_clip(place, 40, 100 * first)
    make_broken(folder / "broken")
    (folder / "val" / "yoga").mkdir()
    for _, video, start, end in bad[1:]:
        name = f"{video}_{start:06}_{end:06}.mp4"
        shutil.move(folder / "broken" / f"{video.rstrip('0')}.mp4", folder / "val" / "yoga" / name)
    shutil.rmtree(folder / "broken")
    lines = [f"{label},{video},{start},{end},validate" for label, video, start, end in good + bad]
    head = "label,youtube_id,time_start,time_end,split"
    (folder / "val.csv").write_text("\n".join([head, *lines]))
    return folder


def test_published_sizes_from_the_pickle(capsys, tmp_path):
    """The one row that can be had: 88x, from DeepMind's pickle, its figures done again by hand."""
    good = [("massaging person's head", "-a_b-C9_xYz", 3, 13)]
    kinetics = make_kinetics(tmp_path / "k700-2020", good)
    weights = tmp_path / "video_autoencoding_checkpoint.pystate"
    weights.write_bytes(pickle.dumps({"params": deepmind_parameters(), "state": {}}))
    told = command(
        capsys, "evaluate", weights, kinetics / "val.csv", "--root", kinetics / "val",
        "--paper", "--windows", 1, "--no-codecs", "--json", "-o", tmp_path / "table",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "left out 1 missing: gone0000000_000005_000015.mp4" in told.stderr
    assert "left out 1 empty" in told.stderr
    assert "left out 1 corrupt" in told.stderr
    *theirs, ours = json.loads(told.stdout)["paper"]
    assert theirs == json.loads(json.dumps([each.to_dict() for each in paper.PAPER]))
    assert (ours["name"], ours["ratio"]) == ("video_autoencoding_checkpoint", 88.0)
    assert (ours["latents"], ours["clips"], ours["windows"]) == ([784, 512], 1, 1)
    (clip,) = (kinetics / "val").glob("massaging*/*.mp4")
    loaded = perceivio.load(weights)
    window = list(perceivio.read(clip, loaded))[1]  # the middle one of 1.6 s
    outputs = loaded.reconstruct(window.inputs)
    for name, low in (("image", 0), ("audio", -1)):
        error = (outputs[name].clamp(low, 1) - window.inputs[name]).double().square().mean()
        wanted = -10 * np.log10(error.item())
        assert ours[{"image": "video_psnr", "audio": "audio_psnr"}[name]] == pytest.approx(
            wanted, abs=2e-3
        )
    best = loaded.config.classes()[1].names[outputs["label"].argmax()]
    assert ours["top1"] == (best == good[0][0])


def test_a_row_for_each_checkpoint(capsys, tmp_path, monkeypatch):
    good = [("ant", "0347ZoDXyP0", 95, 105), ("bee", "-a_b-C9_xYz", 3, 13)]
    make_kinetics(tmp_path, good)
    monkeypatch.chdir(tmp_path)
    model().save("88x")
    model(latents=3).save("run/model")
    asked = ["evaluate", "88x", "val.csv", "--root", "val", "--also", "run/model", "--paper"]
    ran = command(capsys, *asked, "--no-codecs", "-o", "table")
    assert ran.returncode == 0, ran.stderr
    for cell in ("paper, 88x", "24.37", "10.2%", "784 x 512", "45.0%", "6 x 16", "3 x 16"):
        assert cell in ran.stdout, cell
    rows = {line.split()[0]: line for line in ran.stdout.splitlines() if " x 16 " in line}
    assert {"88x", "run"} <= set(rows)
    for name in ("88x", "run"):
        assert (tmp_path / "table" / name / "report.html").exists()
    # Each is what it would be alone; the index is made once.
    index = (tmp_path / "table" / "val.parquet").stat().st_mtime_ns
    alone = command(
        capsys, "evaluate", "run/model", "val.csv", "--root", "val", "--no-codecs",
        "--json", "-o", "alone",
    )  # fmt: skip
    again = command(capsys, *asked, "--no-codecs", "--json", "-o", "table")
    found = json.loads(again.stdout)
    assert found["evaluations"][1]["figures"] == json.loads(alone.stdout)["figures"]
    assert found["paper"][-1]["clips"] == 2
    assert (tmp_path / "table" / "val.parquet").stat().st_mtime_ns == index


def test_annotations_that_are_none(capsys, tmp_path):
    (tmp_path / "val.csv").write_text("name,age\nx,3\n")
    model().save(tmp_path / "weights")
    asked = ["evaluate", tmp_path / "weights", tmp_path / "val.csv", "-o", tmp_path / "out"]
    ran = command(capsys, *asked)
    assert ran.returncode == 2
    assert "val.csv" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
