"""Pictures of a window: what it is, what the model makes of it, and what baselines do.

A row for each: some frames, and the log-mel spectrum of the sound, dark for silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..clips import Window, read_windows
from ..media import probe
from ..pictures import resize, shown_size
from .answers import Answer
from .examine import Examiner
from .figures import MEL_FLOOR, log_mel
from .files import File
from .sources import Source

FRAMES, HEIGHT, SPECTRUM = 4, 128, 192  # frames of a window; pixels
LABEL, GAP, FONT = 130, 4, 13


def drawn(examiner: Examiner, source: Source, file: File) -> Image.Image:
    """A window from the middle of a file: the original, the model's answer, the best baseline's
    that keeps values, and those of codecs. Raises MediaError where it cannot be read any more."""
    seconds = float(examiner.format.seconds)
    with source.local() as path:
        has_audio = probe(path).audio is not None
        window = next(iter(read_windows(path, examiner.format, file.shown, seconds)))
    clip = examiner.clip(window, has_audio)
    answers = {examiner.name: examiner.answers([window], has_audio)[0]}
    answers |= {each.name: each(clip) for each in examiner.baselines}
    wanted = examiner.wanted(window, clip)
    figures = {
        who: wanted.figures(answer.image, answer.audio) for who, answer in answers.items()
    }
    rows = [("original", "", _strip(clip.image, clip.audio, window, examiner))]
    for who in _chosen(examiner, answers, figures):
        strip = _strip(answers[who].image, answers[who].audio, window, examiner)
        rows.append((who, _told(figures[who]), strip))
    return _stacked(rows)


def _chosen(
    examiner: Examiner, answers: Mapping[str, Answer], figures: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Whose answers are shown, in this order."""
    what = "video_psnr" if "video_psnr" in figures[examiner.name] else "audio_snr"
    simple = [
        who
        for who, answer in answers.items()
        if who != examiner.name and answer.values is not None and what in figures[who]
    ]
    best = max(simple, key=lambda who: figures[who][what], default=None)
    codecs = [who for who, answer in answers.items() if answer.values is None]
    return [examiner.name, *([best] if best else []), *codecs]


def _told(figures: Mapping[str, float]) -> str:
    names = {"video_psnr": "PSNR", "audio_snr": "SNR"}
    return "\n".join(
        f"{name} {figures[what]:.1f} dB" for what, name in names.items() if what in figures
    )


def _strip(
    image: Tensor | None, audio: Tensor | None, window: Window, examiner: Examiner
) -> np.ndarray:
    """uint8 (HEIGHT, W, 3): frames and spectrum side by side, as far as there are any."""
    parts = []
    if image is not None and window.frames:
        moments = np.linspace(0, window.frames - 1, min(FRAMES, window.frames)).round()
        height, width = shown_size((image.shape[2], image.shape[3]), HEIGHT)
        parts += list(resize(image[moments.astype(int).tolist()], height, width))
    if audio is not None and window.samples:
        parts.append(_spectrum(audio[: window.samples], examiner.format.sample_rate))
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    spaced = [each for part in parts for each in (part, gap)]
    return np.concatenate(spaced or [gap], axis=1)


def _spectrum(samples: Tensor, rate: int) -> np.ndarray:
    """uint8 (HEIGHT, SPECTRUM, 3): time to the right, pitch upwards, the louder the brighter."""
    floor = 10 * np.log10(MEL_FLOOR)
    shade = 1 - log_mel(samples.clamp(-1, 1), rate).T.flip(0).clamp(max=0) / floor
    picture = torch.nn.functional.interpolate(shade[None, None], (HEIGHT, SPECTRUM))[0, 0]
    grey = (255 * picture.clamp(0, 1)).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=2)


def _stacked(rows: Sequence[tuple[str, str, np.ndarray]]) -> Image.Image:
    """Rows under each other, each behind its name and its figures."""
    width = LABEL + max(strip.shape[1] for _, _, strip in rows)
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for place, (who, told, strip) in enumerate(rows):
        top = place * (HEIGHT + GAP)
        sheet.paste(Image.fromarray(strip), (LABEL, top))
        pen.multiline_text((4, top + 4), f"{who}\n{told}", "black", font, spacing=6)
    return sheet
