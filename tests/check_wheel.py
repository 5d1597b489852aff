"""What is installed from the wheel, and from nothing else, works: `make wheel-test`.

The source distribution is made of the files that git knows, the wheel of the source distribution;
the wheel and its run-time dependencies go into a new environment, where the smoke tests run with no
source tree in sight. Needs the package index, as `make setup` does.
"""

import email
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SDIST = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"


def run(*command: str | Path, cwd: Path) -> str:
    """What it printed. Nothing of this tree or this environment is on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


def tracked(*folders: str) -> list[Path]:
    listed = run("git", "ls-files", "-z", "--", *folders, cwd=ROOT).split("\0")
    return [Path(name) for name in listed if name and (ROOT / name).is_file()]


def copy(files: list[Path], to: Path) -> None:
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, to / file)


def check_contents(wheel: Path) -> None:
    """Every file of the package, the licences, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(archive.read(metadata))
    info = metadata.removesuffix("METADATA")
    ours = {str(path.relative_to("src")) for path in tracked("src")}
    extra = names - ours - {info + name for name in ("METADATA", "WHEEL", "RECORD",
        "entry_points.txt", "top_level.txt", "licenses/LICENSE", "licenses/NOTICE")}  # fmt: skip
    assert not extra, f"the wheel has {sorted(extra)} too"
    assert ours <= names, f"the wheel lacks {sorted(ours - names)}"
    for name in ("py.typed", "weights_small/model.safetensors", "kinetics700_classes.txt"):
        assert f"perceivio/{name}" in names, name
    assert any(name.startswith("perceivio/training/configurations/") for name in names)
    assert {info + "licenses/LICENSE", info + "licenses/NOTICE"} <= names
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    assert about["Requires-Python"] == ">=3.11"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tree, python = place / "tree", place / "venv" / "bin" / "python"
        copy(tracked(), tree)
        run(sys.executable, "-m", "venv", python.parent.parent, cwd=place)
        pip = (python, "-m", "pip", "--disable-pip-version-check", "-qq")
        pinned = ("-c", ROOT / "constraints.txt")
        run(*pip, "install", "setuptools>=77", cwd=place)
        run(python, "-c", SDIST, place, cwd=tree)
        (source,) = place.glob("*.tar.gz")
        print(f"{source.name}: {source.stat().st_size / 1e6:.1f} MB")
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", place, source, cwd=place)
        (wheel,) = place.glob("*.whl")
        check_contents(wheel)
        run(*pip, "install", *pinned, wheel, "pytest", cwd=place)

        away = place / "away"
        copy([*tracked("tests", "assets"), Path("pyproject.toml")], away)
        found = run(python, "-c", "import perceivio; print(perceivio.__file__)", cwd=away).strip()
        assert Path(found).is_relative_to(python.parent.parent), found
        print(run(python, "-m", "pytest", "-m", "smoke", "tests/test_smoke.py", cwd=away))


if __name__ == "__main__":
    main()
