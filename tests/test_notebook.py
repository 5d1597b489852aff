"""The tutorial runs from top to bottom in a kernel of its own, without a network, and what it says
is so. Its files are looked at with PyAV, pickle, safetensors and by their sizes."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import av
import nbformat
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from recipes.notebook import execute

REPOSITORY = Path(__file__).parents[1]
TUTORIAL = "notebooks/tutorial.ipynb"
NOWHERE = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook with its outputs, the folder that it wrote to, and the clone that it ran in."""
    clone, scratch = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("scratch")
    (clone / "notebooks").mkdir()
    shutil.copy(REPOSITORY / TUTORIAL, clone / TUTORIAL)
    (clone / "assets").symlink_to(REPOSITORY / "assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(scratch / "hub"))
        for name in PROXIES:
            patch.setenv(name, NOWHERE)
            patch.setenv(name.upper(), NOWHERE)
        notebook = execute(clone / TUTORIAL)  # raises where a cell fails
    (work,) = scratch.glob("perceivio-*")
    return notebook, work, clone


def printed(notebook, begin: str) -> str:
    """What the one cell with this text in it prints."""
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and begin in c.source]
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def test_every_cell_ran_without_a_word_of_warning(ran):
    notebook, _, clone = ran
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
    assert sorted(p.name for p in clone.rglob("*")) == ["assets", "notebooks", "tutorial.ipynb"]


def test_the_film_comes_back_with_picture_and_sound(ran):
    with av.open(str(ran[1] / "film.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        sound = np.concatenate([f.to_ndarray().ravel() for f in container.decode(audio=0)])
    assert len(frames) == 132
    assert sound.std() > 1e-4
    pictures = np.stack(frames).astype(float)[:, -128:]  # labels are above them
    left, right = pictures[:, :, :128], pictures[:, :, -128:]
    assert np.square(left - right).mean() < 0.1 * left.var()


def test_the_digit_is_a_five_seen_and_heard(ran):
    assert re.match(r"5 +9\d\.\d\d%", printed(ran[0], "perceivio.classify(digit, model"))
    lines = printed(ran[0], 'for given in (["image", "audio"]').splitlines()
    assert [re.split(" {2,}", line)[1].split()[0] for line in lines] == ["5", "5", "5"]


def test_latents_weigh_what_their_numbers_do(ran):
    sizes = {k: (ran[1] / f"film_{k}.latents").stat().st_size for k in ("float32", "int8", "int4")}
    numbers = 10 * 168 * 320  # 132 frames in windows of 16 that share 2
    assert 4 * numbers < sizes["float32"] < 4.1 * numbers
    assert numbers < sizes["int8"] < 1.1 * numbers
    assert numbers / 2 < sizes["int4"] < 0.6 * numbers


def test_pictures_are_there(ran):
    with Image.open(ran[1] / "film_reads.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    between = printed(ran[0], "moments = line.frames")
    first, last = (re.findall(rf"from the {end} ([\d.]+)", between) for end in ("first", "last"))
    assert len(first) == 5
    assert [*map(float, first)] == sorted(map(float, first))
    assert [*map(float, last)] == sorted(map(float, last), reverse=True)


def test_fine_tuning_teaches_the_classes(ran):
    told = printed(ran[0], "Declared.by")
    before, after = (int(n) for n in re.findall(r"(\d) of 9 right", told))
    lines = re.findall(r"(\w+) +taken for (\w+)", told)
    assert sum(true == said for true, said in lines[:9]) == before
    assert sum(true == said for true, said in lines[9:]) == after
    assert after > before
    assert after >= 7
    config = json.loads((ran[1] / "run" / "model" / "config.json").read_text())["config"]
    assert config["modalities"]["label"]["names"] == ["concert", "film", "screencast"]


def test_published_parameters_by_their_names(ran):
    """Both files that it makes hold all of them, and the hub is said to be out of reach."""
    assert "the hub cannot be reached" in printed(ran[0], '"deepmind/multimodal-perceiver"')
    tree = pickle.loads((ran[1] / "deepmind.pkl").read_bytes())["params"]
    names = json.loads(Path(__file__).with_name("deepmind_parameter_names.json").read_text())
    assert {m: {k: list(v.shape) for k, v in p.items()} for m, p in tree.items()} == names
    theirs = load_file(ran[1] / "huggingface" / "model.safetensors")
    assert sum(v.size for v in theirs.values()) == sum(
        v.size for parameters in tree.values() for v in parameters.values()
    )
    assert "largest difference 0.0\n" in printed(ran[0], "from_pickle = perceivio.load")


def test_it_is_kept_as_it_ran():
    """In the repository with its outputs, small, and naming no folder of anybody's machine."""
    path = REPOSITORY / TUTORIAL
    assert path.stat().st_size < 1_500_000
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = json.dumps([cell.outputs for cell in cells])
    assert not re.search(r"/(home|tmp|root|Users|work|usr)/", text.replace("base64", ""))
