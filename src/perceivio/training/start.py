"""Settings -> the model that a run begins with: fresh, or with the parameters of another that fit.

Other classes, another resolution, length or rate need no other network: positions are computed, not
learned, and where a modality has become narrower its padding grows, so that channels keep their
width. So nearly everything is kept; what is not is told, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import weights
from ..config import Config, Modality, preset
from ..model import MultimodalAutoencoder
from ..names import check_parameters
from .settings import Objective, Settings, SettingsError, checked, merged

NEW = "is a new modality"


@dataclass(frozen=True)
class Anew:
    """A parameter that begins from nothing although the model does not: its name, and why."""

    name: str
    why: str

    @property
    def line(self) -> str:
        """Of a new modality, the same for all its parameters."""
        new = self.why.endswith(NEW)
        return f"{'.'.join(self.name.split('.')[:2]) if new else self.name}: {self.why}"


@dataclass(frozen=True)
class Start:
    """A model to train.

    module  with its initial values
    kept    parameters that come from the weights it starts from
    anew    those that do not; empty where it starts from nothing
    """

    module: MultimodalAutoencoder
    kept: int = 0
    anew: tuple[Anew, ...] = ()


def resumed(state: Mapping[str, Any], where: str) -> Start:
    """The model of a checkpoint. Raises PerceivioError where its parameters are not those of its
    configuration: they are compared before any memory is taken for them."""
    config = Config.from_dict(state["config"])
    with torch.device("meta"):
        declared = MultimodalAutoencoder(config).named_parameters()
        wanted = {name: tuple(parameter.shape) for name, parameter in declared}
    found = {name: tuple(values.shape) for name, values in state["module"].items()}
    check_parameters(wanted, found, where)
    module = MultimodalAutoencoder(config)
    module.load_state_dict(state["module"])
    return Start(module)


@dataclass(frozen=True)
class Declared:
    """What settings say of a model, checked, before any data is known.

    config  with its own classes still
    given   the weights it starts from, if any
    """

    settings: Settings
    config: Config
    given: MultimodalAutoencoder | None

    @classmethod
    def by(cls, settings: Settings) -> Declared:
        """Raises SettingsError for settings that do not fit the model, and what `perceivio.load`
        raises for weights that cannot be read."""
        start = settings.model.start
        given = weights.load_module(start) if start else None
        before = given.config if given is not None else preset(settings.model.preset)
        config = changed(before, settings.model.config)
        if given is not None:
            config = same_width(config, before)
        objectives_of(settings, config)
        for name, modality in config.modalities.items():
            own = modality.is_classes and (name, modality) == config.classes()
            if not (modality.media or modality.beside or own):
                raise SettingsError(
                    f"model.config.modalities.{name}: says not from which file it is read; give it"
                    ' beside, such as "{stem}.depth.mp4"'
                )
        return cls(settings, config, given)

    def begin(self, classes: Sequence[str]) -> Start:
        """The model for data with these class names; none: with its own."""
        config = self.config
        if classes and self.settings.model.classes == "index":
            config = same_width(with_classes(config, classes), config)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.settings.run.seed)
            module = MultimodalAutoencoder(config)
        if self.given is None:
            return Start(module)
        anew = take_over(module, self.given)
        return Start(module, len(list(module.parameters())) - len(anew), tuple(anew))


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with changes over it by name; a modality that is `false` is left out."""
    plain = merged(config.to_dict(), changes)
    if not isinstance(plain["modalities"], dict):
        raise SettingsError("model.config.modalities must be a table of settings")
    plain["modalities"] = {
        name: value for name, value in plain["modalities"].items() if value is not False
    }
    return checked(Config, plain, "model.config.", "model")


def with_classes(config: Config, names: Sequence[str]) -> Config:
    """The same with the first set of classes replaced, if it has one."""
    found = config.classes()
    if found is None or found[1].names == tuple(names):
        return config
    plain = merged(config.to_dict(), {})
    plain["modalities"][found[0]] |= {"channels": len(names), "names": tuple(names)}
    return Config.from_dict(plain)


def same_width(config: Config, before: Config) -> Config:
    """With padding such that tokens and queries stay as wide as before, where they can."""
    tokens = config.input_padding + before.input_channels - config.input_channels
    queries = config.query_padding + before.query_channels - config.query_channels
    return config.replace(
        input_padding=tokens if tokens >= 0 else config.input_padding,
        query_padding=queries if queries >= 0 else config.query_padding,
    )


def objectives_of(settings: Settings, config: Config) -> dict[str, Objective]:
    """An objective for every modality. Raises SettingsError for one of none, and for masks that
    leave nothing to tell from."""
    removed = settings.model.config.get("modalities", {})
    for name in settings.modalities:
        if name not in config.modalities and removed.get(name) is not False:
            raise SettingsError(
                f"modalities.{name}: the model has no such modality; it has"
                f" {', '.join(config.modalities)}"
            )
    objectives = {name: settings.modalities.get(name, Objective()) for name in config.modalities}
    grids = [name for name, modality in config.modalities.items() if not modality.is_classes]
    if all(objectives[name].mask == 1 for name in grids):
        raise SettingsError(
            f"modalities: with mask = 1 for each of {', '.join(grids)} nothing is left to see;"
            " one of them must be below 1"
        )
    if not any(objective.weight for objective in objectives.values()):
        raise SettingsError("modalities: every weight is 0, so there is nothing to learn")
    return objectives


@torch.no_grad()
def take_over(module: MultimodalAutoencoder, given: MultimodalAutoencoder) -> list[Anew]:
    """Copy every parameter that still means the same. Returns those that begin anew."""
    theirs = dict(given.named_parameters())
    anew = []
    for name, parameter in module.named_parameters():
        why = _why_not(name, module.config, given.config, parameter, theirs.get(name))
        if why:
            anew.append(Anew(name, why))
        elif parameter.numel():
            parameter.copy_(theirs[name])
    return anew


def _why_not(
    name: str,
    ours: Config,
    theirs: Config,
    parameter: torch.Tensor,
    other: torch.Tensor | None,
) -> str:
    """Why a parameter cannot be taken over; empty where it can."""
    parts = name.split(".")
    modality = parts[1] if parts[0] == "modalities" else None
    if modality and modality not in theirs.modalities:
        return f"{modality} {NEW}"
    if other is None:
        return "the other model has no such parameter"
    if modality and parts[2] in ("output", "embed"):
        now, then = ours.modalities[modality], theirs.modalities[modality]
        if now.is_classes and now.names != then.names:
            return f"other classes: {then.channels} then, {now.channels} now"
    if parameter.shape != other.shape:
        sizes = [" x ".join(map(str, p.shape)) for p in (other, parameter)]
        return f"{sizes[0]} values then, {sizes[1]} now"
    if modality and parts[2] == "mask_token" and _layout(ours, modality) != _layout(
        theirs, modality
    ):
        return "the channels of its tokens are laid out otherwise"
    return ""


def _layout(config: Config, name: str) -> tuple[int, int]:
    """Content and position channels of a modality's tokens."""
    modality: Modality = config.modalities[name]
    return modality.content_channels, modality.position_channels
