"""Each thing that perceivio does, once: what is run where it was installed from its wheel alone.

So nothing but the run-time dependencies and pytest is imported here, and the command is the one
that was installed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import perceivio

pytestmark = pytest.mark.smoke

ASSETS = Path(__file__).parent.parent / "assets"
DIGIT = ASSETS / "digit.mp4"  # shows and says 5


def command(*arguments, code=0):
    """The installed `perceivio` in a process of its own; what it wrote to both streams."""
    program = Path(sys.executable).with_name("perceivio")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def model():
    return perceivio.load("small")


def test_the_package_says_what_it_is():
    assert command("--version")[0].strip() == perceivio.__version__
    assert all(callable(getattr(perceivio, name)) for name in perceivio.__all__)


def test_the_shipped_weights_reconstruct(model, tmp_path):
    report = perceivio.reconstruct(DIGIT, tmp_path / "out.mp4", model)
    assert report.video.psnr > 20
    assert report.audio.snr > 3
    window = next(iter(perceivio.read(tmp_path / "out.mp4", model)))
    assert window.inputs["image"].shape == (1, 16, 3, 64, 64)


def test_the_command_classifies():
    out, _ = command("classify", str(DIGIT), "--json")
    assert json.loads(out)["classes"][0]["name"] == "5"


def test_latents_come_back_as_they_were_kept(model, tmp_path):
    perceivio.encode(DIGIT, tmp_path / "digit.latents", model)
    with perceivio.open_latents(tmp_path / "digit.latents") as file:
        kept = next(iter(file))
    window = next(iter(perceivio.read(DIGIT, model)))
    wanted = model.encode(window.inputs)
    assert torch.allclose(kept.latents, wanted, rtol=2e-3, atol=1e-4)  # kept as float16
    perceivio.decode(tmp_path / "digit.latents", tmp_path / "again.mp4", model)
    assert (tmp_path / "again.mp4").stat().st_size > 1000


def test_a_window_is_nearest_to_itself(model, tmp_path):
    files = [DIGIT, ASSETS / "bbb_scene.mp4"]
    perceivio.embed(files, tmp_path / "clips.parquet", model)
    (found,) = perceivio.search(DIGIT, tmp_path / "clips.parquet", model, top=1)
    assert found.file.endswith("digit.mp4")


def test_attention_is_shares(model):
    window = next(iter(perceivio.read(DIGIT, model)))
    found = perceivio.attention(model, window.inputs, latents=[0, 7])
    read = sum(x.reshape(*x.shape[:2], -1).sum(2) for x in found.reads.values())
    assert torch.allclose(read, torch.ones_like(read), atol=1e-4)


def test_all_models_are_listed():
    rows = json.loads(command("models", "--json")[0])["models"]
    assert [row["name"] for row in rows] == ["base", "base-176x", "base-352x", "small"]


def test_weights_convert_and_load(model, tmp_path):
    command("convert", "small", str(tmp_path / "mine"))
    again = perceivio.load(tmp_path / "mine")
    for name, value in model.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value)


def test_what_is_wrong_is_one_line(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no film\n")
    out, err = command("reconstruct", str(tmp_path / "text.mp4"), code=2)
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("perceivio: ")
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_training_says_which_packages_it_needs():
    """Where they are there, a process that is told they are not."""
    code = (
        "import sys; sys.modules.update(fsspec=None, accelerate=None, tensorboard=None)\n"
        "from perceivio.cli import main; main(['train', 'x.parquet', '-o', 'run'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "pip install 'perceivio[train]'" in done.stderr
