"""This project's docstrings as reStructuredText.

They are written to be read in an editor: names stand at the left with what they are behind two or
more spaces, code in `backticks`, shapes and formulas plainly. So

    start, stop  seconds; None:
                 to the end

becomes a definition list, `x` code, and every character that reStructuredText would take for markup
a character. Paragraphs and indented code stay what they are.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import perceivio

ROW = re.compile(r"(\S+(?:, \S+)*(?: or \S+)*)  +(\S.*)")
CODE = re.compile(r"(`[^`]+`)")
BACK = re.compile(r'<a class="viewcode-back".*?</a>')
MARKUP = re.compile(r"([\\*|_`:])")


def reformed(lines: list[str]) -> list[str]:
    """The lines of a docstring, without its indentation, as reStructuredText."""
    told: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(("    ", ">>> ")):  # code, a formula, a list of its own
            end = at
            while end < len(lines) and lines[end].startswith(("    ", ">>> ", "... ")):
                end += 1
            told += ["", "::", "", *(f"    {line}" for line in lines[at:end]), ""]
            at = end
        elif found := ROW.fullmatch(line):
            text = [found[2]]
            while at + 1 < len(lines) and lines[at + 1].startswith(" "):
                at += 1
                text.append(lines[at].strip())
            told += ["", plain_name(found[1]), f"    {marked(' '.join(text))}", ""]
            at += 1
        else:
            told.append(marked(line))
            at += 1
    return told


def plain_name(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))


def marked(text: str) -> str:
    """A line in which nothing but code in backticks is markup."""
    parts = CODE.split(text)
    return "".join(f"`{p}`" if CODE.fullmatch(p) else MARKUP.sub(r"\\\1", p) for p in parts)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if lines and lines[0].startswith(f"{name.rsplit('.', 1)[-1]}("):
        lines[:] = []  # a dataclass without words: what Python makes of it is the signature again
    lines[:] = reformed(lines)


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, result: Any
) -> tuple[str | None, Any]:
    """A default that is made anew each time has no name that Python could parse."""
    if arguments and "<factory>" in arguments:
        arguments = arguments.replace("<factory>", "...")
    return arguments, result


def public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Public classes have their entry under the package's name, wherever they are written."""
    last = node.get("reftarget", "").rsplit(".", 1)[-1]
    if node.get("refdomain") != "py" or last not in perceivio.__all__:
        return None
    domain, here = env.get_domain("py"), node["refdoc"]
    return domain.resolve_xref(
        env, here, app.builder, node["reftype"], f"perceivio.{last}", node, content
    )


def without_ways_back(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Pages of source lead back by one name a module; ours have the package's and their own."""
    if page.startswith("_modules/"):
        context["body"] = BACK.sub("", context.get("body", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    app.connect("html-page-context", without_ways_back)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
