"""What a model is: the modalities it reads and writes, and the sizes of its core.

Everything here is frozen and plain; every other size is derived from it. A checkpoint carries
its `Config` as JSON. The letters are the paper's (Perceiver IO, arXiv 2107.14795):

    B batch   M x C input array   N x D latents   O x E output queries
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib import resources
from math import isfinite, prod
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

from .errors import PerceivioError

# Far beyond any model there is, and what a machine can still hold: a configuration may come from
# anybody, and what it asks for is allocated.
MOST_CHANNELS = 2**20  # of one array; also bands, heads, classes
MOST_VALUES = 2**28  # of a modality in one clip: 1 GiB in float32
MOST_LATENTS = 2**26  # N x D
MOST_LAYERS = 10_000  # self-attends that a clip goes through
MOST_MODALITIES = 64
MOST_RATE = 10**9


class ConfigError(PerceivioError):
    """A configuration that no model can be built from."""


def _is_whole(value: object, least: int = 1, most: int = MOST_CHANNELS) -> bool:
    """Whether it is a whole number in a range; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_name(value: object) -> bool:
    """Whether it is a text that can be shown: escape sequences would reach a terminal."""
    return isinstance(value, str) and value.isprintable()


@dataclass(frozen=True)
class Modality:
    """One kind of data, declared: values on a regular grid, or (a grid of no dimensions) classes.

    A token is made of one `patch` of values, read as [values | position | padding]; an output
    query answers for one `output_patch`. Video, sound and labels are three of these.

    shape         values along each dimension of the grid, channels not counted; () for classes
    channels      values at each point of the grid; the number of classes for classes
    patch         grid points a token holds, along each dimension
    output_patch  grid points an output query answers for, along each dimension
    bands         Fourier bands a dimension
    resolution    highest resolution a dimension: bands run from 1 to half of it
    channel_axis  where channels stand in the tensors that users hand over, batch not counted
    embed         channels that a learned linear map makes of a patch; None: the values themselves
    query         learned channels of an output query, beside its position
    mean, std     what tokens subtract and divide by, and outputs multiply with and add again
    names         names of the classes; empty for a grid
    media         what of its file this is: "video", "audio", or "table": columns of numbers
    rate          grid points a second along the first dimension, for media
    beside        name of the file that it is read from, beside the clip: "{stem}.depth.mp4", in
                  which {stem} is the clip's name without its suffix; empty: the clip itself
    columns       of a table: those that are its channels, in order
    time          of a table: the column of seconds from the clip's start
    """

    shape: tuple[int, ...]
    channels: int
    patch: tuple[int, ...] = ()
    output_patch: tuple[int, ...] = ()
    bands: int = 0
    resolution: tuple[int, ...] = ()
    channel_axis: int = -1
    embed: int | None = None
    query: int = 0
    mean: float = 0.0
    std: float = 1.0
    names: tuple[str, ...] = ()
    media: Literal["video", "audio", "table"] | None = None
    rate: int | None = None
    beside: str = ""
    columns: tuple[str, ...] = ()
    time: str = "time"

    def __post_init__(self) -> None:
        for key in ("shape", "patch", "output_patch", "resolution", "names", "columns"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        dims = len(self.shape)
        if not dims == len(self.patch) == len(self.output_patch) == len(self.resolution):
            given = f"shape {self.shape}, patch {self.patch}, output_patch {self.output_patch}"
            raise ConfigError(
                f"{given[:200]} and resolution must have the same number of dimensions"
            )
        sizes = (*self.shape, *self.patch, *self.output_patch, *self.resolution, self.channels)
        if not all(_is_whole(n, most=MOST_VALUES) for n in sizes) or (dims and self.bands < 1):
            raise ConfigError(
                f"sizes of a modality must be whole numbers of at least 1 and at most"
                f" {MOST_VALUES}: {str(self)[:200]}"
            )
        if prod(self.shape) * self.channels > MOST_VALUES or self.channels > MOST_CHANNELS:
            raise ConfigError(
                f"a clip of {' x '.join(map(str, (*self.shape, self.channels)))} values is too"
                f" large: at most {MOST_VALUES}, and {MOST_CHANNELS} channels"
            )
        for patch in (self.patch, self.output_patch):
            if any(n % p for n, p in zip(self.shape, patch, strict=True)):
                raise ConfigError(f"patch {patch} does not divide the grid {self.shape}")
        if min(self.query, self.bands, self.embed or 1) < 0 or self.embed == 0:
            raise ConfigError("a modality's bands and query are not negative, its embed is not 0")
        if not all(_is_whole(n, 0) for n in (self.query, self.bands, self.embed or 0)):
            raise ConfigError(
                f"bands, query and embed must be whole numbers of at most {MOST_CHANNELS}"
            )
        if not _is_whole(self.channel_axis, -dims - 1, dims):
            raise ConfigError(f"channel_axis must be in {-dims - 1} to {dims}")
        for key in ("mean", "std"):
            number = getattr(self, key)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"{key} must be a number")
            if not isfinite(number) or abs(number) > MOST_RATE:
                raise ConfigError(f"{key} must be finite, and at most {MOST_RATE:g}")
        if self.std <= 0:
            raise ConfigError(f"std must be positive, not {self.std}")
        if not all(map(_is_name, (*self.names, *self.columns, self.beside, self.time))):
            raise ConfigError("names, columns, beside and time must be texts that can be printed")
        if self.rate is not None and not _is_whole(self.rate, 0, MOST_RATE):
            raise ConfigError(f"rate must be a whole number of at most {MOST_RATE}")
        if self.names and (dims or len(self.names) != self.channels):
            raise ConfigError(f"{len(self.names)} class names for {self.channels} classes")
        self._check_media(dims)
        if self.beside:
            self._check_beside()
        elif self.columns or self.media == "table":
            raise ConfigError('a table needs its file, such as beside = "{stem}.motion.csv"')

    def _check_media(self, dims: int) -> None:
        if self.media not in (None, "video", "audio", "table"):
            raise ConfigError(f"media must be video, audio or table, not {self.media!r}")
        colours = (1, 3) if self.beside else (3,)
        if self.media == "video" and not (dims == 3 and self.channels in colours):
            told = " or ".join(map(str, colours))
            raise ConfigError(f"video has 3 dimensions (time, height, width) and {told} channels")
        if self.media == "audio" and not (dims == 1 and self.channels == 1):
            raise ConfigError("audio has 1 dimension (time) and 1 channel")
        if self.media == "table" and not (dims == 1 and self.channels == len(self.columns)):
            raise ConfigError(
                f"a table has 1 dimension (time) and a channel for each of its columns:"
                f" {len(self.columns)}, not {self.channels}"
            )
        if self.media and not self.rate:
            raise ConfigError(f"a {self.media} modality needs its rate (grid points a second)")

    def _check_beside(self) -> None:
        """Raises ConfigError for a file name that says too little, or too much."""
        name, suffix = self.beside, PurePosixPath(self.beside).suffix.lower()
        rest = name.replace("{stem}", "", 1)
        if rest == name or set(rest) & set("{}/\\") or not suffix:
            raise ConfigError(
                f'beside = "{name}" must be one name with {{stem}} and a suffix, in the clip\'s own'
                ' folder, such as "{stem}.depth.mp4"'
            )
        if self.is_classes:
            if self.media or suffix != ".txt" or not self.names:
                raise ConfigError(
                    f'beside = "{name}": classes are read from a .txt file, and need their names'
                )
        elif self.media is None:
            raise ConfigError(f'beside = "{name}": media must be video, audio or table')
        if self.media == "video" and rest.lower() == suffix:
            raise ConfigError(f'beside = "{name}" would be the clip itself; "{{stem}}.depth.mp4"?')
        if self.media == "table":
            if suffix not in (".csv", ".parquet"):
                raise ConfigError(f'beside = "{name}": a table is a .csv or a .parquet file')
            if len({*self.columns, self.time}) != len(self.columns) + 1:
                raise ConfigError(f"columns must differ from each other and from {self.time!r}")
        elif self.columns:
            raise ConfigError('columns are for media = "table"')

    def file_beside(self, stem: str) -> str:
        """The name of its file beside a clip that is called `stem`, without suffix."""
        return self.beside.replace("{stem}", stem)

    @property
    def is_classes(self) -> bool:
        return not self.shape

    @cached_property
    def token_grid(self) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(self.shape, self.patch, strict=True))

    @cached_property
    def query_grid(self) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(self.shape, self.output_patch, strict=True))

    @property
    def tokens(self) -> int:
        return prod(self.token_grid)

    @property
    def queries(self) -> int:
        return prod(self.query_grid)

    @property
    def patch_values(self) -> int:
        return prod(self.patch) * self.channels

    @property
    def output_values(self) -> int:
        return prod(self.output_patch) * self.channels

    @property
    def content_channels(self) -> int:
        return self.embed or self.patch_values

    @property
    def position_channels(self) -> int:
        """Fourier features: the position itself, then a sine and a cosine a band."""
        return len(self.shape) * (1 + 2 * self.bands)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the tensors users hand over and get back, batch not counted."""
        if self.is_classes:
            return (self.channels,)
        axis = self.channel_axis % (len(self.shape) + 1)
        return (*self.shape[:axis], self.channels, *self.shape[axis:])

    @property
    def seconds(self) -> Fraction | None:
        return Fraction(self.shape[0], self.rate) if self.media and self.rate else None


@dataclass(frozen=True)
class Attend:
    """Settings of one kind of attention layer with the MLP that follows it.

    qk_channels, v_channels   of all heads together; None: as many as the attended array has
    widening                  hidden channels of the MLP over its width
    query_residual            whether the query is added to what attention returns
    """

    heads: int = 1
    qk_channels: int | None = None
    v_channels: int | None = None
    widening: int = 1
    query_residual: bool = True

    def __post_init__(self) -> None:
        sizes = (self.heads, self.qk_channels, self.v_channels, self.widening)
        if not all(n is None or _is_whole(n) for n in sizes) or not _is_whole(self.heads):
            raise ConfigError(
                f"every size must be a whole number in 1 to {MOST_CHANNELS}: {str(self)[:200]}"
            )
        if not isinstance(self.query_residual, bool):
            raise ConfigError("query_residual must be true or false")

    def qk(self, attended: int) -> int:
        return self.qk_channels or attended

    def v(self, attended: int) -> int:
        return self.v_channels or self.qk(attended)


@dataclass(frozen=True)
class Config:
    """A multimodal Perceiver IO autoencoder. The defaults of the core are the paper's.

    modalities       by name; the model sorts them by name, in the input array and in the queries
    latents          N
    latent_channels  D
    encode           the cross-attend that reads the input array
    process          the self-attends of the latents
    self_attends     self-attends a block
    blocks           times the block is applied, with the same weights
    decode           the cross-attend that answers output queries
    output_channels  width of the linear map that all modalities share after the decoder
    input_padding    learned channels at least, at the end of every token
    query_padding    the same for output queries
    activation       "gelu" (exact, as in Hugging Face) or "gelu_tanh" (as in DeepMind's code)
    """

    modalities: Mapping[str, Modality]
    latents: int = 784
    latent_channels: int = 512
    encode: Attend = field(default_factory=Attend)
    process: Attend = field(default_factory=lambda: Attend(heads=8))
    self_attends: int = 8
    blocks: int = 1
    decode: Attend = field(default_factory=lambda: Attend(query_residual=False))
    output_channels: int = 512
    input_padding: int = 4
    query_padding: int = 2
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    name: str = ""

    def __post_init__(self) -> None:
        ordered = MappingProxyType(dict(sorted(self.modalities.items())))
        object.__setattr__(self, "modalities", ordered)
        if not 1 <= len(ordered) <= MOST_MODALITIES:
            raise ConfigError(f"a model has 1 to {MOST_MODALITIES} modalities, not {len(ordered)}")
        if not all(map(_is_name, (*ordered, self.name))):
            raise ConfigError("names must be texts that can be printed")
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ConfigError(f"activation {self.activation!r} is neither 'gelu' nor 'gelu_tanh'")
        sizes = ("latents", "latent_channels", "self_attends", "blocks", "output_channels")
        for key in sizes:
            if not _is_whole(getattr(self, key), most=MOST_LATENTS):
                raise ConfigError(
                    f"{key} must be a whole number of at least 1 and at most {MOST_LATENTS}"
                )
        if self.latents * self.latent_channels > MOST_LATENTS:
            raise ConfigError(
                f"{self.latents} x {self.latent_channels} latents are more than {MOST_LATENTS}"
            )
        if self.self_attends * self.blocks > MOST_LAYERS:
            raise ConfigError(
                f"{self.blocks} blocks of {self.self_attends} self-attends are more than"
                f" {MOST_LAYERS}"
            )
        if not all(_is_whole(n, 0) for n in (self.input_padding, self.query_padding)):
            raise ConfigError(
                "input_padding and query_padding must be whole numbers, not negative, and at most"
                f" {MOST_CHANNELS}"
            )
        self._check_beside()
        attended = {
            "encode": self.input_channels,
            "process": self.latent_channels,
            "decode": self.latent_channels,
        }
        for key, channels in attended.items():
            attend: Attend = getattr(self, key)
            if attend.qk(channels) % attend.heads or attend.v(channels) % attend.heads:
                raise ConfigError(f"{key}: {attend.heads} heads do not divide its channels")

    def _check_beside(self) -> None:
        """Raises ConfigError for a file beside the clip that is not read for as long as it."""
        main = self.media("video") or self.media("audio")
        if "label" in self.modalities and self.modalities["label"].beside:
            raise ConfigError("label is what clips' own classes are called; name those of a file")
        for name, modality in self.beside():
            if main and modality.seconds and modality.seconds != main[1].seconds:
                clip = main[1].seconds or Fraction(0)
                raise ConfigError(
                    f"{name}: {modality.shape[0]} points at {modality.rate}/s last"
                    f" {float(modality.seconds):g} s, and the clip {float(clip):g} s, which is"
                    f" {float(clip * (modality.rate or 0)):g} points"
                )

    @property
    def input_channels(self) -> int:
        """C: the widest modality and the padding that every token has at least."""
        widest = max(m.content_channels + m.position_channels for m in self.modalities.values())
        return widest + self.input_padding

    @property
    def query_channels(self) -> int:
        """E: the widest query and the padding that every query has at least."""
        widest = max(m.position_channels + m.query for m in self.modalities.values())
        return widest + self.query_padding

    @property
    def tokens(self) -> int:
        """M, all modalities together."""
        return sum(m.tokens for m in self.modalities.values())

    def media(self, kind: Literal["video", "audio"]) -> tuple[str, Modality] | None:
        """Name and declaration of the modality that is this part of the clip itself, if any."""
        for name, modality in self.modalities.items():
            if modality.media == kind and not modality.beside:
                return name, modality
        return None

    def classes(self) -> tuple[str, Modality] | None:
        """Name and declaration of the clips' own classes, if any: those of folders or annotations.

        Sets that are read from a file beside the clip are others; of several that are not, the
        one named "label".
        """
        own = {k: m for k, m in self.modalities.items() if m.is_classes and not m.beside}
        name = "label" if "label" in own else next(iter(own), None)
        return None if name is None else (name, own[name])

    def class_sets(self) -> tuple[str, ...]:
        """Names of all sets of classes, the clips' own first."""
        own = self.classes()
        names = [name for name, m in self.modalities.items() if m.is_classes]
        return tuple(sorted(names, key=lambda name: own is None or name != own[0]))

    def beside(self) -> tuple[tuple[str, Modality], ...]:
        """Names and declarations of the modalities that are read from files beside the clip."""
        return tuple((name, m) for name, m in self.modalities.items() if m.beside)

    def compression(self) -> dict[str, float]:
        """The three ratios that are called the compression of this model.

        paper   tokens of its widest grid x C over N x D: how the paper's 88x, 176x, 352x come out
        values  values of a clip over N x D
        bits    bits of a clip (8 a pixel value, 16 a sample, 32 a number of a table) over 32 bits
                a latent number
        """
        size = self.latents * self.latent_channels
        modalities = self.modalities.values()
        values = sum(prod(m.value_shape) for m in modalities)
        bits = sum(
            prod(m.value_shape) * {"audio": 16, "table": 32}.get(m.media or "", 8)
            for m in modalities
            if not m.is_classes
        )
        return {
            "paper": max(m.tokens for m in modalities) * self.input_channels / size,
            "values": values / size,
            "bits": bits / (32 * size),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for key in ("encode", "process", "decode"):
            plain[key] = dataclasses.asdict(plain[key])
        plain["modalities"] = {k: dataclasses.asdict(m) for k, m in self.modalities.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """Read what `to_dict` wrote. Raises ConfigError naming what is missing or unknown."""
        values = dict(plain)
        try:
            values["modalities"] = {k: Modality(**m) for k, m in values["modalities"].items()}
            for key in ("encode", "process", "decode"):
                if key in values:
                    values[key] = Attend(**values[key])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"not a perceivio configuration: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only mapping can be neither pickled nor copied; plain values can.
        return Config.from_dict, (self.to_dict(),)

    def replace(self, **changes: Any) -> Config:
        return dataclasses.replace(self, **changes)


def kinetics_classes() -> tuple[str, ...]:
    """The 700 class names of Kinetics-700-2020, in the order of the published label outputs."""
    text = resources.files("perceivio").joinpath("kinetics700_classes.txt").read_text("utf-8")
    return tuple(text.split("\n")[:700])


def _base(latents: int, name: str) -> Config:
    """The published autoencoder, with the numbers of its public code."""
    return Config(
        modalities={
            "image": Modality(
                shape=(16, 224, 224),
                channels=3,
                patch=(1, 4, 4),
                output_patch=(1, 1, 1),
                bands=32,
                resolution=(16, 56, 56),
                channel_axis=1,
                media="video",
                rate=25,
            ),
            "audio": Modality(
                shape=(30720,),
                channels=1,
                patch=(16,),
                output_patch=(16,),
                bands=192,
                resolution=(30720,),
                media="audio",
                rate=48000,
            ),
            "label": Modality(shape=(), channels=700, query=1024, names=kinetics_classes()),
        },
        latents=latents,
        name=name,
    )


def _small() -> Config:
    """A model that trains in hours on two cores: 64 x 64 video, 16 kHz sound, ten digits.

    A latent has room for one 8 x 8 x 8 block of video (read by two heads, one for each 4 x 8 x 8
    token in it) or for 20 ms of sound; eight more are free.
    """
    return Config(
        modalities={
            "image": Modality(
                shape=(16, 64, 64),
                channels=3,
                patch=(4, 8, 8),
                output_patch=(8, 8, 8),
                bands=8,
                resolution=(4, 8, 8),
                channel_axis=1,
                embed=80,
                mean=0.5,
                std=0.25,
                media="video",
                rate=25,
            ),
            "audio": Modality(
                shape=(10240,),
                channels=1,
                patch=(160,),
                output_patch=(320,),
                bands=32,
                resolution=(64,),
                embed=80,
                std=0.1,
                media="audio",
                rate=16000,
            ),
            "label": Modality(
                shape=(),
                channels=10,
                query=320,
                names=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
            ),
        },
        latents=168,
        latent_channels=320,
        encode=Attend(heads=2, qk_channels=128, v_channels=160, widening=6),
        process=Attend(heads=8, qk_channels=256, v_channels=256),
        self_attends=5,
        decode=Attend(heads=1, query_residual=False),
        output_channels=320,
        input_padding=47,
        query_padding=64,
        name="small",
    )


PRESETS = {
    "base": lambda: _base(784, "base"),
    "base-176x": lambda: _base(392, "base-176x"),
    "base-352x": lambda: _base(196, "base-352x"),
    "small": _small,
}


def preset(name: str) -> Config:
    """The configuration of a preset. Raises ConfigError with the names there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
