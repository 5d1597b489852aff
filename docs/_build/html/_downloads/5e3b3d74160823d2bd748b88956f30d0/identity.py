"""Which model is it: a name that follows from what a model computes, not from where it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import torch

from .model import MultimodalAutoencoder

SHORT = 12  # digits that tell models from each other, for people


def identity(module: MultimodalAutoencoder) -> str:
    """64 hexadecimal digits, the SHA-256 of a model's configuration and of its weights.

    Hashed are the configuration as JSON without its name and without settings that are at their
    defaults (so a later version, which has more of them, gives the same identity), then of every
    parameter, sorted by name, the name, the shape, and the values as float32. So the same function
    has the same identity wherever it was loaded from, in which precision it lay there, and on
    every device.
    """
    plain = json.dumps(_stated(module.config.replace(name="")), sort_keys=True)
    digest = hashlib.sha256(plain.encode())
    for name, parameter in sorted(module.named_parameters()):
        values = parameter.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"\n{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def short(identity: str) -> str:
    """The first digits of it, for a message."""
    return identity[:SHORT]


def _stated(value: Any) -> Any:
    """Plain values for JSON: of a dataclass, what differs from its defaults."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _stated(v) for field, v in pairs if v != _default(field)}
    if isinstance(value, Mapping):
        return {key: _stated(each) for key, each in value.items()}
    return value


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
