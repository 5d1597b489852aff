"""The floor: multiply-adds that no way of computing this function is known to avoid.

Counted are the products with content and latents that depend on the clip; not exponentials, the
GELUs, norms, positions (tables) or anything that the weights alone decide. Times two, over the
machine's measured rate of matrix products, that is a time to compare with.
"""

from __future__ import annotations

from perceivio.config import Config


def encode(config: Config, batch: int = 1) -> int:
    """FLOP: content against queries and back, maps of N rows, self-attends."""
    n, d, c = config.latents, config.latent_channels, config.input_channels
    attend, process = config.encode, config.process
    qk, v = process.qk(d), process.v(d)
    given = [m for m in config.modalities.values() if not m.is_classes]
    embeds = sum(m.tokens * m.patch_values * m.embed for m in given if m.embed)
    content = sum(m.tokens * m.content_channels for m in given)
    cross = 2 * attend.heads * n * content + n * min(c, attend.heads * c) * d
    mlps = 2 * n * d * d
    latent = n * (2 * d * qk + 2 * d * v) + n * n * (qk + v) + mlps * process.widening
    layers = config.blocks * config.self_attends
    return 2 * batch * (embeds + cross + mlps * attend.widening + layers * latent)


def decode(config: Config, points: dict[str, int], batch: int = 1) -> int:
    """FLOP: keys, values and their maps once, then for each point P V~, W_1 and A W_2."""
    n, d, e = config.latents, config.latent_channels, config.query_channels
    attend = config.decode
    qk, v = attend.qk(d), attend.v(d)
    hidden, rank = attend.widening * e, min(e, v)
    total = n * d * (qk + v) + n * qk * e
    for name, count in points.items():
        outputs = config.modalities[name].output_values
        factored = n * v * rank + count * (n * rank + (rank + outputs) * hidden)
        last = config.output_channels * (e + outputs)
        plainly = count * (n * (qk + v) + e * v + 2 * e * hidden + last)  # queries are known
        total += min(factored, plainly)
    return 2 * batch * total


def whole(config: Config, batch: int = 1) -> int:
    points = {name: modality.queries for name, modality in config.modalities.items()}
    return encode(config, batch) + decode(config, points, batch)
