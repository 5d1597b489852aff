"""The two READMEs say the same: headings, commands, figures, links and pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


def text(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8")


def prose(name: str) -> str:
    return FENCE.sub("", text(name))


def headings(name: str) -> list[int]:
    """Their levels."""
    return [len(found) for found in re.findall(r"^(#+) ", prose(name), re.MULTILINE)]


def code(name: str) -> list[tuple[str, list[str]]]:
    """Language and lines of every block, without comments, which are translated."""
    return [
        (language, [re.sub(r"\s*#.*", "", line) for line in block.splitlines()])
        for language, block in FENCE.findall(text(name))
    ]


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(name: str) -> list[str]:
    """Targets in their order; one to a heading of the same page as that heading's number."""
    anchors = [anchor(h) for h in re.findall(r"^#+ (.*)$", prose(name), re.MULTILINE)]
    found = re.findall(r"\]\(([^)\s]+)\)", prose(name))
    other = {ENGLISH: CHINESE, CHINESE: ENGLISH}[name]
    assert found.pop(0) == other, "the first link leads to the other language"
    return [f"#{anchors.index(t[1:])}" if t.startswith("#") else t for t in found]


def rows(name: str) -> list[list[list[str]]]:
    """Of every row of a table the figures in each of its cells."""
    lines = re.findall(r"^\|(.*)\|$", prose(name), re.MULTILINE)
    return [[NUMBER.findall(cell) for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def sections(name: str) -> list[list[str]]:
    """Of every section all its figures, in any order: languages put words in another."""
    return [sorted(NUMBER.findall(part)) for part in re.split(r"^#+ ", prose(name), flags=re.M)]


@pytest.mark.parametrize("of", [headings, code, links, rows, sections])
def test_both_languages_keep_step(of):
    english, chinese = of(ENGLISH), of(CHINESE)
    assert len(english) > 2
    assert chinese == english


def test_commands_in_text_are_the_same():
    """What stands between backticks is the same in every section, in any order."""
    english, chinese = (
        [sorted(re.findall(r"`([^`]+)`", part)) for part in re.split(r"^#+ ", prose(n), flags=re.M)]
        for n in (ENGLISH, CHINESE)
    )
    assert chinese == english
