"""Train `small` on the bank of clips: one run, two parts.

    torchrun --nproc-per-node 2 -m recipes.small.train [--work .data/small]

A process a core is fastest on a processor; on one GPU, `python -m recipes.small.train`. First come
pieces of clips (half the frames, or only the sound), of which a core takes in three times as many
as of whole clips: telling digits needs a few hundred thousand examples, whatever else is learned.
Then come whole clips, with any modality masked. Writes a checkpoint every few hundred steps; run
again, it goes on from there, with the clips that would have come next.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perceivio.config import preset
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import save_module
from recipes.small.bank import Bank, Batch
from recipes.small.draw import Drawn, seed_of
from recipes.small.pieces import WHOLE, Piece, choose, look, patches_in
from recipes.small.score import score, table
from recipes.small.start import start_at_positions


@dataclass(frozen=True)
class Settings:
    steps: int = 4900
    whole_from: int = 3700  # step from which clips are whole
    warm_up: int = 100  # steps over which the rates of learning rise; then a cosine to nothing
    batch: int = 96  # clips a step, all processes together
    muon_rate: float = 0.03  # of the matrices of self-attends and MLPs, by Muon
    rate: float = 1e-3  # of their vectors and of what is learned for labels, by AdamW
    started_rate: float = 3e-4  # of what has a start of its own, by AdamW: at most this, and at
    relative_rate: float = 1e-3  # most this share of a parameter's size, so that none is washed out
    muon_decay: float = 0.02
    decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    # Shares of a batch: labelled clips, in pieces and whole, and those of them drawn afresh.
    digits_in_pieces: float = 0.9
    digits: float = 0.5
    drawn: float = 0.8
    # Shares of the whole clips in which a modality is masked. The label's is the paper's.
    mask_label: float = 0.5
    mask_image: float = 0.15
    mask_audio: float = 0.15
    # Share of a whole clip's output queries that are decoded (the paper decodes 512 of each kind).
    decode: float = 0.5
    image_weight: float = 0.15
    audio_weight: float = 0.05
    label_weight: float = 1.0
    start_clips: int = 512
    seed: int = 0
    checkpoint_every: int = 200
    score_every: int = 0


def logarithmic_error(wanted: Tensor, got: Tensor, floor: Tensor) -> Tensor:
    """(B,) log of a clip's mean square error: a step towards better decibels counts the same in
    a quiet or flat clip as in a loud or busy one. The floor is where better is good enough."""
    error = (wanted - got).square().flatten(1).mean(1)
    return torch.log(error + floor)


def losses(
    module: MultimodalAutoencoder,
    batch: Batch,
    piece: Piece,
    settings: Settings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each loss is a mean over the examples that it is about."""
    config = module.config
    device = module.encoder.latents.device
    unlabelled = batch.label < 0

    def chance(share: float) -> Tensor:
        return torch.rand(len(batch.label), generator=generator) < share

    inputs = batch.inputs(config.modalities["label"].channels)
    inputs = {name: values.to(device) for name, values in inputs.items()}
    masked: dict[str, Tensor] = {}
    points: dict[str, Tensor] = dict(piece.points)
    if piece is WHOLE:
        masked = {"image": chance(settings.mask_image), "audio": chance(settings.mask_audio)}
        masked["audio"] &= ~masked["image"]  # never both: nothing would be left to tell from
        masked["label"] = chance(settings.mask_label) | masked["image"] | masked["audio"]
        masked["label"] |= unlabelled
        masked = {name: chosen.to(device) for name, chosen in masked.items()}
        for name, every in points.items():
            some = torch.randperm(len(every), generator=generator)
            points[name] = every[some[: round(settings.decode * len(every))].sort().values]
        latents = module.encode(inputs, masked)
        outputs = module.decode(latents, {**points, "label": None})
    else:
        outputs = look(module, inputs, piece)
    everyone = torch.ones_like(unlabelled).to(device)

    found = {}
    for name, floor in (("image", 1e-4), ("audio", None)):
        if name not in points:
            continue
        io = module.io(name)
        wanted = patches_in(io, inputs[name], io.modality.output_patch)
        if piece is WHOLE:
            wanted = wanted[:, points[name]]
        energy = wanted.square().flatten(1).mean(1)
        least = torch.full_like(energy, floor) if floor else 0.01 * energy + 1e-6
        seen = (everyone & ~masked[name] if name in masked else everyone).float()
        each = logarithmic_error(wanted, outputs[name].float(), least)
        if floor is None:
            each = each - torch.log(energy + 1e-6)
        found[name] = (each * seen).sum() / seen.sum().clamp(min=1)
    known = (~unlabelled).to(device)
    if known.any():
        answers, right = outputs["label"].float()[known], batch.label.to(device)[known]
        found["label"] = F.cross_entropy(answers, right)
        guessed = masked.get("label", everyone)[known]
        if guessed.any():
            found["top1"] = (answers.argmax(1) == right)[guessed].float().mean()
    return found


def a_batch(
    bank: Bank, drawn: Drawn, piece: Piece, size: int, settings: Settings, step: int, rank: int
) -> Batch:
    """Clips of the bank; of the labelled ones many with a new picture of the same digit."""
    seed = seed_of(settings.seed, step, rank)
    share = settings.digits if step >= settings.whole_from else settings.digits_in_pieces
    batch = bank.random(size, seed, 0, share)
    if "image" in piece.points:
        rng = np.random.default_rng(seed)
        new = torch.from_numpy(rng.random(size) < settings.drawn) & (batch.label >= 0)
        frames = piece.frames
        pictures = batch.image[batch.label < 0, frames[0]]
        batch.image[new, slice(*frames)] = drawn.clips(
            batch.label[new], pictures, frames[1] - frames[0], seed
        )
    return replace(batch, image=batch.image[:, slice(*piece.frames)])


def optimisers(
    module: MultimodalAutoencoder, settings: Settings
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices that are to find out features, AdamW for everything else."""
    muon, groups = [], []
    for name, parameter in module.named_parameters():
        hidden = "self_attends" in name or "mlp" in name
        if hidden and parameter.dim() == 2:
            muon.append(parameter)
            continue
        rate = settings.rate
        if not hidden and not name.startswith("modalities.label"):
            size = parameter.detach().square().mean().sqrt().item()
            rate = min(settings.started_rate, settings.relative_rate * size or 1.0)
        matrix = parameter.dim() == 2 and name != "encoder.latents"
        decay = settings.decay if matrix else 0.0
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return (
        torch.optim.Muon(muon, settings.muon_rate, weight_decay=settings.muon_decay, ns_steps=4),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9),
    )


def rate_at(step: int, settings: Settings) -> float:
    """Share of the full rates."""
    falling = 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)
    return falling * min(1.0, (step + 1) / settings.warm_up)


def average_gradients(module: nn.Module, ranks: int) -> None:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / ranks
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    work: Path = arguments.pop("work")
    settings = Settings(**arguments)
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    checkpoint = work / "checkpoint.pt"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bank, drawn = Bank(work / "train"), Drawn(work / "media/digits/mnist_images.npz")

    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)  # the optimiser's smallest moments would be ten times slower
    module = MultimodalAutoencoder(preset("small"))
    step, used = 0, 0.0
    first = bank.random(settings.start_clips, settings.seed, 2**31)
    start_at_positions(module, {"image": first.image, "audio": first.audio})
    module.to(device)
    both = optimisers(module, settings)  # rates are relative to the start's sizes
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        step, used = state["step"], state["used"]
    if ranks > 1:
        dist.init_process_group("gloo")
    peaks = [[group["lr"] for group in o.param_groups] for o in optimisers(module, settings)]
    if step:
        peaks = [list(kept) for kept in state["peaks"]]

    began = time.monotonic() - used
    running: dict[str, float] = {}
    while step < settings.steps:
        for optimiser, rates in zip(both, peaks, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * rate_at(step, settings)
        piece = WHOLE if step >= settings.whole_from else choose(seed_of(settings.seed, step))
        batch = a_batch(bank, drawn, piece, settings.batch // ranks, settings, step, rank)
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step, rank, 1))
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu":  # the other's way back is four times slower there
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            found = losses(module, batch, piece, settings, generator)
            loss = torch.zeros((), device=device)
            for name in ("image", "audio", "label"):
                if name in found:
                    loss = loss + getattr(settings, f"{name}_weight") * found[name]
            for optimiser in both:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
        if ranks > 1:
            average_gradients(module, ranks)
        norm = nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        if not torch.isfinite(norm):
            raise SystemExit(f"step {step}: the gradient is not finite; last checkpoint is kept")
        for optimiser in both:
            optimiser.step()
        step, used = step + 1, time.monotonic() - began
        for name, value in found.items():
            key = f"{piece.name} {name}"
            running[key] = 0.95 * running.get(key, value.item()) + 0.05 * value.item()
        if rank:
            continue
        if step % 25 == 0:
            shown = "  ".join(f"{k} {v:.2f}" for k, v in sorted(running.items()))
            print(f"{used / 60:.1f} min, step {step}  {shown}  norm {norm:.2f}", flush=True)
        if step % settings.checkpoint_every == 0 or step == settings.steps:
            beside = checkpoint.with_suffix(".new")
            state = {"module": module.state_dict(), "step": step, "used": used, "peaks": peaks}
            state["optimisers"] = [optimiser.state_dict() for optimiser in both]
            torch.save(state, beside)
            beside.replace(checkpoint)
        if settings.score_every and step % settings.score_every == 0:
            print(table(score(module, Bank(work / "test"))), flush=True)
    if rank == 0:
        save_module(module.cpu(), work / "small", dtype=torch.float16, overwrite=True)
        print(f"wrote {work / 'small'}", flush=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
