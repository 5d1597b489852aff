"""DeepMind's video autoencoder once more, in NumPy float64, for the tests to compare with.

Written from the description of what DeepMind's Haiku code computes, sharing nothing with the
package: pictures have their channels last, linear maps are (in, out), GELU is the tanh form,
positions are exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Array = np.ndarray
IMAGE_BANDS, AUDIO_BANDS = 32, 192
IMAGE_RESOLUTION = (16, 56, 56)
PATCH, SAMPLES = 4, 16  # pixels a side of an image patch, samples of an audio patch


class Reference:
    """Encoder and decoder over Haiku's parameters, {module: {name: array}}."""

    def __init__(
        self, parameters: Mapping[str, Mapping[str, Array]], heads: int, clip: tuple[int, int, int]
    ) -> None:
        self.parameters = {
            module: {name: np.asarray(value, np.float64) for name, value in inside.items()}
            for module, inside in parameters.items()
        }
        self.heads = heads
        self.clip = clip  # frames, height, width

    def encode(self, image: Array, audio: Array) -> Array:
        """(B, T, H, W, 3) and (B, S, 1), the label masked -> latents (B, N, D)"""
        array = np.concatenate(
            [self._audio_tokens(audio), self._image_tokens(image), self._label_tokens(len(image))],
            axis=1,
        )
        x = self._pos_embs("encoder/~/trainable_position_encoding")
        x = np.broadcast_to(x, (len(array), *x.shape))
        x = self._cross_attention("encoder/~/cross_attention", x, array, residual=True)
        i = 0
        while (module := "encoder/~/self_attention" + (f"_{i}" if i else "")) + "/mlp/linear" in (
            self.parameters
        ):
            y = self._norm(module + "/layer_norm", x)
            x = x + self._attention(module + "/attention", y, y, self.heads)
            x = x + self._mlp(module + "/mlp", self._norm(module + "/layer_norm_1", x))
            i += 1
        return x

    def decode(
        self, latents: Array, image_points: Array, audio_points: Array, samples: int
    ) -> dict[str, Array]:
        """Latents and flat indices of pixels and audio patches -> values there, and logits"""
        queries = np.concatenate(
            [
                self._query("audio", self._audio_query(audio_points, samples)),
                self._query("image", self._image_query(image_points)),
                self._query(
                    "label",
                    self._pos_embs(
                        "classification_decoder/~/basic_decoder/~/trainable_position_encoding"
                    ),
                ),
            ]
        )
        queries = np.broadcast_to(queries, (len(latents), *queries.shape))
        module = "multimodal_decoder/~/basic_decoder"
        x = self._cross_attention(module + "/cross_attention", queries, latents, residual=False)
        x = self._linear(module + "/output", x)
        a, i = len(audio_points), len(image_points)
        return {
            "audio": self._linear("audio_postprocessor/linear", x[:, :a]),
            "image": self._linear("projection_postprocessor/linear", x[:, a : a + i]),
            "label": self._linear("classification_postprocessor/linear", x[:, -1]),
        }

    # tokens and queries

    def _image_tokens(self, image: Array) -> Array:
        frames, height, width = self.clip
        h, w = height // PATCH, width // PATCH
        tokens = np.empty((len(image), frames, h, w, PATCH * PATCH * 3))
        for dy in range(PATCH):
            for dx in range(PATCH):
                at = (dy * PATCH + dx) * 3
                tokens[..., at : at + 3] = image[:, :, dy::PATCH, dx::PATCH, :]
        grid = [np.linspace(-1, 1, n) for n in (frames, h, w)]
        positions = np.array([(t, y, x) for t in grid[0] for y in grid[1] for x in grid[2]])
        features = fourier(positions, IMAGE_BANDS, IMAGE_RESOLUTION)
        return self._token("image", tokens.reshape(len(image), -1, PATCH * PATCH * 3), features)

    def _audio_tokens(self, audio: Array) -> Array:
        samples = audio.shape[1]
        positions = np.linspace(-1, 1, samples // SAMPLES)[:, None]
        features = fourier(positions, AUDIO_BANDS, (samples,))
        return self._token("audio", audio.reshape(len(audio), -1, SAMPLES), features)

    def _label_tokens(self, batch: int) -> Array:
        mask = self._pos_embs("multimodal_preprocessor/label_mask_token")
        return np.broadcast_to(mask, (batch, *mask.shape))

    def _token(self, name: str, values: Array, features: Array) -> Array:
        padding = self._pos_embs(f"multimodal_preprocessor/{name}_padding")
        beside = np.hstack([features, np.repeat(padding, len(features), axis=0)])
        return np.concatenate([values, np.broadcast_to(beside, (len(values), *beside.shape))], 2)

    def _image_query(self, points: Array) -> Array:
        frames, height, width = self.clip
        t, rest = np.divmod(points, height * width)
        y, x = np.divmod(rest, width)
        positions = np.stack(
            [-1 + 2 * i / n for i, n in ((t, frames), (y, height), (x, width))], axis=1
        )
        return fourier(positions, IMAGE_BANDS, IMAGE_RESOLUTION)

    def _audio_query(self, points: Array, samples: int) -> Array:
        positions = -1 + 2 * points[:, None] / (samples // SAMPLES)
        return fourier(positions, AUDIO_BANDS, (samples,))

    def _query(self, name: str, features: Array) -> Array:
        padding = self._pos_embs(f"multimodal_decoder/~decoder_query/{name}_padding")
        return np.hstack([features, np.repeat(padding, len(features), axis=0)])

    # layers

    def _pos_embs(self, module: str) -> Array:
        return self.parameters[module]["pos_embs"]

    def _linear(self, module: str, x: Array) -> Array:
        return x @ self.parameters[module]["w"] + self.parameters[module]["b"]

    def _norm(self, module: str, x: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * self.parameters[module]["scale"] + self.parameters[module]["offset"]

    def _mlp(self, module: str, x: Array) -> Array:
        x = self._linear(module + "/linear", x)
        gelu = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return self._linear(module + "/linear_1", gelu)

    def _attention(self, module: str, q: Array, kv: Array, heads: int) -> Array:
        q = self._linear(module + "/linear", q)
        k = self._linear(module + "/linear_1", kv)
        v = self._linear(module + "/linear_2", kv)
        gathered = []
        for i in range(heads):
            qi, ki, vi = (np.split(x, heads, axis=-1)[i] for x in (q, k, v))
            scores = qi @ ki.swapaxes(1, 2) / np.sqrt(qi.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            gathered.append(scores @ vi / scores.sum(-1, keepdims=True))
        return self._linear(module + "/linear_3", np.concatenate(gathered, axis=-1))

    def _cross_attention(self, module: str, q: Array, kv: Array, residual: bool) -> Array:
        x = self._attention(
            module + "/attention",
            self._norm(module + "/layer_norm", q),
            self._norm(module + "/layer_norm_1", kv),
            heads=1,
        )
        if residual:
            x = q + x
        return x + self._mlp(module + "/mlp", self._norm(module + "/layer_norm_2", x))


def fourier(positions: Array, bands: int, resolution: tuple[int, ...]) -> Array:
    """(n, d) -> (n, d + 2 d K): the positions, then the sines of each dimension, then cosines"""
    parts = [positions]
    for wave in (np.sin, np.cos):
        for dimension, highest in enumerate(resolution):
            frequencies = np.linspace(1, highest / 2, bands)
            parts.append(wave(np.pi * positions[:, [dimension]] * frequencies))
    return np.hstack(parts)
