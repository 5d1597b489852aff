"""Tables, indexes and checkpoints from strangers: one line for what they should not hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from data_files import make_clip
from models import tiny_config
from pyarrow import parquet

from perceivio.data.catalogue import METADATA, Index
from perceivio.data.indexing import build
from perceivio.data.store import Place
from perceivio.embedding_table import Facts, Table, TableWriter
from perceivio.errors import PerceivioError
from perceivio.model import MultimodalAutoencoder
from perceivio.training.checkpoints import CheckpointError, Checkpoints, check_parts, told_of_state
from perceivio.training.optimisers import optimiser_of, take_moments
from perceivio.training.settings import Keep, Optimiser
from perceivio.training.start import resumed

# ---- tables for `search` -----------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.parquet"
    with TableWriter(path, Facts("ab" * 32, "small", "mean", 4)) as writer:
        for i in range(20):
            writer.add(f"{i}.mp4", [(0.0, 1.0)], np.full((1, 4), float(i)))
    return path


def read(path) -> str:
    """Of a table that is read to its end: what is said, in one line; empty where it is whole."""
    try:
        for rows in Table(path):
            assert np.isfinite(rows.vectors).all()
    except PerceivioError as error:
        return str(error)
    return ""


def test_every_altered_byte_of_a_table_gives_a_table_or_one_line(table):
    assert not read(table)
    whole, random = table.read_bytes(), np.random.default_rng(0)
    told = 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= int(random.integers(1, 256))
        table.write_bytes(altered)
        told += bool(read(table))
    print(f"{len(whole)} tables with an altered byte: {told} refused, the others read")
    assert told > len(whole) / 4
    for size in range(0, len(whole), 7):
        table.write_bytes(whole[:size])
        assert read(table)


@pytest.mark.parametrize("column", ["file", "start", "stop", "embedding"])
def test_rows_that_lack_values(table, column):
    found = parquet.read_table(table)
    at = found.schema.get_field_index(column)
    none = pa.nulls(len(found), found.schema.field(column).type)
    field = found.schema.field(column).with_nullable(True)
    parquet.write_table(found.set_column(at, field, none), table)
    assert read(table)


@pytest.mark.parametrize("change", [{"channels": 2**31 - 1}, {"channels": -4}, {"channels": True},
                                    {"channels": "4"}, {"identity": 5}, {"model": None},
                                    {"model": "\x1b[2J"}, {"unknown": 1}, {"kind": 1}])  # fmt: skip
def test_metadata_that_lie(table, change):
    found = parquet.read_table(table)
    told = json.loads(found.schema.metadata[b"perceivio"]) | change
    parquet.write_table(found.replace_schema_metadata({b"perceivio": json.dumps(told)}), table)
    assert read(table)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite(table, value):
    with TableWriter(table, Facts("ab" * 32, "small", "mean", 4), overwrite=True) as writer:
        writer.add("a.mp4", [(0.0, 1.0)], np.full((1, 4), value))
    assert "not finite" in read(table)


# ---- indexes -----------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path):
    make_clip(tmp_path / "videos" / "a.mkv", 20)
    found, _ = build(str(tmp_path / "videos"), keep_short=True, keep_silent=True)
    return found, Place.of(tmp_path / "i.parquet")


@pytest.mark.parametrize(
    "facts",
    [b"{", b"[]", b"5", b"null", b"{}", b"[" * 100_000, b'{"version": []}', b'{"version": 2}',
     b'{"version": 2, "root": 5, "root_is_relative": true, "classes": []}',
     b'{"version": 2, "root": ".", "root_is_relative": true, "classes": 5}',
     b'{"version": 2, "root": "nowhere://x", "root_is_relative": false, "classes": []}'],
    ids=lambda facts: facts[:30].decode(),
)  # fmt: skip
def test_an_index_whose_metadata_are_altered(index, facts):
    found, place = index
    found.write(place)
    table = parquet.read_table(place.path)
    parquet.write_table(table.replace_schema_metadata({METADATA: facts}), place.path)
    with pytest.raises(PerceivioError) as caught:
        Index.read(place)
    assert str(caught.value).isprintable()


def test_an_index_without_its_columns(index):
    found, place = index
    found.write(place)
    table = parquet.read_table(place.path)
    for altered in (table.drop_columns(["path"]), table.drop_columns(["size", "beside"])):
        parquet.write_table(altered.replace_schema_metadata(table.schema.metadata), place.path)
        with pytest.raises(PerceivioError, match="damaged, or altered"):
            Index.read(place)


@pytest.mark.parametrize("path", ["../secret.mkv", "/etc/passwd", "a/../../secret.mkv", ".."])
def test_an_index_does_not_lead_out_of_its_root(index, tmp_path, path):
    found, _ = index
    make_clip(tmp_path / "secret.mkv", 20)
    columns = found.table.to_pylist()
    clip = found[0]
    columns[0]["path"] = path
    changed = Index(found.root, found.classes, pa.Table.from_pylist(columns, found.table.schema))
    for use in (changed.open, changed.bytes_of):
        with pytest.raises(PerceivioError, match="leads out of the data set"):
            use(changed[0])
    columns[0] |= {"path": "a.mkv", "shard": path, "offset": 0}
    changed = Index(found.root, found.classes, pa.Table.from_pylist(columns, found.table.schema))
    with pytest.raises(PerceivioError, match="leads out of the data set"):
        changed.bytes_of(changed[0])
    assert len(found.bytes_of(clip)) == clip.size


@pytest.mark.parametrize(("offset", "size"), [(-5, 10), (0, -1), (0, 2**62), (2**62, 2**62)])
def test_parts_of_a_shard_that_are_nowhere(index, offset, size):
    found, _ = index
    rows = found.table.to_pylist()
    rows[0] |= {"shard": "a.mkv", "offset": offset, "size": size}
    changed = Index(found.root, found.classes, pa.Table.from_pylist(rows, found.table.schema))
    with pytest.raises(PerceivioError):
        changed.bytes_of(changed[0])


@pytest.mark.parametrize(
    "words",
    ["search 0 --in it", "train it -o run", "data pack it -o pack", "decode it -o it.mp4"],
)
def test_a_pipe_is_not_waited_for(tmp_path, words):
    os.mkfifo(tmp_path / "it")
    command = [sys.executable, "-m", "perceivio.cli", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("perceivio: ")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


# ---- what reaches the terminal -----------------------------------------------------------------


def test_names_of_files_in_a_table_do_not_command_the_terminal(tmp_path, command):
    path, name = tmp_path / "t.parquet", "\x1b[2J\x9b1m\r[bold]\u202egpj.4pm"
    with TableWriter(path, Facts("ab" * 32, "small", "mean", 4)) as writer:
        for _ in range(2):
            writer.add(name, [(0.0, 1.0)], np.ones((1, 4)))
    code, told, _ = command("search", 0, "--in", path)
    assert code == 0
    assert "?[2J?1m?[bold]?gpj.4pm" in told
    code, told, _ = command("search", 0, "--in", path, "--json")
    assert told.removesuffix("\n").isprintable()
    assert json.loads(told)["hits"][0]["file"] == name


# ---- checkpoints -------------------------------------------------------------------------------


def state_of(module) -> dict:
    weights = module.state_dict()
    return {
        "version": 1, "step": 3, "scores": {}, "settings": {}, "data": "", "average": weights,
        "config": module.config.to_dict(), "module": weights, "optimiser": {"state": {}},
    }  # fmt: skip


def test_checkpoints_that_lie(tmp_path):
    module = MultimodalAutoencoder(tiny_config())
    kept, state = Checkpoints(tmp_path, Keep()), state_of(module)

    def use(state):
        torch.save(state, kept.path(3))
        found = kept.read(3)
        check_parts(found, 3, kept.path(3))
        with told_of_state(kept.path(3)):
            return resumed(found, "it")

    assert use(state).module.config == module.config
    huge = {**state["config"], "latents": 2**16, "latent_channels": 2**10}
    wide = {**state["module"], "encoder.latents": torch.zeros(1).expand(2**16, 2**10)}
    for change in (
        {"config": huge}, {"config": {}}, {"config": {"latents": -1}}, {"module": {}},
        {"module": wide}, {"config": huge, "module": wide}, {"module": {"a": 5}}, {"module": []},
        {"step": 4}, {"step": "3"}, {"step": True}, {"scores": None}, {"settings": 5},
        {"version": 2}, {"optimiser": None}, {"data": 5},
    ):  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            use({**state, **change})
        assert str(caught.value).isprintable()
    for alone in ([], 5, None, {}, torch.zeros(3)):
        with pytest.raises(CheckpointError):
            use(alone)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_moments_that_are_not_of_the_model(name):
    module = MultimodalAutoencoder(tiny_config())

    def fresh():
        return optimiser_of(module, Optimiser(name=name))

    stepped = fresh()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepped.step()
    whole = stepped.state_dict()
    take_moments(fresh(), whole)
    key, moments = next(iter(whole["state"].items()))
    moment = next(n for n, value in moments.items() if torch.is_tensor(value) and value.numel() > 1)
    wrong = [{moment: moments[moment].flatten()[:1]}, {moment: moments[moment].flatten()}]
    wrong += [{moment: 5}, {moment: torch.zeros(2**12)}, {"step": torch.zeros(2)}, {"more": 1}]
    states = [{**whole["state"], key: {**moments, **change}} for change in wrong]
    states += [{**whole["state"], key: value} for value in (5, [], {}, {"step": 1}, None)]
    states += [{**whole["state"], 10**6: moments}, [], 5, {key: 5}]
    for state in states:
        with pytest.raises(CheckpointError) as caught, told_of_state(Path("000000003.pt")):
            take_moments(fresh(), {**whole, "state": state})
        assert "000000003.pt" in str(caught.value)
