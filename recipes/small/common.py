"""What all parts of the bank share: the form of a clip, and the split by name."""

import hashlib

import numpy as np

FRAMES = 16
FRAME_RATE = 25
SIDE = 64
SAMPLE_RATE = 16_000
SAMPLES = 10_240  # 16 frames at 25 a second: 0.64 s


def held_out(name: str) -> bool:
    """One name in ten belongs to the test side; a hash, so that it never changes."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10 == 0


def chance(rng: np.random.Generator, probability: float) -> bool:
    return rng.random() < probability


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def jitter_colours(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mild change of brightness, contrast and saturation, the same for all frames."""
    pixels = video.astype(np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + (pixels - grey) * rng.uniform(0.7, 1.3)
    mean = pixels.mean()
    pixels = (mean + (pixels - mean) * rng.uniform(0.8, 1.2)) * rng.uniform(0.8, 1.2)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
