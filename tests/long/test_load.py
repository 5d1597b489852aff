"""Fifty visitors at once on the page's server, good uploads and bad ones mixed, for three minutes.

Every request has to be answered right, or be told to wait; memory has to come back to its level,
the server's folder has to be empty, and the server has to answer afterwards.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from page_server import ASSETS, Server, make_temporary, value_of

VISITORS, SECONDS, WAITING = 50, 180, 30
SETTLE = 60  # seconds for what is over to be deleted


@pytest.fixture
def server():
    found = Server(
        make_temporary(), "--seconds", 8, "--megabytes", 2, "--waiting", WAITING, "--keep", 0.2
    )
    yield found
    assert found.stop() == 0
    assert not list(found.temporary.glob("perceivio-serve-*"))
    shutil.rmtree(found.temporary.parent)


def uploads() -> dict[str, bytes]:
    digit, scene = (ASSETS / name for name in ("digit.mp4", "bbb_scene.mp4"))
    whole = digit.read_bytes()
    flipped = bytearray(whole)
    for place in random.Random(0).sample(range(len(flipped)), 200):
        flipped[place] ^= 0xFF
    return {
        "digit.mp4": whole,
        "scene.mp4": scene.read_bytes(),
        "no_media.mp4": b"no film at all " * 100,
        "cut.mp4": whole[: len(whole) // 2],
        "flipped.mp4": bytes(flipped),
        "empty.mp4": b"",
        "large.mp4": bytes(3 * 10**6),
    }


FUNCTIONS = ("reconstruct", "classify", "classify", "attention", "encode")
RIGHT = {"digit.mp4": "5"}  # the class that it must have
NEVER = {"no_media.mp4", "empty.mp4"}  # what must be refused


class Visitor:
    def __init__(self, url: str, number: int, files: dict[str, bytes], told: collections.Counter):
        self.client = httpx.AsyncClient(base_url=url, timeout=300)
        self.random, self.files, self.told = random.Random(number), files, told

    async def stay(self, until: float) -> None:
        async with self.client:
            while time.monotonic() < until:
                what = await self.once()
                self.told[what] += 1
                if what == "told to wait":
                    await asyncio.sleep(self.random.uniform(0.5, 2))

    async def once(self) -> str:
        """One upload and one question. Raises for an answer that is wrong."""
        name = self.random.choice(list(self.files))
        part = {"files": (name, self.files[name])}
        answer = await self.client.post("/gradio_api/upload", files=part)
        if name == "large.mp4":
            assert answer.status_code in (413, 503), answer.text
            return "too large, refused" if answer.status_code == 413 else "told to wait"
        if answer.status_code == 503:
            assert "try again" in answer.json()["detail"]
            return "told to wait"
        assert answer.status_code == 200, answer.text
        function = self.random.choice(FUNCTIONS)
        url = f"/gradio_api/call/v2/{function}"
        asked = await self.client.post(url, json={"file": value_of(answer.json()[0])})
        if asked.status_code == 503:
            assert "full" in asked.json()["detail"]
            return "told to wait"
        assert asked.status_code == 200, asked.text
        if self.random.random() < 0.05:
            return "left without the answer"
        text = (await self.client.get(f"{url}/{asked.json()['event_id']}")).text
        event, line = next(
            pair for pair in re.findall(r"event: (\w+)\ndata: (.*)", text) if pair[0] != "heartbeat"
        )
        if event == "error":
            why = json.loads(line)["error"]
            assert why, text
            assert name in why, (name, why)
            assert name not in RIGHT, (name, why)
            return "bad file, refused"
        assert event == "complete", text
        assert name not in NEVER, (name, line)
        (found,) = json.loads(line)
        if name in RIGHT and isinstance(found, dict) and "classes" in found:
            assert found["classes"][0]["name"] == RIGHT[name]
        if function == "encode":
            kept = await self.client.get(found["url"])
            assert kept.content.startswith(b"\x93LATENTS")
        return f"{function}, right"


def memory(server: Server) -> float:
    """Resident megabytes of the server's process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1e3


def handles(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def run(server: Server, visitors: int, seconds: float) -> collections.Counter:
    told: collections.Counter = collections.Counter()

    async def all_at_once() -> None:
        until = time.monotonic() + seconds
        files = uploads()
        await asyncio.gather(
            *(Visitor(server.url, number, files, told).stay(until) for number in range(visitors))
        )

    asyncio.run(all_at_once())
    return told


def settle(server: Server) -> None:
    end = time.monotonic() + SETTLE
    while server.files():
        assert time.monotonic() < end, server.files()[:5]
        time.sleep(0.5)


def test_fifty_visitors(server):
    run(server, VISITORS, 20)  # until threads, caches and the allocator have what they keep
    settle(server)
    before, open_before = memory(server), handles(server)
    told = run(server, VISITORS, SECONDS)
    settle(server)
    time.sleep(5)
    after, open_after = memory(server), handles(server)
    print(f"\n{VISITORS} visitors, {SECONDS} s: {sum(told.values())} requests")
    for what, count in told.most_common():
        print(f"  {count:6} {what}")
    print(f"memory: {before:.0f} MB before, {after:.0f} MB after")
    print(f"open files: {open_before} before, {open_after} after")
    for what in ("reconstruct", "classify", "attention", "encode"):
        assert told[f"{what}, right"] >= 5
    assert told["bad file, refused"] >= 20
    assert told["too large, refused"] >= 10
    assert after < before * 1.15 + 30
    assert open_after <= open_before + 10
    assert "Traceback" not in server.log()
    assert server.ask("about")["models"] == ["small"]
