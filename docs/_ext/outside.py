"""Links to what is in the repository and not on the site: files are offered as they are, folders
stay words. In the repository itself the same links lead there."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

LINK = re.compile(r"\[([^\]\[]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")


def rewritten(text: str, folder: Path, root: Path) -> str:
    """The Markdown of a page in `folder`; `root` is that of the site's pages."""

    def replace(found: re.Match[str]) -> str:
        words, target = found[1], (folder / found[2]).resolve()
        if target.is_relative_to(root) or not target.exists():
            return found[0]  # a page; or a mistake, which the build will tell
        return words if target.is_dir() else f"{{download}}`{words} <{found[2]}>`"

    return LINK.sub(replace, text)


def read(app: Sphinx, page: str, content: list[str]) -> None:
    folder = Path(app.env.doc2path(page)).parent
    content[0] = rewritten(content[0], folder, Path(app.srcdir).resolve())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
