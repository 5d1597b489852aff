"""How near a reconstruction is: PSNR and SNR, summed up over a stream.

Peak 1 for pictures in [0, 1] and for sound in [-1, 1] (the paper does not say; everybody who
prints a number should): PSNR = 10 log10(1 / mean square error). On ordinary clips silence alone
has a sound PSNR of 25 to 40 dB, so SNR = 10 log10(signal energy / error energy) stands beside it:
silence has 0 dB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


@dataclass
class Fidelity:
    """Sums over a stream of values; figures in dB are None where they say nothing.

    error      squares of the differences
    energy     squares of the wanted values
    trivial    squares of what the trivial answer misses: each window's mean colour for pictures,
               silence for sound
    """

    count: int = 0
    error: float = 0.0
    energy: float = 0.0
    trivial: float = 0.0

    def add(self, wanted: Tensor, got: Tensor, guess: Tensor | float = 0.0) -> None:
        """Values of any shape and what the trivial answer `guess` would be for them."""
        wanted, got = wanted.double(), got.double()
        self.count += wanted.numel()
        self.error += (wanted - got).square().sum().item()
        self.energy += wanted.square().sum().item()
        self.trivial += (wanted - guess).square().sum().item()

    def __add__(self, other: Fidelity) -> Fidelity:
        return Fidelity(
            self.count + other.count,
            self.error + other.error,
            self.energy + other.energy,
            self.trivial + other.trivial,
        )

    @property
    def psnr(self) -> float | None:
        return self._over_count(self.error)

    @property
    def trivial_psnr(self) -> float | None:
        return self._over_count(self.trivial)

    @property
    def snr(self) -> float | None:
        """None where there is no signal, as in silence."""
        return decibels(self.energy / self.error) if self.energy and self.error else None

    @property
    def explained(self) -> float | None:
        """R2, the share of the trivial answer's error that is gone: 1 for no error at all."""
        return 1 - self.error / self.trivial if self.trivial else None

    def _over_count(self, total: float) -> float | None:
        return decibels(self.count / total) if self.count and total else None
