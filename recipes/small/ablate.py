"""What each part of the recipe is worth: the same short training with one thing changed.

    python -m recipes.small.ablate [--work .data/small] [--steps 350] [NAME ...]

Digits only, of the picture alone or of the sound alone, on one core: after so many steps of 48
examples, how many digits of the last twenty or so batches were told (each picture and sound is
drawn afresh, so none was seen before), and how many of the test half of the bank (other images,
other voices), of the same pieces. One seed: a difference of one or two points is none. Each run's
log stays in WORK/ablate; a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from perceivio.model import MultimodalAutoencoder
from perceivio.weights import load_module
from recipes.small.bank import Bank
from recipes.small.common import FRAMES
from recipes.small.pieces import SOUND, Piece, look, piece
from recipes.small.score import batches

HALF = piece("8", (0, FRAMES // 2), sound=False)

PICTURE, HEARD = ["--kinds", "image"], ["--kinds", "sound"]
FAST = ["--muon-rate", "0.03", "--write-rate", "0.008"]
SLOW = ["--muon-rate", "0.006", "--write-rate", "0.0016"]
OLD = ["--no-features", "--widening", "1", "--muon-rate", "0.03", "--write-rate", "0.005"]
VARIANTS = {
    "picture: as shipped": PICTURE,
    "picture: no edges at the start": [*PICTURE, "--no-features"],
    "picture: first MLP not widened": [*PICTURE, "--no-features", "--widening", "1"],
    "picture: no neighbours at the start": [*PICTURE, "--no-neighbours"],
    "picture: features free to grow": [*PICTURE, "--size-from", "100000"],
    "picture: twice the rate": [*PICTURE, *FAST],
    "picture: half the rate": [*PICTURE, *SLOW],
    "picture: AdamW instead of Muon": [*PICTURE, "--no-muon"],
    "picture: the recipe before": [*PICTURE, *OLD, "--size-from", "600"],
    "sound: as shipped": HEARD,
    "sound: loudness, not its logarithm": [*HEARD, "--no-logarithms"],
    "sound: no bands at the start": [*HEARD, "--no-features"],
    "sound: no neighbours at the start": [*HEARD, "--no-neighbours"],
    "sound: twice the rate": [*HEARD, *FAST],
    "sound: AdamW instead of Muon": [*HEARD, "--no-muon"],
    "sound: the recipe before": [*HEARD, *OLD, "--size-from", "600"],
}
LINKED = ("train", "media", "spoken.npy", "spoken.json")


def run(name: str, work: Path, steps: int) -> str:
    """Train a variant, unless it is there, and tell how it fared: a row of the table."""
    folder = work / "ablate" / f"{re.sub('[^a-z]+', '_', name.lower())}_{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    for part in LINKED:
        if not (folder / part).exists():
            (folder / part).symlink_to((work / part).absolute())
    if not (folder / "small").exists():
        command = [sys.executable, "-m", "recipes.small.train", "--work", str(folder)]
        lasting = ["--pieces", str(steps), "--horizon", str(2 * steps), "--whole", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("w") as log:
            subprocess.run(
                [*command, *lasting, "--batch", "48", *VARIANTS[name]],
                env=environment,
                stdout=log,
                check=True,
            )
    told = [line for line in (folder / "log").read_text().splitlines() if "step" in line][-1]
    running = float(re.findall(r"top1 ([\d.]+)", told)[0])
    looked = SOUND if name.startswith("sound") else HALF
    tested = told_of_test(load_module(folder / "small"), Bank(work / "test"), looked)
    return f"| {name} | {running:.0%} | {tested:.0%} |"


@torch.inference_mode()
def told_of_test(module: MultimodalAutoencoder, bank: Bank, piece: Piece) -> float:
    """Share of the test half's digits that are told from this piece of them."""
    right = []
    for batch in batches(bank, only_digits=True):
        given = {"image": batch.image[:, slice(*piece.frames)], "audio": batch.audio}
        answers, _ = look(module, {name: given[name] for name in piece.tokens}, piece)
        right.append((answers.argmax(1) == batch.label).float())
    return torch.cat(right).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="variants, or the beginnings of their names")
    parser.add_argument("--work", type=Path, default=Path(".data/small"))
    parser.add_argument("--steps", type=int, default=350)
    chosen = parser.parse_args()
    names = tuple(chosen.names) or ("",)
    print(f"| after {48 * chosen.steps:,} examples | told in training | of the test half |")
    print("|---|---|---|", flush=True)
    for name in VARIANTS:
        if name.startswith(names):
            print(run(name, chosen.work, chosen.steps), flush=True)


if __name__ == "__main__":
    main()
