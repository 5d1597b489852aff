"""Many clips: find and check them, pack them, look at them, and feed them to training.

    store.py      files on any store: list, read a range, write whole or not at all
    catalogue.py  what an index holds; Parquet in and out
    sources.py    a folder or Kinetics' annotations -> the clips that should be there
    indexing.py   check every clip -> an index, and a report of what was left out
    packing.py    an index -> tar shards with byte ranges
    sheet.py      an index -> a contact sheet
    dataset.py    an index -> training examples keyed by (seed, epoch, index)

Each imports only from those above it. Needs the extra packages of `perceivio[train]`.
"""

from importlib.util import find_spec

from ..errors import PerceivioError

for _package in ("pyarrow", "fsspec"):
    if find_spec(_package) is None:
        raise PerceivioError(
            f"work with data sets needs {_package}: pip install 'perceivio[train]'"
        )
