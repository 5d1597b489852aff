"""A server that is started through the command, and what a program says to it over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "assets"
# Run in the server's process before anything else: notes every address that it connects or
# resolves to, and goes on.
WATCHED = """
import socket, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        what = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[:2]
        with open({record!r}, "a") as file:
            print(event, what, file=file)
sys.addaudithook(note)
from perceivio.cli import main
main({arguments!r})
"""


class Server:
    """`perceivio serve` in a process of its own, on a free port; `temporary` is its TMPDIR."""

    def __init__(self, temporary: Path, *options: object) -> None:
        self.temporary, self.connections = temporary, temporary.parent / "connections.txt"
        arguments = ["serve", "--port", "0", *map(str, options)]
        code = WATCHED.format(record=str(self.connections), arguments=arguments)
        told = {"PYTHONWARNINGS": "default", "PYTHONFAULTHANDLER": "1"}  # a crash has its place
        environment = {**os.environ, "TMPDIR": str(temporary), **told}
        self.errors = (temporary.parent / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
            cwd=temporary.parent,
        )  # fmt: skip
        self.said: list[str] = []
        self.url = self._address()
        threading.Thread(target=self._drain, daemon=True).start()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _address(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"http://\S+", line):
                return found[0]
        raise AssertionError(f"the server did not start: {self.log()}")

    def _drain(self) -> None:
        assert self.process.stdout
        self.said.extend(self.process.stdout)

    def log(self) -> str:
        self.errors.flush()
        return Path(self.errors.name).read_text()

    @property
    def folder(self) -> Path:
        (found,) = self.temporary.glob("perceivio-serve-*")
        return found

    def files(self) -> list[str]:
        """What lies in the server's folder, but for its lock."""
        found = [p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file()]
        return sorted(str(path) for path in found if path.name != "lock")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(30)
        if self.process.stdout:
            self.process.stdout.close()
        self.errors.close()
        return code

    # ---- as a program

    def upload(self, path: Path, name: str | None = None) -> dict[str, Any]:
        with path.open("rb") as file:
            part = {"files": (name or path.name, file)}
            answer = self.client.post("/gradio_api/upload", files=part)
        assert answer.status_code == 200, answer.text
        return value_of(answer.json()[0])

    def call(self, function: str, **named: Any) -> tuple[str, Any]:
        """("complete", outputs), ("error", {"error": why}) or ("refused", why)."""
        asked = self.client.post(f"/gradio_api/call/v2/{function}", json=named)
        if asked.status_code != 200:
            return "refused", asked.json()["detail"]
        event = asked.json()["event_id"]
        answer = self.client.get(f"/gradio_api/call/v2/{function}/{event}", timeout=120).text
        events = re.findall(r"event: (\w+)\ndata: (.*)", answer)
        name, data_line = next(pair for pair in events if pair[0] in ("complete", "error"))
        return name, json.loads(data_line)

    def ask(self, function: str, **named: Any) -> Any:
        """The only output of a function that does not fail."""
        name, outputs = self.call(function, **named)
        assert name == "complete", outputs
        return outputs[0]

    def fetch(self, value: dict[str, Any]) -> bytes:
        answer = self.client.get(value["url"])
        assert answer.status_code == 200, answer.text
        return answer.content


def value_of(path: str, **more: Any) -> dict[str, Any]:
    """A file as a value of the API."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def make_temporary() -> Path:
    """A TMPDIR whose parent is the server's working folder."""
    folder = Path(tempfile.mkdtemp()) / "tmp"
    folder.mkdir()
    return folder
