"""Features at the start: edges in a block of the picture, bands of a stretch of sound.

All of it is initial values of the encoder's first MLP and of the self-attends' first look around;
everything is learned on from here. `ablate.py` says what it is worth: sound most of all, which is
hardly learned from waveforms in the time that two cores have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perceivio.layers import SelfAttend
from perceivio.modalities import ModalityIO
from perceivio.model import MultimodalAutoencoder

from .layout import NEIGHBOUR_GAP, NEIGHBOURS, WHERE, taken

STEP = 2.0  # how far a hidden channel rises
HELD_DOWN = 12.0  # what is taken from hidden channels that are not of a latent's modality
BANDS = 20  # of a token's sound, whose loudness is heard at the start
LOWEST, HIGHEST = 150.0, 5000.0  # hertz, their middles


def notice(
    module: MultimodalAutoencoder, clips: dict[str, Tensor], logarithms: bool = True
) -> None:
    """The encoder's first MLP: edges of a block and bands of a sound, as features of a latent.

    Neither waveforms nor pixels say much to a linear map: what tells is how much of a wave there
    is, whatever its phase, and for a sound the logarithm of that, so that loud and soft differ by
    the same in all bands. GELU(z) - GELU(z - STEP) rises from nothing to STEP and stays; a wave
    takes a cosine and a sine under a window, their negatives, and this for each of its gains, and
    is one feature.
    """
    encoder, layer = module.encoder, module.encoder.cross_attend
    heads = layer.attention.heads
    latents = encoder.latents.expand(len(clips["image"]), -1, -1)
    array = module.input_array(clips)
    x = latents + layer.attention(layer.query_norm(latents), layer.attended_norm(array))
    seen = layer.mlp_norm(x)
    unit, feature, first = 0, taken(module), 0
    for name in clips:
        io = module.io(name)
        assert isinstance(io.embed, nn.Linear)
        waves, gains = WAVES[name](module)
        gains = gains if logarithms else gains[:1]
        # From what a token keeps of its values, to the waves in them. Each token of a sound is
        # heard by itself, all frames of a block are seen together.
        read = waves.flatten(0, 1) @ torch.linalg.pinv(io.embed.weight)
        read = read.unflatten(0, waves.shape[:2])  # waves x (cosine, sine) x content
        apart = torch.eye(heads) if name == "audio" else torch.full((1, heads), 1 / heads)
        read = torch.einsum("th,wsc->twshc", apart, read).flatten(3).flatten(0, 1)
        own = slice(first, first + io.modality.queries)
        first = own.stop
        unit, feature = _notice_waves(module, seen, own, read, gains, unit, feature)


def _notice_waves(
    module: MultimodalAutoencoder,
    seen: Tensor,
    own: slice,
    waves: Tensor,
    gains: tuple[float, ...],
    unit: int,
    feature: int,
) -> tuple[int, int]:
    """Give waves (W, 2, content of a latent) the next hidden channels and features, and return
    those that are left.

    seen  what the MLP sees of some clips (B, N, D); `own` are the latents that have such waves
    """
    mlp, count = module.encoder.cross_attend.mlp, len(waves)
    strength = (seen[:, own, WHERE : taken(module)] @ waves.flatten(0, 1).T).square()
    waves = waves / strength.mean((0, 1)).sqrt().clamp(min=1e-6).view(count, 2, 1)
    # Latents of another modality hold other content, which would look like anything: hold it down.
    elsewhere = torch.full((seen.shape[1],), -HELD_DOWN)
    elsewhere[own] = 0
    place = seen[:, :, :WHERE].mean(0)
    gate = torch.linalg.lstsq(place, elsewhere[:, None], driver="gelsd").solution[:, 0]
    features = slice(feature, feature + count)
    for gain in gains:
        for sign in (1.0, -1.0):
            for begin in (0.0, STEP) if len(gains) > 1 else (0.0,):
                for wave in waves.unbind(1):
                    units = slice(unit, unit + count)
                    mlp.widen.weight[units] = 0
                    mlp.widen.weight[units, WHERE : taken(module)] = sign * gain * wave
                    mlp.widen.weight[units, :WHERE] = gate
                    mlp.widen.bias[units] = -begin
                    mlp.narrow.weight[:, units] = 0
                    mlp.narrow.weight[features, units] = torch.eye(count) * (1 - 2 * (begin > 0))
                    unit += count
    mlp.narrow.bias[features] = 0
    made = mlp(seen[:, own])[..., features].flatten(0, 1)
    mlp.narrow.weight[features] /= made.std(0)[:, None]
    mlp.narrow.bias[features] = -made.mean(0) / made.std(0)
    return unit, features.stop


def edge_waves(module: MultimodalAutoencoder) -> tuple[Tensor, tuple[float, ...]]:
    """(waves, 2, values of a patch) and the gain they are seen with: grey, still, small waves in
    four directions at 3 x 3 places of a block, and large ones in its middle."""
    frames, height, width = module.io("image").modality.patch
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = [(height * i / 6, width * j / 6, 4.5, 1.4) for i in (1, 3, 5) for j in (1, 3, 5)]
    places.append((height / 2, width / 2, 9.0, 2.8))
    waves = []
    for row, column, length, spread in places:
        window = torch.exp(-((y - row).square() + (x - column).square()) / (2 * spread**2))
        for angle in torch.arange(4) * (math.pi / 4):
            phase = 2 * math.pi / length * ((x - column) * angle.cos() + (y - row) * angle.sin())
            both = torch.stack([phase.cos() * window, phase.sin() * window])
            both -= window * (both.sum((1, 2)) / window.sum())[:, None, None]  # no plain colour
            waves.append(both)
    grey = torch.stack(waves)[:, :, None, :, :, None]
    return grey.expand(-1, -1, frames, -1, -1, 3).flatten(2), (1.5,)


def sound_waves(module: MultimodalAutoencoder) -> tuple[Tensor, tuple[float, ...]]:
    """(BANDS, 2, samples of a patch) and the gains they are heard with: waves in bands as wide as
    the ear has them."""
    modality = module.io("audio").modality
    samples, rate = modality.patch[0], modality.rate or 1
    time = (torch.arange(samples) - (samples - 1) / 2) / rate
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST))
    mel = torch.linspace(low, high, BANDS + 1)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    width, hertz = hertz.diff()[:, None], hertz[:-1, None]
    window = torch.exp(-0.5 * (math.pi * width * time).square())
    window = window * torch.hann_window(samples + 2, periodic=False)[1:-1]
    phase = 2 * math.pi * hertz * time
    return torch.stack([phase.cos() * window, phase.sin() * window], 1), (1.0, 8.0)


WAVES = {"image": edge_waves, "audio": sound_waves}


def listen_around(
    module: MultimodalAutoencoder, grids: dict[str, ModalityIO], codes: Tensor
) -> None:
    """Self-attends: the heads that look at neighbours in the picture look a little before and
    after in the sound."""
    encoder = module.encoder
    read_code = torch.linalg.lstsq(encoder.latents[:, :WHERE], codes, driver="gelsd").solution
    sizes = [io.modality.query_grid for io in grids.values()]
    first = sum(sum(size) for size in sizes[:-1])
    count = sizes[-1][0]
    read_time = read_code[:, first : first + count]
    used = sum(last[-2] + last[-1] for last in sizes if len(last) > 1)
    for layer in encoder.self_attends:
        assert isinstance(layer, SelfAttend)
        attention = layer.attention
        channels = attention.key.out_features // attention.heads
        waves = (channels - used) // 2
        # Sines and cosines over time: a step in time is a turn of each, so a linear map.
        turn = 2 * math.pi * torch.arange(1, waves + 1) / (2 * count)
        time = torch.arange(count)[:, None] * turn
        for head in range(min(attention.heads - 1, len(NEIGHBOURS))):
            ahead = time + (head - 3) * turn
            of_time = slice(head * channels + used, (head + 1) * channels)
            key = read_time @ torch.cat([time.cos(), time.sin()], 1)
            query = read_time @ torch.cat([ahead.cos(), ahead.sin()], 1)
            strength = NEIGHBOUR_GAP * channels**0.5 / waves
            attention.key.weight[of_time, :] = 0
            attention.query.weight[of_time, :] = 0
            attention.key.weight[of_time, :WHERE] = key.T
            attention.query.weight[of_time, :WHERE] = strength * query.T
