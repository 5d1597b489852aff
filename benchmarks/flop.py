"""FLOP of a clip in training: forward and backward, in the factored form and in the plain one.

Counted are products, two for each multiply-add, that a clip needs; not what a step needs once
however many clips it has (maps of weights, tables of positions), nor exponentials, norms, GELUs.
A product of two arrays that both learn is three: itself, and one for each gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

from perceivio.config import Config


def training(config: Config, points: Mapping[str, int], plain: bool = False) -> dict[str, int]:
    """By part of the model, for so many output points by modality.

    plain  as the module is written, which makes keys and values of all tokens
    """
    n, d = config.latents, config.latent_channels
    e, outputs = config.query_channels, config.output_channels
    process, decode = config.process, config.decode
    asked = sum(points.values())
    read = _plain_read(config) if plain else _factored_read(config)
    after = 3 * 2 * n * d * d * config.encode.widening
    qk, v = process.qk(d), process.v(d)
    latents = 3 * n * (2 * d * (qk + v) + 2 * d * d * process.widening) + _attention(n, n, qk, v)
    qk, v = decode.qk(d), decode.v(d)
    answers = _attention(asked, n, qk, v) + 3 * n * d * (qk + v)
    answers += 3 * asked * (e * v + 2 * e * e * decode.widening + e * outputs)
    answers += 3 * asked * e * qk if plain else 0  # else queries are mapped once for all clips
    answers += sum(3 * p * outputs * config.modalities[k].output_values for k, p in points.items())
    embeds = sum(
        m.tokens * m.patch_values * m.embed for m in config.modalities.values() if m.embed
    )
    found = {
        "read": read + after + 2 * embeds,
        "latents": config.blocks * config.self_attends * latents,
        "answer": answers,
    }
    return {part: 2 * count for part, count in found.items()}


def _attention(queries: int, keys: int, qk: int, v: int) -> int:
    """Scores and their way back, for which they are made again, and weighted sums."""
    return queries * keys * (4 * qk + 3 * v)


def _factored_read(config: Config) -> int:
    """Content against queries and back; then each is made again, and three gradients."""
    n, d, c = config.latents, config.latent_channels, config.input_channels
    rows, v = config.encode.heads * n, config.encode.v(c)
    count = 0
    for m in config.modalities.values():
        products = 7 if m.embed else 5  # what is before an embedding does not learn
        count += products * m.tokens * rows * m.content_channels
        count += 2 * rows * sum(m.token_grid) * (1 + 2 * m.bands)
    return count + 3 * n * (c * v + v * d)


def _plain_read(config: Config) -> int:
    n, d, c = config.latents, config.latent_channels, config.input_channels
    qk, v = config.encode.qk(c), config.encode.v(c)
    maps = 3 * (config.tokens * c * (qk + v) + n * d * qk + n * v * d)
    return maps + _attention(n, config.tokens, qk, v)
