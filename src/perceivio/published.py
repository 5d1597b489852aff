"""The settings of the two public checkpoints: their configuration <-> ours."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any, Literal

from .config import PRESETS, Attend, Config, ConfigError, Modality, kinetics_classes, preset
from .errors import PerceivioError
from .names import PUBLIC_MODALITIES, check_parameters, deepmind

# What transformers takes for what config.json leaves out.
HUGGING_FACE_DEFAULTS: Mapping[str, Any] = {
    "num_latents": 256,
    "d_latents": 1280,
    "num_blocks": 1,
    "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "qk_channels": None,
    "v_channels": None,
    "cross_attention_shape_for_attention": "kv",
    "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1,
    "hidden_act": "gelu",
    "use_query_residual": True,
    "image_size": 56,
    "num_frames": 16,
    "audio_samples_per_frame": 1920,
    "samples_per_patch": 16,
    "output_shape": (1, 16, 224, 224),
    "output_num_channels": 512,
    "_label_trainable_num_channels": 1024,
}
HUGGING_FACE_MODEL = "PerceiverForMultimodalAutoencoding"
FRAME_RATE = 25  # of the published model; configurations do not say

_ACTIVATIONS: Mapping[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def config_from_huggingface(plain: Mapping[str, Any]) -> Config:
    """Hugging Face's config.json -> our configuration of the same function.

    What is not in theirs is in their code: Fourier bands (192, 32), patches (1 x 4 x 4), paddings
    (4, 2), one head, no widening and no query residual in the decoder. Raises ConfigError for
    another model than the multimodal autoencoder, and for settings that no model can have.
    """
    kinds = plain.get("architectures") or [HUGGING_FACE_MODEL]
    if HUGGING_FACE_MODEL not in kinds:
        raise ConfigError(f"a {kinds[0]}, where only {HUGGING_FACE_MODEL} is read")
    get = {**HUGGING_FACE_DEFAULTS, **plain}
    if get["hidden_act"] not in _ACTIVATIONS:
        raise ConfigError(f"hidden_act {get['hidden_act']!r} is none of {', '.join(_ACTIVATIONS)}")
    frames, size, channels = get["num_frames"], get["image_size"], get["d_latents"]
    samples = frames * get["audio_samples_per_frame"]
    for key in ("num_self_attention_heads", "num_cross_attention_heads"):
        if channels % get[key]:
            raise ConfigError(f"d_latents {channels} is not a multiple of {key} {get[key]}")
    classes, class_names = _classes(plain)
    config = Config(
        modalities={
            "image": Modality(
                shape=tuple(get["output_shape"])[1:],
                channels=3,
                patch=(1, 4, 4),
                output_patch=(1, 1, 1),
                bands=32,
                resolution=(frames, size, size),
                channel_axis=1,
                media="video",
                rate=FRAME_RATE,
            ),
            "audio": Modality(
                shape=(samples,),
                channels=1,
                patch=(get["samples_per_patch"],),
                output_patch=(get["samples_per_patch"],),
                bands=192,
                resolution=(samples,),
                media="audio",
                rate=get["audio_samples_per_frame"] * FRAME_RATE,
            ),
            "label": Modality(
                shape=(),
                channels=classes,
                query=get["_label_trainable_num_channels"],
                names=class_names,
            ),
        },
        latents=get["num_latents"],
        latent_channels=channels,
        self_attends=get["num_self_attends_per_block"],
        blocks=get["num_blocks"],
        process=Attend(),  # all three kinds of attention are set below
        output_channels=get["output_num_channels"],
        activation=_ACTIVATIONS[get["hidden_act"]],
    )
    shape = get["cross_attention_shape_for_attention"]
    if shape not in ("kv", "q"):
        raise ConfigError(f"cross_attention_shape_for_attention {shape!r} is neither 'kv' nor 'q'")
    qk, v = get["qk_channels"], get["v_channels"]
    if (v or qk or channels) != channels:
        raise ConfigError(f"{v or qk} value channels in a self-attend of {channels} channels")
    config = config.replace(
        encode=Attend(
            heads=get["num_cross_attention_heads"],
            qk_channels=qk or (channels if shape == "q" else None),
            v_channels=v,
            widening=get["cross_attention_widening_factor"],
            query_residual=get["use_query_residual"],
        ),
        process=Attend(
            heads=get["num_self_attention_heads"],
            qk_channels=qk,
            v_channels=v,
            widening=get["self_attention_widening_factor"],
        ),
        decode=Attend(
            qk_channels=config.query_channels if shape == "q" else None, query_residual=False
        ),
    )
    return _with_preset_name(config)


def _classes(plain: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """How many classes, and their names, from id2label or num_labels; transformers' default: 2."""
    labels = plain.get("id2label")
    count = len(labels) if labels else plain.get("num_labels", 2)
    if labels:
        class_names = tuple(str(labels[str(i)]) for i in range(count))
        if class_names != tuple(f"LABEL_{i}" for i in range(count)):
            return count, class_names
    return count, kinetics_classes() if count == len(kinetics_classes()) else ()


def config_to_huggingface(config: Config) -> dict[str, Any]:
    """Our configuration -> Hugging Face's config.json, for the same function.

    Raises ConfigError saying which settings their code does not have.
    """
    if set(config.modalities) != set(PUBLIC_MODALITIES):
        theirs, ours = ", ".join(PUBLIC_MODALITIES), ", ".join(config.modalities)
        raise ConfigError(f"Hugging Face's model has the modalities {theirs}; this one has {ours}")
    image, audio, label = (config.modalities[m] for m in ("image", "audio", "label"))
    if (len(image.shape), len(audio.shape), len(label.shape)) != (3, 1, 0):
        raise ConfigError("Hugging Face's image has 3 dimensions, its audio 1, its label none")
    frames = image.resolution[0]
    class_names = label.names or [f"LABEL_{i}" for i in range(label.channels)]
    plain = {
        "architectures": [HUGGING_FACE_MODEL],
        "model_type": "perceiver",
        "dtype": "float32",
        "num_latents": config.latents,
        "d_latents": config.latent_channels,
        "num_blocks": config.blocks,
        "num_self_attends_per_block": config.self_attends,
        "num_self_attention_heads": config.process.heads,
        "num_cross_attention_heads": config.encode.heads,
        "self_attention_widening_factor": config.process.widening,
        "cross_attention_widening_factor": config.encode.widening,
        "hidden_act": "gelu" if config.activation == "gelu" else "gelu_pytorch_tanh",
        "use_query_residual": config.encode.query_residual,
        "image_size": image.resolution[1],
        "num_frames": frames,
        "audio_samples_per_frame": audio.shape[0] // frames,
        "samples_per_patch": audio.patch[0],
        "output_shape": [1, *image.shape],
        "output_num_channels": config.output_channels,
        "_label_trainable_num_channels": label.query,
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
    }
    # Theirs has one setting of channels for all attention, and a rule for what it leaves open: try
    # the few ways there are, and take the one that reads back as the configuration we have.
    refusals: list[str] = []
    differences: list[list[str]] = []
    for shape, qk, v in itertools.product(
        ("kv", "q"),
        (None, config.encode.qk(config.input_channels)),
        (None, config.encode.v(config.input_channels)),
    ):
        candidate = {**plain, "cross_attention_shape_for_attention": shape}
        candidate |= {"qk_channels": qk, "v_channels": v}
        try:
            read_back = _function(config_from_huggingface(candidate))
        except PerceivioError as error:
            refusals.append(str(error))
            continue
        differences.append(_differences(_function(config), read_back))
        if not differences[-1]:
            return candidate
    problems = min(differences, key=len, default=refusals)
    raise ConfigError(f"Hugging Face's model cannot be this one: {'; '.join(problems[:3])}")


def _function(config: Config) -> dict[str, Any]:
    """The settings that decide what a model computes, flat: {"image.bands": 32, ...}"""
    flat: dict[str, Any] = {}
    attended = {
        "encode": config.input_channels,
        "process": config.latent_channels,
        "decode": config.latent_channels,
    }
    for name, value in config.to_dict().items():
        if name in attended:
            attend: Attend = getattr(config, name)
            value["qk_channels"] = attend.qk(attended[name])
            value["v_channels"] = attend.v(attended[name])
            flat |= {f"{name}.{key}": setting for key, setting in value.items()}
        elif name == "modalities":
            for modality, settings in value.items():
                settings["channel_axis"] %= len(settings["shape"]) + 1
                kept = {k: s for k, s in settings.items() if k not in ("names", "media", "rate")}
                flat |= {f"{modality}.{key}": setting for key, setting in kept.items()}
        elif name != "name":
            flat[name] = value
    return flat


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [f"{k} is {v}, theirs {theirs[k]}" for k, v in ours.items() if theirs[k] != v]


# ---- DeepMind's configuration ------------------------------------------------------------------


def config_from_deepmind(shapes: Mapping[str, tuple[int, ...]]) -> Config:
    """The configuration of a DeepMind parameter mapping, from its shapes by module/parameter.

    Latents, self-attends, channels and classes are read from the shapes; what leaves no trace in
    them (the clip's size, heads, Fourier bands) is as published. Raises ConfigError naming what
    is missing or unknown.
    """
    numbers = [re.match(r"encoder/~/self_attention(?:_(\d+))?/", name) for name in shapes]
    self_attends = 1 + max((int(n[1] or 0) for n in numbers if n), default=0)
    self_attends = min(self_attends, len(shapes))  # an odd number in a name is no layer
    rows = deepmind(max(1, self_attends))
    there = {name: shapes.get(name, ()) for name in (row.theirs for row in rows)}
    check_parameters(there, shapes, "the pickle")
    dims = {row.ours: shapes[row.theirs] for row in rows}
    if any(len(s) != (1 if n.endswith("bias") or "norm" in n else 2) for n, s in dims.items()):
        raise ConfigError("the parameters of the pickle do not have DeepMind's dimensions")

    def attend(published: Attend, part: str) -> Attend:
        # Haiku's maps are (in, out): the last axis counts the channels that come out.
        return dataclasses.replace(
            published,
            qk_channels=dims[f"{part}.attention.query.weight"][1],
            v_channels=dims[f"{part}.attention.value.weight"][1],
            widening=dims[f"{part}.mlp.widen.weight"][1] // dims[f"{part}.mlp.widen.weight"][0],
        )

    latents, channels = dims["encoder.latents"]
    classes = dims["modalities.label.output.weight"][1]
    base = preset("base")
    label = dataclasses.replace(
        base.modalities["label"],
        channels=classes,
        query=dims["modalities.label.query"][1],
        names=kinetics_classes() if classes == len(kinetics_classes()) else (),
    )
    config = base.replace(
        modalities={**base.modalities, "label": label},
        latents=latents,
        latent_channels=channels,
        self_attends=self_attends,
        encode=attend(base.encode, "encoder.cross_attend"),
        process=attend(base.process, "encoder.self_attends.0"),
        decode=attend(base.decode, "decoder.cross_attend"),
        output_channels=dims["decoder.output.weight"][1],
        activation="gelu_tanh",
        name="",
    )
    return _with_preset_name(config)


def _with_preset_name(config: Config) -> Config:
    """Named as the preset that it is, if any; the two kinds of GELU share the name."""
    for name in PRESETS:
        known = preset(name).replace(activation=config.activation)
        if _function(known) == _function(config):
            return config.replace(name=name)
    return config.replace(name="")
