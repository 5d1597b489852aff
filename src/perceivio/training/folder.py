"""The folder of a run: one run and no other, always with all that is needed to go on.

    settings.json   what it was last told to do
    checkpoints/    states to go on from
    model/          the averaged weights, for `perceivio.load`; best/: those that validated best
    stopped.json    the clips of a step whose loss was not finite
    lock            held while a process trains there

losses.jsonl and board/, which record.py writes, are in it too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .. import ffmpeg, weights
from ..model import MultimodalAutoencoder
from .checkpoints import Checkpoints, check_parts
from .errors import RunError
from .settings import Keep, Settings, differences

# What going on with other settings cannot change: the weights and moments that there are.
FIXED = ("model.", "optimiser.name ")


class RunFolder:
    """Where a run is kept. What writes is for the first of its processes alone.

    path         the folder; it need not be there yet
    checkpoints  those that are in it
    """

    def __init__(self, path: str | Path, keep: Keep) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep)
        self._lock: IO[str] | None = None

    def claim(self) -> None:
        """Make it ours, until `close`. Raises RunError where it is something else, or in use."""
        folder, known = self.path, self.path / "settings.json"
        try:
            if folder.exists() and not folder.is_dir():
                raise RunError(f"{folder} is a file; a run is a folder")
            if folder.is_dir() and any(folder.iterdir()) and not known.exists():
                raise RunError(f"{folder} has files already and is no run; choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
            known.touch()
            self._lock = lock(folder / "lock")
            if self._lock is None:
                raise RunError(f"{folder}: another process is training there")
            self.checkpoints.clean()
            for beside in folder.glob(".*.part"):  # models that a kill left half-written
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {ffmpeg.reason(error)}") from error

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def newest(
        self, settings: Settings, clips: str, other_settings: bool
    ) -> dict[str, Any] | None:
        """The state to go on from, None at the beginning.

        clips           the identity of those that are trained on now
        other_settings  go on although clips or settings are others

        Raises RunError where that cannot be, CheckpointError where no state can be read.
        """
        state, notes = self.checkpoints.newest()
        for note in notes:
            logging.getLogger(__name__).warning("%s; going on from the one before", note)
        if state is None:
            return None
        where = self.checkpoints.path(self.checkpoints.steps()[-1 - len(notes)])
        check_parts(state, int(where.stem), where)
        changes = differences(state["settings"], settings.to_dict())
        fixed = [change for change in changes if change.startswith(FIXED)]
        if fixed:
            raise RunError(
                f"{where} was made with {'; '.join(fixed)}, which a run cannot change once it has"
                " begun; give those, or begin another run from its weights: --set"
                f" model.start={self.path / 'model'}"
            )
        if changes and not other_settings:
            raise RunError(
                f"{where} was made with other settings: {'; '.join(changes)}; give those, another"
                " folder, or --other-settings to go on with the new ones"
            )
        if state["data"] != clips and not other_settings:
            raise RunError(
                f"{where} was made with other clips; give the same index, another folder, or"
                " --other-settings to go on with these"
            )
        if state["step"] > settings.schedule.steps:
            raise RunError(
                f"{self.path}: schedule.steps = {settings.schedule.steps}, but the run has done"
                f" {state['step']} steps already"
            )
        return state

    def begin(self, settings: Settings, needed: int) -> None:
        """Write settings. Raises RunError where fewer than `needed` bytes are free."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunError(
                f"{self.path}: {free / 1e6:,.0f} MB are free, and a run needs"
                f" {needed / 1e6:,.0f} MB for two checkpoints"
            )
        known = self.path / "settings.json"
        try:
            known.write_text(json.dumps(settings.to_dict(), indent=2) + "\n", "utf-8")
        except OSError as error:
            raise RunError(f"{known}: cannot be written: {ffmpeg.reason(error)}") from error

    def save(self, state: dict[str, Any], model: MultimodalAutoencoder, is_best: bool) -> None:
        """A checkpoint, and the model that comes out so far. Raises PerceivioError where they
        cannot be written."""
        # The checkpoint last: a run that goes on from it never makes these models again.
        weights.save_module(model, self.path / "model", overwrite=True)
        if is_best:
            weights.save_module(model, self.path / "best", overwrite=True)
        self.checkpoints.write(state)

    def stopped(self, facts: Mapping[str, Any]) -> Path:
        """Tell why a run stopped, if that can be written."""
        path = self.path / "stopped.json"
        with contextlib.suppress(OSError):
            path.write_text(json.dumps(facts) + "\n", "utf-8")
        return path


def lock(path: Path) -> IO[str] | None:
    """The file, locked until it is closed or the process ends, however; None where another has it.

    A lock of the kind that forked processes do not share: workers outlive a killed process a bit.
    It would be lost if this process opened and closed the file once more.
    """
    file = path.open("a")
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            return None
        # Some file systems of clusters have no locks, and are where runs are kept.
    return file
