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
from recipes.small.common import FRAMES, SAMPLES, SIDE
from recipes.small.draw import Drawn, seed_of
from recipes.small.layout import WHERE, free, taken, writers
from recipes.small.pieces import WHOLE, Piece, choose, look, patches_in
from recipes.small.say import Said
from recipes.small.score import score, table
from recipes.small.start import fit_outputs, start_at_positions

GROUNDS = 24  # pictures and sounds of the bank that go under the digits of a batch


@dataclass(frozen=True)
class Settings:
    pieces: int = 4800  # steps on pieces of clips
    whole: int = 600  # steps on whole clips, after them
    horizon: int = 5600  # steps after which the rates of the first part would be at nothing
    warm_up: int = 100  # steps over which rates of learning rise at the beginning
    whole_warm_up: int = 50  # and of the second part
    batch: int = 96  # clips a step, all processes together
    muon_rate: float = 0.015  # of the matrices of self-attends and MLPs, by Muon
    write_rate: float = 0.004  # of those by which they add to the latents
    rate: float = 1e-3  # of their vectors and of what is learned for labels, by AdamW
    started_rate: float = 3e-4  # of what has a start of its own, by AdamW: at most this, and at
    relative_rate: float = 2e-3  # most this share of a parameter's size, so that none is washed out
    # The second part is gentler with what was found out, and less so with what reads and writes.
    whole_muon_rate: float = 0.0015
    whole_write_rate: float = 0.0006
    whole_rate: float = 1.5e-4
    muon_decay: float = 0.02
    decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    # Shares of a batch of whole clips: labelled, and those of them drawn and said afresh.
    digits: float = 0.6
    drawn: float = 0.8
    # Shares of the whole clips in which a modality is masked. The label's is the paper's.
    mask_label: float = 0.5
    mask_image: float = 0.15
    mask_image_of_digits: float = 0.3
    mask_audio: float = 0.15
    # Share of a whole clip's output queries that are decoded (the paper decodes 512 of each kind).
    decode: float = 0.5
    image_weight: float = 0.3
    audio_weight: float = 0.15
    label_weight: float = 1.0
    size_weight: float = 0.01  # of the features that latents of the picture and the sound end with,
    size_from: int = 30  # from this step on: square, over that of a latent's place
    start_clips: int = 512
    # What `ablate.py` takes away, one at a time.
    kinds: str = "all"  # of pieces: all, image or sound
    features: bool = True  # of edges and bands at the start
    logarithms: bool = True  # of the bands' loudness
    neighbours: bool = True  # that a head looks at from the start
    muon: bool = True  # else AdamW for all matrices
    widening: int = 0  # of the encoder's first MLP; 0: the preset's
    seed: int = 0
    checkpoint_every: int = 100
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

    def chance(share: float | Tensor) -> Tensor:
        return torch.rand(len(batch.label), generator=generator) < share

    inputs = batch.inputs(config.modalities["label"].channels)
    inputs = {name: values.to(device) for name, values in inputs.items()}
    masked: dict[str, Tensor] = {}
    points: dict[str, Tensor] = dict(piece.points)
    if piece is WHOLE:
        hidden = torch.where(unlabelled, settings.mask_image, settings.mask_image_of_digits)
        masked = {"image": chance(hidden), "audio": chance(settings.mask_audio)}
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
        answer, latents = look(module, inputs, piece)
        outputs, points = {"label": answer}, {}
    everyone = torch.ones_like(unlabelled).to(device)

    found = {}
    for name, floor in (("image", 2e-5), ("audio", None)):
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
    if piece is not WHOLE:
        # Beside large features, content would be small, and scaled by them in every LayerNorm.
        placed = len(piece.latents) - free(module)
        features = latents[:, :placed, taken(module) :].float()
        found["size"] = features.square().sum(-1).mean() / WHERE
    known = (~unlabelled).to(device)
    if known.any():
        answers, right = outputs["label"].float()[known], batch.label.to(device)[known]
        found["label"] = F.cross_entropy(answers, right)
        guessed = masked.get("label", everyone)[known]
        if guessed.any():
            found["top1"] = (answers.argmax(1) == right)[guessed].float().mean()
    return found


class Clips:
    """Batches of clips, each keyed by settings, step and rank alone."""

    def __init__(self, work: Path) -> None:
        self.bank = Bank(work / "train")
        self.drawn = Drawn(work / "media/digits/mnist_images.npz")
        self.said = Said(work / "spoken")
        self.unlabelled = np.flatnonzero(self.bank.label < 0)

    def of(self, piece: Piece, size: int, settings: Settings, step: int, rank: int) -> Batch:
        seed = seed_of(settings.seed, step, rank)
        return self.whole(size, settings, seed) if piece is WHOLE else self.part(piece, size, seed)

    def part(self, piece: Piece, size: int, seed: int) -> Batch:
        """Digits drawn and said afresh, over pictures and sounds of the bank."""
        rng = np.random.default_rng(seed)
        label = torch.from_numpy(rng.integers(10, size=size))
        under = np.sort(rng.choice(self.unlabelled, GROUNDS, replace=False))
        frames = piece.frames[1] - piece.frames[0]
        image, audio = torch.zeros(size, 0, 3, SIDE, SIDE), torch.zeros(size, SAMPLES, 1)
        if "image" in piece.points:
            pictures = torch.from_numpy(self.bank.video[under, 0]).permute(0, 3, 1, 2) / 255
            image = self.drawn.clips(label, pictures, frames, seed, piece.area)
        if "audio" in piece.points:
            grounds = torch.from_numpy(self.bank.audio[under] / np.float32(32768))[..., None]
            audio = self.said.clips(label, grounds, seed)
        return Batch(image, audio, label, torch.full_like(label, -1))

    def whole(self, size: int, settings: Settings, seed: int) -> Batch:
        """Clips of the bank; many of the labelled ones with a new picture and a new sound."""
        batch = self.bank.random(size, seed, 0, settings.digits)
        rng = np.random.default_rng(seed)
        new = torch.from_numpy(rng.random(size) < settings.drawn) & (batch.label >= 0)
        others = batch.label < 0
        batch.image[new] = self.drawn.clips(
            batch.label[new], batch.image[others, 0], FRAMES, seed
        )
        batch.audio[new] = self.said.clips(batch.label[new], batch.audio[others], seed)
        return batch


def optimisers(
    module: MultimodalAutoencoder, settings: Settings, whole: bool
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices that are to find out features, AdamW for everything else. In the first
    part, what reads and what writes content stays as it was started."""
    adding = {id(linear.weight) for linear in writers(module)}
    adding.add(id(module.decoder.cross_attend.mlp.narrow.weight))
    muon: tuple[list[Tensor], list[Tensor]] = ([], [])
    groups = []
    for name, parameter in module.named_parameters():
        hidden = "self_attends" in name or "mlp" in name
        label = name.startswith("modalities.label")
        parameter.requires_grad_(whole or label or (hidden and name.startswith("encoder")))
        if not parameter.requires_grad:
            continue
        if settings.muon and hidden and parameter.dim() == 2:
            muon[id(parameter) in adding].append(parameter)
            continue
        rate = settings.whole_rate if whole else settings.rate
        if not hidden and not label:
            size = parameter.detach().square().mean().sqrt().item()
            rate = min(settings.started_rate, settings.relative_rate * size or 1.0)
        matrix = parameter.dim() == 2 and name != "encoder.latents"
        decay = settings.decay if matrix else 0.0
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    rates = (settings.muon_rate, settings.write_rate)
    if whole:
        rates = (settings.whole_muon_rate, settings.whole_write_rate)
    found_out = [{"params": p, "lr": r} for p, r in zip(muon, rates, strict=True)]
    found_out = [group for group in found_out if group["params"]]
    if not found_out:
        return (torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9),)
    return (
        torch.optim.Muon(found_out, lr=rates[0], weight_decay=settings.muon_decay, ns_steps=4),
        torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9),
    )


def rate_at(step: int, settings: Settings) -> float:
    """Share of the full rates: in each part they rise quickly, then fall as a cosine does."""
    share, length, rising = step, settings.horizon, settings.warm_up
    if step >= settings.pieces:
        share, length, rising = step - settings.pieces, settings.whole, settings.whole_warm_up
    falling = 0.5 + 0.5 * math.cos(math.pi * share / length)
    return falling * min(1.0, (share + 1) / rising)


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
        told = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(told, action=argparse.BooleanOptionalAction, default=value)
        else:
            parser.add_argument(told, type=type(value), default=value)
    arguments = vars(parser.parse_args())
    work: Path = arguments.pop("work")
    settings = Settings(**arguments)
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    checkpoint = work / "checkpoint.pt"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips_of = Clips(work)

    torch.manual_seed(settings.seed)
    torch.set_flush_denormal(True)  # the optimiser's smallest moments would be ten times slower
    config = preset("small")
    if settings.widening:
        config = replace(config, encode=replace(config.encode, widening=settings.widening))
    module = MultimodalAutoencoder(config)
    first = clips_of.bank.random(settings.start_clips, settings.seed, 2**31)
    clips = {"image": first.image, "audio": first.audio}
    step, used, steps = 0, 0.0, settings.pieces + settings.whole
    state = None
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        step, used = state["step"], state["used"]
    else:
        given = (settings.features, settings.logarithms, settings.neighbours)
        start_at_positions(module, clips, *given)
    module.to(device)
    both = optimisers(module, settings, whole=step > settings.pieces)
    peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in both]
    if state:
        peaks = state["peaks"]  # relative to sizes at the beginning of the part
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
    if ranks > 1:
        dist.init_process_group("gloo")

    began = time.monotonic() - used
    running: dict[str, float] = {}
    while step < steps:
        if step == settings.pieces:  # the second part begins
            fit_outputs(module.cpu(), clips)  # what they read has moved
            module.to(device)
            both = optimisers(module, settings, whole=True)
            peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in both]
        for optimiser, rates in zip(both, peaks, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * rate_at(step, settings)
        whole = step >= settings.pieces
        piece = WHOLE if whole else choose(seed_of(settings.seed, step), settings.kinds)
        batch = clips_of.of(piece, settings.batch // ranks, settings, step, rank)
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step, rank, 1))
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu":  # the other's way back is four times slower there
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            found = losses(module, batch, piece, settings, generator)
            loss = torch.zeros((), device=device)
            for name in ("image", "audio", "label", "size"):
                if name in found and not (name == "size" and step < settings.size_from):
                    loss = loss + getattr(settings, f"{name}_weight") * found[name]
            module.zero_grad(set_to_none=True)
            loss.backward()
        if not whole:  # features go beside content, not over it
            for linear in writers(module):
                for parameter in (linear.weight, linear.bias):
                    if parameter.grad is not None:
                        parameter.grad[: taken(module)] = 0
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
        if step % settings.checkpoint_every == 0 or step == steps:
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
