"""Weights in and out: every format both ways to the bit, and every bad source in one line."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SMALL, VARIANTS, deepmind_parameters, huggingface_model, tiny_config
from safetensors.torch import load_file, save_file

from perceivio import names, pickles, published, weights
from perceivio.config import Attend, Config, preset
from perceivio.errors import PerceivioError
from perceivio.identity import identity
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import convert, load_module, save_huggingface, save_module

FEW = {"num_latents": 8, "num_self_attends_per_block": 1}  # sizes of DeepMind's, fewer of them


def refusal(source, **settings):
    """The error of loading a source: one line."""
    with pytest.raises(PerceivioError) as caught:
        load_module(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_parameters(one, other):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(n == m and torch.equal(p, q) and p.dtype == q.dtype for (n, p), (m, q) in pairs)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    module = MultimodalAutoencoder(tiny_config())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


@pytest.fixture(scope="session")
def hf_model():
    return huggingface_model(**SMALL)


@pytest.fixture(scope="session")
def hf_folder(hf_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("huggingface")
    hf_model.save_pretrained(folder)
    return folder


@pytest.fixture
def hf_copy(hf_folder, tmp_path):
    """A copy that a test may damage."""
    for path in hf_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def haiku():
    """DeepMind's parameters, with 8 latents and 2 self-attends to be quick."""
    with torch.device("meta"):
        config = preset("base").replace(latents=8, self_attends=2, activation="gelu_tanh")
        ours = dict(MultimodalAutoencoder(config).named_parameters())
    shapes = {}
    for row in names.deepmind(2):
        module, name = row.theirs.rsplit("/", 1)
        shapes.setdefault(module, {})[name] = tuple(row.to_theirs(ours[row.ours]).shape)
    return deepmind_parameters(shapes)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- our own folder ----------------------------------------------------------------------------


def test_own_folder_round_trip(tiny, tmp_path):
    folder = save_module(tiny, tmp_path / "new" / "model")
    again = load_module(folder)
    assert same_parameters(tiny, again)
    assert again.config == tiny.config
    assert not again.training
    assert all(p.requires_grad and p.is_leaf for p in again.parameters())
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing half-written beside


def test_half_precision_file_loads_as_float32(tiny, tmp_path):
    save_module(tiny, tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    again = load_module(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert all(torch.equal(p, q.half().float()) for p, q in zip(
        again.parameters(), tiny.parameters(), strict=True))  # fmt: skip


def test_loaded_model_does_not_hang_on_its_file(tiny, tmp_path):
    folder = save_module(tiny, tmp_path / "m")
    again = load_module(folder)
    file = folder / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert same_parameters(tiny, again)


def test_overwriting_has_to_be_asked_for(tiny, tmp_path):
    (tmp_path / "m").mkdir()
    save_module(tiny, tmp_path / "m")  # an empty folder is no loss
    (tmp_path / "m" / "notes.txt").write_text("mine")
    before = identity(tiny)
    with torch.no_grad():
        tiny.encoder.latents.add_(1)
    for save in (save_module, save_huggingface, lambda m, f: convert(f, f)):
        with pytest.raises(PerceivioError):
            save(tiny, tmp_path / "m")
    assert identity(load_module(tmp_path / "m")) == before
    save_module(tiny, tmp_path / "m", overwrite=True)
    assert same_parameters(tiny, load_module(tmp_path / "m"))
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(PerceivioError, match="is a file"):
        save_module(tiny, tmp_path / "file", overwrite=True)


def test_a_full_disk_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(PerceivioError, match="No space left on device"):
        save_module(tiny, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_identity_names_the_function(tiny, tmp_path):
    name = identity(tiny)
    assert len(name) == 64
    assert identity(tiny.double()) == name
    tiny.float()
    assert identity(load_module(save_module(tiny, tmp_path / "m"))) == name
    tiny.config = tiny.config.replace(name="another name")
    assert identity(tiny) == name
    tiny.config = tiny.config.replace(activation="gelu_tanh")
    assert identity(tiny) != name
    tiny.config = tiny_config()
    with torch.no_grad():
        tiny.encoder.latents[0, 0] += 1
    assert identity(tiny) != name


# ---- parameters that do not fit ----------------------------------------------------------------


def test_missing_unknown_and_misshapen_parameters_are_named(tiny, tmp_path):
    path = save_module(tiny, tmp_path / "m") / "model.safetensors"
    tensors = load_file(path)
    tensors["surprise"] = tensors.pop("encoder.latents")
    tensors["decoder.output.bias"] = torch.zeros(3, 2)
    save_file(tensors, path)
    said = refusal(tmp_path / "m")
    assert "missing: encoder.latents" in said
    assert "unknown: surprise" in said
    assert "decoder.output.bias is 3 x 2, not 6" in said


def test_many_problems_are_counted(hf_copy):
    edit_json(hf_copy / "config.json", num_self_attends_per_block=3)
    said = refusal(hf_copy)
    assert "missing: perceiver.encoder.self_attends.2." in said
    assert "and 13 more" in said


def test_numbers_that_are_not_floating_point(tiny, tmp_path):
    path = save_module(tiny, tmp_path / "m") / "model.safetensors"
    save_file({k: v.int() for k, v in load_file(path).items()}, path)
    assert "torch.int32, not floating point" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"self_attends": 10**9},
        {"latents": 10**12, "latent_channels": 10**9},
        {"latents": 10**30},
        {"latents": -1},
        {"latents": "many"},
        {"input_padding": -500},
        {"encode": {"heads": 0}},
        {"encode": {"teeth": 2}},
        {"modalities": {}},
        {"modalities": {"x": {"shape": 5, "channels": 1}}},
        {"modalities": None},
        {"activation": "relu"},
        {"colour": "red"},
    ],
    ids=str,
)
def test_absurd_configurations_are_refused_at_once(tiny, tmp_path, changes):
    path = save_module(tiny, tmp_path / "m") / "config.json"
    edit_json(path, config={**json.loads(path.read_text())["config"], **changes})
    refusal(tmp_path / "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_self_attends_per_block": 10**9},
        {"num_latents": 10**15},
        {"num_labels": 10**12, "id2label": None},
        {"d_latents": 0},
        {"num_self_attention_heads": 0},
        {"num_cross_attention_heads": 3},
        {"image_size": [5, 5]},
        {"output_shape": [1, 3, 9, 12]},
        {"output_shape": 7},
        {"hidden_act": "relu"},
        {"v_channels": 16},
        {"cross_attention_shape_for_attention": "v"},
        {"id2label": ["a"]},
        {"architectures": ["PerceiverForMaskedLM"]},
        {"model_type": "bert"},
    ],
    ids=str,
)
def test_huggingface_configurations_that_no_model_has(hf_copy, changes):
    edit_json(hf_copy / "config.json", **changes)
    refusal(hf_copy)


def test_folders_that_are_not_whole(tiny, hf_copy, tmp_path):
    folder = save_module(tiny, tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    for broken in (b"", whole[:5], whole[:300], whole[:-1], b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(broken)
        assert "truncated or damaged" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(folder)
    edit_json(folder / "config.json", version=99)
    assert "version 99" in refusal(folder)
    for text in ("{", "[]", "\xff", '{"a": 1}', "[" * 100_000):
        (folder / "config.json").write_text(text, "latin1")
        refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    assert "give the folder" in refusal(hf_copy / "model.safetensors")


# ---- Hugging Face ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one file", "shards", "torch", "old torch"])
def test_huggingface_forms_are_read_to_the_bit(hf_model, tmp_path, form):
    if form == "shards":
        hf_model.save_pretrained(tmp_path, max_shard_size="200KB")
        assert (tmp_path / "model.safetensors.index.json").is_file()
    else:
        hf_model.save_pretrained(tmp_path)
    if "torch" in form:
        (tmp_path / "model.safetensors").unlink()
        torch.save(
            hf_model.state_dict(),
            tmp_path / "pytorch_model.bin",
            _use_new_zipfile_serialization=form == "torch",
        )
    module = load_module(tmp_path)
    ours, theirs = dict(module.named_parameters()), hf_model.state_dict()
    rows = names.huggingface(module.config.self_attends)
    assert {row.theirs for row in rows} == set(theirs)
    assert {row.ours for row in rows} == {n for n, p in ours.items() if p.numel()}
    assert all(torch.equal(row.to_theirs(ours[row.ours]), theirs[row.theirs]) for row in rows)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_conversion_there_and_back_is_exact(tmp_path, variant):
    model = huggingface_model(**{**SMALL, **variant})
    model.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert sorted(before) == sorted(after)
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    modules = [load_module(tmp_path / name) for name in ("theirs", "ours", "back")]
    assert len({identity(module) for module in modules}) == 1
    config = type(model.config).from_pretrained(tmp_path / "back")
    said, wanted = config.to_dict(), model.config.to_dict()
    for key in published.HUGGING_FACE_DEFAULTS:
        if key != "hidden_act":  # gelu_new comes back under its other name
            assert said[key] == wanted[key], key
    assert (config.hidden_act == "gelu") == (model.config.hidden_act == "gelu")


def test_defaults_are_those_of_transformers():
    from transformers import PerceiverConfig

    theirs = PerceiverConfig().to_dict()
    plain = {k: theirs[k] for k in published.HUGGING_FACE_DEFAULTS}
    plain["output_shape"] = tuple(plain["output_shape"])
    assert plain == published.HUGGING_FACE_DEFAULTS
    config = published.config_from_huggingface({"num_cross_attention_heads": 1})
    assert config.modalities["label"].channels == 2


def test_class_names(hf_copy):
    assert load_module(hf_copy).config.modalities["label"].names == ()
    labels = {str(i): f"class {i}" for i in range(7)}
    edit_json(hf_copy / "config.json", id2label=labels)
    module = load_module(hf_copy)
    assert module.config.modalities["label"].names == tuple(labels.values())
    save_huggingface(module, hf_copy / "again")
    plain = json.loads((hf_copy / "again" / "config.json").read_text())
    assert plain["id2label"] == labels
    assert published.config_from_huggingface({"num_labels": 700}).modalities["label"].names[:1] == (
        "abseiling",
    )


def base_with(**changes) -> Config:
    return preset("base").replace(**changes)


def with_image(**changes):
    image = preset("base").modalities["image"]
    plain = {key: getattr(image, key) for key in image.__dataclass_fields__}
    image = type(image)(**{**plain, **changes})
    return base_with(modalities={**preset("base").modalities, "image": image})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (tiny_config(), "modalities"),
        (with_image(embed=40), "image.embed is 40"),
        (with_image(mean=0.5), "image.mean is 0.5"),
        (with_image(std=0.5), "image.std is 0.5"),
        (with_image(bands=16), "image.bands is 16"),
        (with_image(output_patch=(1, 2, 2)), "image.output_patch is (1, 2, 2)"),
        (with_image(resolution=(16, 56, 28)), "image.resolution is (16, 56, 28)"),
        (with_image(channel_axis=-1), "image.channel_axis"),
        (base_with(decode=Attend(heads=2, query_residual=False)), "decode.heads is 2"),
        (base_with(decode=Attend()), "decode.query_residual is True"),
        (base_with(input_padding=5), "input_padding is 5"),
        (base_with(process=Attend(heads=8, qk_channels=256)), "process.qk_channels is 256"),
        (base_with(encode=Attend(heads=11)), "512 is not a multiple"),
        (preset("small"), "theirs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_huggingface_cannot_express_is_said(config, reason, tmp_path):
    with torch.device("meta"):
        module = MultimodalAutoencoder(config)
    with pytest.raises(PerceivioError) as caught:
        save_huggingface(module, tmp_path / "m")
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_tanh_and_presets_can_be_expressed():
    for name in ("base", "base-176x", "base-352x"):
        for activation in ("gelu", "gelu_tanh"):
            config = preset(name).replace(activation=activation)
            plain = published.config_to_huggingface(config)
            assert published.config_from_huggingface(plain) == config


def test_a_torch_file_cannot_run_code(hf_copy, tmp_path):
    (hf_copy / "model.safetensors").unlink()
    torch.save({"x": Evil(tmp_path / "ran")}, hf_copy / "pytorch_model.bin")
    assert "damaged or more than weights" in refusal(hf_copy)
    assert not (tmp_path / "ran").exists()


def test_an_index_cannot_point_elsewhere(hf_copy):
    (hf_copy / "model.safetensors").rename(hf_copy.parent / "elsewhere.safetensors")
    for files in ({"a": "../elsewhere.safetensors"}, {}, ["model.safetensors"], None):
        index = {"weight_map": files}
        (hf_copy / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "names no files of its folder" in refusal(hf_copy)


# ---- DeepMind ----------------------------------------------------------------------------------


class Evil:
    """What runs a command in any ordinary unpickler."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def stand_in(monkeypatch, module, name):
    """An importable function of that name, so that pickle writes it as another library's."""

    def function(*args):
        raise AssertionError("called while pickling")

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    parts = module.split(".")
    for i in range(len(parts)):
        path = ".".join(parts[: i + 1])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    monkeypatch.setattr(sys.modules[module], name, function, raising=False)
    return function


def haiku_pickle(tree, protocol, jax=None, flat_mapping=None):
    """Bytes as DeepMind's tools write them: JAX arrays as leaves, Haiku's mappings as containers.

    jax, flat_mapping  stand-ins for the functions that such a pickle names
    """

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj):
            if isinstance(obj, np.ndarray) and jax:
                state = ({"weak_type": False, "named_shape": {}},)
                return jax, (*obj.__reduce__(), *state)
            if isinstance(obj, Mapped):
                return flat_mapping, (dict(obj),)
            return NotImplemented

    class Mapped(dict):
        pass

    if flat_mapping:
        tree = Mapped({module: Mapped(inside) for module, inside in tree.items()})
    file = io.BytesIO()
    Pickler(file, protocol).dump({"params": tree, "state": {}} if flat_mapping else tree)
    return file.getvalue()


def same_tree(path, tree):
    arrays = pickles.read_arrays(path)
    wanted = {f"{m}/{n}": values for m, inside in tree.items() for n, values in inside.items()}
    assert list(arrays) == list(wanted)
    for name, values in wanted.items():
        assert arrays[name].dtype == values.dtype
        assert np.array_equal(arrays[name], values)


TREE = {
    "a/~/linear": {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(3, 2)),
    },
    "c": {"big": np.arange(3, dtype=">f4"), "whole": np.arange(3), "none": np.zeros((0, 2))},
}
JAX = [
    ("jax._src.array", "_reconstruct_array"),
    ("jax._src.device_array", "reconstruct_device_array"),
    ("jax.interpreters.xla", "reconstruct_device_array"),
]
HAIKU = [("haiku._src.data_structures", name) for name in ("FlatMapping", "FlatMap", "frozendict")]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_numpy_arrays(tmp_path, protocol):
    path = tmp_path / "any name"
    for tree in (TREE, {"params": TREE, "state": {}}, {"params": TREE, "state": TREE}):
        path.write_bytes(pickle.dumps(tree, protocol))
        same_tree(path, TREE)
    scalar = {"a": {"step": np.float32(3)}}
    path.write_bytes(pickle.dumps(scalar, protocol))
    same_tree(path, {"a": {"step": np.array(3, np.float32)}})


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("jax", JAX, ids=".".join)
@pytest.mark.parametrize("haiku_name", HAIKU, ids=".".join)
def test_pickles_of_jax_arrays_in_haiku_mappings(tmp_path, monkeypatch, protocol, jax, haiku_name):
    functions = [stand_in(monkeypatch, *name) for name in (jax, haiku_name)]
    path = tmp_path / "params.pkl"
    path.write_bytes(haiku_pickle(TREE, protocol, *functions))
    assert jax[1].encode() in path.read_bytes()
    same_tree(path, TREE)


def test_pickles_of_numpy_1_and_2(tmp_path):
    """The private module that rebuilds arrays has two names; protocol 2 shows them as text."""
    written = pickle.dumps(TREE, 2)
    one = written.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    two = written.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    assert one != two
    for number, data in enumerate((one, two)):
        (tmp_path / str(number)).write_bytes(data)
        same_tree(tmp_path / str(number), TREE)


def test_deepmind_pickle_is_read_to_the_bit(haiku, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps({"params": haiku, "state": {}}))
    module = load_module(path)
    assert module.config.latents == 8
    assert module.config.self_attends == 2
    assert module.config.activation == "gelu_tanh"
    assert module.config.process.heads == 8
    ours = dict(module.named_parameters())
    for row in names.deepmind(2):
        part, name = row.theirs.rsplit("/", 1)
        assert np.array_equal(row.to_theirs(ours[row.ours]).detach().numpy(), haiku[part][name])
    convert(path, tmp_path / "ours")
    assert identity(load_module(tmp_path / "ours")) == identity(module)


def test_deepmind_pickle_to_huggingface(haiku, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(haiku))
    module = load_module(path)
    again = load_module(convert(path, tmp_path / "theirs", to="huggingface"))
    assert same_parameters(module, again)
    assert again.config.activation == "gelu_tanh"


def test_deepmind_parameters_that_do_not_fit(haiku, tmp_path):
    path = tmp_path / "weights.pkl"

    def said(**changes):
        path.write_bytes(pickle.dumps({**haiku, **changes}))
        return refusal(path)

    lost = {k: v for k, v in haiku.items() if k != "audio_postprocessor/linear"}
    path.write_bytes(pickle.dumps(lost))
    assert "missing: audio_postprocessor/linear/w, audio_postprocessor/linear/b" in refusal(path)
    assert "unknown: more/w" in said(more={"w": np.zeros(3)})
    changed = {"w": np.zeros((512, 15), np.float32), "b": np.zeros(16, np.float32)}
    assert "audio_postprocessor/linear/w is 512 x 15, not 512 x 16" in said(
        **{"audio_postprocessor/linear": changed}
    )
    far = {"encoder/~/self_attention_999999999/mlp/linear": changed}
    assert "missing" in said(**far)
    flat = {"encoder/~/trainable_position_encoding": {"pos_embs": np.zeros(3, np.float32)}}
    assert "dimensions" in said(**flat)


def test_a_pickle_with_anything_else_inside(tmp_path):
    path = tmp_path / "params.pkl"
    for tree in (
        {"params": TREE, "state": {"a": 1}},
        {"params": TREE, "state": None},
        {"params": TREE, "state": {}, "step": 3},
        {**TREE, "d": {"w": [1.0, 2.0]}},
        {**TREE, "d": {"w": "text"}},
        {**TREE, "d": {"w": {"deeper": np.zeros(2)}}},
        {**TREE, 5: {"w": np.zeros(2)}},
        [TREE],
        7,
    ):
        path.write_bytes(pickle.dumps(tree))
        said = refusal(path)
        assert "holds something else" in said or "not names" in said


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("where", ["leaf", "module", "params", "state", "key", "beside"])
def test_a_pickle_cannot_run_code(tmp_path, protocol, where):
    evil = Evil(tmp_path / "ran")
    tree = {
        "leaf": {"a": {"w": evil}},
        "module": {"a": evil},
        "params": evil,
        "state": {"params": TREE, "state": evil},
        "key": {"a": {(evil,): np.zeros(2)}},
        "beside": {"params": TREE, "state": {}, "more": [evil]},
    }[where]
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(tree, protocol))
    assert f"import {os.system.__module__}.system" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval", "builtins.getattr", "builtins.object", "os.system", "numpy.load",
        "numpy.memmap", "numpy._core.multiarray.fromfile", "copyreg._reconstructor",
        "collections.OrderedDict", "perceivio.pickles.read_arrays", "jax.numpy.array",
        "codecs.encode", "numpy.ndarray.tofile", "functools.partial", "nowhere.at_all",
    ],
)  # fmt: skip
def test_only_known_names_are_looked_up(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "params.pkl"
    path.write_bytes(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b".")
    assert f"import {name}" in refusal(path)
    text = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, attribute))
    path.write_bytes(b"\x80\x04" + text + b"\x93.")
    assert f"import {name}" in refusal(path)


def known(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


@pytest.mark.parametrize(
    "program",
    [
        # an array class in place of a function, and calls in ways that no array is pickled
        known("numpy.ndarray") + b"K\x02\x85R",
        known("numpy._core.multiarray._reconstruct") + b")R",
        known("numpy._core.multiarray._reconstruct") + known("numpy.dtype") + b"K\x01K\x02\x87R",
        known("jax._src.array._reconstruct_array") + known("numpy.dtype") + b")N\x87R",
        known("haiku._src.data_structures.FlatMapping") + b"K\x05\x85R",
        known("_codecs.encode") + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R",
        # an attempt to change a function of the reader, and one to make it a class's instance
        known("_codecs.encode") + b"}X\x05\x00\x00\x00_callK\x01sb",
        known("_codecs.encode") + b"N}X\x05\x00\x00\x00_callK\x01s\x86b",
        known("_codecs.encode") + b")\x81",
        # objects outside the pickle, buffers outside it, and the extension registry
        b"K\x01Q",
        b"\x97",
        b"\x82\x01",
        # an array that was never filled, and things that are no mapping
        b"}X\x01\x00\x00\x00a}X\x01\x00\x00\x00w"
        + known("numpy._core.multiarray._reconstruct") + known("numpy.ndarray")
        + b"K\x00\x85C\x01b\x87Rss",
        b"N", b"]", b"K\x01", b"}K\x01}s", b"}X\x01\x00\x00\x00aK\x01s",
    ],
)  # fmt: skip
def test_programs_that_build_something_else(tmp_path, program):
    path = tmp_path / "params.pkl"
    path.write_bytes(b"\x80\x05" + program + b".")
    refusal(path)
    path.write_bytes(pickle.dumps(TREE))
    same_tree(path, TREE)  # and the reader is as it was


def test_arrays_that_are_not_numbers(tmp_path):
    path = tmp_path / "params.pkl"
    for values, said in (
        (np.array([1, None], object), "object arrays"),
        (np.array(["a", "b"]), "only arrays of numbers"),
        (np.zeros(2, [("a", "f4")]), "only arrays of numbers"),
        (np.zeros(2, "M8[s]"), "only arrays of numbers"),
    ):
        for protocol in (2, 4, 5):
            path.write_bytes(pickle.dumps({"a": {"w": values}}, protocol))
            assert said in refusal(path)


def test_bfloat16_is_refused_by_name(tmp_path):
    path = tmp_path / "params.pkl"
    dtype = known("numpy.dtype") + known("ml_dtypes.bfloat16") + b"\x89\x88\x87R"
    path.write_bytes(b"\x80\x02" + dtype + b".")
    assert "bfloat16" in refusal(path)


def test_truncated_pickles(tmp_path):
    path = tmp_path / "params.pkl"
    for protocol in (2, 4, 5):
        whole = pickle.dumps(TREE, protocol)
        for length in range(2, len(whole), 7):
            path.write_bytes(whole[:length])
            assert "truncated or damaged" in refusal(path)


def test_a_name_with_a_line_break_is_refused_in_one_line(tmp_path):
    path = tmp_path / "damaged.pkl"
    path.write_bytes(b"\x80\x04\x8c\x07os\nevil\x8c\x06system\x93.")
    assert "os?evil.system" in refusal(path)
    assert "\n" not in refusal(path)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_pickles_never_do_anything_else(tmp_path_factory, data):
    """Any change of any bytes gives arrays or one clear line."""
    whole = bytearray(pickle.dumps(TREE, data.draw(st.integers(2, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(whole)
    said, arrays = "", {}
    try:
        arrays = pickles.read_arrays(path)
    except PerceivioError as error:
        said = str(error)
    assert "\n" not in said
    assert all(type(values) is np.ndarray for values in arrays.values())
    assert all(values.dtype.kind in "fiub" for values in arrays.values())


# ---- names, paths and the hub ------------------------------------------------------------------


def test_names_without_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "deepmind/multimodal-perceiver" in refusal("base")
    assert "none were published" in refusal("base-176x")
    assert "none were published" in refusal("base-352x")
    assert "did you mean small" in refusal("smal")
    assert "base-176x" in refusal("base176x")
    assert "deepmind/multimodal-perceiver" in refusal("multimodal-perceiver")
    assert "there are small, base" in refusal("zzzzz")
    for missing in ("no/such/folder", "./weights", "clip.pkl", "a/b.safetensors", tmp_path / "x"):
        said = refusal(missing)
        assert "no such file or folder" in said or "no model, file or folder" in said
    (tmp_path / "notes.txt").write_text("hello")
    assert "neither a model folder nor a DeepMind pickle" in refusal("notes.txt")
    (tmp_path / "empty").write_bytes(b"")
    refusal("empty")


def test_shipped_weights(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    assert "small are not in this installation" in refusal("small")
    save_module(tiny, tmp_path / "weights_small")
    assert same_parameters(load_module("small"), tiny)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache of our own, and no network; a function that puts a model into it."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name, folder, commit, branch="main"):
        root = cache / f"models--{name.replace('/', '--')}"
        snapshot = root / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / branch).write_text(commit)
        for path in folder.iterdir():
            (snapshot / path.name).write_bytes(path.read_bytes())

    return put


def test_hub_id_from_the_cache(hub, hf_model, hf_folder, tmp_path):
    hub("someone/model", hf_folder, "a" * 40)
    module = load_module("someone/model")
    assert same_parameters(module, load_module(hf_folder))
    with torch.no_grad():
        module.encoder.latents.add_(1)
    hub("someone/model", save_module(module, tmp_path / "next"), "b" * 40, branch="next")
    assert identity(load_module("someone/model", revision="next")) == identity(module)
    assert identity(load_module("someone/model", revision="a" * 40)) != identity(module)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((hf_folder / "config.json").read_bytes())
    torch.save(hf_model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    hub("someone/old", tmp_path / "old", "c" * 40)
    assert same_parameters(load_module("someone/old"), load_module(hf_folder))


def test_hub_id_without_network(hub):
    said = refusal("deepmind/multimodal-perceiver")
    assert "hub cannot be reached" in said
    assert "go online once" in said


def test_a_folder_stands_before_the_hub(hub, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_module(tiny, tmp_path / "runs" / "one")
    assert same_parameters(load_module("runs/one"), tiny)


@pytest.mark.parametrize("kind", ["unknown", "gated", "revision", "http", "disk"])
def test_what_the_hub_answers_is_told_in_one_line(monkeypatch, kind):
    import huggingface_hub
    from huggingface_hub import errors

    response = types.SimpleNamespace(headers={}, request=None)
    error, wanted = {
        "unknown": (errors.RepositoryNotFoundError("x\ny", response=response), "is called"),
        "gated": (errors.GatedRepoError("x\ny", response=response), "hf auth login"),
        "revision": (errors.RevisionNotFoundError("x\ny", response=response), "no revision 'v9'"),
        "http": (errors.HfHubHTTPError("too\nslow", response=response), "too slow"),
        "disk": (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
    }[kind]

    def answer(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert wanted in refusal("someone/model", revision="v9")


def test_convert_checks_first(tmp_path):
    with pytest.raises(PerceivioError, match="no such file or folder"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(PerceivioError, match="only to"):
        convert(tmp_path / "nothing", tmp_path / "out", to="onnx")  # pyright: ignore
    assert list(tmp_path.iterdir()) == []
