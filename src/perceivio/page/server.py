"""One port, behind which are the gate, the page and the API; started, and ended without a trace."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ..autoencoder import Autoencoder
from ..errors import PerceivioError
from .limits import Limits
from .workspace import Workspace

GRACE = 2  # seconds that answers have to end when the server does
BACKLOG = 512  # connections that may wait


def serve(
    models: Mapping[str, Autoencoder],
    host: str,
    port: int,
    limits: Limits,
    tell: Callable[[str], None],
) -> None:
    """Answer until SIGINT or SIGTERM; then everything that lay in files is deleted.

    tell  is called with the page's address, once it answers, and with other lines

    Raises PerceivioError, in one line, where the port cannot be had.
    """
    with _listening(host, port) as listening:
        workspace = Workspace(limits)
        try:
            if workspace.swept:
                tell(f"deleted what {workspace.swept} servers left that were killed")
            _quiet(workspace)
            _run(models, host, listening, limits, workspace, tell)
        finally:
            workspace.close()


def _quiet(workspace: Workspace) -> None:
    """No telemetry, no other host, no file elsewhere; before Gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in list(os.environ):
        # Settings of Gradio's that open what is closed here: shares, paths, proxies.
        if name.startswith("GRADIO_") and name != "GRADIO_ANALYTICS_ENABLED":
            del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.root)  # what lies there is not copied again
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(workspace.scratch)
    tempfile.tempdir = os.environ["TMPDIR"] = str(workspace.scratch)


def _run(
    models: Mapping[str, Autoencoder],
    host: str,
    listening: socket.socket,
    limits: Limits,
    workspace: Workspace,
    tell: Callable[[str], None],
) -> None:
    import uvicorn
    from fastapi import FastAPI
    from gradio import mount_gradio_app

    from .answers import Answers
    from .drawing import CSS
    from .gate import Gate
    from .layout import build, theme

    page = build(Answers(models, limits, workspace))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    mount_gradio_app(
        app, page, "/", allowed_paths=[], show_error=False, max_file_size=limits.bytes,
        footer_links=["api"], run_history=False, ssr_mode=False, mcp_server=False,
        pwa=False, enable_monitoring=False, theme=theme(), css=CSS,
    )  # fmt: skip
    # Mounted pages do not count as launched, and then Gradio would not check the paths it is given.
    page.has_launched = page.is_running = True
    gate = Gate(app, workspace, limits, _names(host))
    config = uvicorn.Config(
        gate, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE,
        server_header=False, proxy_headers=False, ws="none",
    )  # fmt: skip

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            workspace.end()
            super().handle_exit(sig, frame)

    server = Server(config)
    shown, port = listening.getsockname()[:2]
    with _ended_by_signals():
        tell(f"the page is at http://{f'[{shown}]' if ':' in shown else shown}:{port}")
        server.run(sockets=[listening])


@contextlib.contextmanager
def _ended_by_signals():
    """uvicorn ends, and then raises the signal that ended it again: here that is the end of it."""

    def nothing(number: int, frame: object) -> None: ...

    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listening(host: str, port: int) -> socket.socket:
    """Raises PerceivioError where this cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise PerceivioError(f"--host {host}: is no address of this machine") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise PerceivioError(f"--host {host}: is no address of this machine") from error
        told = getattr(error, "strerror", None) or error
        raise PerceivioError(
            f"port {port} of {host} cannot be had: {told}; choose another with --port"
        ) from error
    return found


def _names(host: str) -> set[str] | None:
    """What requests may call this server; None, beyond loopback: anything."""
    with contextlib.suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            return None
        return {host, "localhost", "127.0.0.1", "::1"}
    return {"localhost", "127.0.0.1", "::1"} if host == "localhost" else None
