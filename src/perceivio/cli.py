"""The command `perceivio`: verbs, what they print, and one line for every error.

Heavy imports happen inside the verbs, so that help answers at once. Figures go to standard
output; notes, progress and errors to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from . import __version__
from .cli_attention import attention
from .cli_data import data
from .cli_embed import embed, search
from .cli_evaluate import evaluate
from .cli_latents import decode, encode
from .cli_serve import serve
from .cli_train import train
from .console import Json, Overwrite, aside, complain, literal, plain, print_json
from .errors import PerceivioError
from .verbs import (
    BAD_INPUT,
    INTERRUPTED,
    Device,
    Duration,
    Inputs,
    MadeBy,
    Model,
    Start,
    Top,
    each,
    load_model,
    make_folder,
    named,
    print_head,
    print_reconstruction,
)

if TYPE_CHECKING:
    from .pipeline import Report

app = App(
    name="perceivio",
    help="The Perceiver IO multimodal autoencoder: video, sound and class in; the same out.",
    help_epilogue="Each verb explains itself: perceivio reconstruct --help",
    version=__version__,
    help_format="markdown",
)

app.command(data)
app.command(evaluate)
app.command(train)
app.command(embed)
app.command(search)
app.command(attention)
app.command(encode)
app.command(decode)
app.command(serve)


@app.command
def reconstruct(
    inputs: Inputs,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="File, or folder for several inputs; without it NAME_reconstruction.mp4 (.wav"
            " for sound, .png for a still image) in the current folder. Inputs that share a name,"
            " keep their suffix in NAME.",
        ),
    ] = None,
    side_by_side: Annotated[
        bool, Parameter(negative=(), help="Original left, reconstruction right.")
    ] = False,
    model: Model = "small",
    start: Start = 0.0,
    duration: Duration = None,
    size: Annotated[
        int | None,
        Parameter(help="Height of the picture shown, in pixels; the figures stay the model's."),
    ] = None,
    overlap: Annotated[
        int | None,
        Parameter(help="Frames that windows share and crossfade; without it, an eighth of them."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Reconstruct media files through the model's latents, and say how near they come.

    Writes H.264 + AAC MP4 and prints the PSNR of picture and sound, the SNR of the sound, the
    most probable classes and the time taken.

    Example: perceivio reconstruct clip.mp4 --side-by-side -o seen.mp4
    """
    from . import pipeline

    make_folder(output, inputs)
    ready = load_model(model, device)
    names = dict(zip(inputs, pipeline.names_for(inputs), strict=True))

    def work(path: str, progress: Callable[[float, float], None]) -> Report:
        return pipeline.reconstruct(
            path,
            output,
            ready,
            side_by_side=side_by_side,
            start=start,
            duration=duration,
            size=size,
            overlap=overlap,
            overwrite=overwrite,
            progress=progress,
            name=names[path],
        )

    return each(inputs, work, print_reconstruction, json)


@app.command
def classify(
    inputs: Inputs,
    /,
    *,
    top: Top = 5,
    model: MadeBy = None,
    start: Start = 0.0,
    duration: Duration = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Name the most probable classes of media files: of each window, and of the whole file.

    Files of latents, which `perceivio encode` writes, do as well. Without --model, it is `small`,
    or the model that made the latents.

    Example: perceivio classify digit.mp4 --top 3
    """
    from . import keep

    load = cache(lambda name: load_model(name, device))

    def work(path: str, progress: Callable[[float, float], None]) -> Report:
        return keep.classify(
            path, keep.model_for(path, model, load), top=top, start=start, duration=duration,
            progress=progress,
        )  # fmt: skip

    return each(inputs, work, _print_classes, json)


@app.command
def models(*, json: Json = False) -> int:
    """List the models that can be loaded.

    Example: perceivio models
    """
    from .config import PRESETS, preset
    from .weights import HUB_MODEL, SHIPPED

    rows = []
    for name in PRESETS:
        config = preset(name)
        video, audio = config.media("video"), config.media("audio")
        assert video
        assert audio
        frames, height, width = video[1].shape
        source = "ships with perceivio" if name in SHIPPED else "configuration only, to be trained"
        rows.append(
            {
                "name": name,
                "weights": f"published as {HUB_MODEL}" if name == "base" else source,
                "video": f"{frames} frames of {height} x {width} at {video[1].rate}/s",
                "audio": f"{audio[1].rate} Hz",
                "classes": sum(m.channels for m in config.modalities.values() if m.is_classes),
                "latents": f"{config.latents} x {config.latent_channels}",
                "compression": config.compression(),
            }
        )
    if json:
        print_json({"models": rows})
        return 0
    for row in rows:
        ratios = row["compression"]
        plain.print(f"[bold]{row['name']}[/bold]  {row['weights']}")
        plain.print(f"    {row['video']}, sound at {row['audio']}, {row['classes']} classes")
        plain.print(
            f"    latents {row['latents']}: {ratios['paper']:.1f}x by the paper's count,"
            f" {ratios['values']:.1f}x in values, {ratios['bits']:.1f}x in bits (float32)"
        )
    plain.print(
        "\nRatios: tokens of the picture x input channels, values of a clip, or its bits (8 a pixel"
        " value, 16 a\nsample), over those of the latents. --model takes a name with weights, a"
        " hub id, a folder, or a pickle."
    )
    return 0


@app.command
def convert(
    source: Annotated[str, Parameter(help="Anything that --model takes.")],
    target: Annotated[Path, Parameter(help="Folder to write.")],
    /,
    *,
    to: Annotated[
        Literal["perceivio", "huggingface"], Parameter(help="Format of the folder.")
    ] = "perceivio",
    overwrite: Overwrite = False,
) -> int:
    """Convert weights: DeepMind's pickle or a Hugging Face model to our folder, or to theirs.

    Example: perceivio convert multimodal_perceiver.pkl my-model
    """
    from . import weights

    folder = weights.convert(source, target, to, overwrite)
    plain.print(f"wrote {literal(folder)}")
    return 0


# ---- what they print


def _print_classes(report: Report) -> None:
    print_head(report)
    rows = [(f"{w.start:7.2f} - {w.stop:.2f} s", w) for w in report.windows]
    for when, found in [*rows, ("  whole file", report)]:
        told = [named(found.classes)] if found.classes else []
        told += [f"{literal(name)}: {named(each)}" for name, each in found.others.items()]
        plain.print(f"  {when:18} {'; '.join(told)}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code: 0, or 2 for bad input."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except PerceivioError as error:
        complain(error)
        code = BAD_INPUT
    except CycloptsError as error:
        complain(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        aside.print("perceivio: interrupted; nothing half-written is left")
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
