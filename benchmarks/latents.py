"""What it costs to keep latents in fewer bits: `python -m benchmarks.latents FILE...`.

For each precision of a file of latents: its bytes, its bits a second and against the source's, and
how near what is decoded from it comes to the source, by the figures of `perceivio reconstruct`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

import perceivio
from perceivio import keep, pipeline
from perceivio.clips import Window, read_windows
from perceivio.latents import LatentsFile
from perceivio.quantise import PRECISIONS, Precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="small")
    options = parser.parse_args()
    model = perceivio.load(options.model)
    for path in options.files:
        print(f"{path.name}, {path.stat().st_size:,} bytes; model {options.model}")
        for precision in PRECISIONS:
            print(row(path, model, precision))


def row(path: Path, model: perceivio.Autoencoder, precision: Precision) -> str:
    with tempfile.TemporaryDirectory() as folder:
        kept = keep.encode(path, Path(folder) / "kept.latents", model, precision=precision)
        with LatentsFile(kept.written) as file:
            report = compared(file, path, model)
    video, audio = report.video.psnr, report.audio.snr
    parts = [
        f"{precision:8} {kept.bytes:10,} bytes {kept.kilobits_a_second or 0:7,.0f} kbit/s",
        f"picture PSNR {video:.2f} dB" if video is not None else "",
        f"sound SNR {audio:.2f} dB" if audio is not None else "",
        f"best class {report.classes[0].name} {report.classes[0].probability:.1%}",
    ]
    return "   ".join(filter(None, parts))


def compared(file: LatentsFile, path: Path, model: perceivio.Autoencoder) -> pipeline.Report:
    """The figures of what is decoded from a file of latents, against its source."""
    clip = pipeline.clip_format(model.config)
    windows = read_windows(path, clip, overlap=file.header.overlap)

    def pairs() -> Iterator[tuple[Window, Tensor]]:
        for window, record in zip(windows, file, strict=True):
            yield window, record.latents

    report, header = pipeline.Report(windows.info), file.header
    asked = [clip.image_name] * (header.picture is not None)
    asked += [clip.audio_name] * (header.sound is not None)
    for stretch in pipeline.answers(model, pairs(), asked, header.overlap, report, top=1):
        pipeline.measure(clip, stretch)
    pipeline.add_up(report)
    return report


if __name__ == "__main__":
    main()
