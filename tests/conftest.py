"""For all tests: no network (see guard/sitecustomize.py), and the command."""

import os
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).parent / "guard"
sys.path.insert(0, str(GUARD))
sys.modules.pop("sitecustomize", None)  # a system may have one of its own
import sitecustomize  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["PYTHONPATH"] = os.pathsep.join(
    part for part in (str(GUARD), os.environ.get("PYTHONPATH")) if part
)


@pytest.fixture(scope="session", autouse=True)
def offline_log(tmp_path_factory):
    """What was refused, in whichever process: a line each."""
    path = tmp_path_factory.mktemp("offline") / "log"
    path.touch()
    os.environ[sitecustomize.LOG] = str(path)
    return path


@pytest.fixture(autouse=True)
def _no_network(offline_log):
    before = offline_log.read_text()
    yield
    tried = offline_log.read_text()[len(before) :]
    assert not tried, f"a test used the network: {tried}"


@pytest.fixture
def command(capsys):
    from command import Command  # not before the guard is on

    return Command(capsys)
