"""What an evaluation leaves in its folder: JSON, a table of files, pictures, a page to read.

    evaluation.json  everything, the same bytes for the same command
    files.csv        a row a file
    report.html      to read: opens anywhere, pictures within
    pictures/        the best, the median and the worst file

Files are streamed from the journal. Each appears when it is whole.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..errors import PerceivioError
from .columns import CLASSES, COLUMNS
from .draw import drawn
from .examine import Examiner
from .figures import FIGURES
from .files import File
from .result import Evaluation
from .sources import Sources
from .words import class_rows, ratios, remarks, rows

JSON, CSV, HTML, PICTURES = "evaluation.json", "files.csv", "report.html", "pictures"
MOST = 1000  # rows of classes in the page

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: .3em .7em; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.own td { font-weight: bold; } img { max-width: 100%; } dt { font-weight: bold; }
dl { color: #555; } dd { margin: 0 0 .3em 1.5em; }
figure { margin: 1.5em 0; } figcaption { margin-bottom: .4em; } .aside { color: #555; }
"""


def write(
    found: Evaluation,
    folder: Path,
    files: Callable[[], Iterable[File]],
    examiner: Examiner,
    sources: Sources,
) -> None:
    """Write all of them into a folder. Raises PerceivioError where that fails."""
    try:
        with _whole(folder / JSON) as file:
            _write_json(file, found, files())
        with _whole(folder / CSV) as file:
            _write_csv(file, found, files())
        pictures = _pictures(found, examiner, sources)
        (folder / PICTURES).mkdir(exist_ok=True)
        for place, picture in pictures.items():
            picture.save(folder / PICTURES / f"{place}.png")
        with _whole(folder / HTML) as file:
            file.write(_page(found, pictures))
    except OSError as error:
        raise PerceivioError(
            f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}"
        ) from error


@contextlib.contextmanager
def _whole(path: Path) -> Generator[IO[str]]:
    """A text file that appears when the block has ended well."""
    part = path.with_name(f".{path.name}.part")
    try:
        # Names of files can be no text at all.
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_json(file: IO[str], found: Evaluation, files: Iterable[File]) -> None:
    """The evaluation, and behind it a row a file, one at a time."""
    head = json.dumps(found.to_dict(), allow_nan=False, indent=1)
    file.write(head.removesuffix("\n}") + ',\n "rows": [')
    for number, row in enumerate(files):
        file.write(",\n  " if number else "\n  ")
        file.write(json.dumps(row.to_dict(), allow_nan=False))
    file.write("\n ]\n}\n")


def _write_csv(file: IO[str], found: Evaluation, files: Iterable[File]) -> None:
    pairs = [(who, what) for who in found.notes for what in FIGURES]
    pairs = [(who, what) for who, what in pairs if what in found.summary.figures.get(who, {})]
    writer = csv.writer(file, lineterminator="\n")
    told = ["name", "class", "windows", "failed", "predicted", "top1", "top5"]
    writer.writerow([*told, *(f"{who}: {what}" for who, what in pairs)])
    for row in files:
        classified: Any = row.classified
        cells = [row.name, row.label, row.windows, row.failed]
        cells += [getattr(classified, key, None) for key in ("predicted", "top1", "top5")]
        writer.writerow([*cells, *(row.figures.get(who, {}).get(what) for who, what in pairs)])


def _pictures(
    found: Evaluation, examiner: Examiner, sources: Sources
) -> dict[str, Image.Image]:
    """By place; a file that is gone meanwhile has none."""
    by_name = {file.name: place for place, file in found.places.items()}
    pictures = {}
    for source in sources:
        if source.name in by_name:
            place = by_name[source.name]
            with contextlib.suppress(PerceivioError):
                pictures[place] = drawn(examiner, source, found.places[place])
    return {place: pictures[place] for place in found.places if place in pictures}


# ---- the page


def _page(found: Evaluation, pictures: Mapping[str, Image.Image]) -> str:
    summary, name = found.summary, found.model["name"]
    title = f"Evaluation of {escape(name)}"
    latents, channels = found.model["latents"]
    head = (
        f"{summary.files:,} files, {summary.windows:,} windows of {found.model['seconds']:g} s;"
        f" {found.settings['precision']} latents; weights {found.settings['model']}"
    )
    lead = (
        f"Every window was squeezed into {latents} x {channels} latent numbers and given back. The"
        " table says how near that comes to the original, and how near others come that know"
        " nothing of it, or codecs at as many bits."
    )
    parts = [
        f"<h1>{title}</h1><p class=aside>{escape(head)}</p><p>{escape(lead)}</p>",
        "<h2>How near it comes</h2>",
        _main_table(found),
        *(f"<p>{escape(line)}</p>" for line in remarks(found)),
        "<h3>What the columns are</h3>",
        _list({f"{c.name} {c.unit}".strip(): c.meaning for c in COLUMNS.values()}),
        "<h3>What the rows are</h3>",
        _list(found.notes),
        _classes(found),
        "<h2>Compression</h2>",
        _table([], [[ratio, formula] for ratio, formula in ratios(found)]),
        _shown(found, pictures),
        _by_class(found),
        _failed(found),
        f"<p class=aside>All figures of all files are in {CSV} and {JSON}.</p>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _main_table(found: Evaluation) -> str:
    told = rows(found)
    names = [COLUMNS[key] for key in told[0][1]]
    head = ["", *(f"{column.name} {column.unit}".strip() for column in names)]
    own = found.model["name"]
    return _table(head, [[who, *cells.values()] for who, cells in told], own)


def _classes(found: Evaluation) -> str:
    told = class_rows(found)
    if not told:
        return ""
    meanings = _list({column.name: column.meaning for column in CLASSES.values()})
    head = "<h2>Classes, the label masked</h2>"
    return head + _table([], [list(row) for row in told]) + meanings


def _shown(found: Evaluation, pictures: Mapping[str, Image.Image]) -> str:
    if not pictures:
        return ""
    what = COLUMNS[found.ranked_by]
    parts = [
        f"<h2>Best, median and worst file, by {what.name}</h2>"
        "<p>From the middle of each file: some frames of one window, and the spectrum of its sound"
        " (low notes below, loud ones bright).</p>"
    ]
    for place, picture in pictures.items():
        file = found.places[place]
        score = file.figures[found.model["name"]][found.ranked_by]
        told = f"{place}: {file.name}, {score:.2f} {what.unit} over the whole file"
        parts.append(
            f"<figure><figcaption>{escape(told)}</figcaption>"
            f'<img alt="{escape(told)}" src="data:image/png;base64,{_base64(picture)}"></figure>'
        )
    return "\n".join(parts)


def _by_class(found: Evaluation) -> str:
    """A row a class: the model's figures, and whose answer was nearest among the others'."""
    summary, own = found.summary, found.model["name"]
    if not summary.classes:
        return ""
    there = [what for what in FIGURES if what in summary.figures.get(own, {})]
    others = [who for who in found.notes if "video_psnr" in summary.figures.get(who, {})]
    others = [who for who in others if who != own]
    head = ["class", "files", *(COLUMNS[what].name for what in there)]
    head += [f"picture PSNR of {who}" for who in others]
    head += ["top-1", "top-5", "mostly taken for"]
    body = []
    for name, row in list(summary.classes.items())[:MOST]:
        figures = row.figures.get(own, {})
        cells = [name, f"{row.files:,}"]
        cells += [_number(figures.get(what), COLUMNS[what].digits) for what in there]
        cells += [_number(row.figures.get(who, {}).get("video_psnr"), 2) for who in others]
        cells += [_percent(figures.get(what)) for what in ("clip_top1", "clip_top5")]
        best = max(row.taken_for.items(), key=lambda pair: pair[1], default=None)
        cells.append(f"{best[0]} ({best[1]} of {row.files})" if best else "-")
        body.append(cells)
    return "<h2>By class</h2>" + _table(head, body)


def _failed(found: Evaluation) -> str:
    summary = found.summary
    if not summary.failed:
        return ""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in summary.reasons)
    more = summary.failed - len(summary.reasons)
    rest = f"<p>and {more:,} more: see {CSV}.</p>" if more else ""
    return f"<h2>Files that could not be evaluated</h2><ul>{items}</ul>{rest}"


def _table(head: list[str], body: list[list[str]], own: str | None = None) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    top = f"<tr>{top}</tr>" if head else ""
    lines = []
    for row in body:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=own' * (row[0] == own)}>{cells}</tr>")
    return f"<table>{top}\n" + "\n".join(lines) + "</table>"


def _list(pairs: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs.items())
        + "</dl>"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _base64(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
