"""The verb `perceivio serve`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

from .console import literal, plain
from .errors import PerceivioError
from .verbs import Device, load_model

Above = validators.Number(gt=0)


def serve(
    *,
    model: Annotated[
        list[str] | None,
        Parameter(
            name=["--model", "-m"],
            negative=(),
            help="As --model of other verbs, without it `small`; give it again for each model that"
            " visitors may choose.",
        ),
    ] = None,
    host: Annotated[
        str,
        Parameter(help="Address to listen on. 0.0.0.0: all, so that others reach it; no password"),
    ] = "127.0.0.1",
    port: Annotated[
        int, Parameter(help="0: any that is free.", validator=validators.Number(gte=0, lt=65536))
    ] = 7860,
    megabytes: Annotated[float, Parameter(help="Of an upload at most.", validator=Above)] = 200,
    megapixels: Annotated[
        float, Parameter(help="Of its picture at most, in millions.", validator=Above)
    ] = 9,
    seconds: Annotated[float, Parameter(help="That it may last.", validator=Above)] = 60,
    work: Annotated[float, Parameter(help="Seconds that a job may take.", validator=Above)] = 600,
    waiting: Annotated[
        int, Parameter(help="Visitors that may wait.", validator=validators.Number(gte=1))
    ] = 100,
    keep: Annotated[float, Parameter(help="Minutes that results are kept.", validator=Above)] = 30,
    device: Device = None,
) -> int:
    """Serve a page and a JSON API on this machine, until Ctrl-C.

    Drop a video, see original and reconstruction side by side, its classes and figures, and ask the
    kept latents for any frame. Uploads are deleted after use; no other host is asked for anything.
    docs/serve.md has the API. Needs `pip install 'perceivio[serve]'`.

    Example: perceivio serve --port 7860
    """
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise PerceivioError("the page needs Gradio: pip install 'perceivio[serve]'")
    from .page.limits import Limits
    from .page.server import serve as run

    ready = {name: load_model(name, device) for name in dict.fromkeys(model or ["small"])}
    limits = Limits(megabytes, megapixels, seconds, work, waiting, keep * 60)

    def tell(line: str) -> None:
        plain.print(f"perceivio: {literal(line)}")
        plain.file.flush()

    run(ready, host, port, limits, tell)
    return 0
