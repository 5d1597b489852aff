"""Which clips there should be: those of a folder, or those that Kinetics' annotations name."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..config import Modality
from .catalogue import Beside, DataError, path_beside
from .store import Place

# By its name a file is a video or somebody else's; what it really is shows when it is opened.
SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
}
ANNOTATIONS = ("youtube_id", "time_start", "time_end")  # and `label`, where it is told


@dataclass(frozen=True)
class Candidate:
    """A clip that should be there: `path` from the root, bytes of its file (None: no such file).

    label, start, stop are those of `catalogue.Clip`; `beside` are declared files that are there.
    """

    path: str
    size: int | None
    label: str | None = None
    start: float | None = None
    stop: float | None = None
    beside: tuple[Beside, ...] = ()


def of_folder(root: Place, declared: Sequence[Modality] = ()) -> tuple[list[Candidate], int]:
    """The videos of a folder, by path, and how many other files are there.

    A video in a folder of the root bears that folder's name as its label; one in the root itself
    bears none. Hidden files and folders do not count. Files that are named like those of `declared`
    modalities belong to clips, and are none.
    """
    if not root.is_folder():
        raise DataError(f"{root}: no such folder")
    candidates, others = [], 0
    files = root.files()
    for path, size in files.items():
        parts = PurePosixPath(path).parts
        if any(part.startswith(".") for part in parts) or _is_beside(parts[-1], declared):
            continue
        if PurePosixPath(path).suffix.lower() not in SUFFIXES:
            others += 1
            continue
        label = parts[0] if len(parts) > 1 else None
        beside = _beside(path, files, declared)
        candidates.append(Candidate(path, size, label, beside=beside))
    return candidates, others


def _is_beside(name: str, declared: Sequence[Modality]) -> bool:
    patterns = (re.escape(m.beside).replace(re.escape("{stem}"), ".+") for m in declared)
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _beside(
    path: str, files: Mapping[str, int | None], declared: Sequence[Modality]
) -> tuple[Beside, ...]:
    """The declared files that are there for a clip, each once."""
    wanted = dict.fromkeys(path_beside(path, modality) for modality in declared)
    return tuple(Beside(name, files[name] or 0) for name in wanted if files.get(name) is not None)


def of_kinetics(
    annotations: Place, root: Place, declared: Sequence[Modality] = ()
) -> list[Candidate]:
    """The clips that Kinetics' annotations name, in their order, found anywhere below the root.

    The CSV has the columns label, youtube_id, time_start and time_end, in seconds; others are
    ignored, and test sets have no label. A clip's file is called ID_START_END with six digits
    each and any suffix of a video. The root is listed once and never asked file by file, so class
    folders may be spelt in any way; of two files of one name, the one in the folder of its own
    label is taken. Raises DataError where the CSV is not one.
    """
    try:
        text = annotations.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{annotations}: cannot be read as a CSV file") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    absent = [column for column in ANNOTATIONS if column not in (rows.fieldnames or ())]
    if absent:
        raise DataError(f"{annotations}: not annotations of Kinetics: no column {absent[0]}")
    if not root.is_folder():
        raise DataError(f"{root}: no such folder")
    files = root.files()
    clips: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for path, size in files.items():
        if PurePosixPath(path).suffix.lower() in SUFFIXES:
            clips[PurePosixPath(path).stem].append((path, size))
    candidates = []
    for row in rows:
        try:
            start, stop = float(row["time_start"]), float(row["time_end"])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{annotations}, line {rows.line_num}: time_start and time_end must be seconds"
            ) from error
        label = row.get("label") or None
        name = f"{row['youtube_id']}_{int(start):06d}_{int(stop):06d}"
        found = clips.get(name)
        if found is None:
            candidates.append(Candidate(f"{name}.mp4", None, label, start, stop))
            continue
        own = [(p, s) for p, s in found if PurePosixPath(p).parent.name == label]
        path, size = (own or found)[0]
        beside = _beside(path, files, declared)
        candidates.append(Candidate(path, size, label, start, stop, beside))
    return candidates
