"""How `make docs` turns these pages, and docstrings, into a site that asks no other host."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE / "_ext")]

import perceivio  # noqa: E402

project = "perceivio"
author = "the perceivio developers"
copyright = f"2026 {author}"  # noqa: A001, what Sphinx calls it
version = release = perceivio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
extensions += ["options", "docstrings", "outside"]  # of _ext
exclude_patterns = ["_ext", "_build"]
myst_heading_anchors = 3
highlight_language = "none"  # what commands print is no Python
smartquotes = False  # two dashes are an option

html_theme = "furo"
html_title = f"perceivio {version}"
html_static_path = ["_static"]
html_css_files = ["perceivio.css"]
html_copy_source = False
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 78
add_module_names = False
# Types in signatures: those of other packages, and those of ours that have no entry.
nitpick_ignore_regex = [
    ("py:.*", r"(perceivio|torch|nn|os|numpy|pathlib|fractions|collections|typing|pyarrow)\..*"),
    ("py:.*", r"(dict|list|tuple)\[.*"),  # in what a named tuple's fields are said to be
]
