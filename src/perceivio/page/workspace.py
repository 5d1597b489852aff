"""The server's own folder: uploads and results, each in a folder whose name cannot be guessed.

    perceivio-serve-XXXX/   in the system's folder for temporary files; ours alone to read
      lock                  locked as long as the server lives, however it dies
      uploads/TOKEN/NAME    from the upload until its use, which deletes it
      results/TOKEN/...     until its time is over or its visitor has left
      scratch/              what libraries put into temporary files

The next server that starts sweeps the folders of those that are dead: their lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..memory import give_back
from .limits import Limits, RefusalError

PREFIX = "perceivio-serve-"
YOUNG = 60  # seconds in which a folder may not have its lock yet
MOST_RESULTS = 500
PATIENCE = 10  # seconds that a job may take to come to its next window
EVERY = 2.0  # seconds between two looks at what is over


@dataclass
class _Folder:
    """A folder with a token for a name.

    until   when it goes, on the monotonic clock
    owner   the visitor's session, if any
    asked   of an upload: a job for it waits in the queue
    users   that are at work in it
    over    it goes with its last user
    """

    path: Path
    until: float
    owner: str = ""
    asked: bool = False
    users: int = 0
    over: bool = False


class Workspace:
    """Makes the folder, sweeps those of dead servers, and deletes what is over until `close`."""

    def __init__(self, limits: Limits) -> None:
        self.swept = sweep()
        self._limits = limits
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
        self._lock: IO[str] = (self.root / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.uploads, self.results, self.scratch = (
            self.root / name for name in ("uploads", "results", "scratch")
        )
        for folder in (self.uploads, self.results, self.scratch):
            folder.mkdir()
        self._folders: dict[str, _Folder] = {}  # by token: uploads and results
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, name="workspace", daemon=True)
        self._watch.start()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def end(self) -> None:
        """Jobs that run are to stop at their next window."""
        self._ended.set()

    def close(self) -> None:
        """Everything is deleted, once jobs that run have come to their next window."""
        self.end()
        self._watch.join()
        end = time.monotonic() + PATIENCE
        while any(folder.users for folder in list(self._folders.values())):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        shutil.rmtree(self.root, ignore_errors=True)
        self._lock.close()

    # ---- uploads

    def new_upload(self) -> Path:
        """A folder for one upload. Raises RefusalError where too many are waiting."""
        with self._guard:
            waiting = sum(f.path.parent == self.uploads for f in self._folders.values())
            if waiting >= self._limits.waiting:
                raise RefusalError("too many uploads are waiting; try again in a minute")
            return self._new(self.uploads).path

    def is_upload(self, path: str) -> bool:
        """Whether this is the path of an upload that is here."""
        return self._upload(path) is not None

    def ask_for(self, paths: Sequence[str], owner: str) -> None:
        """Jobs for these uploads are put into the queue: they stay until their turn has come at
        the latest, or until their visitor leaves."""
        with self._guard:
            ahead = sum(folder.asked for folder in self._folders.values())
            for path in paths:
                if folder := self._upload(path):
                    folder.asked, folder.owner = True, owner
                    folder.until = time.monotonic() + self._limits.keep
                    folder.until += (ahead + 1) * self._limits.work

    def ask_no_more(self, paths: Sequence[str]) -> None:
        """The jobs were not taken: the uploads may be asked for again."""
        with self._guard:
            for path in paths:
                if folder := self._upload(path):
                    folder.asked, folder.until = False, time.monotonic() + self._limits.keep

    @contextlib.contextmanager
    def use(self, path: str) -> Generator[Path]:
        """The upload at this path, which is deleted afterwards: an upload is used once.

        Raises RefusalError for what is none, whatever else lies there, or is used already.
        """
        with self._guard:
            folder = self._upload(path)
            if folder is None or folder.users:
                raise RefusalError("this upload is not here any more: upload the file again")
            folder.users += 1
        try:
            yield Path(path)
        finally:
            with self._guard:
                folder.users -= 1
            self.drop(folder.path.name)

    def _upload(self, path: str) -> _Folder | None:
        place = Path(path)
        folder = self._folders.get(place.parent.name)
        if folder is None or place.parent.parent != self.uploads or folder.path != place.parent:
            return None
        return folder if place.is_file() and not place.is_symlink() else None

    # ---- results

    def new_result(self, owner: str = "") -> Path:
        """A folder for what is made for a visitor. Where there are too many, the oldest goes."""
        with self._guard:
            made = self._new(self.results, owner).path
            there = [t for t, f in self._folders.items() if f.path.parent == self.results]
        for token in there[:-MOST_RESULTS]:
            self.drop(token)
        return made

    @contextlib.contextmanager
    def result(self, token: str) -> Generator[Path]:
        """The folder of a result, which stays while it is used. Raises RefusalError for none."""
        with self._guard:
            folder = self._folders.get(token)
            if folder is None or folder.over or folder.path.parent != self.results:
                raise RefusalError(
                    "this result was deleted: they are kept for"
                    f" {self._limits.keep / 60:g} minutes. Run it again"
                )
            folder.users += 1
        try:
            yield folder.path
        finally:
            with self._guard:
                folder.users -= 1
            if folder.over:
                self.drop(token)

    def served(self, path: str) -> Path | None:
        """The file that may be given out under this path: a result; nothing else is."""
        place = Path(path)
        folder = self._folders.get(place.parent.name)
        if folder is None or folder.path != place.parent or folder.path.parent != self.results:
            return None
        return place if place.is_file() and not place.is_symlink() else None

    def leave(self, owner: str) -> None:
        """A visitor has left: what was made for this session is deleted."""
        for token, folder in list(self._folders.items()):
            if owner and folder.owner == owner:
                self.drop(token)

    def drop(self, token: str) -> None:
        """Delete a folder, or let its last user do so."""
        with self._guard:
            folder = self._folders.get(token)
            if folder is None:
                return
            folder.over = True
            if folder.users:
                return
            del self._folders[token]
        shutil.rmtree(folder.path, ignore_errors=True)

    # ---- all

    def plain(self, line: str) -> str:
        """A line in which files of ours are called by their names alone."""
        return re.sub(rf"{re.escape(str(self.root))}/\w+/\w+/", "", line)

    def _new(self, parent: Path, owner: str = "") -> _Folder:
        token = secrets.token_hex(16)
        folder = _Folder(parent / token, time.monotonic() + self._limits.keep, owner)
        folder.path.mkdir(mode=0o700)
        self._folders[token] = folder
        return folder

    def _look(self) -> None:
        while not self._ended.wait(min(EVERY, self._limits.keep / 4)):
            give_back()  # of uploads, refused ones too
            now = time.monotonic()
            for token, folder in list(self._folders.items()):
                if folder.until < now and not folder.users:
                    self.drop(token)


def sweep() -> int:
    """Delete the folders of servers that are dead; returns how many."""
    swept = 0
    for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (root / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root)
        except FileNotFoundError:
            try:
                if time.time() - root.stat().st_mtime < YOUNG:
                    continue
                shutil.rmtree(root)
            except OSError:
                continue
        except OSError:  # its server lives, or it is not ours
            continue
        swept += 1
    return swept


def safe_name(name: str) -> str:
    """A visitor's name for a file, without folder, as one that can do no harm anywhere."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^\w .()+-]", "_", last).strip(" .")
    stem, dot, suffix = plain.rpartition(".")
    return f"{stem[:80]}{dot}{suffix[:10]}" if stem else plain[:80] or "upload"
