"""Spoken digits heard afresh in every step of training: other pace, tone, loudness, place, ground.

The bank holds some thousand digit clips, each with one word as it was said (`digits.py`); a model
that hears only those knows their voices and nothing else. The counterpart of `draw.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .common import SAMPLE_RATE, SAMPLES
from .pack import Pack

# Which kinds of voices are heard how often. Real ones are few, and what counts.
GROUPS = {"espeak English": 0.36, "flite": 0.14, "espeak all languages": 0.28, "recorded": 0.22}
SLOWEST, FASTEST = 0.8, 1.25  # pace and pitch together: longer and lower, shorter and higher
TONE = 4.0  # decibels by which parts of the spectrum are made louder or softer, about
TONE_BANDS = 8  # parts of the spectrum
WITH_GROUND = 0.4  # share of words over another sound
NOISY = 0.3  # share over noise


class Said:
    """The words of the training voices, and how to make sounds of them."""

    def __init__(self, path: Path) -> None:
        self.words = Pack(path)
        groups = {
            (group, digit): self.words.where(split="train", group=group, digit=digit)
            for group in GROUPS
            for digit in range(10)
        }
        self.groups = {key: words for key, words in groups.items() if words}

    def clips(self, labels: Tensor, grounds: Tensor, seed: int) -> Tensor:
        """(B, SAMPLES, 1) in [-1, 1], one sound for each label.

        grounds  (n, SAMPLES, 1) in [-1, 1], to put under some of the words
        """
        rng = np.random.default_rng(seed)
        sounds = np.stack([self._word(label, rng) for label in labels.tolist()])
        sounds = torch.from_numpy(self._toned(sounds, rng))
        level = _log_uniform(rng, 0.02, 0.3, len(labels))
        sounds *= level / _rms(sounds)
        if len(grounds):
            ground = grounds[rng.integers(len(grounds), size=len(labels)), :, 0]
            share = _decibels(rng, -30, -10, len(labels)) * _some(rng, WITH_GROUND, len(labels))
            sounds += ground * (share * level / _rms(ground).clamp(min=1e-4))
        share = _decibels(rng, -40, -20, len(labels)) * _some(rng, NOISY, len(labels))
        noise = torch.from_numpy(rng.standard_normal(sounds.shape, np.float32))
        sounds += noise * (share * level)
        return sounds.clamp(-1, 1)[..., None]

    def _word(self, label: int, rng: np.random.Generator) -> np.ndarray:
        """(SAMPLES,) a word at some pace, somewhere; at most a tenth of it is cut off."""
        names = [name for name in GROUPS if (name, label) in self.groups]
        share = np.array([GROUPS[name] for name in names])
        words = self.groups[names[rng.choice(len(names), p=share / share.sum())], label]
        word = self.words[words[rng.integers(len(words))]].astype(np.float32) / 32768
        pace = float(_log_uniform(rng, SLOWEST, FASTEST, 1))
        places = np.arange(0, len(word) - 1, pace)
        word = np.interp(places, np.arange(len(word)), word).astype(np.float32)
        begin = rng.integers(0, max(1, SAMPLES - int(0.9 * len(word))))
        sound = np.zeros(SAMPLES, np.float32)
        heard = word[: SAMPLES - begin]
        sound[begin : begin + len(heard)] = heard * rng.choice([-1.0, 1.0])
        return sound

    def _toned(self, sounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Other microphones and throats: a gain that changes slowly along the spectrum."""
        gains = rng.normal(0, TONE, (len(sounds), TONE_BANDS))
        # Bands as the ear has them: as many below 1 kHz as above.
        hertz = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE)
        where = np.log1p(hertz / 700) / np.log1p(hertz[-1] / 700) * (TONE_BANDS - 1)
        left = np.minimum(where.astype(int), TONE_BANDS - 2)
        part = where - left
        curve = gains[:, left] * (1 - part) + gains[:, left + 1] * part
        spectrum = np.fft.rfft(sounds) * 10 ** (curve / 20)
        return np.fft.irfft(spectrum, SAMPLES).astype(np.float32)


def _rms(sounds: Tensor) -> Tensor:
    return sounds.square().mean(1, keepdim=True).sqrt()


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Tensor:
    """(count, 1)"""
    return torch.from_numpy(np.exp(rng.uniform(np.log(low), np.log(high), (count, 1)))).float()


def _decibels(rng: np.random.Generator, low: float, high: float, count: int) -> Tensor:
    return torch.from_numpy(10 ** (rng.uniform(low, high, (count, 1)) / 20)).float()


def _some(rng: np.random.Generator, share: float, count: int) -> Tensor:
    return torch.from_numpy(rng.random((count, 1)) < share).float()
