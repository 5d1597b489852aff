"""The paper's table on Kinetics-700-2020, and evaluations as rows of the same kind beside it.

Source: Jaegle et al., arXiv 2107.14795, Table 4 (Table 5 of the first version) and the text below
it. The paper says neither the peak of its PSNR, nor how many windows of a clip were taken, nor
whether silent clips count: ours are peak 1, all windows (or as many as are asked for), and clips
with sound only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .result import Evaluation


@dataclass(frozen=True)
class Row:
    """A checkpoint. What is not stated, or not known, is None.

    ratio    compression by the paper's count: picture tokens x input channels over latent numbers
    latents  N x D
    audio_psnr, video_psnr  dB, peak 1
    top1     share of windows whose class was told, the label masked; clip_top1 of whole clips
    clips    how many, and windows
    """

    name: str
    ratio: float | None
    latents: tuple[int, int] | None
    audio_psnr: float | None
    video_psnr: float | None
    top1: float | None
    audio_snr: float | None = None
    clip_top1: float | None = None
    clips: int | None = None
    windows: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


PAPER = (
    Row("paper, 88x", 88.0, (784, 512), 26.97, 24.37, 0.102),
    Row("paper, 176x", 176.0, (392, 512), 25.33, 24.27, 0.086),
    Row("paper, 352x", 352.0, (196, 512), 14.15, 23.21, 0.115),
    Row("paper, label weight 1", None, None, None, 20.7, 0.45),
)
COLUMNS = {
    "ratio": "ratio",
    "latents": "latents",
    "audio_psnr": "sound PSNR\ndB",
    "video_psnr": "picture PSNR\ndB",
    "top1": "top-1\nwindows",
    "audio_snr": "SNR\ndB",
    "clip_top1": "top-1\nclips",
    "windows": "windows",
    "clips": "clips",
}


def row(found: Evaluation, name: str) -> Row:
    """What an evaluation says, as the paper's table would."""
    figures = found.summary.figures.get(found.model["name"], {})

    def mean(what: str) -> float | None:
        return figures[what].mean if what in figures else None

    latents, channels = found.model["latents"]
    return Row(
        name,
        found.model["compression"]["paper"],
        (latents, channels),
        mean("audio_psnr"),
        mean("video_psnr"),
        mean("top1"),
        mean("audio_snr"),
        mean("clip_top1"),
        found.summary.files,
        found.summary.windows,
    )


def cells(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The table's lines: a name, and a cell for each of COLUMNS."""
    return [(each.name, [_told(what, getattr(each, what)) for what in COLUMNS]) for each in rows]


def _told(what: str, value: Any) -> str:
    if value is None:
        return "-"
    if what == "latents":
        return f"{value[0]} x {value[1]}"
    if what == "ratio":
        return f"{value:.0f}x" if value >= 10 else f"{value:.1f}x"
    if "top1" in what:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
