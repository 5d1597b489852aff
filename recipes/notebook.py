"""Run the tutorial notebook in a kernel of its own, and keep in it what it shows.

    python -m recipes.notebook [notebooks/tutorial.ipynb]

The notebook is the source; this renews its outputs. A cell that fails ends it, and the file stays
as it was. What the cells write goes to a temporary folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from perceivio.writer import part_of

SECONDS = 600  # that one cell may take


def execute(path: Path) -> Any:
    """The notebook with what its cells show, run where it lies. Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,  # or every run would change every cell
        resources={"metadata": {"path": str(path.parent)}},
        # It warns that it is spoken to in plain text, which does not leave this machine.
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute()
    # Of the kernel's description only the language: its version says nothing of this notebook.
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, nargs="?", default=Path("notebooks/tutorial.ipynb"))
    path = parser.parse_args().path
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # of the kernel, which inherits it
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            parser.exit(1, f"{path}: a cell failed, nothing was changed\n{error}\n")
    part = part_of(path)
    try:
        nbformat.write(notebook, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
