"""Weights from strangers: programs in pickles, sizes that lie, configurations without measure.

What is refused is refused in one line, with nothing run, and before it costs memory: the worst of
each kind is read by the command in a process whose peak is measured.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SMALL, huggingface_model, tiny_config
from safetensors.torch import load_file, save_file

from perceivio import pickles, weights
from perceivio.config import Config
from perceivio.errors import PerceivioError
from perceivio.model import MultimodalAutoencoder
from perceivio.names import check_parameters
from perceivio.training.settings import SettingsError, read_settings
from perceivio.weights import load_module, save_module

MOST = 50_000_000  # bytes that refusing may cost


def refusal(source) -> str:
    """What is said of a source that is refused: one line, at little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(PerceivioError) as caught:
            load_module(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    return said


# The peak is of one process: its own, so that what the tests did before is not in it.
MEASURED = """
import resource, sys
from perceivio.cli import main
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = 0
import perceivio.weights, perceivio.pipeline, perceivio.autoencoder
perceivio.load("small")
before = peak()
try:
    main(sys.argv[1:])
finally:
    print("PEAK", peak() - before)
"""


def refused_by_the_command(*arguments) -> str:
    """The one line of the command in a process of its own; its exit code is 2, its memory low."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("PEAK ")
    assert int(done.stdout.split()[1]) < 3 * MOST
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("perceivio: ")
    return line


# ---- pickles that run code ---------------------------------------------------------------------


class Calls:
    """Pickled as a call of any function with any arguments; state, items as __reduce__ has them."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce_ex__(self, protocol):
        return self.reduced


def programs(marker: Path) -> dict[str, bytes]:
    """Pickles that write a file when they are read by an ordinary unpickler, each in its way."""
    shell = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    said = shell.encode()
    getattr_chain = Calls(getattr, (Calls(__import__, ("os",)), "system"))
    array = np.zeros(3)
    inner = pickle.dumps(Calls(os.system, (shell,)))
    made = {
        f"REDUCE, protocol {protocol}": pickle.dumps(Calls(os.system, (shell,)), protocol)
        for protocol in range(6)
    }
    made |= {
        "subprocess": pickle.dumps(Calls(subprocess.check_call, (["touch", str(marker)],))),
        "eval": pickle.dumps(Calls(eval, (code,))),
        "exec": pickle.dumps(Calls(exec, (code,))),
        "__import__": pickle.dumps(getattr_chain),
        "a leaf of a mapping": pickle.dumps({"a": {"w": Calls(os.system, (shell,))}}),
        "behind good arrays": pickle.dumps({"a": {"w": array, "b": Calls(os.system, (shell,))}}),
        "a key": pickle.dumps({Calls(eval, (code,)): {"w": array}}),
        "items of a list": pickle.dumps(Calls(list, (), None, iter([Calls(eval, (code,))]))),
        "a state": pickle.dumps(Calls(Exception, (), {"x": Calls(eval, (code,))})),
        "an array of objects": pickle.dumps(
            {"a": {"w": np.array([Calls(os.system, (shell,)), 1], object)}}
        ),
        "a pickle in a pickle": pickle.dumps(Calls(pickle.loads, (inner,))),
        "numpy.load": pickle.dumps(Calls(np.load, (str(marker.with_suffix(".npy")),))),
        "torch.load": pickle.dumps(Calls(torch.load, (str(marker.with_suffix(".pt")),))),
        "GLOBAL": b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(said)) + said + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(said)]) + said + b"\x85R.",
        "a dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sys\x93.",
        "INST": b"\x80\x02(X" + struct.pack("<I", len(said)) + said + b"iposix\nsystem\n.",
        "OBJ": b"\x80\x02(cposix\nsystem\nX" + struct.pack("<I", len(said)) + said + b"o.",
        "protocol 0 behind a head of 2": b"\x80\x02cposix\nsystem\n(S'" + said + b"'\ntR.",
        "through codecs": b"\x80\x02ccodecs\ndecode\nX\x01\x00\x00\x00aX\x05"
        b"\x00\x00\x00rot13\x86R.",
        "through an array's constructor": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
        b"cposix\nsystem\nX" + struct.pack("<I", len(said)) + said + b"\x85C\x01b\x87R.",
        "through an array's scalar": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
        b"X\x02\x00\x00\x00O8\x89\x88\x87RC" + bytes([len(inner)]) + inner + b"\x86R.",
        "through JAX": b"\x80\x02cjax._src.array\n_reconstruct_array\ncposix\nsystem\nX"
        + struct.pack("<I", len(said)) + said + b"\x85N\x87R.",
        "a method of a name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "a persistent id": b"\x80\x02X" + struct.pack("<I", len(said)) + said + b"Q.",
        "a persistent name": b"\x80\x02P" + said + b"\n.",
        "the registry of extensions": b"\x80\x02\x82\x01.",
        "a buffer outside": b"\x80\x05\x97.",
        "another pickle behind the first": pickle.dumps(7) + inner,
    }  # fmt: skip
    words = b"](" + b"".join(
        b"X" + struct.pack("<I", len(word)) + word for word in (b"touch", str(marker).encode())
    ) + b"e"  # fmt: skip
    popen = b"\x80\x04csubprocess\nPopen\n"
    made["NEWOBJ"] = popen + words + b"\x85\x81."
    made["NEWOBJ_EX"] = popen + b")}X\x04\x00\x00\x00args" + words + b"s\x92."
    # What joblib writes: an instance of its own class, whose state names the array's class.
    made["as joblib"] = (
        b"\x80\x04\x8c\x15joblib.numpy_pickle\x8c\x11NumpyArrayWrapper\x93)\x81}b" + inner
    )
    return made


def test_the_programs_would_run(tmp_path):
    """So that what is refused below is worth refusing: most do run in Python's own unpickler."""
    marker, ran = tmp_path / "ran", []
    for what, program in programs(marker).items():
        path = tmp_path / "program"
        path.write_bytes(program)
        script = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
        if what in ("REDUCE, protocol 2", "eval", "GLOBAL", "INST", "OBJ", "an array of objects"):
            subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
            ran.append(marker.exists())
            marker.unlink(missing_ok=True)
    assert ran == [True] * 6


def test_programs_are_refused_unexecuted(tmp_path):
    marker = tmp_path / "ran"
    for what, program in programs(marker).items():
        path = tmp_path / "weights.pkl"
        path.write_bytes(program)
        said = refusal(path)
        refusals = "refused", "neither a model", "holds something else", "not read"
        assert any(words in said for words in refusals), (
            what, said)  # fmt: skip
        assert not marker.exists(), what
    print(f"{len(programs(marker))} programs in pickles: all refused, none run")


@pytest.mark.parametrize("what", ["eval", "NEWOBJ", "an array of objects", "INST"])
def test_the_command_refuses_them_too(tmp_path, what):
    marker, path = tmp_path / "ran", tmp_path / "weights.pkl"
    path.write_bytes(programs(marker)[what])
    said = refused_by_the_command("convert", path, tmp_path / "out")
    assert "refused a pickle" in said or "object arrays are not read" in said
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_a_program_in_place_of_torch_weights(tmp_path):
    """pytorch_model.bin, as a zip that torch.load would unpickle, and as a plain pickle."""
    marker = tmp_path / "ran"
    huggingface_model(**SMALL).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "pytorch_model.bin"
    for what, program in programs(marker).items():
        path.write_bytes(program)
        refusal(tmp_path)
        torch.save({"x": torch.zeros(2)}, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, program if name.endswith("data.pkl") else data)
        refusal(tmp_path)
        assert not marker.exists(), what


# ---- pickles that cost -------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """Small files that would take memory or time without measure, or end the process."""
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
    keys = b"".join(b"X\x04\x00\x00\x00%04d" % i + b"N" for i in range(10_000))
    mapping = b"chaiku._src.data_structures\nFlatMapping\n"
    laughs = b"(lq\x00" + b"".join(
        b"(l" + b"h" + bytes([i]) * 1 + b"a" + b"h" + bytes([i]) + b"aq" + bytes([i + 1])
        for i in range(200)
    )
    return {
        "a place far out in the memo": b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
        "tuples in tuples as a key": b"\x80\x02}N" + b"\x85" * 900_000 + b"Ns.",
        "steps without end": b"\x80\x02" + b"}" * 2_000_000 + b".",
        "tuples of tuples": b"\x80\x02N" + b"\x85" * 2_000_000 + b".",
        "one text encoded again and again": b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01"
        + b"h\x00h\x01\x85R" * 5_000 + b".",
        "one mapping copied again and again": b"\x80\x02" + mapping + b"q\x00}(" + keys + b"uq\x01"
        + b"h\x00h\x01\x85R" * 5_000 + b".",
        "lists that double": b"\x80\x02" + laughs + b".",
        "lists that hold themselves": b"\x80\x02]q\x00h\x00a}X\x01\x00\x00\x00ah\x00s.",
        "bytes of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
        "bytes of 2^63": b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"abc.",
        "a text of 2^40": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        "an array of 2^40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
        "a frame of 2^50": b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.",
        "a number of 2^31 digits": b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01.",
        "a number in a million figures": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
        "marks without end": b"\x80\x02" + b"(" * 2_000_000 + b".",
        "numbers that collide": b"\x80\x02}("
        + b"".join(b"\x8a\x09" + (k << 61).to_bytes(9, "little") + b"N" for k in range(1000))
        + b"u.",
    }  # fmt: skip


@pytest.mark.parametrize("what", bombs())
def test_bombs_cost_little(tmp_path, what):
    path = tmp_path / "weights.pkl"
    path.write_bytes(bombs()[what])
    refusal(path)


@pytest.mark.parametrize("what", ["a place far out in the memo", "tuples in tuples as a key"])
def test_bombs_in_the_command(tmp_path, what):
    path = tmp_path / "weights.pkl"
    path.write_bytes(bombs()[what])
    refused_by_the_command("convert", path, tmp_path / "out")


def test_shapes_that_are_not_those_of_the_bytes(tmp_path):
    path = tmp_path / "weights.pkl"
    for shape in ((2**40,), (-1,), (2**62, 4), (True,), (3.0,), [3], "3", (3, 0), (1,) * 100, (4,)):
        state = 1, shape, np.dtype("f8"), False, bytes(24)
        whole = pickle.dumps({"a": {"w": Calls(*np.zeros(3).__reduce__()[:2], state)}})
        path.write_bytes(whole)
        assert "truncated or damaged" in refusal(path), shape
    state = 1, (3,), np.dtype("f8"), False, bytes(24)
    path.write_bytes(pickle.dumps({"a": {"w": Calls(*np.zeros(3).__reduce__()[:2], state)}}))
    assert pickles.read_arrays(path)["a/w"].shape == (3,)


# ---- torch's files -----------------------------------------------------------------------------


@pytest.fixture
def torch_folder(tmp_path):
    huggingface_model(**SMALL).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()

    def put(**changes):
        torch.save({**tensors, **changes}, tmp_path / "pytorch_model.bin")
        return tmp_path

    return put


LATENTS = "perceiver.embeddings.latents"


@pytest.mark.parametrize("form", ["zip", "old"])
def test_one_number_cannot_stand_for_many(torch_folder, form):
    """A stride of zero: 4 bytes that would be 4 TB when they are copied."""
    folder = torch_folder(**{LATENTS: torch.zeros(1).expand(10**6, 10**6)})
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_latents": 2**16, "d_latents": 2**10}
    (folder / "config.json").write_text(json.dumps(config))
    assert "more numbers than it has bytes for" in refusal(folder)
    one = torch.zeros(10_000)
    torch.save(
        {f"w{i}": one.view(100, 100) for i in range(100)}, folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=form == "zip",
    )  # fmt: skip
    assert "more numbers than it has bytes for" in refusal(folder)


def test_tensors_of_other_kinds(torch_folder):
    for tensor in (
        torch.zeros(6, 32).to_sparse(), torch.empty(6, 32, device="meta"),
        torch.zeros(6, 32, dtype=torch.complex64), torch.zeros(6, 32, dtype=torch.int64),
        torch.full((6, 32), float("nan")), torch.full((6, 32), 1e300, dtype=torch.float64),
    ):  # fmt: skip
        refusal(torch_folder(**{LATENTS: tensor}))
    load_module(torch_folder())


def test_truncated_torch_files(torch_folder):
    path = torch_folder() / "pytorch_model.bin"
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:size])
        refusal(path.parent)


# ---- safetensors -------------------------------------------------------------------------------


@pytest.fixture
def tiny_folder(tmp_path):
    torch.manual_seed(0)
    module = MultimodalAutoencoder(tiny_config())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return save_module(module, tmp_path / "m")


def lying(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        lying(b"[]"),
        lying(b"{"),
        lying(b"[" * 100_000),
        lying(b"\xff" * 20),
        lying({"a": {**F32, "data_offsets": [0, 2**60]}}, bytes(8)),
        lying({"a": {**F32, "shape": [2**60]}}, bytes(8)),
        lying({"a": {**F32, "shape": [2**32, 2**32]}}, bytes(8)),
        lying({"a": {**F32, "shape": [-2]}}, bytes(8)),
        lying({"a": {**F32, "shape": [3]}}, bytes(8)),
        lying({"a": {**F32, "dtype": "F64"}}, bytes(8)),
        lying({"a": {**F32, "dtype": "OBJ"}}, bytes(8)),
        lying({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
        lying({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)),
        lying({"a": F32, "b": F32}, bytes(8)),
        lying({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        lying({"a": F32, "b": {**F32, "data_offsets": [16, 24]}}, bytes(24)),
        lying({"a": F32}, bytes(4)),
        lying({"a": F32}, bytes(4000)),
        lying(b'{"a": 5}', bytes(8)),
        lying({"__metadata__": {"a": 7}, "a": F32}, bytes(8)),
    ],
)
def test_lying_safetensors(tiny_folder, data):
    (tiny_folder / "model.safetensors").write_bytes(data)
    assert "model.safetensors is truncated or damaged" in refusal(tiny_folder)


def test_safetensors_of_other_names_and_a_name_twice(tiny_folder):
    path = tiny_folder / "model.safetensors"
    twice = json.dumps(F32)
    path.write_bytes(lying(f'{{"a": {twice}, "a": {twice}}}'.encode(), bytes(8)))
    refusal(tiny_folder)
    path.write_bytes(lying({"\x1b[31m\n": F32}, bytes(8)))
    refusal(tiny_folder)
    path.write_bytes(lying({"a" * 10_000: F32}, bytes(8)))
    refusal(tiny_folder)


def test_safetensors_cut_anywhere_or_longer(tiny_folder):
    path = tiny_folder / "model.safetensors"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(PerceivioError, match="truncated or damaged"):
            weights._read_safetensors([path])
    path.write_bytes(whole + b"\0")
    refusal(tiny_folder)
    print(f"{len(whole)} truncations of a safetensors file: all refused")


def test_every_byte_of_a_safetensors_header(tiny_folder):
    """Another model of the same shapes, or one line: never anything else."""
    path = tiny_folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    wanted = weights._read_safetensors([path]).shapes
    random, outcomes = np.random.default_rng(0), {"refused": 0, "read": 0}
    told = set()
    for place in range(8 + length):
        altered = bytearray(whole)
        altered[place] ^= int(random.integers(1, 256))
        path.write_bytes(altered)
        try:
            found = weights._read_safetensors([path])
            check_parameters(wanted, found.shapes, str(path))
            outcomes["read"] += 1  # spaces behind the header, and the metadata, mean nothing
        except PerceivioError as error:
            told.add("\n" in str(error))
            outcomes["refused"] += 1
    assert told == {False}
    print(f"a byte of a safetensors header altered: {outcomes}")
    assert outcomes["refused"] > length * 0.9


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tiny_folder, value):
    path = tiny_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.latents"][2, 3] = value
    save_file(tensors, path)
    assert "encoder.latents holds values that are not finite" in refusal(tiny_folder)


# ---- configurations ----------------------------------------------------------------------------

HUGE = 10**12
ABSURD = [
    {"latents": HUGE}, {"latents": 2**25}, {"latent_channels": HUGE}, {"latents": True},
    {"latents": 5.0}, {"latents": "5"}, {"latents": None}, {"latents": [5]}, {"latents": -5},
    {"latents": float("nan")}, {"latents": float("inf")},
    {"self_attends": HUGE}, {"blocks": HUGE}, {"blocks": 10**6}, {"blocks": True},
    {"output_channels": HUGE}, {"input_padding": HUGE}, {"query_padding": True},
    {"input_padding": 1.5}, {"encode": {"heads": HUGE}}, {"encode": {"widening": HUGE}},
    {"encode": {"qk_channels": HUGE}}, {"process": {"heads": True}}, {"process": {"heads": None}},
    {"decode": {"query_residual": "yes"}}, {"decode": []}, {"decode": 5}, {"name": 5},
    {"name": "\x1b]0;evil\x07"}, {"activation": ["gelu"]}, {"unknown": 1}, {"modalities": {}},
]  # fmt: skip
ABSURD_MODALITY = [
    {"shape": [10**9, 10**9]}, {"shape": [HUGE, 6]}, {"shape": [2**20, 2**20]}, {"shape": [4.0, 6]},
    {"shape": [True, 6]}, {"shape": [-4, 6]}, {"shape": [0, 6]}, {"shape": "46"}, {"shape": {}},
    {"shape": [float("nan"), 6]}, {"shape": [4] * 1000}, {"patch": [3, 3]}, {"patch": [2]},
    {"patch": [HUGE, 3]}, {"output_patch": [5, 2]}, {"channels": HUGE}, {"channels": True},
    {"bands": HUGE}, {"bands": -1}, {"bands": 0}, {"bands": 2.5}, {"bands": True},
    {"resolution": [HUGE, 6]}, {"resolution": [0, 6]}, {"embed": HUGE}, {"embed": 0},
    {"embed": 2.5}, {"embed": -1}, {"query": HUGE}, {"query": -1}, {"query": True}, {"std": 0},
    {"std": float("nan")}, {"std": float("inf")}, {"std": -1}, {"std": "1"}, {"std": True},
    {"mean": float("nan")}, {"mean": float("-inf")}, {"mean": 10**400}, {"mean": "0"},
    {"mean": None}, {"channel_axis": 99}, {"channel_axis": True}, {"channel_axis": "last"},
    {"rate": HUGE}, {"rate": -25}, {"rate": 25.5}, {"rate": True}, {"media": "virus"},
    {"media": ["video"]}, {"beside": "../../etc/{stem}.csv"}, {"beside": "/etc/{stem}.csv"},
    {"beside": 5}, {"columns": [1, 2]}, {"time": 5}, {"names": ["a"]}, {"unknown": 1},
]  # fmt: skip


def configured(folder: Path, text) -> Path:
    (folder / "config.json").write_text(text if isinstance(text, str) else json.dumps(text))
    return folder


def test_absurd_configurations(tiny_folder):
    plain = json.loads((tiny_folder / "config.json").read_text())
    config = plain["config"]
    for change in ABSURD:
        refusal(configured(tiny_folder, {**plain, "config": {**config, **change}}))
    for change in ABSURD_MODALITY:
        depth = {**config["modalities"]["depth"], **change}
        changed = {**config, "modalities": {**config["modalities"], "depth": depth}}
        refusal(configured(tiny_folder, {**plain, "config": changed}))
    kind = config["modalities"]["kind"]
    for change in ({"names": [1, 2, 3]}, {"names": ["a", "b", "\x1b[2J"]}, {"names": 5}):
        changed = {**config, "modalities": {"kind": {**kind, **change}}}
        refusal(configured(tiny_folder, {**plain, "config": changed}))
    for names in (["a/b"], ["a.b"], [""], ["\n"], [f"m{i}" for i in range(5000)]):
        changed = {**config, "modalities": dict.fromkeys(names, kind)}
        refusal(configured(tiny_folder, {**plain, "config": changed}))
    load_module(configured(tiny_folder, plain))  # and the unchanged one is read
    print(f"{len(ABSURD) + len(ABSURD_MODALITY) + 8} absurd configurations: all refused")


def test_json_that_is_too_long_or_too_deep(tiny_folder):
    plain = (tiny_folder / "config.json").read_text()
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"config": ' + "[" * 10**5 + "]" * 10**5 + "}",
                 '{"version": ' + "9" * 10**6 + "}", plain[:-3]):  # fmt: skip
        refusal(configured(tiny_folder, text))
    with (tiny_folder / "config.json").open("wb") as file:
        file.truncate(2**30)  # a gigabyte of zeros that takes no room
    assert "larger than" in refusal(tiny_folder)
    with (tiny_folder / "model.safetensors.index.json").open("wb") as file:
        file.truncate(2**30)
    (tiny_folder / "config.json").write_text(plain)
    (tiny_folder / "model.safetensors").unlink()
    assert "larger than" in refusal(tiny_folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_latents": HUGE}, {"num_blocks": HUGE}, {"num_latents": True}, {"num_frames": HUGE},
        {"output_shape": [1, 10**9, 10**9, 4]}, {"audio_samples_per_frame": HUGE},
        {"num_labels": HUGE, "id2label": None}, {"num_labels": -1, "id2label": None},
        {"image_size": HUGE}, {"samples_per_patch": 0}, {"samples_per_patch": 7},
        {"output_num_channels": HUGE}, {"self_attention_widening_factor": HUGE},
        {"num_frames": "3"}, {"d_latents": None}, {"d_latents": float("nan")},
        {"id2label": {"0": "\x1b[2J"}}, {"id2label": {"1": "a"}}, {"architectures": 5},
        {"architectures": {}}, {"hidden_act": []}, {"use_query_residual": "no"},
        {"_label_trainable_num_channels": HUGE}, {"qk_channels": HUGE},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_configurations_of_hugging_face(torch_folder, changes):
    folder = torch_folder()
    config = json.loads((folder / "config.json").read_text())
    if "architectures" in changes and not changes["architectures"]:
        changes = {**changes, "num_latents": -1}  # none is taken for theirs
    refusal(configured(folder, {**config, **changes}))


def test_an_absurd_configuration_in_the_command(tiny_folder, tmp_path):
    plain = json.loads((tiny_folder / "config.json").read_text())
    plain["config"]["modalities"]["depth"]["shape"] = [10**9, 6 * 10**9]
    said = refused_by_the_command(
        "convert", configured(tiny_folder, plain), tmp_path / "out"
    )
    assert "config.json" in said or str(tiny_folder) in said


def test_a_configuration_is_checked_wherever_it_comes_from():
    with pytest.raises(PerceivioError):
        Config.from_dict({"modalities": {"x": {"shape": [10**9] * 9, "channels": 1}}})


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000, "[" * 100_000, 'model.config.latents = "many"',
        "[model.config]\nlatents = 1000000000000", "[schedule]\nsteps = true",
        "[run]\nbatch = nan", "[optimiser]\nrate = inf", "a = " + "9" * 10_000,
        "[model.config.modalities.depth]\nshape = [1000000000, 1000000000]\nchannels = 1",
        "\0", "[[model]]\n", "[model]\npreset = '../../etc/passwd'",
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_hostile_toml(tmp_path, text):
    from perceivio.training.start import Declared

    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(PerceivioError) as caught:
        Declared.by(read_settings(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_toml_that_is_too_long(tmp_path):
    path = tmp_path / "c.toml"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(SettingsError, match="larger than"):
        read_settings(path)


# ---- places ------------------------------------------------------------------------------------


def test_what_is_no_file(tmp_path, tiny_folder):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # to open one without a writer would wait for ever
    assert "neither a model folder nor" in refusal(pipe)
    for device in ("/dev/null", "/dev/zero", "/dev/random"):
        assert "neither a model folder nor" in refusal(device)
    for name in ("model.safetensors", "config.json"):
        (tiny_folder / name).unlink()
        os.mkfifo(tiny_folder / name)
        refusal(tiny_folder)


@pytest.mark.parametrize("name", ["../m/model.safetensors", "/etc/passwd", "..", ".", "", "a/../b"])
def test_an_index_of_files_that_points_elsewhere(tiny_folder, name):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "x.safetensors")
    index = tiny_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"encoder.latents": name}}))
    said = refusal(tiny_folder)
    assert "names no files of its folder" in said or "no such file" in said
    index.write_text(json.dumps({"weight_map": {"encoder.latents": "x.safetensors"}}))
    load_module(tiny_folder)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../b", "..", "../../etc/passwd", "a/b/c", "~nobody/x", "a\nb/c", "-/..",
             "file:///etc/passwd", "https://example.com/x"]
)  # fmt: skip
def test_hub_ids_that_look_like_paths(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)

    def never(*_, **__):
        raise AssertionError(f"asked the hub for {name}")

    monkeypatch.setattr(weights, "_download", never)
    if name == "..":
        assert "is no model" in refusal(name)
    else:
        said = refusal(name)
        assert "no such file" in said or "no model" in said
