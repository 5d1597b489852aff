"""How good a model is on the test half of the bank: sources, images and voices never trained on.

    python -m recipes.small.score [MODEL] [--work .data/small] [--contrast 1.0]

Every figure stands beside the trivial answer: the clip's mean colour for the picture, silence
for the sound (an SNR of 0 dB), chance for the digits (10 %). With a contrast below 1 pictures are
faded towards their clip's mean colour, as films do: the less is left of a picture, the harder the
trivial answer is to beat.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perceivio.model import MultimodalAutoencoder
from recipes.small.bank import Bank, Batch
from recipes.small.sounds import Sounds, at_level

SMALL_GAIN = 3.0  # dB over the mean colour: clips with less are counted
QUIET = 1e-4  # mean square below which a clip counts as silent and has no SNR


def psnr(wanted: Tensor, got: Tensor) -> Tensor:
    """(B,) in dB, peak 1, from the mean square error of a clip."""
    error = (wanted - got.clamp(0, 1)).flatten(1).square().mean(1)
    return -10 * error.clamp(min=1e-10).log10()


def snr(wanted: Tensor, got: Tensor) -> Tensor:
    """(B,) in dB: energy of the signal over that of the error; not a number for silent clips."""
    energy = wanted.flatten(1).square().mean(1)
    error = (wanted - got).flatten(1).square().mean(1)
    ratio = 10 * (energy / error.clamp(min=1e-12)).log10()
    return torch.where(energy > QUIET, ratio, torch.nan)


def batches(bank: Bank, only_digits: bool = False, size: int = 64) -> Iterator[Batch]:
    rows = np.flatnonzero(bank.label >= 0) if only_digits else np.arange(len(bank))
    for first in range(0, len(rows), size):
        yield bank.batch(rows[first : first + size])


@torch.inference_mode()
def score(
    module: MultimodalAutoencoder, bank: Bank, contrast: float = 1.0, only_digits: bool = False
) -> dict[str, dict[str, float]]:
    """Means by source, and the digits' top-1 with the label masked."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    names = {s: str(about["name"]) for s, about in enumerate_sources(bank.sources)}
    for batch in batches(bank, only_digits):
        mean = batch.image.mean((1, 3, 4), keepdim=True)
        image = mean + contrast * (batch.image - mean)
        given = {"image": image, "audio": batch.audio}
        outputs = module.reconstruct(given)
        figures = {
            "psnr": psnr(image, outputs["image"]),
            "mean_colour": psnr(image, mean.expand_as(image)),
            "snr": snr(batch.audio, outputs["audio"]),
        }
        figures["gain"] = figures["psnr"] - figures["mean_colour"]
        digit = batch.label >= 0
        if digit.any():
            for key, part in (("top1", given), *((f"top1_{k}", {k: given[k]}) for k in given)):
                answer = module.classify({k: v[digit] for k, v in part.items()})
                right = (answer.argmax(1) == batch.label[digit]).float().tolist()
                rows["digits"][key] += right
                for source, one in zip(batch.source[digit].tolist(), right, strict=True):
                    rows["digits"][f"{key} {names[source].split(': ')[-1]}"].append(one)
        for i, source in enumerate(batch.source.tolist()):
            name = "digits" if batch.label[i] >= 0 else names[source]
            for key, values in figures.items():
                rows[name][key].append(values[i].item())
    return {
        name: {
            **{key: float(np.nanmean(values)) for key, values in found.items()},
            "gain_min": float(np.min(found["gain"])),
            "gain_small": int(np.sum(np.less(found["gain"], SMALL_GAIN))),
            "snr_min": float(np.fmin.reduce(found["snr"])),  # nan where all are
            "clips": len(found["gain"]),
        }
        for name, found in sorted(rows.items())
    }


@torch.inference_mode()
def score_sounds(module: MultimodalAutoencoder, work: Path, count: int = 200) -> str:
    """SNR by sort of sound, each at one level, without a picture: windows of the test half's own
    files, drawn with a seed."""
    sounds = Sounds(work / "sounds", work / "sentences", "test")
    lines = []
    for sort in sounds.sorts:
        sounds.sorts, sounds.share = [sort], np.ones(1)
        rng = np.random.default_rng(0)
        clips = np.stack([at_level(sounds.background(rng), 0.1) for _ in range(count)])
        audio = torch.from_numpy(clips.astype(np.float32))[..., None]
        parts = [(part, module.reconstruct({"audio": part})["audio"]) for part in audio.split(50)]
        found = torch.cat([snr(*pair) for pair in parts])
        lines.append(
            f"{sort:12} {len(sounds.choices[sort]):4} files  SNR {found.nanmean():6.2f} dB"
            f"  (median {found.nanmedian():6.2f}, worst {found.nan_to_num(99).min():6.2f})"
        )
    return "\n".join(lines)


def enumerate_sources(sources: object) -> list[tuple[int, dict[str, object]]]:
    if isinstance(sources, list):
        return list(enumerate(sources))
    assert isinstance(sources, dict)
    return [(int(key), about) for key, about in sources.items()]


def table(scores: dict[str, dict[str, float]]) -> str:
    lines = [
        f"{'source':32} {'clips':>5} {'PSNR':>6} {'mean':>6} {'gain':>6} {'worst':>6}"
        f" {'SNR':>6} {'worst':>6}"
    ]
    for name, row in scores.items():
        lines.append(
            f"{name[:32]:32} {row['clips']:5.0f} {row['psnr']:6.2f} {row['mean_colour']:6.2f}"
            f" {row['gain']:+6.2f} {row['gain_min']:+6.2f} {row['snr']:6.2f} {row['snr_min']:6.2f}"
        )
    small = sum(row["gain_small"] for row in scores.values())
    clips = sum(row["clips"] for row in scores.values())
    lines.append(f"{small:.0f} of {clips:.0f} clips gain less than {SMALL_GAIN:.0f} dB")
    digits = scores["digits"]
    lines.append(
        f"digits, label masked: top-1 {digits['top1']:.1%}"
        f" (image alone {digits['top1_image']:.1%}, sound alone {digits['top1_audio']:.1%})"
    )
    voices = sorted(key.removeprefix("top1 ") for key in digits if key.startswith("top1 "))
    lines += [
        f"  {name:28} top-1 {digits[f'top1 {name}']:.1%}"
        f" (sound alone {digits[f'top1_audio {name}']:.1%})"
        for name in voices
    ]
    return "\n".join(lines)


def main() -> None:
    from perceivio.weights import load_module

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="small")
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--contrast", type=float, default=1.0)
    chosen = parser.parse_args()
    bank = Bank(chosen.work / "test")
    module = load_module(chosen.model)
    print(table(score(module, bank, chosen.contrast)))
    print("\nsounds of files never trained on, each alone:")
    print(score_sounds(module, chosen.work))


if __name__ == "__main__":
    main()
