"""Speech: spoken digits in many voices, and English sentences, made with espeak-ng and flite.

Recorded digits of the media folder join them. Whole voices are held out for testing.
Both programs are taken from the system where it has them, else from the unpacked packages.
"""

import os
import shutil
import subprocess
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soxr

from .common import SAMPLE_RATE
from .films import decode_sound
from .pack import has_pack, save_pack

SEED = 11
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = [
    *("en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029"),
    *("en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc"),
]
LANGUAGES = [
    *("af", "bg", "ca", "cs", "cy", "da", "de", "el", "eo", "es", "es-419", "et", "fi", "fr-fr"),
    *("hi", "hr", "hu", "id", "is", "it", "ko", "lt", "lv", "nb", "nl", "pl", "pt", "pt-br"),
    *("ro", "ru", "sk", "sl", "sq", "sr", "sv", "sw", "tr", "uk", "vi", "cmn"),
]
RENDERINGS = 7  # of each digit by each espeak-ng variant in English
LANGUAGE_RENDERINGS = 6  # of each digit in each other language
MORE_RENDERINGS = 10  # of each digit in every language, for `say.py`
FLITE_RENDERINGS = 12  # of each digit by each flite voice
SENTENCE_RENDERINGS = 4  # voices for each sentence

# Held out, and heard in testing only.
TEST_VARIANTS = ["m4", "f3", "Andy", "linda", "Michael"]
TEST_LANGUAGES = ["it", "sv", "hu"]
TEST_RECORDED = ["it", "sv", "pt", "zh_tw"]  # and all recordings named ast_*
FLITE_VOICES = {"kal": "train", "kal16": "train", "rms": "train", "slt": "test", "awb": "test"}

LONGEST = 0.60  # seconds of a spoken digit after trimming; longer ones are sped up
FASTEST = 1.5  # but never more than this

SUBJECTS = [
    *("My neighbour", "The old captain", "A small dog", "Her younger brother", "The night train"),
    *("Our teacher", "This machine", "The red balloon", "A group of children", "The baker"),
    *("Nobody here", "The river", "An orange cat", "The orchestra", "Someone"),
]
ACTIONS = [
    "never waits for the morning bus",
    "was found behind the garden wall",
    "asked us to bring three umbrellas",
    "sings quietly in the kitchen",
    "has moved to another town",
    "could not remember the answer",
    "left a letter on the table",
    "makes a very strange noise",
    "turned around and looked at the sea",
    "is waiting by the open window",
]
SENTENCES = [f"{subject} {action}." for subject in SUBJECTS for action in ACTIONS]


class Speakers:
    """Finds both programs and runs them; `espeak` or `flite` is None where there is none."""

    def __init__(self, unpacked: Path):
        self.environment = dict(os.environ)
        folder = unpacked.absolute()
        espeak, flite = shutil.which("espeak-ng"), shutil.which("flite")
        if espeak is None or flite is None:
            places = ["usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib/*-linux-*/pulseaudio"]
            found = [str(path) for place in places for path in sorted(folder.glob(f"*/{place}"))]
            self.environment["LD_LIBRARY_PATH"] = ":".join(found)
        if espeak is None:
            data = next(folder.glob("espeak-ng-data/usr/lib/*/espeak-ng-data"), None)
            self.environment["ESPEAK_DATA_PATH"] = str(data)
        self.espeak = self._working(
            espeak or folder / "espeak-ng/usr/bin/espeak-ng", "--voices", "espeak-ng"
        )
        self.flite = self._working(flite or folder / "flite/usr/bin/flite", "-lv", "flite")

    def _working(self, program: str | Path, lists: str, package: str) -> str | None:
        """The program, if it can list its voices."""
        try:
            command = [program, lists]
            subprocess.run(
                command, env=self.environment, capture_output=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            advice = f"try `apt-get install {package}`"
            print(f"  {package} does not start; {advice}; skipped", flush=True)
            return None
        return str(program)

    def variants(self) -> list[str]:
        """Names of the English voice variants of espeak-ng."""
        command = [str(self.espeak), "--voices=variant"]
        listing = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return sorted(
            {line.split("!v/")[1].strip() for line in listing.stdout.splitlines() if "!v/" in line}
        )

    def say(self, job: dict) -> np.ndarray | None:
        """Speak one job; float sound at 16 kHz, trimmed of silence, or None if it failed."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            if job["program"] == "espeak":
                command = [
                    str(self.espeak),
                    "-v",
                    job["voice"],
                    "-s",
                    str(job["speed"]),
                    "-p",
                    str(job["pitch"]),
                    "-w",
                    file.name,
                    job["text"],
                ]
            else:
                command = [
                    str(self.flite),
                    "-voice",
                    job["voice"],
                    "--setf",
                    f"duration_stretch={job['stretch']:.2f}",
                    "-t",
                    job["text"],
                    file.name,
                ]
            try:
                subprocess.run(
                    command, env=self.environment, capture_output=True, timeout=30, check=True
                )
                with wave.open(file.name) as recording:
                    rate = recording.getframerate()
                    sound = np.frombuffer(recording.readframes(recording.getnframes()), np.int16)
            except (OSError, subprocess.SubprocessError, wave.Error, EOFError):
                return None
        if len(sound) < rate // 10:
            return None
        return trim(soxr.resample(sound.astype(np.float32) / 32768, rate, SAMPLE_RATE))


def trim(sound: np.ndarray) -> np.ndarray | None:
    """Cut the silence at both ends; None if there is nothing to hear."""
    step = SAMPLE_RATE // 100
    levels = np.sqrt((sound[: len(sound) // step * step].reshape(-1, step) ** 2).mean(axis=1))
    if not len(levels) or levels.max() < 1e-3:
        return None
    loud = np.flatnonzero(levels > 0.03 * levels.max())
    return sound[max(0, loud[0] - 1) * step : (loud[-1] + 2) * step]


def fit(sound: np.ndarray) -> np.ndarray | None:
    """Speed a spoken digit up until it fits; None if it is far too long."""
    factor = len(sound) / (LONGEST * SAMPLE_RATE)
    if factor > FASTEST:
        return None
    return soxr.resample(sound, SAMPLE_RATE * factor, SAMPLE_RATE) if factor > 1 else sound


def gather_speech(media: Path, unpacked: Path, digits: Path, sentences: Path) -> None:
    """Make the packs of spoken digits and of spoken sentences."""
    if has_pack(digits) and has_pack(sentences):
        return
    speakers, rng = Speakers(unpacked), np.random.default_rng(SEED)
    digit_jobs, sentence_jobs = [], []
    if speakers.espeak:
        digit_jobs += _espeak_digits(speakers.variants(), rng)
        sentence_jobs += _espeak_sentences(speakers.variants(), rng)
        digit_jobs += _more_espeak_digits(speakers.variants(), np.random.default_rng((SEED, 1)))
    if speakers.flite:
        digit_jobs += _flite_digits(rng)
    with ThreadPoolExecutor(3) as threads:
        spoken = list(threads.map(speakers.say, digit_jobs))
        read = list(threads.map(speakers.say, sentence_jobs))
    recordings = _recorded_digits(media)
    spoken += [sound for sound, _ in recordings]
    digit_jobs += [note for _, note in recordings]
    spoken = [None if sound is None else fit(sound) for sound in spoken]
    _save(digits, spoken, digit_jobs)
    _save(sentences, read, sentence_jobs)


def _save(path: Path, sounds: list, notes: list[dict]) -> None:
    kept = [(sound, note) for sound, note in zip(sounds, notes, strict=True) if sound is not None]
    # Every word at the same peak: the level is drawn anew for each clip.
    arrays = [np.round(sound / np.abs(sound).max() * 32000).astype(np.int16) for sound, _ in kept]
    save_pack(path, arrays, [note for _, note in kept])


def _espeak(rng, voice: str, text: str, split: str, speeds: tuple[int, int], **more) -> dict:
    return {
        "program": "espeak",
        "voice": voice,
        "text": text,
        "split": split,
        "speed": int(rng.integers(speeds[0], speeds[1] + 1)),
        "pitch": int(rng.integers(20, 81)),
        **more,
    }


def _espeak_digits(variants: list[str], rng: np.random.Generator) -> list[dict]:
    jobs = []
    for variant in variants:
        split = "test" if variant in TEST_VARIANTS else "train"
        for digit in range(10):
            note = {"digit": digit, "group": "espeak English"}
            for _ in range(RENDERINGS):
                voice = f"{rng.choice(ACCENTS)}+{variant}"
                jobs.append(_espeak(rng, voice, WORDS[digit], split, (130, 220), **note))
    train_variants = [variant for variant in variants if variant not in TEST_VARIANTS]
    for language in LANGUAGES:
        split = "test" if language in TEST_LANGUAGES else "train"
        voices = TEST_VARIANTS if split == "test" else train_variants
        for digit in range(10):
            note = {"digit": digit, "group": "espeak other languages"}
            for _ in range(LANGUAGE_RENDERINGS):
                voice = f"{language}+{rng.choice(voices)}"
                jobs.append(_espeak(rng, voice, str(digit), split, (160, 260), **note))
    return jobs


def _more_espeak_digits(variants: list[str], rng: np.random.Generator) -> list[dict]:
    """Words for `say.py` alone, not for the clips of the bank: every language, those of the test's
    recordings too, said by training variants."""
    train_variants = [variant for variant in variants if variant not in TEST_VARIANTS]
    return [
        _espeak(
            *(rng, f"{language}+{rng.choice(train_variants)}", str(digit), "train", (140, 260)),
            digit=digit,
            group="espeak all languages",
        )
        for language in LANGUAGES
        for digit in range(10)
        for _ in range(MORE_RENDERINGS)
    ]


def _espeak_sentences(variants: list[str], rng: np.random.Generator) -> list[dict]:
    jobs = []
    for number, sentence in enumerate(SENTENCES):
        # Sentences, too, are said by held-out voices in testing and by the others in training.
        test = number % 10 == 0
        split = "test" if test else "train"
        voices = [variant for variant in variants if (variant in TEST_VARIANTS) == test]
        for _ in range(SENTENCE_RENDERINGS):
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(voices)}"
            jobs.append(_espeak(rng, voice, sentence, split, (130, 220)))
    return jobs


def _flite_digits(rng: np.random.Generator) -> list[dict]:
    return [
        {
            "program": "flite",
            "voice": voice,
            "text": WORDS[digit],
            "split": split,
            "stretch": rng.uniform(0.7, 1.25),
            "digit": digit,
            "group": "flite",
        }
        for voice, split in FLITE_VOICES.items()
        for digit in range(10)
        for _ in range(FLITE_RENDERINGS)
    ]


def _recorded_digits(media: Path) -> list[tuple[np.ndarray | None, dict]]:
    """The media folder's files: named DIGIT_LANGUAGE, or DIGIT_ast_LANGUAGE."""
    found = []
    for file in sorted((media / "digits/spoken").glob("[0-9]_*")):
        digit, language = file.stem.split("_", 1)
        test = language in TEST_RECORDED or language.startswith("ast_")
        sound = trim(decode_sound(file).astype(np.float32) / 32768)
        note = {"program": "recorded", "voice": language, "split": "test" if test else "train"}
        found.append((sound, {**note, "digit": int(digit), "group": "recorded"}))
    return found
