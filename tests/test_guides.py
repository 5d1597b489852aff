"""What the guides say that a command prints, it prints: but for numbers, which are a machine's.

Pages are gone through in one folder, in an order in which each finds what it needs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from command import Command

import perceivio
from perceivio.cli import app

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
FIRST = ["encode", "embed"]  # what they leave is asked for on other pages
BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^\$ perceivio (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
NUMBER = re.compile(r"\b[0-9a-f]{12}\b|\d[\d.,]*(e[+-]\d+)?")


def shown(page: Path) -> list[tuple[str, str]]:
    """Commands of a page, and what it says that each prints."""
    text = page.read_text("utf-8")
    return [pair for language, block in BLOCK.findall(text) if not language
            for pair in SHOWN.findall(block)]  # fmt: skip


def bare(text: str, folder: Path) -> str:
    """Without numbers, widths of columns, and where it was run."""
    text = NUMBER.sub("#", text.replace(f"{folder}/", ""))
    return " ".join(re.sub("─+", "", text).split())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a reader stands: the clips, an empty folder, a broken file, a model of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_text("no film\n")
    mine = perceivio.load("small")
    with torch.no_grad():
        mine.module.encoder.latents.add_(0.01)
    mine.save(tmp_path / "runs" / "mine" / "model")
    return tmp_path


def test_what_the_guides_show_is_printed(folder, capsys):
    pages = sorted(GUIDES.glob("*.md"), key=lambda page: (page.stem not in FIRST, page.name))
    command, ran, verbs = Command(capsys), 0, set()
    for page in pages:
        for line, said in shown(page):
            words, fails = shlex.split(line), said.startswith("perceivio: ")
            if words[0] == "train" and not fails:
                continue  # test_training_command.py has runs
            code, out, err = command(*words)
            assert bare(err + out, folder) == bare(said, folder), f"{page.name}: {line}"
            assert code == (2 if fails else 0), line
            ran += 1
            verbs.add(words[0])
    assert ran > 30
    assert verbs >= {name for name in app if not name.startswith("-")} - {"serve"}
