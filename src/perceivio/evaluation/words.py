"""How figures are told: rows of tables and remarks, for terminal and report alike."""

from __future__ import annotations

from .columns import CLASSES, COLUMNS
from .result import Evaluation
from .summary import FEW, MIDDLE, RESAMPLES, Figure


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
    for what, column in CLASSES.items():
        if what in figures:
            chance = ", ".join(
                f"{how} {share[what[-4:]]:.1%}" for how, share in found.chance.items()
            )
            told.append((column.name, f"{share_told(figures[what])}   ({chance})"))
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
    summary, (low, high) = found.summary, MIDDLE
    lines = [
        f"In brackets: the middle {high - low:.0f} % of {RESAMPLES:,} means over files that are"
        " drawn anew (bootstrap over source files, not windows)."
    ] * (summary.files > 1)
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
    lines += _partly(found)
    lines.append(_classes_remark(found))
    return [line for line in lines if line]


def _partly(found: Evaluation) -> list[str]:
    """Who does not answer for every file that the model answers for: of a codec, the coarsest
    stream may take more bits than there are."""
    figures, lines = found.summary.figures, []
    for what in ("video_psnr", "audio_psnr"):
        every = figures.get(found.model["name"], {}).get(what)
        for who, of in figures.items():
            if every and what in of and of[what].files < every.files:
                lines.append(
                    f"{who} answers for {of[what].files:,} of {_count(every.files, 'file')}:"
                    f" {COLUMNS[what].name}."
                )
    return lines


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
