"""The directive `options`: the options of a verb as a table, from the command itself, so that no
page can say anything else than `--help`.

    ```{options} data index
    `perceivio data index --help` prints them.
    ```

What stands in the block is for readers of the bare page; the site has the table in its place.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from perceivio.cli import app


def rows(verb: str) -> list[tuple[str, str, str]]:
    """(names, meaning, default) of each argument and option of a verb, in Markdown."""
    found: App = app
    for word in verb.split():
        if word not in found:
            raise ExtensionError(f"options: the command has no verb {verb!r}")
        found = found[word]
    told = []
    for argument in found.assemble_argument_collection():
        names = ", ".join(f"`{name}`" for name in argument.names)
        meaning = (argument.parameter.help or "").replace("|", r"\|")
        choices = argument.get_choices()
        if choices:
            meaning += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
        told.append((names, meaning, _default(argument)))
    return told


def _default(argument: Any) -> str:
    if argument.required:
        return "required"
    default = argument.field_info.default
    if default is None or default is False:
        return ""
    return f"`{'yes' if default is True else default}`"


class Options(SphinxDirective):
    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines = ["| | | default |", "|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows(self.arguments[0])]
        found = self.parse_text_to_nodes("\n".join(lines) + "\n")
        for table in found:
            if isinstance(table, nodes.Element):
                table["classes"].append("options")
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("options", Options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
