"""`perceivio serve` as a real process, asked over HTTP: its answers, its limits, what it refuses
and what it leaves."""

from __future__ import annotations

import io
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from page_server import ASSETS, ROOT, Server, make_temporary, value_of
from PIL import Image

import perceivio
from perceivio import keep, pipeline
from perceivio.asking import Ask, ask

DIGIT, SCENE, HELLO = ASSETS / "digit.mp4", ASSETS / "bbb_scene.mp4", ASSETS / "hello.avi"


@pytest.fixture(scope="module")
def server():
    """Takes 2 MB, 4 s and 300,000 pixels."""
    found = Server(make_temporary(), "--megabytes", 2, "--seconds", 4, "--megapixels", 0.3)
    yield found
    found.stop()
    shutil.rmtree(found.temporary.parent)


@pytest.fixture(scope="module")
def made(server):
    """What /reconstruct made of the digit."""
    return server.ask("reconstruct", file=server.upload(DIGIT))


@pytest.fixture(scope="module")
def latents(server, made, tmp_path_factory):
    path = tmp_path_factory.mktemp("latents") / "digit.latents"
    path.write_bytes(server.fetch(made["latents"]))
    return path


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- the answers are those of the command


def test_reconstruct_gives_the_figures_of_the_command(made, tmp_path):
    wanted = pipeline.reconstruct(DIGIT, tmp_path / "out.mp4").to_dict()
    for name in ("video_psnr_db", "audio_snr_db", "mean_colour_psnr_db"):
        assert made[name] == pytest.approx(wanted[name], abs=1e-3)
    assert made["classes"][0]["name"] == "5"
    assert made["file"] == "digit.mp4"


@pytest.mark.parametrize(("name", "wide"), [("side_by_side", True), ("reconstruction", False)])
def test_both_films_have_picture_and_sound(server, made, name, wide):
    with av.open(io.BytesIO(server.fetch(made[name]))) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.frames == 48
        assert (video.width > 1.5 * video.height) == wide


def test_the_latents_are_those_of_encode(latents, tmp_path):
    kept = keep.encode(DIGIT, tmp_path / "ours.latents")
    with keep.LatentsFile(latents) as theirs, keep.LatentsFile(kept.written) as ours:
        assert len(theirs) == len(ours)
        for mine, other in zip(ours, theirs, strict=True):
            assert np.array_equal(mine.latents, other.latents)


def test_a_frame_of_latents_is_the_one_that_decode_gives(server, latents, tmp_path):
    ask(latents, wanted := tmp_path / "wanted.png", "small", Ask(at=(0.5,), height=200))
    drawn = server.ask("frame", latents=server.upload(latents), at=0.5, height=200)
    assert np.array_equal(picture(server.fetch(drawn)), picture(wanted.read_bytes()))


def test_classify_takes_media_and_latents(server, latents):
    for path in (DIGIT, latents):
        found = server.ask("classify", file=server.upload(path), top=3)
        assert [len(found["classes"]), found["classes"][0]["name"]] == [3, "5"]
        assert found["file"] == path.name


def test_attention_shows_reading_of_media_only(server, latents):
    drawn = server.ask("attention", file=server.upload(DIGIT), at=0.2)
    assert [Path(each["path"]).name for each in drawn] == ["digit_reads.png", "digit_writes.png"]
    (writes,) = server.ask("attention", file=server.upload(latents), at=0.2)
    assert picture(server.fetch(writes)).size > 10_000


def test_encode_and_reconstruct_of_latents(server):
    kept = server.ask("encode", file=server.upload(DIGIT), precision="int8")
    again = Path(kept["path"]).name
    assert again == "digit.latents"
    (folder := make_temporary()).joinpath(again).write_bytes(server.fetch(kept))
    found = server.ask("reconstruct", file=server.upload(folder / again))
    shutil.rmtree(folder.parent)
    assert found["classes"][0]["name"] == "5"
    assert "side_by_side" not in found
    assert "video_psnr_db" not in found or found["video_psnr_db"] is None


def test_sound_alone_and_a_still_image(server, tmp_path):
    with av.open(str(DIGIT)) as film:
        frame = next(film.decode(video=0)).to_image()
    frame.save(tmp_path / "still.png")
    found = server.ask("reconstruct", file=server.upload(tmp_path / "still.png"))
    assert Path(found["side_by_side"]["path"]).suffix == ".png"
    from perceivio.writer import MediaWriter

    with MediaWriter(tmp_path / "tone.wav", None, None, 16_000) as writer:
        writer.write(samples=0.3 * np.sin(np.arange(16_000) / 5))
    found = server.ask("reconstruct", file=server.upload(tmp_path / "tone.wav"))
    assert Path(found["reconstruction"]["path"]).suffix == ".wav"
    assert "side_by_side" not in found


def test_about_tells_models_and_limits(server):
    assert server.ask("about") == {
        "version": perceivio.__version__,
        "models": ["small"],
        "limits": {"megabytes": 2, "megapixels": 0.3, "seconds": 4},
    }


# ---- what is refused, in one line


def refused(server, function: str, **named) -> str:
    how, why = server.call(function, **named)
    assert how in ("error", "refused"), why
    why = why if isinstance(why, str) else why["error"]
    assert why, "an error without a word"
    assert "\n" not in why
    assert "Traceback" not in why
    assert str(server.temporary) not in why
    return why


def test_what_is_no_media_is_told_by_its_own_name(server, tmp_path):
    bad = tmp_path / "holiday.mp4"
    bad.write_bytes(b"no film" * 500)
    assert refused(server, "reconstruct", file=server.upload(bad)).startswith("holiday.mp4: ")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(DIGIT.read_bytes()[:3000])
    assert refused(server, "classify", file=server.upload(cut)).startswith("cut.mp4: ")


def test_the_limits(server, tmp_path):
    long = server.upload(make_long(tmp_path))
    assert "4 s are taken here" in refused(server, "reconstruct", file=long)
    large = refused(server, "classify", file=server.upload(SCENE))
    assert "1280 x 720" in large
    assert "0.3 million" in large
    with HELLO.open("rb") as file:
        answer = server.client.post("/gradio_api/upload", files={"files": ("hello.avi", file)})
    assert (answer.status_code, "2 MB" in answer.json()["detail"]) == (413, True)


def make_long(folder: Path) -> Path:
    from media_files import make_numbered

    return make_numbered(folder / "long.mp4", 130)


def test_a_size_that_is_not_told_is_counted(server):
    """Chunked, so that no header says how much there is to come."""

    def body():
        yield b'--edge\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
        for _ in range(64):
            yield bytes(2**17)

    kind = {"content-type": "multipart/form-data; boundary=edge"}
    before = server.files()
    try:
        answer = httpx.post(f"{server.url}/gradio_api/upload", content=body(), headers=kind)
    except httpx.TransportError:  # the connection was closed while we were still sending
        pass
    else:
        assert answer.status_code == 413
    assert server.files() == before


def test_what_does_not_fit_is_told(server, latents):
    assert "holds no latents" in refused(server, "frame", latents=server.upload(DIGIT), at=0.5)
    late = refused(server, "frame", latents=server.upload(latents), at=99)
    assert "outside of the recording" in late
    high = refused(server, "frame", latents=server.upload(latents), at=0.5, height=100_000)
    assert "16 to 1080" in high
    other = refused(server, "classify", file=server.upload(DIGIT), model="/etc")
    assert "choose one of small" in other
    assert refused(server, "frame", latents=server.upload(latents))  # `at` is missing
    assert refused(server, "frame", latents=server.upload(latents), at="soon")
    assert refused(server, "nothing")


def test_an_upload_is_used_once_and_deleted_after_use(server):
    one = server.upload(DIGIT)
    other = server.upload(DIGIT)
    assert one["path"] != other["path"]
    server.ask("classify", file=one)
    assert not Path(one["path"]).exists()
    assert Path(other["path"]).exists()
    assert "upload" in refused(server, "classify", file=one)
    server.ask("classify", file=other)
    assert not Path(other["path"]).parent.exists()


# ---- nothing outside of the folder is read or written


def test_a_full_disk_is_told_and_leaves_nothing(server):
    before = server.files()
    kept = server.upload(DIGIT)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    # As on a full disk, writing fails in the middle of a file.
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with DIGIT.open("rb") as file:
            answer = server.client.post("/gradio_api/upload", files={"files": file})
        told = refused(server, "reconstruct", file=kept)
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "this file cannot be kept here: file too large"}
    assert "cannot be written" in told
    assert server.files() == before
    assert server.ask("classify", file=server.upload(DIGIT))


def test_names_of_uploads_cannot_leave_their_folder(server):
    up = "../../../../escaped.mp4"
    for name in (up, "/etc/escaped.mp4", up.replace("/", "\\"), "..", ".", ""):
        answer = server.client.post("/gradio_api/upload", files={"files": (name or " ", b"x")})
        if answer.status_code == 200:
            path = Path(answer.json()[0])
            assert path.is_relative_to(server.folder / "uploads")
            assert path.resolve() == path
            assert path.parent.parent == server.folder / "uploads"
    assert not list(server.temporary.parent.parent.glob("escaped*"))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        str(ASSETS / "digit.mp4"),
        "http://127.0.0.1:9/clip.mp4",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "../secret.txt",
        "",
    ],
)
def test_a_path_or_an_address_is_no_upload(server, path):
    assert "upload" in refused(server, "classify", file=value_of(path))
    assert "upload" in refused(server, "classify", file=value_of(path, url=path))
    assert refused(server, "classify", file=path)
    joined = {"data": [value_of(path), "small"], "fn_index": 0, "session_hash": "abc"}
    assert server.client.post("/gradio_api/queue/join", json=joined).status_code == 403


def test_a_link_beside_an_upload_is_no_upload(server, made):
    other = made["latents"]["path"]
    assert "upload" in refused(server, "classify", file=value_of(other))
    up = Path(server.upload(DIGIT)["path"])
    around = f"{up.parent}/../{up.parent.name}/{up.name}"
    assert "upload" in refused(server, "classify", file=value_of(around))
    assert "upload" in refused(server, "classify", file=value_of(f"{up.parent}/../../lock"))


def test_only_results_are_given_out(server, made):
    secret = server.temporary.parent / "secret.txt"  # in the server's working folder
    secret.write_text("secret")
    beside = server.temporary / "secret.txt"  # in its folder for temporary files
    beside.write_text("secret")
    inside = made["latents"]["path"]
    up = server.upload(DIGIT)["path"]
    for path in (
        "/etc/passwd", str(secret), "secret.txt", str(beside), up, f"{inside}/../../../lock",
        str(server.folder / "lock"), str(Path(inside).parent), f"/{inside}", inside.upper(),
        "http://127.0.0.1:9/x", "%2e%2e/%2e%2e/etc/passwd", "",
    ):  # fmt: skip
        answer = server.client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 404, path
        assert b"secret" not in answer.content
    assert server.client.get(f"/gradio_api/file={inside}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:9/x"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/vibe-code"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/reconstruct"),
        ("POST", "/gradio_api/api/reconstruct"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/monitoring"),
        ("POST", "/login"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/static/../../../../../../etc/passwd"),
        ("GET", "/assets/%2e%2e/%2e%2e/%2e%2e/requirements.txt"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_routes_that_the_page_does_not_need_are_not_there(server, method, path):
    answer = server.client.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code in (403, 404), answer.text


def test_pages_of_other_sites_are_not_answered(server):
    evil = "evil.example"
    for headers in ({"host": evil}, {"origin": f"http://{evil}"}, {"origin": "null"}):
        for path in ("/", "/config", "/gradio_api/info"):
            assert server.client.get(path, headers=headers).status_code == 403
        part = {"files": ("x", b"x")}
        answer = server.client.post("/gradio_api/upload", files=part, headers=headers)
        assert answer.status_code == 403


def test_requests_that_make_no_sense_are_told_so(server):
    post, before = server.client.post, server.files()
    kind = {"content-type": "application/json"}
    assert post("/gradio_api/queue/join", content=b"{", headers=kind).status_code == 400
    deep = b"[" * 100_000 + b"]" * 100_000
    assert post("/gradio_api/queue/join", content=deep, headers=kind).status_code == 400
    large = b'"' + b"x" * 2**19 + b'"'
    assert post("/gradio_api/queue/join", content=large, headers=kind).status_code == 413
    assert post("/gradio_api/upload", content=b"x").status_code == 400
    two = [("files", ("a", b"x")), ("files", ("b", b"x"))]
    assert post("/gradio_api/upload", files=two).status_code == 400
    assert server.files() == before


def test_the_page_names_no_other_host(server):
    answer = server.client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    other = r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//"""
    assert not re.findall(other, answer.text)
    styles = server.client.get("/theme.css").text
    assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", styles)
    assert "nosniff" in answer.headers["x-content-type-options"]


# ---- the examples of docs/serve.md


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "serve.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_examples_of_the_page(server, tmp_path, number):
    shutil.copy(DIGIT, tmp_path / "clip.mp4")
    code = blocks("python")[number].replace("http://127.0.0.1:7860", server.url)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    told = run.stdout
    assert re.search(r"\d\d\.\d\d dB, 5\n.*\.png\n" if number == 0 else r"'name': '5'", told), told


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_curl_example_of_the_page(server, tmp_path):
    shutil.copy(DIGIT, tmp_path / "clip.mp4")
    (code,) = (block for block in blocks("sh") if "curl" in block)
    code = code.replace("http://127.0.0.1:7860", server.url)
    run = subprocess.run(
        ["bash", "-euc", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "event: complete" in run.stdout
    assert '"name": "5"' in run.stdout


# ---- nothing is asked of other hosts; nothing is left


def test_the_server_connects_to_nobody(server):
    """Every socket call of the server's process was noted from before its first import."""
    said = server.connections.read_text().splitlines()
    assert said == ["socket.getaddrinfo ('127.0.0.1', 0)"], said


def test_it_says_nothing_on_its_errors_but_warnings(server):
    assert "Traceback" not in server.log()


def test_a_killed_server_is_swept_by_the_next_and_that_one_leaves_nothing():
    first = Server(make_temporary())
    first.upload(DIGIT)
    first.ask("reconstruct", file=first.upload(DIGIT))
    assert len(first.files()) == 4
    dead = first.folder
    first.stop(signal.SIGKILL)
    assert dead.exists()
    second = Server(first.temporary, "--keep", 0.05)
    try:
        assert not dead.exists()
        assert "deleted what 1" in "".join(second.said)
        idle = second.upload(DIGIT)
        made = second.ask("reconstruct", file=second.upload(DIGIT))
        assert second.fetch(made["latents"])
        wait_until(lambda: not second.files())
        assert second.client.get(made["latents"]["url"]).status_code == 404
        assert "not here" in refused(second, "classify", file=idle)
        # A job that runs is stopped at its next window.
        busy = second.upload(DIGIT)
        asked = second.client.post("/gradio_api/call/v2/reconstruct", json={"file": busy})
        assert asked.status_code == 200
    finally:
        assert second.stop(signal.SIGTERM) == 0
    assert not list(first.temporary.glob("perceivio-serve-*"))
    assert "Traceback" not in Path(second.errors.name).read_text()
    shutil.rmtree(first.temporary.parent)


def wait_until(true, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


# ---- the verb


def test_a_port_that_is_taken(server, command):
    port = server.url.rsplit(":", 1)[1]
    assert "choose another with --port" in command.fails("serve", "--port", port)


def test_an_address_that_is_not_ours(command):
    told = command.fails("serve", "--host", "203.0.113.7")  # of those kept for documents
    assert "--host 203.0.113.7: is no address of this machine" in told


def test_without_gradio_it_says_what_to_install(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'perceivio[serve]'" in command.fails("serve")


def test_help_has_an_example_and_nothing_heavy_is_imported(command):
    code, out, _ = command("serve", "--help")
    assert code == 0
    assert "perceivio serve --port 7860" in out
    asked = "import sys, perceivio.cli; print({'gradio', 'torch'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
