"""Media, figures and classes as HTML, in the colours of the page, light and dark.

All text from files and models is escaped. Nothing refers to another host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..pipeline import Report

Link = Callable[[Path], str]  # a file of the workspace -> its address

SUFFIX_KINDS = {".mp4": "video", ".wav": "audio", ".png": "image"}
DOWNLOADS = {
    "side_by_side": "side by side",
    "reconstruction": "reconstruction",
    "latents": "latents",
}
CONVENTION = (
    "PSNR is 10 log10(1 / mean squared error), peak 1, over all pixels or samples of the file, at"
    " the model's size and rate and before the output is compressed. SNR is 10 log10(energy of the"
    " sound / energy of the error)."
)

EMPTY = '<div class="pv-empty">Drop a file, or take an example: the result will be here.</div>'

CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.pv-head h1 { font-size: 1.6rem; font-weight: 700; margin: 0 0 .25rem; }
.pv-head p { margin: 0; max-width: 60rem; }
.pv-small, .pv-small p { color: var(--body-text-color) !important; opacity: .8;
  font-size: .85rem !important; line-height: 1.45; margin: .5rem 0 0; }
.pv-small .pv-small { opacity: 1; }
.pv-empty { display: grid; place-items: center; min-height: 18rem; padding: 1rem;
  text-align: center; border: 1px dashed var(--border-color-primary); border-radius: 8px; }
.pv-refused { border: 1px solid var(--error-border-color); background: var(--error-background-fill);
  color: var(--error-text-color); overflow-wrap: anywhere; }
.pv-refused p { color: inherit; margin: 0; max-width: 34rem; }
.pv-media video, .pv-media img { display: block; width: 100%; height: auto; max-height: 70vh;
  object-fit: contain; background: #000; border-radius: 8px; margin: 0; }
.pv-media audio { display: block; width: 100%; margin: 1rem 0; }
.pv-links { display: flex; flex-wrap: wrap; gap: .5rem; }
.pv-links a { padding: .35rem .75rem; border: 1px solid var(--border-color-primary);
  border-radius: 6px; text-decoration: none !important; color: var(--body-text-color) !important;
  background: var(--button-secondary-background-fill); }
.pv-links a:hover, .pv-links a:focus-visible { border-color: var(--color-accent); }
.pv-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .9rem 1rem; }
.pv-card h2, .pv-ask h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 .5rem; }
.pv-card table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;
  border: 0; margin: 0; }
.pv-card tr { border: 0; background: none !important; }
.pv-card th, .pv-card td { text-align: left; padding: .3rem .75rem .3rem 0 !important;
  font-weight: 400; border: 0 !important; vertical-align: baseline;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.pv-card th, .pv-card td.n { white-space: nowrap; }
.pv-card td.n { font-weight: 600; }
.pv-classes { display: grid; grid-template-columns: fit-content(40%) 1fr 3.6rem;
  gap: .35rem .75rem; align-items: end; }
.pv-classes .name { overflow-wrap: anywhere; line-height: 1.2; align-self: center; }
.pv-classes .mean { text-align: right; font-variant-numeric: tabular-nums; align-self: center; }
.pv-bars { display: flex; align-items: flex-end; height: 2.2rem; gap: 1px; min-width: 0;
  border-bottom: 1px solid var(--body-text-color-subdued); }
.pv-bars i { flex: 1 1 0; min-width: 0; background: var(--color-accent); }
.pv-clock { display: flex; justify-content: space-between; }
.pv-frame img { display: block; max-width: 100%; height: auto; border-radius: 8px; margin: 0; }
footer .divider { display: none; }
"""


def media(shown: Path, link: Link, caption: str) -> str:
    """The result, to be watched, heard or looked at."""
    source, kind = escape(link(shown)), SUFFIX_KINDS[shown.suffix]
    element = {
        "video": f'<video controls playsinline preload="auto" src="{source}"></video>',
        "audio": f'<audio controls preload="auto" src="{source}"></audio>',
        "image": f'<img alt="{escape(caption)}" src="{source}">',
    }[kind]
    return f'<div class="pv-media" id="pv-result">{element}</div>' + small(caption)


def downloads(files: Mapping[str, Path], link: Link) -> str:
    links = "".join(
        f'<a download="{escape(path.name)}" href="{escape(link(path))}">'
        f'&#8681; {DOWNLOADS[what]} <span class="pv-small">{path.suffix} {_size(path)}</span></a>'
        for what, path in files.items()
    )
    return f'<nav class="pv-links" aria-label="Downloads">{links}</nav>'


def figures(report: Report, has_original: bool) -> str:
    """PSNR and SNR beside what a trivial answer has."""
    if not has_original:
        text = "Made of latents alone: without the original there is nothing to compare with."
        return _card("How near it is", small(text))
    rows = []
    video, audio = report.video, report.audio
    if video.count:
        rows.append(("Picture, PSNR", video.psnr, video.trivial_psnr, "mean colour"))
    if audio.count and report.info.audio:
        rows.append(("Sound, PSNR", audio.psnr, audio.trivial_psnr, "silence"))
        rows.append(("Sound, SNR", audio.snr, 0.0, "silence"))
    lines = "".join(
        f'<tr><th scope="row">{what}</th><td class="n">{_decibels(value)}</td>'
        f"<td>{guess}: {_decibels(trivial)}</td></tr>"
        for what, value, trivial, guess in rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    told = f"<table>{lines}</table>{small(CONVENTION)}"
    return _card("How near it is", told + (f'<div class="pv-small">{notes}</div>' if notes else ""))


def refused(line: str) -> str:
    """What could not be done, and why."""
    return f'<div class="pv-empty pv-refused" role="alert"><p>{escape(line)}</p></div>'


def classes(report: Report, known: Sequence[str]) -> str:
    """The most probable classes of the file, a row each, as bars over its windows; `known` are the
    names of all that the model can tell."""
    if not report.classes:
        return ""
    rows = []
    for best in report.classes:
        bars = []
        for window in report.windows:
            found = {p.name: p.probability for p in window.classes}
            share = found.get(best.name, 0.0)
            told = f"{window.start:.2f} to {window.stop:.2f} s: {share:.1%}"
            bars.append(f'<i style="height:{100 * share:.1f}%" title="{told}"></i>')
        rows.append(
            f'<span class="name">{escape(best.name)}</span>'
            f'<span class="pv-bars" role="img" aria-label="{escape(best.name)}:'
            f' {best.probability:.1%} over the file">{"".join(bars)}</span>'
            f'<span class="mean">{best.probability:.1%}</span>'
        )
    first, last = report.windows[0].start, report.windows[-1].stop
    clock = (
        f'<span></span><span class="pv-clock pv-small"><span>{first:.1f} s</span>'
        f"<span>{last:.1f} s</span></span><span></span>"
    )
    some = ", ".join(known[:3])
    told = (
        f"Of the {len(known)} classes that this model knows ({some}, ...): it has to choose among"
        " them. A bar a window, as high as the class is probable there; the number is the mean over"
        " the file. The label is masked: the model tells it from picture and sound."
    )
    grid = f'<div class="pv-classes" id="pv-classes">{"".join(rows)}{clock}</div>'
    return _card(f"What it is: top {len(report.classes)}", grid + small(told))


def picture(path: Path, link: Link, name: str, caption: str) -> str:
    """A picture with its size and what it is; `name` is the element's."""
    image = f'<img id="{name}" alt="{escape(caption)}" src="{escape(link(path))}">'
    return f'<div class="pv-frame">{image}</div>{small(caption)}'


def small(text: str) -> str:
    return f'<p class="pv-small">{escape(text)}</p>'


def _card(title: str, inside: str) -> str:
    return f'<section class="pv-card"><h2>{escape(title)}</h2>{inside}</section>'


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
