"""What is found of one file: means over its windows, as a line of the journal holds them.

A window counts by how much of it is real: the last one of a file is mostly padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DIGITS = 6  # behind the point: what is kept of a figure


@dataclass(frozen=True)
class Classified:
    """How a file of a known class was classified, the label masked.

    top1, top5            share of its windows of which its class is the most probable, or among
                          the five most probable
    clip_top1, clip_top5  the same of the probabilities averaged over its windows: 1 or 0
    predicted             the most probable class then, and its `probability`
    """

    top1: float
    top5: float
    clip_top1: int
    clip_top5: int
    predicted: str
    probability: float


@dataclass(frozen=True)
class File:
    """One file.

    name, label  of its source
    failed       why it could not be evaluated, in one line; then nothing else is known
    windows      how many, `silent` of them with sound that has no signal; `shown` is where one in
                 the middle begins, in seconds
    figures      by whose answer and what: means over windows
    kept         by whose answer: "values", "image_bits", "audio_bits" a window
    classified   None where the class is not known, or not to the model
    notes        what was missing and replaced, in words
    """

    name: str
    label: str | None
    failed: str | None = None
    windows: int = 0
    silent: int = 0
    shown: float = 0.0
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    classified: Classified | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> File:
        classified = plain["classified"] and Classified(**plain["classified"])
        known: dict[str, Any] = {**plain, "classified": classified, "notes": tuple(plain["notes"])}
        return cls(**known)


class Means:
    """Weighted means of figures by whose answer and what, summed up as they come."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._weights: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(
        self, who: str, values: Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> None:
        for name, value in values.items():
            weight = 1.0 if weights is None else weights[name]
            self._sums[who][name] += weight * value
            self._weights[who][name] += weight

    def means(self) -> dict[str, dict[str, float]]:
        return {
            who: {what: _short(total / self._weights[who][what]) for what, total in sums.items()}
            for who, sums in self._sums.items()
        }


def _short(value: float) -> float:
    return round(value, DIGITS)
