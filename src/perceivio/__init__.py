"""perceivio: the Perceiver IO multimodal autoencoder, from file to file.

    import perceivio

    model = perceivio.load("small")
    report = perceivio.reconstruct("clip.mp4", "out.mp4", model, side_by_side=True)

Names are imported when they are first used, so that `import perceivio` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "autoencoder",
    "Autoencoder": "autoencoder",
    "Prediction": "autoencoder",
    "Config": "config",
    "Modality": "config",
    "Attend": "config",
    "preset": "config",
    "MultimodalAutoencoder": "model",
    "PerceivioError": "errors",
    "MediaError": "errors",
    "convert": "weights",
    "Grid": "position",
    "Look": "queries",
    "Timeline": "timeline",
    "Ask": "asking",
    "ask": "asking",
    "timeline_of": "asking",
    "read": "pipeline",
    "write": "pipeline",
    "reconstruct": "pipeline",
    "embed": "embeddings",
    "search": "searching",
    "attention": "attention_maps",
    "encode": "keep",
    "decode": "keep",
    "classify": "keep",
    "open_latents": "latents",
    "LatentsFile": "latents",
    "evaluate": "evaluation.run",
}
__all__ = [
    "Ask",
    "Attend",
    "Autoencoder",
    "Config",
    "Grid",
    "LatentsFile",
    "Look",
    "MediaError",
    "Modality",
    "MultimodalAutoencoder",
    "PerceivioError",
    "Prediction",
    "Timeline",
    "ask",
    "attention",
    "classify",
    "convert",
    "decode",
    "embed",
    "encode",
    "evaluate",
    "load",
    "open_latents",
    "preset",
    "read",
    "reconstruct",
    "search",
    "timeline_of",
    "write",
]

if TYPE_CHECKING:
    from .asking import Ask, ask, timeline_of
    from .attention_maps import attention
    from .autoencoder import Autoencoder, Prediction, load
    from .config import Attend, Config, Modality, preset
    from .embeddings import embed
    from .errors import MediaError, PerceivioError
    from .evaluation.run import evaluate
    from .keep import classify, decode, encode
    from .latents import LatentsFile, open_latents
    from .model import MultimodalAutoencoder
    from .pipeline import read, reconstruct, write
    from .position import Grid
    from .queries import Look
    from .searching import search
    from .timeline import Timeline
    from .weights import convert


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
