"""One file through the model and the baselines: window by window, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoder import Autoencoder
from ..clips import Window
from ..errors import PerceivioError
from ..overlap import ahead
from ..pipeline import clip_format
from ..quantise import Precision, bits_of, pack, unpack
from .answers import Answer, Baseline, Clip
from .figures import Wanted
from .files import Classified, File, Means
from .sources import Source
from .windows import Reading, grouped, together

TOP = 5

Progress = Callable[[float], None]  # share of the file that is done


class Examiner:
    """Evaluates files, one after the other.

    precision  of the latents that the model's answers are decoded from
    most       windows of a file at most; None: all
    """

    def __init__(
        self,
        model: Autoencoder,
        baselines: Sequence[Baseline],
        precision: Precision = "float32",
        most: int | None = None,
    ) -> None:
        self.model, self.baselines, self._most = model, tuple(baselines), most
        self.precision: Precision = precision
        self.format = clip_format(model.config)
        config = model.config
        self.name = config.name or "model"
        self.values = config.latents * config.latent_channels
        self.bits = bits_of(precision, config.latents, config.latent_channels)
        classes = config.classes()
        self._classes = classes[0] if classes else None
        self.class_names: tuple[str, ...] = ()
        if classes:
            self.class_names = classes[1].names or tuple(map(str, range(classes[1].channels)))

    def __call__(self, source: Source, progress: Progress = lambda share: None) -> File:
        """What is found of one file; one that cannot be evaluated says why."""
        try:
            with source.local() as path:
                try:
                    return self._file(source, path, progress)
                except PerceivioError as error:
                    raise PerceivioError(str(error).replace(str(path), source.name)) from error
        except PerceivioError as error:
            return File(source.name, source.label, failed=" ".join(str(error).split()))

    def answers(self, windows: Sequence[Window], has_audio: bool) -> list[Answer]:
        """What the model makes of some windows of equal modalities."""
        return [answer for answer, _ in self._model(windows, has_audio)]

    def clip(self, window: Window, has_audio: bool) -> Clip:
        """A window as baselines are given it: whole, with what it was filled up with."""
        image = window.inputs.get(self.format.image_name)
        audio = window.inputs.get(self.format.audio_name) if has_audio else None
        return Clip(
            None if image is None else image[0],
            None if audio is None else audio[0, :, 0],
            float(self.format.frame_rate),
            self.format.sample_rate,
        )

    def wanted(self, window: Window, clip: Clip) -> Wanted:
        """What of a window's clip is real."""
        return Wanted(
            None if clip.image is None else clip.image[: window.frames],
            None if clip.audio is None else clip.audio[: window.samples],
            self.format.sample_rate,
        )

    def _file(self, source: Source, path: Path, progress: Progress) -> File:
        reading = Reading(path, self.format, self._most)
        figures, kept, classes = Means(), Means(), _Classes(self.class_names, source.label)
        windows, silent, shown = 0, 0, 0.0
        for group in grouped(ahead(reading), together(self.format)):
            answers = self._model(group, reading.has_audio)
            for window, (answer, logits) in zip(group, answers, strict=True):
                clip = self.clip(window, reading.has_audio)
                wanted, weights = self.wanted(window, clip), self._weights(window)
                every = {self.name: answer, **{each.name: each(clip) for each in self.baselines}}
                for who, made in every.items():
                    figures.add(who, wanted.figures(made.image, made.audio), weights)
                    kept.add(who, _kept(made))
                if logits is not None:
                    classes.add(logits)
                windows, silent = windows + 1, silent + wanted.is_silent
                if window.start <= reading.duration / 2:
                    shown = window.start
                progress(min(1.0, window.stop / reading.duration) if reading.duration else 1.0)
        if not windows:
            raise PerceivioError(f"{path}: holds nothing that could be read")
        notes = reading.notes
        if reading.lost:
            notes = [*notes, f"{reading.lost} damaged packets were lost"]
        return File(
            source.name, source.label, None, windows, silent, shown,
            figures.means(), kept.means(), classes.found(), tuple(notes),
        )  # fmt: skip

    def _model(
        self, windows: Sequence[Window], has_audio: bool
    ) -> list[tuple[Answer, Tensor | None]]:
        """What the model makes of windows of equal modalities, and its logits (classes,)."""
        config, frames, sound = self.model.config, self.format.image_name, self.format.audio_name
        inputs = {  # classes are masked, whatever files say of them
            name: torch.cat([window.inputs[name] for window in windows])
            for name in windows[0].inputs
            if not config.modalities[name].is_classes
        }
        asked = [frames] if frames in inputs else []
        asked += [sound] if has_audio and sound in inputs else []
        asked += [self._classes] if self._classes else []
        latents = self._as_kept(self.model.encode(inputs))
        outputs = self.model.decode(latents, dict.fromkeys(asked))
        outputs = {name: values.float().cpu() for name, values in outputs.items()}
        found = []
        for n in range(len(windows)):
            image = outputs[frames][n] if frames in outputs else None
            audio = outputs[sound][n, :, 0] if sound in outputs else None
            logits = outputs[self._classes][n] if self._classes else None
            found.append((Answer(image, audio, self.values), logits))
        return found

    def _as_kept(self, latents: Tensor) -> Tensor:
        """Latents (B, N, D) as they come back from being kept in this precision."""
        if self.precision == "float32":
            return latents
        config, precision = self.model.config, self.precision
        size = config.latents, config.latent_channels
        return torch.stack([unpack(pack(each, precision), precision, *size) for each in latents])

    def _weights(self, window: Window) -> dict[str, float]:
        """How much each figure of a window counts: by how much of it is real."""
        video = window.frames / self.format.frames if self.format.frames else 0.0
        audio = window.samples / self.format.samples if self.format.samples else 0.0
        return {
            "video_psnr": video, "video_ssim": video,
            "audio_psnr": audio, "audio_snr": audio, "log_mel": audio,
        }  # fmt: skip


class _Classes:
    """How the windows of one file are classified, summed up."""

    def __init__(self, names: Sequence[str], label: str | None) -> None:
        self._names = names
        self._wanted = names.index(label) if label in names else None
        self._summed = torch.zeros(len(names), dtype=torch.float64)
        self._windows = self._top1 = self._top5 = 0

    def add(self, logits: Tensor) -> None:
        if self._wanted is None:
            return
        probabilities = logits.double().softmax(-1)
        place = _place(probabilities, self._wanted)
        self._windows += 1
        self._top1 += place < 1
        self._top5 += place < TOP
        self._summed += probabilities

    def found(self) -> Classified | None:
        if self._wanted is None or not self._windows:
            return None
        mean, place = self._summed / self._windows, _place(self._summed, self._wanted)
        best = int(mean.argmax())
        return Classified(
            self._top1 / self._windows,
            self._top5 / self._windows,
            int(place < 1),
            int(place < TOP),
            self._names[best],
            round(mean[best].item(), 6),
        )


def _place(probabilities: Tensor, wanted: int) -> int:
    """Classes that come before the wanted one: the more probable, and of equals the earlier."""
    own = probabilities[wanted]
    before = probabilities > own
    before[:wanted] |= probabilities[:wanted] == own
    return int(before.sum())


def _kept(answer: Answer) -> Mapping[str, float]:
    parts = {
        "values": answer.values,
        "image_bits": answer.image_bits,
        "audio_bits": answer.audio_bits,
    }
    return {name: float(number) for name, number in parts.items() if number is not None}
