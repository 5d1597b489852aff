"""The command in processes of its own: exit codes, one-line errors, JSON, nothing left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from command import unmeasured
from media_files import beeps, make_media, numbered

ASSETS = Path(__file__).parent.parent / "assets"


def perceivio(*arguments, cwd=None, **more):
    command = [sys.executable, "-m", "perceivio.cli", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **more}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


def fails_in_one_line(result, *words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("perceivio: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mkv"
    times = [Fraction(i, 25) for i in range(20)]
    make_media(path, [numbered(i) for i in range(20)], times, beeps([0.3], 0.8))
    return path


def test_help_names_every_verb_and_loads_nothing_heavy():
    code = (
        "import sys; from perceivio.cli import app\n"
        "app(['--help'], result_action='return_value')\n"
        "heavy = {'torch', 'av', 'numpy', 'PIL', 'safetensors', 'huggingface_hub', 'pyarrow'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for verb in ("reconstruct", "classify", "models", "convert", "evaluate"):
        assert verb in result.stdout
    assert "HEAVY []" in result.stdout


@pytest.mark.parametrize("verb", ["reconstruct", "classify", "models", "convert", "evaluate"])
def test_every_verb_has_help_with_an_example(verb):
    result = perceivio(verb, "--help")
    assert result.returncode == 0
    assert f"Example: perceivio {verb}" in result.stdout


def test_reconstruct_writes_and_reports(clip, tmp_path):
    result = perceivio("reconstruct", clip, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "clip_reconstruction.mp4").stat().st_size > 1000
    for word in ("PSNR", "SNR", "classes", "took", "clip_reconstruction.mp4"):
        assert word in result.stdout


def test_json_is_one_line_a_file(clip, tmp_path):
    other = tmp_path / "mute.mkv"
    make_media(other, [numbered(i) for i in range(5)], [Fraction(i, 25) for i in range(5)])
    result = perceivio("reconstruct", clip, other, "-o", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["video_psnr_db"] > 0
    assert first["media_seconds"] == pytest.approx(0.8)
    assert len(first["classes"]) == 5
    assert second["audio_snr_db"] is None
    assert second["notes"] == ["no sound: silence is used"]
    assert "note:" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "clip_reconstruction.mp4",
        "mute_reconstruction.mp4",
    ]


def test_classify_names_windows_and_file():
    result = perceivio("classify", ASSETS / "digit.mp4", "--top", "3")
    assert result.returncode == 0, result.stderr
    assert "whole file" in result.stdout
    assert result.stdout.count("%") == 4 * 3
    found = json.loads(perceivio("classify", ASSETS / "digit.mp4", "--json").stdout)
    assert [w["start"] for w in found["windows"]] == pytest.approx([0, 0.64, 1.28])
    assert found["classes"][0]["name"] == "5"  # an image and a voice of the test half


def test_a_file_that_is_there_is_not_overwritten_unless_asked(clip, tmp_path):
    target = tmp_path / "out.mp4"
    target.write_text("precious")
    result = perceivio("reconstruct", clip, "-o", target)
    fails_in_one_line(result, "already exists", "--overwrite")
    assert target.read_text() == "precious"
    assert perceivio("reconstruct", clip, "-o", target, "--overwrite").returncode == 0
    assert target.stat().st_size > 1000


def test_bad_input_is_told_in_one_line_and_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    text = tmp_path / "text.mp4"
    text.write_text("this is no film\n" * 100)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((ASSETS / "bbb_scene.mp4").read_bytes()[:2000])
    for path, words in (
        (tmp_path / "absent.mp4", ("no such file",)),
        (tmp_path, ("folder",)),
        (text, ("text.mp4",)),
        (empty, ("empty.mp4",)),
        (cut, ("cut.mp4",)),
    ):
        fails_in_one_line(perceivio("reconstruct", path, "-o", out / "x.mp4"), *words)
        assert list(out.iterdir()) == []


def test_bad_models_and_options_are_told_in_one_line(clip, tmp_path):
    run = ("reconstruct", clip, "-o", tmp_path / "x.mp4")
    fails_in_one_line(perceivio(*run, "--model", "smal"), "smal", "did you mean small")
    fails_in_one_line(perceivio(*run, "--model", "base"), "deepmind/multimodal-perceiver")
    fails_in_one_line(perceivio(*run, "--model", "deepmind/multimodal-perceiver"), "hub")
    fails_in_one_line(perceivio(*run, "--model", clip), "clip.mkv")
    fails_in_one_line(perceivio(*run, "--device", "warp"), "warp")
    fails_in_one_line(perceivio(*run, "--overlap", "12"), "overlap")
    fails_in_one_line(perceivio(*run, "--start", "99"), "99")
    fails_in_one_line(perceivio(*run, "--size", "3"), "--size")
    fails_in_one_line(perceivio(*run, "--speed", "3"), "--speed")
    fails_in_one_line(perceivio("recontruct", clip), "reconstruct")
    fails_in_one_line(perceivio("reconstruct", clip, "-o", tmp_path / "x.xyz"), ".mp4")
    fails_in_one_line(perceivio("reconstruct", clip, "-o", tmp_path / "no" / "x.mp4"), "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mkv"]


def test_one_bad_file_does_not_stop_the_others(clip, tmp_path):
    result = perceivio("classify", tmp_path / "absent.mp4", clip)
    assert result.returncode == 2
    assert "absent.mp4" in result.stderr
    assert "whole file" in result.stdout


def test_damage_in_the_middle_is_counted_and_the_rest_decoded(tmp_path):
    data = bytearray((ASSETS / "bbb_scene.mp4").read_bytes())
    for at in range(300_000, 500_000, 997):
        data[at] ^= 0x5A
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    result = perceivio("reconstruct", damaged, "-o", tmp_path / "out.mp4", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["lost_packets"] > 0
    assert re.search(r"\d+ damaged packets?, about .* s, lost", result.stderr)
    assert found["media_seconds"] == pytest.approx(5.0, abs=0.3)


def test_a_full_disk_is_told_and_leaves_nothing(clip, tmp_path):
    """A real, tiny file system where we may mount one; else a limit on the size of files."""
    folder = tmp_path / "full"
    folder.mkdir()
    limited = (
        f"ulimit -f 4; exec {sys.executable} -m perceivio.cli reconstruct {clip} -o full/x.mp4"
    )
    shell = shutil.which("bash")
    assert shell
    result = subprocess.run(
        [shell, "-c", f"trap '' XFSZ; {limited}"], capture_output=True, text=True, cwd=tmp_path,
        env=unmeasured(),
    )  # fmt: skip
    fails_in_one_line(result, "x.mp4")
    assert list(folder.iterdir()) == []


def test_models_lists_what_can_be_loaded():
    rows = json.loads(perceivio("models", "--json").stdout)["models"]
    assert [row["name"] for row in rows] == ["base", "base-176x", "base-352x", "small"]
    assert rows[1]["compression"]["paper"] == 176
    text = perceivio("models").stdout
    assert "784 x 512" in text
    assert "deepmind/multimodal-perceiver" in text


def test_convert_makes_a_folder_that_loads(tmp_path):
    assert perceivio("convert", "small", tmp_path / "mine").returncode == 0
    runs = [
        json.loads(perceivio("classify", ASSETS / "digit.mp4", "-m", model, "--json").stdout)
        for model in ("small", tmp_path / "mine")
    ]
    assert runs[0]["classes"] == runs[1]["classes"]
    fails_in_one_line(perceivio("convert", "small", tmp_path / "mine"), "overwrite")
    fails_in_one_line(
        perceivio("convert", "small", tmp_path / "hf", "--to", "huggingface"), "Hugging Face"
    )
    assert not (tmp_path / "hf").exists()


def test_an_interrupted_run_leaves_nothing_half_written(tmp_path):
    import signal
    import time

    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "perceivio.cli", "reconstruct", str(ASSETS / "band.3gp")]
    process = subprocess.Popen(
        [*command, "-o", str(out / "x.mp4")],
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(out.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(out.iterdir()), "it never began to write"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert list(out.iterdir()) == []
