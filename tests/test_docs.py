"""The documents: they build without a warning, lead nowhere that is not there, load nothing from
other hosts, and say nothing of the command or of the package that is not so.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cyclopts import CycloptsError

import perceivio
from perceivio.cli import app
from perceivio.training.settings import read_settings
from perceivio.training.start import Declared

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "recipes").rglob("*.md")]
VERBS = [name for name in app if not name.startswith("-")]
BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|[\s/.])perceivio(?:\.cli)? ([a-z]+ .*|[a-z]+$)")
LOADS = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}


class Page(HTMLParser):
    """What a built page refers to (`links`), fetches by itself (`loads`), and can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.text = path, ""
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        is_told_only = tag == "link" and found.get("rel") not in ("stylesheet", "preload", "icon")
        for name in LOADS.get(tag, ()):
            if name in found and not is_told_only:
                self.loads += [each.split()[0] for each in found[name].split(", ")]

    def handle_data(self, data: str) -> None:
        self.text += data


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html"]
    command += ["-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return {path: Page(path) for path in (folder / "html").rglob("*.html")}


def test_every_page_is_on_the_site(site):
    folder = next(path.parent for path in site if path.name == "search.html")
    names = {path.relative_to(folder).with_suffix(".md") for path in site}
    assert {page.relative_to(ROOT / "docs") for page in PAGES if ROOT / "docs" in page.parents} <= (
        names
    )


def test_links_and_pictures_of_the_site_are_there(site):
    lost, followed = [], 0
    for page in site.values():
        for address in page.links + page.loads:
            parts = urlsplit(address)
            if parts.scheme or is_elsewhere(address):
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            followed += 1
            if not target.exists() or (
                parts.fragment and target in site and parts.fragment not in site[target].ids
            ):
                lost.append(f"{page.path.name}: {address}")
    assert not lost
    assert followed > 1000


def test_the_site_loads_nothing_from_other_hosts(site):
    assert not [a for page in site.values() for a in page.loads if is_elsewhere(a)]
    folder = next(path.parent for path in site if path.name == "search.html")
    sheets = [*folder.rglob("*.css"), *folder.rglob("*.svg")]
    assert any(sheet.suffix == ".css" for sheet in sheets)
    for sheet in sheets:
        text = sheet.read_text("utf-8")
        loads = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text)
        assert not [a for pair in loads for a in pair if is_elsewhere(a)], sheet.name
        assert not re.search(r"""(?<!:)\bhref=["'](https?:)?//""", text), sheet.name


def test_every_verb_has_its_guide_with_all_its_options(site):
    told: dict[str, str] = defaultdict(str)
    for path, page in site.items():
        told[path.stem] += page.text if path.parent.name in ("guides", "html") else ""
    lacking = []
    for verb in VERBS:
        for each in [n for n in app[verb] if not n.startswith("-")] or [None]:
            one = app[verb] if each is None else app[verb][each]
            names = [n for a in one.assemble_argument_collection() for n in a.names]
            lacking += [f"{verb} {each or ''}: {n}" for n in names if n not in told[verb]]
            assert names or f"perceivio {verb}" in told[verb]
    assert not lacking


def test_every_public_name_has_an_entry(site):
    entries = {each for page in site.values() for each in page.ids}
    assert [name for name in perceivio.__all__ if f"perceivio.{name}" not in entries] == []
    for name in ("load", "Config", "Timeline.frame"):  # and what it says is more than its name
        page = next(p for p in site.values() if f"perceivio.{name}" in p.ids)
        assert len(page.text) > 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_the_repository(page):
    """Pages are read there too: README.md, and every other."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(address)
        if not parts.scheme:
            target = page.parent / parts.path if parts.path else page
            assert target.exists(), address
            if parts.fragment and target.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
                slugs = [
                    re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in heads
                ]
                assert parts.fragment in slugs, address


def blocks(page: Path, *languages: str) -> list[str]:
    found = BLOCK.findall(page.read_text("utf-8"))
    return [
        "\n".join(line.removeprefix(indent) for line in text.splitlines())
        for indent, language, text in found
        if language in languages
    ]


def commands(page: Path) -> list[list[str]]:
    """The words behind `perceivio` of every whole command line in the blocks of a page."""
    found = []
    for text in blocks(page, "sh", ""):
        is_shell = text in blocks(page, "sh")
        for line in text.replace("\\\n", " ").splitlines():
            if not is_shell and not line.startswith("$ "):
                continue
            if match := COMMAND.search(line.split(" | ")[0]):
                words = shlex.split(match[1], comments=True)
                if words and words[0] in VERBS:
                    found.append(words)
    return found


@pytest.mark.parametrize(
    "page", [p for p in PAGES if commands(p)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_command_lines_are_understood(page):
    """Verb, options, their values, and all that is required: as the command itself reads them."""
    for words in commands(page):
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"perceivio {shlex.join(words)}: {error}")


def test_options_in_the_text_exist():
    """Where a sentence says `perceivio verb --option`, both exist."""
    asked, wrong = 0, []
    for page in PAGES:
        for words in re.findall(r"`perceivio ([a-z][^`]*)`", page.read_text("utf-8")):
            verb, *rest = words.split()
            if verb not in VERBS:
                wrong.append(f"{page.name}: {words}")
                continue
            one = app[verb]
            if rest and rest[0] in list(one) and not rest[0].startswith("-"):
                one = one[rest[0]]
            options = [w for w in rest if w.startswith("-")]
            known = options and {n for a in one.assemble_argument_collection() for n in a.names}
            asked += 1
            wrong += [f"{page.name}: {words}" for w in options if w not in {*known, "--help"}]
    assert not wrong
    assert asked > 30


PYTHON = [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize(
    ("page", "text"), PYTHON, ids=[f"{page.stem}-{i}" for i, (page, _) in enumerate(PYTHON)]
)
def test_python_is_python_of_this_package(page, text):
    """It compiles, and every `perceivio.name` and every name imported from it is there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("perceivio"):
            module = import_module(node.module or "")
            assert all(hasattr(module, each.name) or import_module(f"{node.module}.{each.name}")
                       for each in node.names)  # fmt: skip
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "perceivio"
        ):
            assert hasattr(perceivio, node.attr) or import_module(f"perceivio.{node.attr}")


TOML = [(page, text) for page in PAGES for text in blocks(page, "toml")]


@pytest.mark.parametrize(("page", "text"), TOML, ids=[page.stem for page, _ in TOML])
def test_settings_are_settings(page, text, tmp_path):
    """As `perceivio train --config` reads them, and a model can be built so."""
    (tmp_path / "own.toml").write_text(text, "utf-8")
    assert Declared.by(read_settings(tmp_path / "own.toml")).config.modalities


def test_python_of_the_guides_runs(tmp_path):
    """One after the other, in a process of its own, where only `assets` is."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    pages = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "docs" / "index.md"]
    pages += [ROOT / "docs" / "how-it-works.md", ROOT / "docs" / "add-a-modality.md"]
    texts = [t for page in pages if page.stem != "train" for t in blocks(page, "python")]
    assert len(texts) > 12
    (tmp_path / "all.py").write_text("\n\n".join(texts), "utf-8")
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "all.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "frame.png").exists()
    assert (tmp_path / "my-small" / "config.json").exists()


def test_what_is_shown_is_attributed():
    """Every clip that ships and every picture that shows one."""
    notice = (ROOT / "NOTICE").read_text("utf-8")
    shown = [*(ROOT / "assets").iterdir(), *(ROOT / "docs").rglob("*.png")]
    names = [str(path.relative_to(ROOT)) for path in shown]
    assert len(names) > 8
    assert [name for name in names if name not in notice] == []
