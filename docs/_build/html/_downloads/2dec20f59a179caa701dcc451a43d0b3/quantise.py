"""Latents in fewer bits: how they are kept in files, and what that costs.

float32 and float16 are what torch calls so. int8 and int4 are steps of a ruler of its own for each
channel: over the N latents of a window, from the channel's lowest value to its highest, in 255 or
15 equal steps. The ruler's lowest mark and its step are float16, so D channels cost 32 bits each.

Letters: N x D latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import PerceivioError

Precision = Literal["float32", "float16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BITS: dict[Precision, int] = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
RULER_BITS = 32  # of a channel's lowest mark and step
UP = 1 + 2**-10  # more than what rounding to float16 can take away
FINEST = 2.0**-14  # smallest normal float16
HIGHEST = 65504.0  # largest float16


def bits_of(precision: Precision, latents: int, channels: int) -> int:
    """Bits that N x D latents take, rulers included; not what a file adds around them."""
    count = latents * channels * BITS[precision]
    return count + (channels * RULER_BITS if precision in ("int8", "int4") else 0)


def pack(latents: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Latents (N, D) -> what is kept of them, by name; `unpack` gives them back.

    float32, float16  "values" (N, D)
    int8              "values" (N, D) uint8, "low" and "step" (D,) float16
    int4              "values" (ceil(N D / 2),) uint8, two neighbours a byte, the first in the lower
                      half; "low" and "step" as before

    Raises PerceivioError for latents that are not finite, or too large for float16.
    """
    values = latents.detach().float().cpu()
    if not torch.isfinite(values).all():
        raise PerceivioError("latents hold values that are not finite, and cannot be kept")
    if precision == "float32":
        return {"values": values.contiguous()}
    if values.abs().max() > HIGHEST / 2:
        raise PerceivioError(f"latents are too large to be kept as {precision}; choose float32")
    if precision == "float16":
        return {"values": values.half().contiguous()}
    low, high = values.amin(0), values.amax(0)
    low = (low - low.abs() * (UP - 1) - FINEST).half()
    steps = 2 ** BITS[precision] - 1
    step = ((high - low.float()) / steps * UP).clamp(min=FINEST).half()
    codes = ((values - low.float()) / step.float()).round().clamp(0, steps).to(torch.uint8)
    if precision == "int4":
        flat = torch.nn.functional.pad(codes.flatten(), (0, codes.numel() % 2))
        codes = flat[0::2] | flat[1::2] << 4
    return {"values": codes, "low": low, "step": step}


def unpack(kept: Mapping[str, Tensor], precision: Precision, latents: int, channels: int) -> Tensor:
    """What `pack` has kept -> latents (N, D), float32. Each is within `error_bound` of what it was.

    Raises PerceivioError where the parts are not those of N x D latents of this precision.
    """
    wanted = _parts(precision, latents, channels)
    found = {name: (part.dtype, tuple(part.shape)) for name, part in kept.items()}
    if found != wanted:
        raise PerceivioError(f"these are not {latents} x {channels} latents kept as {precision}")
    values = kept["values"]
    if precision in ("float32", "float16"):
        return values.float()
    if precision == "int4":
        pairs = torch.stack([values & 15, values >> 4], dim=1)
        values = pairs.flatten()[: latents * channels].view(latents, channels)
    return kept["low"].float() + values.float() * kept["step"].float()


def error_bound(kept: Mapping[str, Tensor], precision: Precision) -> Tensor:
    """How far a value may be from what it was: for each channel (D,), or for each value (N, D)."""
    if precision == "float32":
        return torch.zeros(kept["values"].shape)
    if precision == "float16":
        return kept["values"].float().abs() * 2**-11 + 2.0**-25
    # Half a step, and the rounding of float32 in between.
    low, step = kept["low"].float(), kept["step"].float()
    return 0.5 * step + (low.abs() + step * 2 ** BITS[precision]) * 2**-22


def _parts(
    precision: Precision, latents: int, channels: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    if precision == "float32":
        return {"values": (torch.float32, (latents, channels))}
    if precision == "float16":
        return {"values": (torch.float16, (latents, channels))}
    shape = (latents, channels) if precision == "int8" else (-(-latents * channels // 2),)
    ruler = (torch.float16, (channels,))
    return {"values": (torch.uint8, shape), "low": ruler, "step": ruler}
