"""Train `small` on the bank of clips.

    python -m recipes.small.train [--minutes 90] [--work .data/small]

Starts from the weights that are given, else from what `classes` has learned, else from `start`.
Runs on the processor (bfloat16 products) or on a GPU where there is one. Writes a checkpoint
every few hundred steps; run again, it goes on from there. The rate of learning falls with the
share of the time that is used up, so a longer run is a better one.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from perceivio.config import preset
from perceivio.modalities import patches
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import load_module, save_module
from recipes.small.bank import Bank, Batch
from recipes.small.score import score, table
from recipes.small.start import fit_outputs, start_at_positions


@dataclass(frozen=True)
class Settings:
    minutes: float = 90.0
    batch: int = 32
    rate: float = 3e-4  # of learning, at most
    relative_rate: float = 4e-3  # of learning, at most, in units of a parameter's initial size
    warm_up: int = 100  # steps
    weight_decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    average: float = 0.999  # of the weights that are kept and scored
    digits: float = 0.5  # share of labelled clips in a batch
    # Shares of the examples in which a modality is masked. The label's is the paper's.
    mask_label: float = 0.5
    mask_image: float = 0.15
    mask_audio: float = 0.15
    # Shares of the output queries that are decoded in a step (the paper decodes 512 of each).
    decode_image: float = 0.5
    decode_audio: float = 0.5
    image_weight: float = 1.0
    audio_weight: float = 0.5
    label_weight: float = 10.0
    start_clips: int = 512
    seed: int = 0
    checkpoint_every: int = 100
    score_every: int = 2000


def relative_error(wanted: Tensor, got: Tensor, floor: Tensor) -> Tensor:
    """(B,) log of a clip's mean square error: a step towards better decibels counts the same in
    a quiet or flat clip as in a loud or busy one. The floor is where better is good enough."""
    error = (wanted - got).square().flatten(1).mean(1)
    return torch.log(error + floor)


def losses(
    module: MultimodalAutoencoder, batch: Batch, settings: Settings, generator: torch.Generator
) -> dict[str, Tensor]:
    """Masked input, subsampled decoding; each loss a mean over the examples that it is about."""
    config = module.config

    def chance(share: float) -> Tensor:
        return torch.rand(len(batch.label), generator=generator) < share

    unlabelled = batch.label < 0
    masked = {"image": chance(settings.mask_image), "audio": chance(settings.mask_audio)}
    masked["audio"] &= ~masked["image"]  # never both: nothing would be left to tell from
    masked["label"] = chance(settings.mask_label) | unlabelled | masked["image"] | masked["audio"]
    device = module.encoder.latents.device
    masked = {name: chosen.to(device) for name, chosen in masked.items()}
    inputs = {k: v.to(device) for k, v in batch.inputs(config.modalities["label"].channels).items()}

    points: dict[str, Tensor | None] = {"label": None}
    for name, share in (("image", settings.decode_image), ("audio", settings.decode_audio)):
        queries = config.modalities[name].queries
        chosen = torch.randperm(queries, generator=generator)[: round(share * queries)]
        points[name] = chosen.sort().values
    outputs = module.decode(module.encode(inputs, masked), points)

    found = {}
    for name, floor in (("image", 1e-4), ("audio", None)):
        modality = config.modalities[name]
        wanted = patches(inputs[name], modality, modality.output_patch)[:, points[name]]
        energy = wanted.square().flatten(1).mean(1)
        least = torch.full_like(energy, floor) if floor else 0.01 * energy + 1e-6
        seen = (~masked[name]).float()
        each = relative_error(wanted, outputs[name].float(), least)
        if floor is None:
            each = each - torch.log(energy + 1e-6)
        found[name] = (each * seen).sum() / seen.sum().clamp(min=1)
    if (~unlabelled).any():
        known = (~unlabelled).to(device)
        found["label"] = F.cross_entropy(
            outputs["label"].float()[known], batch.label.to(device)[known], label_smoothing=0.05
        )
    return found


def groups(module: MultimodalAutoencoder, settings: Settings) -> list[dict[str, object]]:
    """A group for each parameter. The start that we make has small and large values side by
    side, so that a step of one size for all would wash out the small ones at once: a step is
    relative to the size of what it changes. Matrices are decayed, vectors and latents are not.
    """
    found = []
    for name, parameter in module.named_parameters():
        size = parameter.detach().square().mean().sqrt().item()
        if "self_attends" in name or "mlp" in name:
            # Turned down by the start so as to be found out by training: as if half its usual size.
            size = max(size, 0.5 * parameter.shape[-1] ** -0.5)
        relative = settings.relative_rate * size if size else settings.rate
        matrix = parameter.dim() == 2 and name != "encoder.latents"
        found.append(
            {
                "params": [parameter],
                "peak": min(settings.rate, relative),
                "weight_decay": settings.weight_decay if matrix else 0.0,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--weights", help="go on from these, for example: small")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    work, weights = arguments.pop("work"), arguments.pop("weights")
    settings = Settings(**arguments)
    checkpoint = work / "checkpoint.pt"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = Bank(work / "train"), Bank(work / "test")

    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)  # the optimiser's smallest moments would be ten times slower
    module = MultimodalAutoencoder(preset("small"))
    step, used = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
    else:
        state = None
        first = train.random(settings.start_clips, settings.seed, 2**31)
        clips = {"image": first.image, "audio": first.audio}
        if weights:
            module.load_state_dict(load_module(weights).state_dict())
        elif (work / "classes.pt").exists():
            module.load_state_dict(torch.load(work / "classes.pt", weights_only=True))
            fit_outputs(module, clips)  # the self-attends have moved
        else:
            start_at_positions(module, clips)
    average = copy.deepcopy(module).requires_grad_(False)
    module.to(device)
    average.to(device)
    optimiser = torch.optim.AdamW(
        groups(module, settings), lr=settings.rate, betas=(0.9, 0.98), eps=1e-9
    )
    if state:
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, used = state["step"], state["used"]
    else:
        print(table(score(average.cpu(), test)), flush=True)
        average.to(device)

    began = time.monotonic() - used
    running: dict[str, float] = {}
    while used < 60 * settings.minutes:
        share = used / (60 * settings.minutes)
        rate = min(1.0, (step + 1) / settings.warm_up)
        rate *= 0.5 + 0.5 * math.cos(math.pi * max(0.0, (share - 0.2) / 0.8))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["peak"]
        generator = torch.Generator().manual_seed(settings.seed * 2**32 + step)
        batch = train.random(settings.batch, settings.seed, step, settings.digits)
        with torch.autocast(device.type, torch.bfloat16):
            found = losses(module, batch, settings, generator)
        weights = {"image": settings.image_weight, "audio": settings.audio_weight}
        weights["label"] = settings.label_weight
        loss = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        if not torch.isfinite(norm):
            raise SystemExit(f"step {step}: the gradient is not finite; last checkpoint is kept")
        optimiser.step()
        keep = min(settings.average, (step + 1) / (step + 10))
        with torch.no_grad():
            kept: list[Tensor] = list(average.parameters())
            new: list[Tensor] = list(module.parameters())
            torch._foreach_lerp_(kept, new, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]
        step, used = step + 1, time.monotonic() - began
        for name, value in found.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if step % 25 == 0:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in sorted(running.items()))
            speed = f"{used / 60:.1f} min, step {step}, rate {rate:.2f} of its peak"
            print(f"{speed}  {shown}  norm {norm:.2f}", flush=True)
        if step % settings.checkpoint_every == 0 or used >= 60 * settings.minutes:
            beside = checkpoint.with_suffix(".new")
            torch.save(
                {
                    "module": module.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "used": used,
                },
                beside,
            )
            beside.replace(checkpoint)
        if step % settings.score_every == 0:
            print(table(score(average.cpu(), test)), flush=True)
            average.to(device)
    print(table(score(average.cpu(), test)), flush=True)
    export(average, work / "small")


def export(average: MultimodalAutoencoder, folder: Path) -> None:
    """The averaged weights as a folder that `perceivio.load` reads, in 16-bit floats."""
    save_module(average.cpu(), folder, dtype=torch.float16, overwrite=True)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
