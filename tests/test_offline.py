"""The guard that no test uses the network can fail, in this process and in those it starts."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FAR = "192.0.2.1"  # of addresses for documents: nobody has it


@pytest.fixture
def forgotten(offline_log):
    """For a test that means to be refused."""
    before = offline_log.read_text()
    yield lambda: offline_log.read_text()[len(before) :]
    offline_log.write_text(before)


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection((FAR, 80), timeout=1),
        lambda: socket.socket().connect_ex((FAR, 80)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", (FAR, 53)),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.gethostbyname("example.org"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_this_process_reaches_nothing(reach, forgotten):
    with pytest.raises(PermissionError, match="tests use no network"):
        reach()
    assert len(forgotten().splitlines()) == 1


def test_a_process_that_goes_on_without_is_told_of(forgotten):
    code = (
        "import contextlib, urllib.request\n"
        "with contextlib.suppress(OSError):\n"
        "    urllib.request.urlopen('http://example.org')\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "example.org" in forgotten()


def test_a_test_that_swallows_the_refusal_fails(tmp_path):
    """A whole session of pytest, with the conftest.py of these tests."""
    (tmp_path / "guard").symlink_to(TESTS / "guard")
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import contextlib, socket\n"
        "def test_far():\n"
        "    with contextlib.suppress(OSError):\n"
        "        socket.getaddrinfo('example.org', 80)\n"
        "def test_near():\n"
        "    socket.getaddrinfo('localhost', 80)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1, result.stdout
    assert "2 passed, 1 error" in result.stdout
    assert "a test used the network: socket.getaddrinfo example.org" in result.stdout


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = threading.Thread(target=lambda: server.accept()[0].close())
        answer.start()
        with socket.create_connection(("localhost", port), timeout=5) as near:
            assert near.recv(1) == b""
        answer.join()
