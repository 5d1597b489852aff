"""Stands before Gradio: lets in only the requests that the page and its API make, and gives out
only files of results.

Gradio has routes that fetch other hosts, read folders and edit code; whatever is not listed here is
not found. Uploads and results do not go through its own routes but through ours: an upload gets a
folder of its own, and a value that names a file must name an upload.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio.route_utils import upload_fn
from gradio.routes import file_upload_statuses
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import ffmpeg
from .limits import Limits, RefusalError
from .workspace import Workspace, safe_name

API = "/gradio_api"
LET_IN = {
    "GET": re.compile(
        r"/(config|theme\.css|favicon\.ico|robots\.txt|((assets|static|svelte)/.*))?"
        rf"|{API}/(info|openapi\.json|startup-events|theme\.css|upload_progress"
        r"|queue/data|heartbeat/\w+|call/(v2/)?\w+/\w+)"
    ),
    "POST": re.compile(rf"{API}/(queue/join|cancel|reset|call/(v2/)?\w+)"),
}
LET_IN["HEAD"] = LET_IN["GET"]
UPLOAD, FILE = f"{API}/upload", f"{API}/file="
BUSY = 503
MOST_JSON = 2**18  # bytes of a request that is no upload
BESIDE_FILE = 2**16  # bytes of an upload that are not the file's

# 'unsafe-inline': Gradio's page holds its configuration in a script, and styles in elements.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

log = logging.getLogger("perceivio.page")


class Gate:
    """An ASGI application around another.

    hosts  names that requests may ask for in their Host header; None: any. Bound to loopback, a
           page of another site must not reach us under a name of its own.
    """

    def __init__(
        self, inner: ASGIApp, workspace: Workspace, limits: Limits, hosts: set[str] | None
    ) -> None:
        self._inner, self._workspace = inner, workspace
        self._limits, self._hosts = limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets
        send = _with_headers(send)
        request = Request(scope, receive)
        answer = self._refused(request)
        if answer is None:
            answer = await self._answer(request)
        if answer is not None:
            await answer(scope, receive, send)
        elif request.method == "POST":
            await self._checked(request, receive, send)
        else:
            await self._inner(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        """What is wrong with where a request comes from, if anything."""
        host = request.headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return _say(403, f"this server is not called {_name(host)}")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _say(403, "requests from pages of other sites are not answered")
        return None

    async def _answer(self, request: Request) -> Response | None:
        """Our own routes, and what is not found; None: ask Gradio."""
        path, method = request.url.path, request.method
        if method == "POST" and path == UPLOAD:
            return await self._upload(request)
        if method in ("GET", "HEAD") and path.startswith(FILE):
            return self._file(path.removeprefix(FILE))
        if method in ("GET", "HEAD") and path == "/manifest.json":
            return JSONResponse({"name": "perceivio", "start_url": "./"})
        if method == "GET" and path == "/monitoring/summary":
            return JSONResponse({"functions": {}})  # the page asks for it beside its API
        allowed = LET_IN.get(method)
        if allowed is None or not allowed.fullmatch(path) or ".." in path:
            return _say(404, "there is nothing here")
        return None

    def _file(self, path: str) -> Response:
        found = self._workspace.served(path)
        if found is None:
            return _say(404, "this file is not here; results are deleted after some time")
        place = "inline" if found.suffix in (".mp4", ".wav", ".png") else "attachment"
        headers = {"cache-control": "private, no-store"}
        return FileResponse(
            found, filename=found.name, content_disposition_type=place, headers=headers
        )

    async def _upload(self, request: Request) -> Response:
        """One file into a folder of its own; the answer is a list of its path, as Gradio's is."""
        most = self._limits.bytes
        too_large = f"this file has more than the {self._limits.megabytes:g} MB that are taken here"
        if int(request.headers.get("content-length") or 0) > most + BESIDE_FILE:
            return _say(413, too_large)
        try:
            folder = self._workspace.new_upload()
        except RefusalError as refusal:
            return _say(BUSY, str(refusal))
        upload_id = request.query_params.get("upload_id")
        try:
            limited = Request(request.scope, _limited(request.receive, most + BESIDE_FILE))
            paths, _, _ = await upload_fn(
                limited, folder, most, upload_id,
                upload_progress=file_upload_statuses if upload_id else None,
            )  # fmt: skip
            if len(paths) != 1:
                raise RefusalError("upload one file at a time, as a part called files")
            path = Path(paths[0])
            place = folder / safe_name(path.name)
            path.replace(place)
            path.parent.rmdir()
            return JSONResponse([str(place)])
        except BaseException as error:
            self._workspace.drop(folder.name)
            if upload_id:
                file_upload_statuses.set_done(upload_id)
            if isinstance(error, _TooMuchError | MultiPartException):
                large = isinstance(error, _TooMuchError) or "maximum" in error.message
                return _say(413 if large else 400, too_large if large else "this is no upload")
            if isinstance(error, RefusalError):
                return _say(400, str(error))
            if isinstance(error, ClientDisconnect):
                return _say(400, "the upload was broken off")
            if not isinstance(error, Exception):
                raise
            log.warning("an upload failed: %s", " ".join(str(error).split()))
            if isinstance(error, OSError):
                return _say(BUSY, f"this file cannot be kept here: {ffmpeg.reason(error)}")
            return _say(400, "this is no upload")

    async def _checked(self, request: Request, receive: Receive, send: Send) -> None:
        """Pass on a JSON request, whose files are uploads and nothing else."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST_JSON:
                await _say(413, "this request is too large")(request.scope, receive, send)
                return
        paths: list[str] = []
        try:
            asked = json.loads(body or b"{}")
            self._check_files(asked, paths)
        except ValueError:
            await _say(400, "this is no JSON")(request.scope, receive, send)
            return
        except RecursionError:
            await _say(400, "this is nested too deeply")(request.scope, receive, send)
            return
        except RefusalError as refusal:
            await _say(403, str(refusal))(request.scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        session = asked.get("session_hash") if isinstance(asked, dict) else None
        self._workspace.ask_for(paths, session if isinstance(session, str) else "")
        if not await _plainly(self._inner, request.scope, again, send):
            self._workspace.ask_no_more(paths)

    def _check_files(self, value: Any, paths: list[str]) -> None:
        """Put the uploads that a value names into `paths`.

        Raises RefusalError where it names a file that is no upload, or is not here.
        """
        if isinstance(value, list):
            for each in value:
                self._check_files(each, paths)
        elif isinstance(value, dict):
            if "path" in value or "meta" in value or "url" in value:
                path = value.get("path")
                if not isinstance(path, str) or not self._workspace.is_upload(path):
                    raise RefusalError(
                        "this file is not here: upload it first; paths and addresses are not taken,"
                        " and an upload is used once"
                    )
                paths.append(path)
            for each in value.values():
                self._check_files(each, paths)


class _TooMuchError(Exception):
    """More bytes came than are taken."""


def _limited(receive: Receive, most: int) -> Receive:
    got = 0

    async def counted() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _TooMuchError
        return message

    return counted


async def _plainly(inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> bool:
    """What Gradio fails over, as with an argument that is missing, is told in one line. Returns
    whether the request was taken."""
    failed = taken = False

    async def told(message: Message) -> None:
        nonlocal failed, taken
        taken = taken or message.get("status", 500) < 400
        failed = failed or (message.get("status", 0) >= 500 and message["status"] != BUSY)
        if not failed:
            await send(message)

    why = "this request was not understood"
    try:
        await inner(scope, receive, told)
    except Exception as error:
        if not failed:
            raise
        why = f"{why}: {' '.join(str(error).split())}"
    if failed:
        await _say(400, why)(scope, receive, send)
    return taken


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return with_headers


def _say(status: int, text: str) -> Response:
    return JSONResponse({"detail": text}, status_code=status)


def _name(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d+$", "", host).strip("[]").lower()
