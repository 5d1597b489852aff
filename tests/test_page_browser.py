"""The page in a real browser: headless Chromium, a real server process, real clips.

What it saw is kept in `test-output/` to be looked at. Without a browser these tests are skipped,
and the reason says what installs one.
"""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import av
import httpx
import pytest
from page_server import ASSETS, ROOT, Server, make_temporary

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: run `make setup`")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
SEEN = ROOT / "test-output"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WAIT = 60_000  # milliseconds, on a busy machine

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser here: run `make setup-browser`")

# The blocks of the page that are shown, as rectangles: [name, left, top, right, bottom].
BLOCKS = """names => names.map(name => {
  const box = document.getElementById(name)?.getBoundingClientRect();
  return box && box.width && box.height
    ? [name, box.left, box.top + scrollY, box.right, box.bottom + scrollY] : null;
}).filter(Boolean)"""
NAMES = [
    "upload", "model", "run", "player", "downloads", "figures", "classes", "at", "height", "look",
    "frame", "maps",
]  # fmt: skip
# Elements whose text is wider than they are, where the overflow cannot be scrolled to.
CUT = """() => [...document.querySelectorAll('.pv-card *, .pv-small, button, h1, h2, .pv-links a')]
  .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 2)
  .map(e => e.tagName + ' ' + e.className + ': ' + e.textContent.trim().slice(0, 40))"""


MAPS = "document.querySelector('#pv-maps')?.naturalWidth > 0"


@pytest.fixture(scope="module")
def server():
    found = Server(make_temporary(), "--seconds", 30)
    yield found
    found.stop()
    shutil.rmtree(found.temporary.parent)


@pytest.fixture(scope="module")
def browser():
    SEEN.mkdir(exist_ok=True)
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


class Visitor:
    """A window on the page, with all that it asked for and all that its console was told."""

    def __init__(self, browser, server: Server, size: dict[str, int] = WIDE, **more) -> None:
        self.server = server
        self.context = browser.new_context(viewport=size, **more)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)
        self.page.goto(server.url)
        self.page.wait_for_selector("#run", timeout=WAIT)

    def _heard(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _failed(self, request) -> None:
        # The browser breaks off films that are not played to their end, and streams of events.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.errors.append(f"{request.url}: {request.failure}")

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", str(path))
        self.page.wait_for_selector(f"#upload :text('{path.name}')", timeout=WAIT)

    def run(self) -> None:
        self.page.click("#run")

    def wait_for_result(self) -> None:
        self.page.wait_for_selector("#pv-result", timeout=WAIT)
        self.page.wait_for_selector("#pv-frame", timeout=WAIT)
        self.until("document.querySelector('#pv-frame').naturalWidth > 0")

    def until(self, true: str) -> None:
        """Wait for an expression. Playwright's own waiting evaluates strings in the page, which the
        page's policy forbids."""
        end = time.monotonic() + WAIT / 1000
        while not self.page.evaluate(true):
            assert time.monotonic() < end, true
            time.sleep(0.05)

    def keep(self, name: str) -> None:
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=SEEN / f"{name}.png", full_page=True)

    def check_layout(self) -> None:
        """Nothing sticks out of the window, overlaps, or is cut."""
        page = self.page
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner
        boxes = page.evaluate(BLOCKS, NAMES)
        assert len(boxes) >= 3
        for n, (name, left, top, right, bottom) in enumerate(boxes):
            assert left >= 0, name
            assert right <= inner + 0.5, name
            for other, left2, top2, right2, bottom2 in boxes[n + 1 :]:
                apart = (
                    right <= left2 + 1 or right2 <= left + 1
                    or bottom <= top2 + 1 or bottom2 <= top + 1
                )  # fmt: skip
                assert apart, f"{name} and {other} overlap"
        assert page.evaluate(CUT) == []

    def check_quiet(self) -> None:
        """Only the server was asked, and the console has no error."""
        asked = {url.split("/")[2] for url in self.requests if url.startswith(("http", "ws"))}
        assert asked == {self.server.url.split("/")[2]}
        assert self.errors == []

    def leave(self) -> None:
        self.context.close()


@pytest.fixture
def visitor(browser, server):
    found = Visitor(browser, server)
    yield found
    found.leave()


def test_a_clip_becomes_a_film_that_plays_and_frames_are_asked_of_its_latents(visitor, server):
    page = visitor.page
    visitor.check_layout()
    visitor.keep("wide_start")
    visitor.upload(ASSETS / "bbb_scene.mp4")
    visitor.run()
    visitor.wait_for_result()

    film = "document.querySelector('#pv-result video')"
    page.evaluate(f"{film}.play()")
    visitor.until(f"{film}.currentTime > 0.3 && {film}.readyState >= 2")
    assert page.evaluate(f"{film}.error") is None
    assert page.evaluate(f"Math.abs({film}.duration - 5.3) < 0.2")
    # Decoded by the browser itself, both of them.
    assert page.evaluate(f"{film}.videoWidth > 400")
    assert page.evaluate(f"{film}.webkitAudioDecodedByteCount > 0")
    page.evaluate(f"{film}.pause()")
    source = page.evaluate(f"{film}.src")
    with av.open(io.BytesIO(httpx.get(source).content)) as both:
        assert [len(both.streams.video), len(both.streams.audio)] == [1, 1]

    text = page.inner_text("#figures")
    assert "Picture, PSNR" in text
    assert "Sound, SNR" in text
    assert "PSNR is 10 log10(1 / mean squared error), peak 1" in text
    bars = page.evaluate("[...document.querySelectorAll('.pv-bars')].map(e => e.children.length)")
    assert len(bars) == 5
    assert len({*bars}) == 1
    links = page.evaluate("[...document.querySelectorAll('#downloads a')].map(e => e.download)")
    assert links == [
        "bbb_scene_side_by_side.mp4", "bbb_scene_reconstruction.mp4", "bbb_scene.latents"
    ]  # fmt: skip
    with page.expect_download() as taken:
        page.click("#downloads a >> nth=2")
    assert Path(taken.value.path()).read_bytes().startswith(b"\x93LATENTS")

    # The slider: other frames, of other sizes, and nothing else is written than they.
    before = page.get_attribute("#pv-frame", "src")
    kept = {name for name in server.files() if "frame_" not in name}
    ask(visitor, "at", "2.5")
    assert page.get_attribute("#pv-frame", "src") != before
    ask(visitor, "height", "208")
    assert page.evaluate("document.querySelector('#pv-frame').naturalHeight") == 208
    page.locator("#at input[type=range]").press("ArrowRight")
    page.wait_for_selector("#pv-frame[src*='frame_2.510']", timeout=WAIT)
    ask(visitor, "height", "448")
    assert {name for name in server.files() if "frame_" not in name} == kept
    assert not any(name.startswith("uploads") for name in kept)

    visitor.check_layout()
    visitor.keep("wide_result")
    page.click("#look")
    visitor.until(MAPS)
    visitor.check_layout()
    visitor.keep("wide_attention")
    visitor.check_quiet()


def ask(visitor: Visitor, name: str, value: str) -> None:
    """Set a slider by its number, and wait for the frame."""
    box = visitor.page.locator(f"#{name} input[type=number]")
    before = visitor.page.get_attribute("#pv-frame", "src")
    box.fill(value)
    box.press("Tab")
    frame = "document.querySelector('#pv-frame')"
    visitor.until(f"{frame}?.naturalWidth > 0 && {frame}.getAttribute('src') !== '{before}'")


def test_latents_that_were_taken_home_are_taken_back(visitor, tmp_path):
    from perceivio import keep

    keep.encode(ASSETS / "digit.mp4", tmp_path / "digit.latents")
    visitor.upload(tmp_path / "digit.latents")
    visitor.run()
    visitor.wait_for_result()
    assert "Made of latents alone" in visitor.page.inner_text("#figures")
    visitor.check_layout()
    visitor.check_quiet()


def test_a_broken_file_is_told_in_words(visitor, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((ASSETS / "digit.mp4").read_bytes()[:2000])
    visitor.upload(broken)
    visitor.run()
    text = visitor.page.wait_for_selector("#player [role=alert]", timeout=WAIT).inner_text()
    assert "broken.mp4: " in text
    assert "Traceback" not in text
    assert "/" not in text
    visitor.page.wait_for_selector("#upload :text('Drop File Here')", timeout=WAIT)
    visitor.check_layout()
    visitor.keep("wide_refused")
    visitor.check_quiet()


def test_the_description_of_the_api_asks_no_other_host(visitor):
    described = visitor.page.get_by_text("/reconstruct").first
    for _ in range(3):  # a click may come before the page listens
        visitor.page.get_by_text("Use via API").first.click()
        try:
            described.wait_for(timeout=WAIT / 6)
            break
        except playwright.TimeoutError:
            continue
    described.wait_for(timeout=WAIT / 6)
    for name in ("classify", "encode", "frame", "attention", "about"):
        assert f"/{name}" in visitor.page.inner_text("body")
    # It looks whether there is a server for agents, which there is not.
    assert all("404" in error for error in visitor.errors)
    visitor.errors.clear()
    visitor.check_quiet()


def test_nothing_dropped_is_told_too(visitor):
    visitor.run()
    visitor.page.wait_for_selector("#player [role=alert] :text('drop a file first')", timeout=WAIT)


def test_a_second_visitor_sees_a_place_in_the_queue_and_who_leaves_takes_all_along(
    browser, server, tmp_path
):
    long = make_long(tmp_path)
    first, second = visitors = [Visitor(browser, server) for _ in range(2)]
    for visitor in visitors:
        visitor.upload(long)
    for visitor in visitors:
        visitor.run()
    second.page.wait_for_selector("#player :text('queue: 1/1')", timeout=WAIT)
    second.keep("wide_queue")
    first.page.wait_for_selector("#player :text(' of 10.0 s')", timeout=WAIT)  # progress
    for visitor in visitors:
        visitor.wait_for_result()
        visitor.check_quiet()
    assert len({name.split("/")[1] for name in server.files()}) >= 2
    for visitor in visitors:
        visitor.leave()
    end = time.monotonic() + 30
    while server.files():
        assert time.monotonic() < end, server.files()
        time.sleep(0.2)


def make_long(folder: Path) -> Path:
    """Ten seconds that take a while."""
    from media_files import make_numbered

    return make_numbered(folder / "long.mp4", 25 * 10)


@pytest.mark.parametrize(("example", "dark"), [("A cartoon", False), ("A spoken digit", True)])
def test_on_a_phone_an_example_is_one_touch_away(browser, server, example, dark):
    scheme = "dark" if dark else "light"
    visitor = Visitor(
        browser, server, PHONE, is_mobile=True, has_touch=True, color_scheme=scheme,
        device_scale_factor=2,
    )  # fmt: skip
    visitor.check_layout()
    visitor.page.get_by_role("button", name=example).tap()
    visitor.wait_for_result()
    visitor.check_layout()
    visitor.keep(f"phone_{scheme}")
    visitor.check_quiet()
    visitor.leave()
