"""The command, run in this process: quick, where a process of its own tells nothing more."""

from __future__ import annotations

import os

import pytest

from perceivio.cli import main


def unmeasured() -> dict[str, str]:
    """The environment of a process that may write no file, nor may `make coverage` in it."""
    return {name: of for name, of in os.environ.items() if not name.startswith("COVERAGE")}


class Command:
    """`command("search", 3, "--in", table)` returns (exit code, standard output, its errors)."""

    def __init__(self, capsys) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        told = self._capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    def fails(self, *arguments: object) -> str:
        """The one line in which it says what is wrong."""
        code, out, err = self(*arguments)
        assert code == 2
        assert out == ""
        lines = err.strip().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("perceivio: ")
        return lines[0]
