"""The page in Gradio, and the functions of its API (docs/serve.md)."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar
from urllib.parse import quote

import gradio as gr
from gradio import FileData
from gradio.events import api
from gradio.themes import Base, Default

from .. import __version__
from ..errors import PerceivioError
from ..pipeline import Progress
from . import drawing
from .answers import Answers, Made
from .gate import FILE
from .limits import SHORTEST, TALLEST
from .turns import Turns
from .workspace import Workspace

EXAMPLES = {
    "A spoken digit": Path(__file__).parent / "examples" / "digit.mp4",
    "A cartoon": Path(__file__).parent / "examples" / "cartoon.mp4",
}
FONTS = ("system-ui", "sans-serif")  # no font is fetched, from here or elsewhere
MONO = ("ui-monospace", "monospace")
BAR = gr.Progress()  # a default by which Gradio knows that a function wants one
WORK, QUICK = "work", "quick"  # who waits for whom: jobs for jobs, single frames for frames

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("perceivio.page")


def theme() -> Base:
    return Default(font=FONTS, font_mono=MONO)


def teller(workspace: Workspace) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates functions: whatever goes wrong in them is told in one line."""

    def plainly(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                line = escape(line_of(error, workspace))  # Gradio shows it as HTML
                raise gr.Error(line, duration=None, print_exception=False) from None

        return told

    return plainly


def line_of(error: Exception, workspace: Workspace) -> str:
    """What the visitor can mend, or that we cannot."""
    if isinstance(error, PerceivioError):
        return workspace.plain(" ".join(str(error).split()))
    number = secrets.token_hex(3)
    log.error("failure %s", number, exc_info=error)
    return f"something failed here, not by your doing; the server's log has it as {number}"


def _html(value: str = "", **more: Any) -> gr.Markdown:
    """HTML of our own making. Gradio's component of that name runs strings as code in the browser,
    which our policy forbids; this one shows what it is given."""
    return gr.Markdown(value, sanitize_html=False, latex_delimiters=[], container=False, **more)


def link(path: Path) -> str:
    """The address of a file of the workspace, relative to the page."""
    return f"{FILE.lstrip('/')}{quote(str(path))}"


def file_value(path: Path) -> dict[str, Any]:
    """A file of the workspace as a value of the API."""
    return FileData(path=str(path), orig_name=path.name).model_dump()


def build(answers: Answers) -> gr.Blocks:
    limits, names, plainly = answers.limits, list(answers.models), teller(answers.workspace)
    in_turn, at_once = Turns(WORK, tidy=True), Turns(QUICK, tidy=False)
    with gr.Blocks(title="perceivio", analytics_enabled=False) as page:
        result = gr.State(None)  # what was made: names of files in the workspace, no data
        _html(
            '<header class="pv-head"><h1>perceivio</h1><p>Give it a video. A Perceiver IO squeezes'
            " picture, sound and class into a few hundred latents, and reads back whatever is asked"
            " for. Everything happens on this server.</p></header>"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                upload = gr.File(
                    label="Video, sound, picture, or .latents", height=180, elem_id="upload"
                )
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                run = gr.Button("Reconstruct", variant="primary", elem_id="run")
                _html('<p class="pv-small">or take an example:</p>')
                with gr.Row():
                    examples = [gr.Button(name, size="sm", min_width=120) for name in EXAMPLES]
                _html(
                    f'<div class="pv-small"><p>Up to {limits.megabytes:g} MB, {limits.seconds:g} s,'
                    f" {limits.megapixels:g} million pixels. What you upload is deleted as soon as"
                    " it has been worked on, results when you leave or after"
                    f" {limits.keep / 60:g} minutes.</p></div>"
                )
            with gr.Column(scale=3, min_width=320):
                player = _html(drawing.EMPTY, elem_id="player")
                links = _html(elem_id="downloads")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                figures = _html(elem_id="figures")
            with gr.Column(scale=3, min_width=320):
                classes = _html(elem_id="classes")
        with gr.Column(visible=False, elem_id="asking") as asking:
            _html(
                '<section class="pv-ask"><h2>Ask the latents</h2><p class="pv-small">They are kept:'
                " any moment, also between two frames, at any size, and nothing is encoded"
                " again.</p></section>"
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    at = gr.Slider(0, 1, 0, step=0.01, label="Second", elem_id="at")
                    height = gr.Slider(
                        SHORTEST, TALLEST, 448, step=16, label="Height in pixels", elem_id="height"
                    )
                    look = gr.Button("Where do latents write?", elem_id="look")
                with gr.Column(scale=3, min_width=320):
                    frame = _html(elem_id="frame")
        maps = _html(elem_id="maps")

        def work(
            taken: Callable[[], str], model: str, height: int, request: gr.Request, bar: gr.Progress
        ) -> list[Any]:
            """What the page then shows: the result, or in its place what is wrong."""
            try:
                owner = request.session_hash or ""
                made = answers.reconstruct(taken(), model, owner, _told(bar))
                with answers.workspace.result(made.token):
                    return show(made, height)
            except Exception as error:
                line, no = line_of(error, answers.workspace), gr.update(visible=False)
                return [None, None, drawing.refused(line), "", "", "", no, no, "", ""]

        def show(made: Made, height: int) -> list[Any]:
            seen, report = made.side_by_side or made.reconstruction, made.report
            caption = f"{report.info.path.name}: "
            if made.side_by_side:
                caption += "left the original, right what the model made of it"
                caption += ", which is also the sound." if report.info.audio else "."
            else:
                caption += "what the model made of it."
            kept = {"token": made.token, "latents": made.latents.name, "model": made.model}
            has_picture = report.info.kind == "video"
            begin = round(made.start, 2)
            last = round(max(made.start, made.stop - 0.01), 2)
            return [
                kept,
                None,
                drawing.media(seen, link, caption),
                drawing.downloads(made.files, link),
                drawing.figures(report, made.side_by_side is not None or report.audio.count > 0),
                drawing.classes(report, answers.classes_of(made.model)),
                gr.update(visible=report.info.kind != "sound"),
                gr.update(minimum=begin, maximum=last, value=begin, visible=has_picture),
                drawing.picture(
                    answers.frame(made.token, kept["latents"], made.model, made.start, height),
                    link, "pv-frame", f"{made.start:.2f} s, {height} pixels high",
                ) if report.info.kind != "sound" else "",
                "",
            ]  # fmt: skip

        made = [result, upload, player, links, figures, classes, asking, at, frame, maps]

        @in_turn
        def on_run(
            upload: Any, model: str, height: int, request: gr.Request, bar: gr.Progress = BAR
        ) -> list[Any]:
            return work(lambda: _path(upload), model, height, request, bar)

        def on_example(name: str) -> Callable[..., list[Any]]:
            @in_turn
            def run_example(
                model: str, height: int, request: gr.Request, bar: gr.Progress = BAR
            ) -> list[Any]:
                example = functools.partial(answers.example, EXAMPLES[name])
                return work(example, model, height, request, bar)

            return run_example

        @plainly
        @at_once
        def on_frame(kept: dict[str, str] | None, at: float, height: int) -> str:
            if kept is None:
                return ""
            drawn = answers.frame(kept["token"], kept["latents"], kept["model"], at, height)
            return drawing.picture(drawn, link, "pv-frame", f"{at:.2f} s, {height} pixels high")

        @plainly
        @at_once
        def on_look(kept: dict[str, str] | None, at: float) -> str:
            if kept is None:
                return ""
            drawn = answers.attention(kept["token"], kept["latents"], kept["model"], at)
            told = (
                "A row a latent, the two strongest of picture, sound and class: how much weight the"
                f" outputs give it, in the window at {at:.2f} s. Grey: the source itself is not"
                " kept."
            )
            return drawing.picture(drawn, link, "pv-maps", told)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "full"}
        # Without preprocessing, for which Gradio would leave an empty file behind each upload.
        heavy: dict[str, Any] = {
            **quiet, "concurrency_id": WORK, "show_progress_on": player, "preprocess": False
        }  # fmt: skip
        run.click(on_run, [upload, model, height], made, **heavy)
        for button in examples:
            button.click(on_example(button.value), [model, height], made, **heavy)
        quick: dict[str, Any] = {**quiet, "concurrency_id": QUICK, "show_progress": "minimal"}
        for slider in (at, height):
            slider.change(
                on_frame, [result, at, height], frame, trigger_mode="always_last", **quick
            )
        look.click(on_look, [result, at], maps, **quick)

        @page.unload
        def on_leave(request: gr.Request) -> None:
            answers.workspace.leave(request.session_hash or "")

        _api(answers, in_turn, at_once)
    page.queue(max_size=limits.waiting, api_open=False, default_concurrency_limit=1)
    return page


def _told(bar: gr.Progress) -> Progress:
    def told(done: float, total: float) -> None:
        share = min(done / total, 1.0) if total else None
        bar(share, desc=f"{done:.1f} of {total:.1f} s" if total else f"{done:.1f} s")

    return told


def _api(answers: Answers, in_turn: Turns, at_once: Turns) -> None:
    """The functions that programs call; an upload is `file`, and is deleted afterwards."""
    first, plainly = next(iter(answers.models)), teller(answers.workspace)

    @plainly
    @in_turn
    def reconstruct(file: FileData, model: str = first) -> dict[str, Any]:
        made = answers.reconstruct(_path(file), model)
        files = {what: file_value(path) for what, path in made.files.items()}
        return {**answers.told(made.report, made.report.info.path.name), **files}

    @plainly
    @in_turn
    def classify(file: FileData, model: str = first, top: int = 5) -> dict[str, Any]:
        return answers.classify(_path(file), model, top)

    @plainly
    @in_turn
    def encode(
        file: FileData,
        model: str = first,
        precision: Literal["float32", "float16", "int8", "int4"] = "float16",
    ) -> dict[str, Any]:
        return file_value(answers.encode(_path(file), model, precision))

    @plainly
    @at_once
    def frame(latents: FileData, at: float, height: int = 448) -> dict[str, Any]:
        return file_value(answers.frame_of(_path(latents), at, height))

    @plainly
    @in_turn
    def attention(
        file: FileData, at: float = 0.0, model: str = first, top: int = 2
    ) -> list[dict[str, Any]]:
        return [file_value(path) for path in answers.attention_of(_path(file), model, at, top)]

    @plainly
    def about() -> dict[str, Any]:
        limits = answers.limits
        taken = {name: getattr(limits, name) for name in ("megabytes", "megapixels", "seconds")}
        return {"version": __version__, "models": list(answers.models), "limits": taken}

    described = {
        reconstruct: "A media file, or a file of latents: its reconstruction, both side by side,"
        " its latents, and figures.",
        classify: "The most probable classes of a media file, or of a file of latents.",
        encode: "The latents of a media file, as a file.",
        attention: "Pictures of where latents read and write, in the window at a second.",
    }
    for function, text in described.items():
        api(function, api_name=function.__name__, api_description=text, concurrency_id=WORK)
    text = "One frame, as PNG, that a file of latents has at a second."
    api(frame, api_name="frame", api_description=text, concurrency_id=QUICK)
    api(about, api_name="about", api_description="Models and limits.", concurrency_id=QUICK)


def _path(file: Any) -> str:
    """The path in an upload's value, which the workspace believes only if it is one."""
    if file is None:
        raise PerceivioError("drop a file first, or take one of the examples")
    path = file.get("path") if isinstance(file, dict) else getattr(file, "path", None)
    if not isinstance(path, str):
        raise PerceivioError("give an upload: its path in {'path': ..., 'meta': {...}}")
    return path
