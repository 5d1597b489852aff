"""From files to figures: means over files, how sure they are, and the same by class.

The unit is the source file: windows of one file resemble each other, so an interval over windows
would promise too much. The interval is a bootstrap's: files are drawn with replacement, 2,000
times, and the middle 95 % of the means are told. Draws are the same in every run, and are made
file by file, so memory does not grow with their number.

Letters: R resamples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .figures import FIGURES
from .files import DIGITS, File, Means

RESAMPLES, SEED, MIDDLE = 2000, 0, (2.5, 97.5)
FEW = 5  # files below which an interval says little
CLASS_FIGURES = ("top1", "top5", "clip_top1", "clip_top5")
KEPT = ("values", "image_bits", "audio_bits")
TOLD = 20  # failed files that the summary names; the rows of files name all


@dataclass(frozen=True)
class Figure:
    """A mean over `files` files, and between which values 95 % of the resampled means lie.

    low and high are None for fewer than two files.
    """

    mean: float
    low: float | None
    high: float | None
    files: int


@dataclass
class ClassRow:
    """Files of one class: means by whose answer and what, and what the files were taken for."""

    files: int = 0
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    taken_for: dict[str, int] = field(default_factory=dict)


@dataclass
class Summary:
    """What is said of all files together.

    files, windows  evaluated; `silent` windows have sound without a signal
    failed          files that could not be evaluated, `reasons` of the first of them
    figures         by whose answer and what
    kept            by whose answer: values and bits of a window, means over files
    classes         by name: of files whose class is known to the model
    unlabelled      files of no class, and `unknown` classes that the model does not have
    """

    files: int = 0
    windows: int = 0
    silent: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    kept: dict[str, dict[str, float]] = field(default_factory=dict)
    classes: dict[str, ClassRow] = field(default_factory=dict)
    unlabelled: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summed_up(files: Iterable[File], count: int, model: str) -> Summary:
    """The summary of files, streamed; `count` of them did not fail.

    model  by whose name its answers are known
    """
    summary = Summary()
    resampled, kept, classes = _Resampled(count), Means(), defaultdict(Means)
    for file in files:
        if file.failed is not None:
            summary.failed += 1
            if len(summary.reasons) < TOLD:
                summary.reasons.append(file.failed)
            continue
        summary.files += 1
        summary.windows += file.windows
        summary.silent += file.silent
        figures = {who: dict(values) for who, values in file.figures.items()}
        if file.classified is not None:
            told = asdict(file.classified)
            figures.setdefault(model, {}).update({what: told[what] for what in CLASS_FIGURES})
        resampled.add(figures)
        for who, parts in file.kept.items():
            kept.add(who, parts)
        _sort(file, figures, summary, classes)
    summary.figures, summary.kept = resampled.figures(), kept.means()
    for name, sums in sorted(classes.items()):
        summary.classes[name].figures = sums.means()
    summary.classes = dict(sorted(summary.classes.items()))
    return summary


def _sort(
    file: File,
    figures: Mapping[str, Mapping[str, float]],
    summary: Summary,
    classes: Mapping[str, Means],
) -> None:
    """Count a file among those of its class."""
    if file.label is None:
        summary.unlabelled += 1
        return
    row = summary.classes.setdefault(file.label, ClassRow())
    row.files += 1
    for who, values in figures.items():
        classes[file.label].add(who, values)
    if file.classified is None:
        summary.unknown[file.label] = summary.unknown.get(file.label, 0) + 1
    else:
        best = file.classified.predicted
        row.taken_for[best] = row.taken_for.get(best, 0) + 1


class _Resampled:
    """Means with their intervals, over files that are added one at a time.

    A resample draws as many files as there are, with replacement: how often a file is in it follows
    from those before it, by a binomial draw out of what is left.
    """

    def __init__(self, files: int) -> None:
        self._random = np.random.default_rng(SEED)
        self._files, self._drawn = files, np.full(RESAMPLES, files)
        self._cells: dict[tuple[str, str], _Cell] = {}

    def add(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        times = self._times()
        for who, values in figures.items():
            for what, value in values.items():
                self._cells.setdefault((who, what), _Cell()).add(value, times)

    def figures(self) -> dict[str, dict[str, Figure]]:
        found: dict[str, dict[str, Figure]] = defaultdict(dict)
        for (who, what), cell in self._cells.items():
            found[who][what] = cell.figure()
        return {
            who: {what: of[what] for what in (*FIGURES, *CLASS_FIGURES) if what in of}
            for who, of in found.items()
        }

    def _times(self) -> np.ndarray:
        """(R,): how often the next file is in each resample."""
        times = self._random.binomial(self._drawn, 1 / self._files)
        self._drawn, self._files = self._drawn - times, self._files - 1
        return times


class _Cell:
    """One figure: its sums over the files that have it, and over those of each resample (R,)."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0
        self._totals, self._counts = np.zeros(RESAMPLES), np.zeros(RESAMPLES)

    def add(self, value: float, times: np.ndarray) -> None:
        self._total, self._count = self._total + value, self._count + 1
        self._totals += times * value
        self._counts += times

    def figure(self) -> Figure:
        low = high = None
        if self._count > 1:
            there = self._counts > 0
            means = self._totals[there] / self._counts[there]
            low, high = (round(float(edge), DIGITS) for edge in np.percentile(means, MIDDLE))
        return Figure(round(self._total / self._count, DIGITS), low, high, self._count)
