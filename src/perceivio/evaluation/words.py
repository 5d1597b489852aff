"""What figures are called, and what each of them is, in one line: for terminal and report alike."""

from __future__ import annotations

from dataclasses import dataclass

from .result import Evaluation
from .summary import FEW, MIDDLE, RESAMPLES, Figure


@dataclass(frozen=True)
class Column:
    """A column of the table: its name, its unit, digits behind the point, what it is."""

    name: str
    unit: str
    digits: int
    meaning: str


COLUMNS = {
    "video_psnr": Column(
        "picture PSNR", "dB", 2,
        "10 log10(1 / mean square error) of pixels in [0, 1], of each window, then averaged;"
        " higher is nearer, 100 at most",
    ),
    "video_ssim": Column(
        "SSIM", "", 4,
        "structural similarity of frames (Gaussian window of 11 pixels, sigma 1.5, K1 0.01,"
        " K2 0.03; mean of R, G, B); 1 is the same",
    ),
    "audio_psnr": Column(
        "sound PSNR", "dB", 2,
        "the same as for pixels, of samples in [-1, 1]; quiet sound scores high whatever is done"
        " to it, so see SNR",
    ),
    "audio_snr": Column(
        "SNR", "dB", 2,
        "10 log10(energy of the sound / energy of the error); silence has 0; windows without a"
        " signal are left out",
    ),
    "log_mel": Column(
        "log-mel", "dB", 2,
        "how far the sound's spectra (64 mel bands, 25 ms) are apart, on average; lower is nearer",
    ),
    "values": Column("values", "", 0, "numbers kept of a window"),
    "bits": Column("bits", "", 0, "bits kept of a window, on average; of the model: its latents"),
}  # fmt: skip
CLASSES = {
    "top1": "top-1 of windows",
    "top5": "top-5 of windows",
    "clip_top1": "top-1 of files",
    "clip_top5": "top-5 of files",
}


def rows(found: Evaluation) -> list[tuple[str, dict[str, str]]]:
    """The table: who answers, and under each column that anybody fills, what is told of it."""
    told: list[tuple[str, dict[str, str]]] = []
    for who in found.notes:
        cells = {
            what: figure_told(figure, COLUMNS[what].digits)
            for what, figure in found.summary.figures.get(who, {}).items()
            if what in COLUMNS
        }
        kept = found.summary.kept.get(who, {})
        if "values" in kept:
            cells["values"] = f"{kept['values']:,.0f}"
        bits = [kept[part] for part in ("image_bits", "audio_bits") if part in kept]
        if who == found.model["name"]:
            bits = [found.model["bits"]]
        if bits:
            cells["bits"] = " + ".join(f"{part:,.0f}" for part in bits)
        told.append((who, cells))
    there = [name for name in COLUMNS if any(name in cells for _, cells in told)]
    return [(who, {name: cells.get(name, "-") for name in there}) for who, cells in told]


def figure_told(figure: Figure, digits: int) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.{digits}f}"
    return f"{figure.mean:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def share_told(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.1%}"
    return f"{figure.mean:.1%} [{figure.low:.1%}, {figure.high:.1%}]"


def class_rows(found: Evaluation) -> list[tuple[str, str]]:
    """What is told of classes, beside what chance would give; none where no class is known."""
    figures = found.summary.figures.get(found.model["name"], {})
    told = []
    for what, name in CLASSES.items():
        if what in figures:
            chance = ", ".join(
                f"{how} {share[what[-4:]]:.1%}" for how, share in found.chance.items()
            )
            told.append((name, f"{share_told(figures[what])}   ({chance})"))
    return told


def ratios(found: Evaluation) -> list[tuple[str, str]]:
    """The three compression ratios, each with its formula."""
    by, (latents, channels) = found.model["compression"], found.model["latents"]
    size = f"{latents} x {channels} latent numbers"
    return [
        (f"{by['paper']:.2f}x", f"the paper's count: picture tokens x input channels over {size}"),
        (f"{by['values']:.2f}x", f"values: pixels, samples and classes of a window over {size}"),
        (
            f"{by['bits']:.2f}x",
            "bits: 8 a pixel value and 16 a sample over the"
            f" {found.model['bits']:,} of {found.settings['precision']} latents",
        ),
    ]


def remarks(found: Evaluation) -> list[str]:
    """What one should know beside the figures, a line each."""
    summary, lines = found.summary, []
    low, high = MIDDLE
    if summary.files > 1:
        lines.append(
            f"In brackets: the middle {high - low:.0f} % of {RESAMPLES:,} means over files that"
            " are drawn anew (bootstrap over source files, not windows)."
        )
    if summary.files < FEW:
        lines.append(
            f"Of {_count(summary.files, 'file')} only: an interval over so few says little."
        )
    if summary.silent:
        lines.append(
            f"{_count(summary.silent, 'window')} of {summary.windows:,} have sound without a"
            " signal, and no SNR."
        )
    if summary.failed:
        lines.append(
            f"{_count(summary.failed, 'file')} could not be evaluated: {summary.reasons[0]}"
            + (", ..." if summary.failed > 1 else "")
        )
    lines.append(_classes_remark(found))
    return [line for line in lines if line]


def _classes_remark(found: Evaluation) -> str:
    summary = found.summary
    if not found.model["classes"]:
        return "The model has no classes."
    if not summary.classes:
        return "No file has a class, so nothing is said of top-1 and top-5."
    parts = []
    if summary.unlabelled:
        parts.append(f"{_count(summary.unlabelled, 'file')} of no class")
    if summary.unknown:
        names = ", ".join(list(summary.unknown)[:3]) + ", ..." * (len(summary.unknown) > 3)
        files = _count(sum(summary.unknown.values()), "file")
        parts.append(f"{files} of classes that the model does not know ({names})")
    return f"Not among top-1 and top-5: {'; '.join(parts)}." if parts else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
