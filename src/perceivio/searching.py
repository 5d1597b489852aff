"""Nearest windows: exact search by cosine through a table of vectors, a group of rows at a time.

Every row is compared with every window of the query, and a row is as near as to the nearest of
them. Nothing is indexed: a million rows of 320 numbers are 1.3 GB, read once a search.

Letters: n rows, Q windows of the query, F numbers of a vector.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from .autoencoder import Autoencoder, load
from .embedding_table import Rows, Table
from .embeddings import Pooler, Pooling, Span, vectors_of
from .errors import PerceivioError
from .identity import short
from .latents import is_latents
from .pipeline import clip_format
from .weights import HUB_MODEL, SHIPPED

DIGITS = 9  # of a cosine that count: rows that agree in these are equally near
QUERIES = 256  # windows of a query that rows are compared with at once


@dataclass(frozen=True)
class Hit:
    """A row that is near.

    row          its number in the table
    file, start, stop  the window that it is of, times in seconds
    cosine       of the angle to the nearest window of the query
    query_start  second at which that one begins
    """

    row: int
    file: str
    start: float
    stop: float
    cosine: float
    query_start: float


@dataclass(frozen=True)
class Query:
    """What is looked for.

    file     that it is from
    starts   (Q,) where its windows begin, in seconds
    vectors  (Q, F) of length 1, float64
    row      its number in the table, where it is a row of it
    """

    file: str
    starts: list[float]
    vectors: np.ndarray
    row: int | None = None


def search(
    query: str | os.PathLike[str] | int,
    table: str | os.PathLike[str],
    model: Autoencoder | str | None = None,
    *,
    at: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    top: int = 10,
    others: bool = False,
    device: str | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> list[Hit]:
    """The `top` windows of a table that are nearest to a file, or to a row of the table.

    query     a media file, or the number of a row, counted from 0
    model     that made the table; None: the one that the table names. For a row none is needed
    at        only the window of the file that begins at this second
    start, duration  only the windows of this span, in seconds
    others    leave out the windows of the file that the query is from
    progress  called with (rows done, rows in all)

    Nearest first; of those equally near the first in the table. A row is never its own answer.
    Raises PerceivioError where the table was made by another model.
    """
    rows = Table(table)
    if isinstance(query, int):
        if model is not None or at is not None or start or duration is not None:
            raise PerceivioError("a row of the table is a query by itself: no model, no times")
        wanted = _row(rows, query)
    else:
        wanted = _windows(query, rows, model, at, start, duration, device)
    return nearest(wanted, rows, top, others, progress)


def nearest(
    query: Query,
    table: Table,
    top: int,
    others: bool = False,
    progress: Callable[[float, float], None] | None = None,
) -> list[Hit]:
    """The `top` rows that are nearest to any window of the query."""
    found: list[Hit] = []
    own = _place(query.file)
    for rows in table:
        best, which = _best(unit(rows.vectors), query.vectors)
        if query.row is not None and 0 <= query.row - rows.first < len(rows):
            best[query.row - rows.first] = -np.inf
        if others:
            best[[_place(file) == own for file in rows.files]] = -np.inf
        for i in np.argsort(-best, kind="stable")[:top]:
            if np.isfinite(best[i]):
                near = query.starts[which[i]]
                found.append(_hit(rows, int(i), float(best[i]), near))
        found = sorted(found, key=lambda hit: (-hit.cosine, hit.row))[:top]
        if progress:
            progress(rows.first + len(rows), len(table))
    return found


def _best(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row (n, F) the cosine (n,) to the nearest query (Q, F), and which that is (n,)."""
    best, which = np.full(len(rows), -np.inf), np.zeros(len(rows), int)
    for first in range(0, len(queries), QUERIES):
        cosines = (rows @ queries[first : first + QUERIES].T).round(DIGITS)
        nearest = cosines.argmax(1)
        highest = cosines[np.arange(len(rows)), nearest]
        nearer = highest > best
        best[nearer], which[nearer] = highest[nearer], first + nearest[nearer]
    return best, which


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, F) of length 1, float64; those of length 0 stay so."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def _hit(rows: Rows, i: int, cosine: float, query_start: float) -> Hit:
    place = rows.files[i], rows.starts[i], rows.stops[i]
    return Hit(rows.first + i, *place, cosine, query_start)


def _row(table: Table, number: int) -> Query:
    """A row of the table as a query."""
    if not 0 <= number < len(table):
        raise PerceivioError(
            f"{table.path}: has no row {number}; its rows are 0 to {len(table) - 1}"
        )
    rows = next(rows for rows in table if number < rows.first + len(rows))
    i = number - rows.first
    return Query(rows.files[i], [rows.starts[i]], unit(rows.vectors[i : i + 1]), number)


def _windows(
    path: str | os.PathLike[str],
    table: Table,
    model: Autoencoder | str | None,
    at: float | None,
    start: float,
    duration: float | None,
    device: str | None,
) -> Query:
    """The windows of a file as a query, by the model that made the table."""
    facts = table.facts
    if at is not None and (start or duration is not None):
        raise PerceivioError("--at names one window: leave out --start and --duration")
    ready = _maker(table, model, device)
    if at is not None:  # windows of latents overlap: those that cover this moment
        start = at
        duration = 1e-6 if is_latents(path) else float(clip_format(ready.config).seconds)
    pooler = Pooler(ready, cast("Pooling", facts.pooling))
    spans: list[Span] = []
    vectors: list[np.ndarray] = []
    for some, values in vectors_of(path, ready, pooler, start, duration):
        spans += some
        vectors.append(values.numpy())
    if not spans:
        raise PerceivioError(f"{path}: holds nothing that could be read")
    return Query(os.fspath(path), [span[0] for span in spans], unit(np.concatenate(vectors)))


def _maker(table: Table, model: Autoencoder | str | None, device: str | None) -> Autoencoder:
    """The model that made the table: `model`, or the one that the table names. As a table may come
    from anybody, that is loaded only where it can do no harm: see keep.maker."""
    facts = table.facts
    made_by = f"model {facts.model!r} ({short(facts.identity)})"
    if model is None:
        model = facts.model
        if model not in (*SHIPPED, HUB_MODEL) and not (model and Path(model).exists()):
            raise PerceivioError(f"{table.path}: was made by {made_by}; name it with --model")
    ready = load(model, device) if isinstance(model, str) else model
    if ready.identity != facts.identity:
        other = f"{ready.source or ready.config.name!r} ({short(ready.identity)})"
        raise PerceivioError(
            f"{table.path}: was made by {made_by}, not by {other}: name that model with --model, or"
            " run `perceivio embed` again"
        )
    return ready


def _place(file: str) -> str:
    """Which file it is, however it was named."""
    return os.path.abspath(file)  # noqa: PTH100, Path.absolute keeps ".."
