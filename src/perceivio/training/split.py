"""The clips of a run: those it trains on, and those it is validated on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..config import Config
from ..data.catalogue import Index
from ..data.dataset import Augment, ClipDataset, check_beside
from ..data.store import Place
from ..pipeline import clip_format
from .errors import RunError
from .settings import Settings

PROBED = 16  # clips that are looked for before a run begins


@dataclass(frozen=True)
class Split:
    """What is trained on, and what is held out: in an order in which the first few stand for all.

    identity  16 hexadecimal digits that name the clips, in their order, with their labels
    """

    train: Index
    held: Index
    identity: str

    @classmethod
    def of(cls, data: str | Path, root: str | Path | None, settings: Settings) -> Split:
        """Of an index, and of the one that settings name for validation. Raises PerceivioError
        where clips are not there, or too few."""
        index = Index.read(data, root)
        _check_there(index, str(data))
        # Drawn by (seed,) alone, so the same whatever else a run draws.
        random = np.random.default_rng((settings.run.seed,))
        if settings.data.validation:
            held = Index.read(settings.data.validation)
            _check_there(held, settings.data.validation)
            shuffled = _taken(held, random.permutation(len(held)))
            return cls(index, shuffled, _identity(index, held))
        if len(index) < 2:
            raise RunError(
                f"{data}: one clip is not enough to train on one and validate on another"
            )
        count = min(max(1, round(settings.data.held_out * len(index))), len(index) - 1)
        order = random.permutation(len(index))
        train, held = _taken(index, np.sort(order[count:])), _taken(index, order[:count])
        return cls(train, held, _identity(train, held))

    def examples(self, config: Config, settings: Settings) -> tuple[ClipDataset, ClipDataset]:
        """Both as examples for a model. Raises RunError for labels that are none of its, and
        PerceivioError where files beside clips are not what it declares, or none are there."""
        names, both = class_names(config), (self.train, self.held)
        for index in both:
            unknown = sorted(set(index.classes) - set(names))
            if unknown and names:
                hint = " (--set model.classes=index takes the data's)"
                raise RunError(
                    f"{len(unknown)} labels of the data are none of the model's {len(names)}"
                    f" classes, {unknown[0]!r} among"
                    f" them{hint * (settings.model.classes == 'model')}"
                )
        if not names:
            both = (_without_labels(self.train), _without_labels(self.held))
        check_beside(self.train, clip_format(config))
        crops = Augment(settings.data.area, settings.data.aspect, settings.data.flip)
        train, held = (
            ClipDataset(index, clip_format(config), names, settings.run.seed, augment)
            for index, augment in zip(both, (crops, None), strict=True)
        )
        return train, held


def class_names(config: Config) -> Sequence[str]:
    found = config.classes()
    return found[1].names if found else ()


def _taken(index: Index, rows: np.ndarray) -> Index:
    return dataclasses.replace(index, table=index.table.take(rows))


def _without_labels(index: Index) -> Index:
    at = index.table.schema.get_field_index("label")
    none = pa.nulls(len(index), pa.string())
    return dataclasses.replace(index, classes=(), table=index.table.set_column(at, "label", none))


def _check_there(index: Index, name: str) -> None:
    if not len(index):
        raise RunError(f"{name}: no clips are in it")
    for row in np.linspace(0, len(index) - 1, min(PROBED, len(index))).astype(int).tolist():
        clip = index[row]
        place: Place = index.root / (clip.shard or clip.path)
        if not place.exists():
            raise RunError(
                f"{name}: {place} is not there; if the clips have moved, say where they are with"
                " --root"
            )


def _identity(index: Index, held: Index) -> str:
    digest = hashlib.sha256()
    for clips in (index, held):
        for column in ("path", "label", "shard", "offset"):
            digest.update(repr(clips.table.column(column).to_pylist()).encode())
        beside = clips.table.column("beside").to_pylist()
        if any(beside):  # clips without are called what they were called before there were any
            digest.update(repr(beside).encode())
    return digest.hexdigest()[:16]
