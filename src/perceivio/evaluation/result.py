"""What an evaluation says: the figures of all files, and what one should see beside them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PerceivioError
from .columns import CLASSES, COLUMNS
from .examine import Examiner
from .files import File
from .journal import Journal
from .summary import Summary, summed_up

PLACES = ("best", "median", "worst")


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    settings   what the figures depend on
    model      by whose name the model's answers are known, its size and compression
    notes      by whose answer: what it is, in one line
    chance     top-1 and top-5 without looking: by guessing, and by the most frequent classes
    summary    the figures of all files
    places     files by their place: "best", "median", "worst", by `ranked_by`
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    notes: dict[str, str]
    chance: dict[str, dict[str, float]]
    summary: Summary
    places: dict[str, File]
    ranked_by: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the same in every run: no times, no folder."""
        return {
            "settings": self.settings,
            "model": self.model,
            **self.summary.to_dict(),
            "notes": self.notes,
            "meanings": {what: each.meaning for what, each in (COLUMNS | CLASSES).items()},
            "chance": self.chance,
            "places": {place: file.name for place, file in self.places.items()},
            "ranked_by": self.ranked_by,
        }


def concluded(journal: Journal, examiner: Examiner, settings: dict[str, Any]) -> Evaluation:
    """What a whole journal says. Raises PerceivioError where not one file could be evaluated."""
    good = sum(file.failed is None for file in journal.files())
    summary = summed_up(journal.files(), good, examiner.name)
    if not summary.files:
        raise PerceivioError(
            f"none of {summary.failed} files could be evaluated: {summary.reasons[0]}"
        )
    config = examiner.model.config
    size = config.latents * config.latent_channels
    ratios = config.compression()
    ratios["bits"] *= 32 * size / examiner.bits  # as kept in this precision
    told = {
        "name": examiner.name,
        "latents": [config.latents, config.latent_channels],
        "values": examiner.values,
        "bits": examiner.bits,
        "classes": len(examiner.class_names),
        "seconds": float(examiner.format.seconds),
        "compression": ratios,
    }
    notes = {examiner.name: f"the model, {settings['precision']} latents"}
    notes |= settings["baselines"]
    ranked_by, places = _places(journal, examiner.name)
    return Evaluation(
        settings, told, notes, _chance(summary, examiner), summary, places, ranked_by
    )


def _places(journal: Journal, who: str) -> tuple[str, dict[str, File]]:
    """The best, the median and the worst file, by the first figure that any of them has."""
    for what in ("video_psnr", "audio_snr", "audio_psnr"):
        scores, numbers = array("d"), array("q")
        for number, file in enumerate(journal.files()):
            score = file.figures.get(who, {}).get(what)
            if score is not None:
                scores.append(score)
                numbers.append(number)
        if not scores:
            continue
        order = np.argsort(-np.frombuffer(scores), kind="stable")
        wanted = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        rows = {numbers[at]: place for place, at in reversed(wanted.items())}
        files = {
            rows[number]: file for number, file in enumerate(journal.files()) if number in rows
        }
        return what, {place: files[place] for place in PLACES if place in files}
    return "", {}


def _chance(summary: Summary, examiner: Examiner) -> dict[str, dict[str, float]]:
    """What top-1 and top-5 are without looking, where files have classes that the model knows."""
    known = {
        name: row.files for name, row in summary.classes.items() if name not in summary.unknown
    }
    if not known:
        return {}
    counts, classes = sorted(known.values(), reverse=True), len(examiner.class_names)
    total = sum(counts)
    return {
        "guessing": {"top1": 1 / classes, "top5": min(1.0, 5 / classes)},
        "the most frequent": {"top1": counts[0] / total, "top5": sum(counts[:5]) / total},
    }
