"""The paper's table, end to end: clips as Kinetics has them, DeepMind's pickle, random weights.

Names, annotations, class folders and broken files are as in Kinetics-700-2020; the classes and the
published model's sizes are the real ones.
"""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from data_files import command, make_broken, make_clip
from models import deepmind_parameters

import perceivio
from perceivio.config import preset
from perceivio.evaluation import paper
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import save_module

NAMES = ("video_autoencoding_checkpoint", "run352")
LINES = (  # label, id, start, end
    ("abseiling", "0347ZoDXyP0", 95, 105),
    ("massaging person's head", "-a_b-C9_xYz", 3, 13),
    ("zumba", "gone0000000", 5, 15),
    ("yoga", "empty000000", 0, 10),
    ("yoga", "text0000000", 0, 10),
)


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """val.csv beside class folders: two good clips, one that is missing, two that are broken."""
    folder = tmp_path_factory.mktemp("k700-2020")
    for first, (label, video, start, end) in enumerate(LINES[:2]):
        place = folder / "val" / label.replace("'", "") / f"{video}_{start:06}_{end:06}.mp4"
        make_clip(place, 40, 100 * first)
    broken = folder / "broken"
    make_broken(broken)
    (folder / "val" / "yoga").mkdir()
    for _, video, start, end in LINES[3:]:
        name = f"{video}_{start:06}_{end:06}.mp4"
        shutil.move(broken / f"{video.rstrip('0')}.mp4", folder / "val" / "yoga" / name)
    shutil.rmtree(broken)
    lines = ["label,youtube_id,time_start,time_end,split"]
    lines += [f"{label},{video},{start},{end},validate" for label, video, start, end in LINES]
    (folder / "val.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """DeepMind's pickle of the 88x model, and a folder of our own of a 352x one."""
    folder = tmp_path_factory.mktemp("weights")
    theirs = folder / "video_autoencoding_checkpoint.pystate"
    theirs.write_bytes(pickle.dumps({"params": deepmind_parameters(), "state": {}}))
    torch.manual_seed(1)
    ours = save_module(MultimodalAutoencoder(preset("base-352x")), folder / "run352" / "model")
    return theirs, ours


def test_one_command_from_annotations_to_the_table(capsys, kinetics, checkpoints, tmp_path):
    theirs, ours = checkpoints
    out = tmp_path / "table"
    told = command(
        capsys, "evaluate", theirs, kinetics / "val.csv", "--root", kinetics / "val",
        "--also", ours, "--paper", "--windows", 1, "--no-codecs", "--json", "-o", out,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "left out 1 missing: gone0000000_000005_000015.mp4" in told.stderr
    assert "left out 1 empty" in told.stderr
    assert "left out 1 corrupt" in told.stderr
    found = json.loads(told.stdout)
    rows = {row["name"]: row for row in found["paper"]}
    assert list(rows) == [each.name for each in paper.PAPER] + list(NAMES)
    assert [rows[name]["ratio"] for name in NAMES] == [88.0, 352.0]
    assert [rows[name]["latents"] for name in NAMES] == [[784, 512], [196, 512]]
    assert {row["clips"] for row in found["paper"][4:]} == {2}
    # The same figures by hand, through the model alone.
    model = perceivio.load(theirs)
    clips = [path for path in (kinetics / "val").glob("*/*.mp4") if path.parent.name != "yoga"]
    assert len(clips) == 2
    psnr, top1 = [], []
    for path in clips:
        window = list(perceivio.read(path, model))[1]  # the middle one of 1.6 s
        outputs = model.reconstruct(window.inputs)
        error = (outputs["image"].clamp(0, 1) - window.inputs["image"]).double().square().mean()
        psnr.append(-10 * np.log10(error.item()))
        best = model.classify(window.inputs, top=1)[0][0].name
        top1.append(best.replace("'", "") == path.parent.name)
    assert rows[NAMES[0]]["video_psnr"] == pytest.approx(np.mean(psnr), abs=2e-3)
    assert rows[NAMES[0]]["top1"] == pytest.approx(np.mean(top1))
    for name in NAMES:
        assert (out / name / "report.html").exists()

    again = command(
        capsys, "evaluate", theirs, kinetics / "val.csv", "--root", kinetics / "val",
        "--also", ours, "--paper", "--windows", 1, "--no-codecs", "-o", out,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    for cell in ("paper, 88x", "24.37", "10.2%", "784 x 512", "45.0%", "196 x 512", "352x"):
        assert cell in again.stdout

