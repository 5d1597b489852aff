"""Every number of a run, by name. Frozen and typed; read from TOML files, changed one by one on the
command line, and checked before any data is read.

The numbers of the paper (Perceiver IO, arXiv 2107.14795) are in configurations/kinetics-*.toml;
what it does not say is ours, and said to be so in docs/training.md.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..config import PRESETS, ConfigError
from ..errors import PerceivioError

T = TypeVar("T")

MOST_TEXT = 2**20  # bytes of a configuration

_SHIPPED = resources.files("perceivio").joinpath("training", "configurations")


class SettingsError(PerceivioError):
    """A setting that does not exist, or has a value that it cannot have."""


@dataclass(frozen=True)
class Model:
    """What is trained.

    preset   architecture of a model that begins from nothing; see `perceivio models`
    start    weights to begin from, instead: anything that `perceivio.load` takes. The architecture
             is theirs, and `preset` is not looked at
    classes  "index": those of the data; "model": those that the preset or the start has
    config   changes of the architecture, by the names of `perceivio.Config`; a modality set to
             false is left out
    """

    preset: str = "base"
    start: str = ""
    classes: Literal["index", "model"] = "index"
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("model.preset", self.preset, PRESETS)


@dataclass(frozen=True)
class Objective:
    """How one modality is learned.

    weight  of its loss in the sum
    loss    of a grid: "l1" and "l2" are means over values; "log" is the logarithm of the square
            error as a share of the clip's energy, so that quiet and flat clips count as much as
            others. Of classes it is always the cross-entropy
    mask    share of the clips whose input is replaced by the mask token
    points  output queries decoded a clip, drawn at random; 0: all
    """

    weight: float = 1.0
    loss: Literal["l1", "l2", "log"] = "l1"
    mask: float = 0.0
    points: int = 512

    def __post_init__(self) -> None:
        _within("modalities.NAME.weight", self.weight, least=0)
        _within("modalities.NAME.mask", self.mask, least=0, most=1)
        _within("modalities.NAME.points", self.points, least=0)


@dataclass(frozen=True)
class Data:
    """What is read.

    validation  index of clips to validate on; empty: some of the training index are held out
    held_out    share of the clips that are, one at least
    area, aspect, flip  random crops and mirroring; see `perceivio.data.dataset.Augment`
    workers     processes that read clips, for each process that trains; -1: by the cores there are
    """

    validation: str = ""
    held_out: float = 0.05
    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    workers: int = -1

    def __post_init__(self) -> None:
        _within("data.held_out", self.held_out, least=0, most=0.9)
        _within("data.flip", self.flip, least=0, most=1)
        _within("data.workers", self.workers, least=-1)
        for name, most in (("area", 1.0), ("aspect", 10.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise SettingsError(
                    f"data.{name} must be two numbers, 0 < low <= high <= {most:g},"
                    f" not [{low:g}, {high:g}]"
                )


@dataclass(frozen=True)
class Optimiser:
    """How weights follow their gradients.

    name             "lamb" (the paper's) or "adamw"
    rate             at its highest; see `Schedule`
    betas, epsilon   of the two moments
    weight_decay     for "lamb" inside the trust ratio, for "adamw" beside it
    decay_vectors    whether biases, norms and tokens decay too
    bias_correction  of the moments, for "lamb"
    norm_clamp       highest norm of a weight in the trust ratio of "lamb"; 0: none
    clip             norm that a gradient is cut to; 0: never
    """

    name: Literal["lamb", "adamw"] = "lamb"
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.1
    decay_vectors: bool = True
    bias_correction: bool = True
    norm_clamp: float = 0.0
    clip: float = 10.0

    def __post_init__(self) -> None:
        _within("optimiser.rate", self.rate, above=0)
        _within("optimiser.epsilon", self.epsilon, above=0)
        for beta in self.betas:
            _within("optimiser.betas", beta, least=0, below=1)
        for name in ("weight_decay", "norm_clamp", "clip"):
            _within(f"optimiser.{name}", getattr(self, name), least=0)


@dataclass(frozen=True)
class Schedule:
    """How long, and at what share of the rate: up in a line, level, then down as a cosine.

    steps    optimiser steps in all
    warm_up  steps of the line
    flat     share of all steps before the cosine begins
    """

    steps: int = 10_000
    warm_up: int = 0
    flat: float = 0.5

    def __post_init__(self) -> None:
        _within("schedule.steps", self.steps, least=1)
        _within("schedule.warm_up", self.warm_up, least=0)
        _within("schedule.flat", self.flat, least=0, most=1)


@dataclass(frozen=True)
class Run:
    """What a step is, and how it is computed.

    seed        of everything random
    batch       clips a step, all processes together
    at_once     clips that a process takes at once, at most; a step is as many turns as it needs
    precision   "auto": bfloat16 on a GPU, float32 elsewhere
    ema         decay of the moving average of weights, which is what comes out; 0: none. It begins
                lower: (1 + step) / (10 + step) where that is less
    recompute   activations of the self-attends again on the way back, for less memory
    compile     the self-attends on a GPU, with torch.compile
    """

    seed: int = 0
    batch: int = 1024
    at_once: int = 32
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema: float = 0.9999
    recompute: bool = False
    compile: bool = True

    def __post_init__(self) -> None:
        _within("run.seed", self.seed, least=0)
        _within("run.batch", self.batch, least=1)
        _within("run.at_once", self.at_once, least=1)
        _within("run.ema", self.ema, least=0, below=1)


@dataclass(frozen=True)
class Keep:
    """What is kept of a run.

    every  steps between checkpoints
    last   newest checkpoints that are kept
    best   checkpoints with the best validation that are kept beside them
    """

    every: int = 500
    last: int = 2
    best: int = 1

    def __post_init__(self) -> None:
        _within("keep.every", self.every, least=1)
        _within("keep.last", self.last, least=1)
        _within("keep.best", self.best, least=0)


@dataclass(frozen=True)
class Watch:
    """What is shown of a run.

    every      steps between points on the board and between plain lines
    validate   steps between validations; each ends with a checkpoint
    clips      validation clips at most
    shown      validation clips whose picture and sound are on the board
    """

    every: int = 10
    validate: int = 1000
    clips: int = 256
    shown: int = 4

    def __post_init__(self) -> None:
        _within("watch.every", self.every, least=1)
        _within("watch.validate", self.validate, least=1)
        _within("watch.clips", self.clips, least=1)
        _within("watch.shown", self.shown, least=0)


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    modalities  by name. A modality of the model that is not here has the defaults of `Objective`
    """

    model: Model = field(default_factory=Model)
    modalities: Mapping[str, Objective] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)
    keep: Keep = field(default_factory=Keep)
    watch: Watch = field(default_factory=Watch)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(self)


# Settings that change how a run is computed or looked at, but not what it comes to.
FREE = ("data.workers", "run.at_once", "run.recompute", "run.compile", "keep", "watch")


def read_settings(configuration: str | Path | None, changes: Iterable[str] = ()) -> Settings:
    """Settings from a shipped configuration or a TOML file, with changes such as
    "optimiser.rate=0.0005" over it. None: the defaults.

    Raises SettingsError, in one line that names what is allowed.
    """
    plain = {} if configuration is None else _read_toml(configuration)
    source = "the defaults" if configuration is None else str(configuration)
    checked(Settings, plain, "", source)  # so that mistakes are told where they are
    for change in changes:
        _merge(plain, _read_change(change))
    return checked(Settings, plain, "", "--set")


def shipped() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _SHIPPED.iterdir() if ".toml" in f.name)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[str]:
    """Settings, as `to_dict` gives them, that differ and are not free to: "run.seed = 0, now 1"."""
    found = []
    for key in sorted({*before, *after}):
        name = f"{at}{key}"
        old, new = before.get(key), after.get(key)
        if name in FREE or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        else:
            found.append(f"{name} = {_shown(old)}, now {_shown(new)}")
    return found


# ---- plain values -> typed ones ----------------------------------------------------------------


def checked(kind: type[T], plain: Mapping[str, Any], at: str, source: str) -> T:
    """A dataclass of settings from plain values.

    at      what leads to its fields in a setting's name: "" or "optimiser."
    source  where the values come from, for the message

    Raises SettingsError for a name that is unknown and a value of another type.
    """
    assert dataclasses.is_dataclass(kind)
    types = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in plain:
        if key not in fields:
            raise SettingsError(
                f"{source}: there is no setting {at}{key}; there are"
                f" {', '.join(at + name for name in fields)}"
            )
    values = {key: _value(types[key], value, at + key, source) for key, value in plain.items()}
    missing = [
        at + f.name
        for f in fields.values()
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise SettingsError(f"{source}: {', '.join(missing)} must be set")
    try:
        return kind(**values)
    except PerceivioError as error:
        told = str(error).replace("modalities.NAME.", at)
        if isinstance(error, ConfigError):
            told = f"{at[:-1]}: {told}"
        raise SettingsError(f"{source}: {told}") from error


def _value(kind: Any, value: Any, name: str, source: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        assert isinstance(kind, type)
        return checked(kind, value, f"{name}.", source)
    if origin in (Union, UnionType):
        if value is None:
            return None
        (kind,) = set(arguments) - {NoneType}
        return _value(kind, value, name, source)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_value(k, v, f"{name}[{n}]", source) for n, (k, v) in enumerate(pairs))
    if origin is Mapping and isinstance(value, Mapping):
        if dataclasses.is_dataclass(arguments[1]):
            return {k: _value(arguments[1], v, f"{name}.{k}", source) for k, v in value.items()}
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise SettingsError(f"{source}: {name} must be {_kind(kind)}, not {_shown(value)}")


def _kind(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(_shown, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return "a list" if origin is tuple else words.get(kind, "a table of settings")


def _shown(value: Any) -> str:
    """As TOML writes it, nearly."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else "unset" if value is None else str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(some) for key, some in value.items()}
    return [_plain(some) for some in value] if isinstance(value, tuple | list) else value


# ---- files and the command line ----------------------------------------------------------------


def _read_toml(configuration: str | Path) -> dict[str, Any]:
    path = Path(configuration)
    try:
        if isinstance(configuration, str) and configuration in shipped():
            text = _SHIPPED.joinpath(f"{configuration}.toml").read_text("utf-8")
        elif path.stat().st_size > MOST_TEXT:
            raise SettingsError(f"{configuration}: is larger than {MOST_TEXT} bytes")
        else:
            text = path.read_text("utf-8")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise SettingsError(
            f"no configuration or file is called {str(configuration)!r}; there are"
            f" {', '.join(shipped())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise SettingsError(f"{configuration}: cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{configuration}: not TOML: {error}") from error


def _read_change(change: str) -> dict[str, Any]:
    """ "a.b=1" -> {"a": {"b": 1}}; a value that is no TOML is a text."""
    name, equals, text = (part.strip() for part in change.partition("="))
    if not equals or not all(name.split(".")):
        raise SettingsError(f"--set {change}: write it as NAME=VALUE, as in optimiser.rate=0.0005")
    value: Any
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def merged(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested tables with changes over them."""
    copy = {key: merged(v, {}) if isinstance(v, Mapping) else v for key, v in plain.items()}
    _merge(copy, changes)
    return copy


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} must be one of {', '.join(allowed)}, not {_shown(value)}")


def _within(
    name: str,
    value: float,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """NaN is within nothing."""
    told = []
    good = value == value and abs(value) != float("inf")
    for bound, holds, word in (
        (least, least is None or value >= least, "at least"),
        (above, above is None or value > above, "above"),
        (most, most is None or value <= most, "at most"),
        (below, below is None or value < below, "below"),
    ):
        if bound is not None:
            told.append(f"{word} {bound:g}")
            good = good and holds
    if not good:
        raise SettingsError(f"{name} must be {' and '.join(told)}, not {_shown(value)}")
