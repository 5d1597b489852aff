"""Before `train`: teach the self-attends to tell digits, from pieces of clips.

    python -m recipes.small.classes [--steps 15000] [--work .data/small]
    torchrun --nproc-per-node 2 -m recipes.small.classes     # a process a core

Telling digits takes a few hundred thousand examples from scratch, whatever else is learned. An
example is made cheap here: an untrained model already reads each block of video with a latent of
its own (see start.py), so a few frames of a clip are a few latents, and the others are left out.
Only what makes features and answers for labels is trained; reading and writing stay as started.
Run again, it goes on from the weights that it wrote, with a new schedule.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from perceivio.config import preset
from perceivio.model import MultimodalAutoencoder
from recipes.small.bank import Bank
from recipes.small.start import start_at_positions

LABEL = (
    "modalities.label.query",
    "modalities.label.query_padding",
    "modalities.label.output.weight",
    "modalities.label.output.bias",
)


@dataclass(frozen=True)
class Settings:
    steps: int = 15000
    batch: int = 24
    rate: float = 1e-3
    warm_up: int = 50  # steps
    weight_decay: float = 0.05
    clip: float = 1.0
    slices: tuple[float, ...] = (0.8, 0.1, 0.0, 0.1)  # chance of 1, 2, 3, 4 stretches of video
    sound: float = 0.3  # chance that the sound is there
    sound_alone: float = 0.1  # chance that it is there alone
    start_clips: int = 384
    seed: int = 0
    meet_every: int = 10  # steps after which processes average their weights
    checkpoint_every: int = 200


def varied(video: np.ndarray, rng: np.random.Generator) -> Tensor:
    """(B, T, H, W, 3) bytes -> (B, T, 3, H, W) in [0, 1]: shifted, inverted, recoloured."""
    image = torch.from_numpy(video).permute(0, 1, 4, 2, 3).float() / 255
    image = image[:, :, torch.from_numpy(rng.permutation(3))]
    image = image.roll(tuple(rng.integers(-10, 11, 2).tolist()), (-2, -1))
    inverted = torch.from_numpy(rng.random(len(image)) < 0.25)
    image[inverted] = 1 - image[inverted]
    return image * torch.from_numpy(rng.uniform(0.6, 1.0, (len(image), 1, 1, 1, 1))).float()


def pieces(
    module: MultimodalAutoencoder,
    bank: Bank,
    rows: np.ndarray,
    settings: Settings,
    rng: np.random.Generator,
) -> Tensor:
    """Latents (B, some, D) of a few stretches of the clips, read but not yet processed."""
    image, audio = module.io("image"), module.io("audio")
    times = image.modality.query_grid[0]
    each = image.modality.queries // times  # latents of one stretch of video
    sounds = audio.modality.queries
    frames = image.modality.shape[0] // times
    tokens = image.modality.tokens // times
    alone = rng.random() < settings.sound_alone
    count = 0 if alone else 1 + rng.choice(len(settings.slices), p=settings.slices)
    chosen = np.sort(rng.choice(times, count, replace=False))
    array, latents = [], [torch.arange(each * times + sounds, module.config.latents)]
    if alone or rng.random() < settings.sound:
        values = torch.from_numpy(bank.audio[rows].astype(np.float32))[..., None] / 32768
        array.append(audio.tokens(values))
        latents.append(torch.arange(sounds) + each * times)
    if count:
        wanted = np.concatenate([np.arange(frames) + frames * t for t in chosen])
        whole = torch.zeros(len(rows), *image.modality.value_shape)
        whole[:, wanted] = varied(bank.video[rows][:, wanted], rng)
        all_tokens = image.tokens(whole)
        for t in chosen:
            array.append(all_tokens[:, tokens * t : tokens * (t + 1)])
            latents.append(torch.arange(each) + each * int(t))
    queries = module.encoder.latents[torch.cat(latents)].expand(len(rows), -1, -1)
    return module.encoder.cross_attend(queries, torch.cat(array, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--steps", type=int, default=Settings.steps)
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps)
    work: Path = arguments.work
    bank = Bank(work / "train")
    digits = np.flatnonzero(bank.label >= 0)
    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)
    module = MultimodalAutoencoder(preset("small"))
    if (work / "classes.pt").exists():
        module.load_state_dict(torch.load(work / "classes.pt", weights_only=True))
    else:
        first = bank.random(settings.start_clips, settings.seed, 2**31)
        start_at_positions(module, {"image": first.image, "audio": first.audio})
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        dist.init_process_group("gloo")
    trained = [
        parameter
        for name, parameter in module.named_parameters()
        if "self_attends" in name or "mlp" in name or name in LABEL
    ]
    optimiser = torch.optim.AdamW(
        trained, settings.rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    began, step = time.monotonic(), 0
    running = math.log(module.config.modalities["label"].channels)  # chance
    while step < settings.steps:
        share = step / settings.steps
        for group in optimiser.param_groups:
            falling = 0.55 + 0.45 * math.cos(math.pi * max(0.0, (share - 0.3) / 0.7))
            group["lr"] = settings.rate * falling * min(1.0, (step + 1) / settings.warm_up)
        rng = np.random.default_rng((settings.seed, step, rank))
        rows = np.sort(rng.choice(digits, settings.batch, replace=False))
        with torch.autocast("cpu", torch.bfloat16):
            latents = module.encoder.process(pieces(module, bank, rows, settings, rng))
            logits = module.decode(latents, {"label": None})["label"]
        wanted = torch.from_numpy(bank.label[rows]).long()
        loss = F.cross_entropy(logits.float(), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimiser.step()
        if ranks > 1 and step % settings.meet_every == 0:
            flat = torch.cat([parameter.detach().flatten() for parameter in trained]) / ranks
            dist.all_reduce(flat)
            sizes = [parameter.numel() for parameter in trained]
            with torch.no_grad():
                for parameter, mean in zip(trained, flat.split(sizes), strict=True):
                    parameter.copy_(mean.view_as(parameter))
        running = 0.99 * running + 0.01 * loss.item()
        step, used = step + 1, time.monotonic() - began
        if rank:
            continue
        if step % 100 == 0:
            print(f"{used / 60:.1f} min, step {step}  cross-entropy {running:.3f}", flush=True)
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            beside = work / "classes.new"
            torch.save(module.state_dict(), beside)
            beside.replace(work / "classes.pt")
    print(f"wrote {work / 'classes.pt'}; settings: {asdict(settings)}")


if __name__ == "__main__":
    main()
