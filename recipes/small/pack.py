"""A pack: many arrays of different shapes in one memory-mapped file, each with a note.

Thousands of small decoded files (sounds, photographs, spoken words) become one flat
`.npy` file and one `.json` table, which worker processes share without copying.
"""

import json
from pathlib import Path

import numpy as np


def save_pack(path: Path, arrays: list[np.ndarray], notes: list[dict]) -> None:
    """Write the arrays one after the other, then the table (last, as sign of completeness)."""
    flat = np.concatenate([array.reshape(-1) for array in arrays] or [np.zeros(0, np.int16)])
    np.save(path.with_suffix(".npy"), flat)
    table = [
        {"shape": list(array.shape), **note} for array, note in zip(arrays, notes, strict=True)
    ]
    path.with_suffix(".json").write_text(json.dumps(table))


def has_pack(path: Path) -> bool:
    """Whether there is one with anything in it."""
    table = path.with_suffix(".json")
    return table.exists() and table.read_text() != "[]"


class Pack:
    """A saved pack: `pack[i]` is array i, `pack.notes[i]` its note."""

    def __init__(self, path: Path):
        self.flat = np.load(path.with_suffix(".npy"), mmap_mode="r")
        self.notes = json.loads(path.with_suffix(".json").read_text())
        sizes = [int(np.prod(note["shape"])) for note in self.notes]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self) -> int:
        return len(self.notes)

    def __getitem__(self, index: int) -> np.ndarray:
        piece = self.flat[self.starts[index] : self.starts[index + 1]]
        return piece.reshape(self.notes[index]["shape"])

    def where(self, **wanted) -> list[int]:
        """Indices of the arrays whose notes have all the wanted values."""
        return [
            i
            for i, note in enumerate(self.notes)
            if all(note.get(key) == value for key, value in wanted.items())
        ]
