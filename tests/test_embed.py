"""Vectors of windows and exact search: against NumPy and plain Parquet, on real clips."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from media_files import beeps, make_media
from models import tiny_config
from PIL import Image

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.config import Attend
from perceivio.embedding_table import ROWS, Facts, Table, TableWriter
from perceivio.embeddings import POOLINGS, Pooler, nothing
from perceivio.errors import PerceivioError
from perceivio.identity import identity
from perceivio.model import MultimodalAutoencoder
from perceivio.searching import Query, nearest, search, unit

ASSETS = Path(__file__).parent.parent / "assets"
FACTS = Facts("0" * 64, "small", "spread", 3)


@pytest.fixture(scope="module")
def small() -> Autoencoder:
    return perceivio.load("small")


@pytest.fixture(scope="module")
def table(tmp_path_factory, small) -> Path:
    """Of a film, a spoken digit, the same digit again, a sound and a photograph."""
    folder = tmp_path_factory.mktemp("table")
    again = folder / "again.mp4"
    again.write_bytes((ASSETS / "digit.mp4").read_bytes())
    make_media(folder / "beep.wav", sound=beeps([0.2, 0.9], 1.4), sound_codec="pcm_s16le")
    Image.fromarray(np.full((80, 90, 3), (200, 30, 90), np.uint8)).save(folder / "photo.png")
    names = [ASSETS / "bbb_scene.mp4", ASSETS / "digit.mp4", again]
    names += [folder / "beep.wav", folder / "photo.png"]
    report = perceivio.embed(names, folder / "clips.parquet", small)
    assert (report.files, report.skipped) == (5, {})
    return folder / "clips.parquet"


@pytest.fixture
def other(tmp_path) -> Path:
    """A model that is not `small`."""
    torch.manual_seed(0)
    return Autoencoder(MultimodalAutoencoder(tiny_config())).save(tmp_path / "other")


@pytest.mark.parametrize("residual", [True, False])
def test_nothing_is_what_the_plain_module_makes_of_masked_tokens(residual):
    torch.manual_seed(0)
    encode = Attend(heads=2, qk_channels=6, v_channels=4, query_residual=residual)
    module = MultimodalAutoencoder(tiny_config(encode=encode))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        tokens = [module.io(name).masked_tokens(1) for name in module.config.modalities]
        wanted = module.encoder(torch.cat(tokens, 1))[0]
    torch.testing.assert_close(nothing(module), wanted, atol=1e-5, rtol=1e-5)


def test_poolings_are_moments_of_what_differs_from_nothing(small):
    latents = torch.randn(4, 168, 320, generator=torch.Generator().manual_seed(0))
    moved = latents.double().numpy() - nothing(small.module).double().numpy()
    wanted = {"mean": moved.mean(1), "spread": moved.std(1)}
    wanted["both"] = np.concatenate([wanted["mean"], wanted["spread"]], 1)
    for pooling in POOLINGS:
        pooler = Pooler(small, pooling)
        got = pooler(latents)
        assert got.shape == (4, pooler.channels)
        np.testing.assert_allclose(got.numpy(), wanted[pooling], atol=1e-5)


def test_a_table_is_plain_parquet_with_a_row_a_window(table, small):
    rows = parquet.read_table(table).to_pylist()
    assert list(rows[0]) == ["file", "start", "stop", "model", "embedding"]
    assert {row["model"] for row in rows} == {identity(small.module)}
    told = json.loads(parquet.read_schema(table).metadata[b"perceivio"])
    assert told == {
        "kind": "embeddings", "version": 1, "identity": identity(small.module),
        "model": "small", "pooling": "spread", "channels": 320,
    }  # fmt: skip
    pooler, place = Pooler(small), 0
    for file in dict.fromkeys(row["file"] for row in rows):
        for window in perceivio.read(file, small):
            row = rows[place]
            assert (row["file"], row["start"], row["stop"]) == (file, window.start, window.stop)
            wanted = pooler(small.encode(window.inputs))[0].numpy()
            np.testing.assert_allclose(row["embedding"], wanted, atol=2e-4)
            place += 1
    assert place == len(rows)
    counts = [sum(row["file"].endswith(end) for row in rows) for end in ("again.mp4", "png")]
    assert counts == [3, 1]


def test_search_is_exact(table):
    rows = parquet.read_table(table).to_pylist()
    vectors = np.array([row["embedding"] for row in rows], np.float64)
    cosines = (vectors @ vectors.T) / np.outer(*2 * [np.linalg.norm(vectors, axis=1)])
    for number in (0, 9, len(rows) - 1):
        hits = search(number, table, top=5)
        near = [i for i in np.argsort(-cosines[number], kind="stable") if i != number][:5]
        assert sorted(hit.cosine for hit in hits) == pytest.approx(sorted(cosines[number][near]))
        for hit in hits:
            row = rows[hit.row]
            assert (hit.file, hit.start, hit.stop) == (row["file"], row["start"], row["stop"])
            assert hit.cosine == pytest.approx(cosines[number, hit.row], abs=1e-6)
            assert hit.query_start == rows[number]["start"]
    others = search(9, table, top=99, others=True)
    assert len(others) == sum(row["file"] != rows[9]["file"] for row in rows)


def test_equally_near_rows_come_in_the_tables_order(tmp_path):
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    base = rng.standard_normal((40, 3)).astype(np.float32)
    base[20:] = base[:20]
    with TableWriter(path, FACTS) as writer:
        writer.add("a", [(i, i + 1) for i in range(40)], base)
    hits = search(3, path, top=39)
    assert hits[0].row == 23  # its double
    for one, two in pairwise(hits):
        assert (-one.cosine, one.row) < (-two.cosine, two.row)


def test_many_rows_go_through_some_at_a_time(tmp_path):
    path, rng = tmp_path / "many.parquet", np.random.default_rng(1)
    vectors = rng.standard_normal((3 * ROWS + 17, 3)).astype(np.float32)
    with TableWriter(path, FACTS) as writer:
        for at in range(0, len(vectors), 100):
            some = vectors[at : at + 100]
            writer.add(f"file {at}", [(i / 10, i / 10 + 1) for i in range(len(some))], some)
    groups = parquet.ParquetFile(path).metadata
    assert [groups.row_group(n).num_rows for n in range(4)] == [ROWS] * 3 + [17]
    table = Table(path)
    assert max(len(rows) for rows in table) <= ROWS
    queries = rng.standard_normal((600, 3))
    query = Query("none", [float(i) for i in range(600)], unit(queries))
    hits = nearest(query, table, 25)
    cosines = unit(vectors) @ unit(queries).T
    wanted = np.sort(cosines.max(1))[::-1][:25]
    np.testing.assert_allclose([hit.cosine for hit in hits], wanted, atol=1e-8)
    for hit in hits:
        assert cosines[hit.row, int(hit.query_start)] == pytest.approx(hit.cosine, abs=1e-8)


def test_the_command_finds_a_window_and_its_double(command, table):
    run = ("search", ASSETS / "digit.mp4", "--in", table, "--at", "0.64")
    code, told, _ = command(*run, "--top", "2", "--json")
    assert code == 0
    hits = json.loads(told)["hits"]
    assert [Path(hit["file"]).name for hit in hits] == ["digit.mp4", "again.mp4"]
    assert {(hit["start"], hit["query_start"]) for hit in hits} == {(0.64, 0.64)}
    assert [hit["cosine"] for hit in hits] == pytest.approx([1, 1], abs=1e-5)
    code, told, _ = command(*run, "--top", "3", "--others")
    assert code == 0
    lines = told.splitlines()
    assert len(lines) == 4
    assert "again.mp4" in lines[1]
    assert "0.64 - 1.28 s" in lines[1]
    assert "/digit.mp4" not in "".join(lines[1:])
    code, told, _ = command("search", "2", "--in", table, "--top", "1", "--json")
    assert code == 0
    assert json.loads(told)["hits"][0]["row"] != 2
    whole = json.loads(command("search", ASSETS / "digit.mp4", "--in", table, "--json")[1])["hits"]
    assert {hit["start"] for hit in whole[:6]} == {hit["query_start"] for hit in whole[:6]}


def test_a_file_that_cannot_be_read_is_told_and_the_others_stay(command, tmp_path):
    bad, out = tmp_path / "bad.mp4", tmp_path / "t.parquet"
    bad.write_text("this is no film\n" * 100)
    run = ("embed", bad, ASSETS / "digit.mp4", tmp_path / "absent.mp4", "-o", out)
    code, told, err = command(*run, "--json", "--pooling", "both", "--duration", "1")
    assert code == 2
    assert [line.split(":")[0] for line in err.strip().splitlines()] == ["perceivio"] * 2
    figures = json.loads(told)
    assert (figures["files"], figures["windows"], figures["channels"]) == (1, 2, 640)
    assert list(figures["skipped"]) == [str(bad), str(tmp_path / "absent.mp4")]
    assert parquet.read_table(out).num_rows == 2
    assert "--overwrite" in command.fails("embed", ASSETS / "digit.mp4", "-o", out)
    code, told, err = command("embed", bad, "-o", tmp_path / "none.parquet")
    assert code == 2
    assert "no file could be read" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4", "t.parquet"]
    assert "no such folder" in command.fails("embed", ASSETS / "digit.mp4", "-o", tmp_path / "a/b")


def test_nothing_is_left_of_a_table_that_is_broken_off(tmp_path):
    path = tmp_path / "t.parquet"

    def broken_off() -> None:
        with TableWriter(path, FACTS) as writer:
            writer.add("a", [(0, 1)], np.ones((1, 3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_model_is_told(command, table, other, tmp_path):
    line = command.fails("search", ASSETS / "digit.mp4", "--in", table, "--model", other)
    assert "'small'" in line
    assert identity(perceivio.load("small").module)[:12] in line
    assert identity(perceivio.load(other).module)[:12] in line
    # The same weights under another name are the same model.
    perceivio.load("small").save(tmp_path / "copy")
    code, _, _ = command("search", ASSETS / "digit.mp4", "--in", table, "-m", tmp_path / "copy")
    assert code == 0


def test_files_of_latents_give_the_vectors_of_their_source(command, table, other, tmp_path):
    kept = tmp_path / "digit.latents"
    perceivio.encode(ASSETS / "digit.mp4", kept, precision="float32", overlap=0)
    out = tmp_path / "t.parquet"
    code, told, err = command("embed", kept, "-o", out)
    assert (code, err) == (0, "")
    rows = parquet.read_table(out).to_pylist()
    wanted = [row for row in parquet.read_table(table).to_pylist() if "digit.mp4" in row["file"]]
    assert [(row["start"], row["stop"]) for row in rows] == [(0, 0.64), (0.64, 1.28), (1.28, 1.92)]
    for one, two in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(one["embedding"], two["embedding"], atol=2e-4)
    code, told, _ = command("search", kept, "--at", "0.7", "--in", table, "--top", "1", "--json")
    assert code == 0
    hit = json.loads(told)["hits"][0]
    assert (hit["start"], Path(hit["file"]).name) == (0.64, "digit.mp4")
    line = command("embed", kept, "-o", tmp_path / "no.parquet", "-m", other)[2].splitlines()[0]
    assert "was made by model 'small'" in line


def test_a_table_names_no_model_that_is_loaded_from_elsewhere(command, table, tmp_path):
    rows, path = parquet.read_table(table), tmp_path / "elsewhere.parquet"
    told = json.loads(rows.schema.metadata[b"perceivio"]) | {"model": "somebody/weights"}
    told = {b"perceivio": json.dumps(told).encode()}
    parquet.write_table(rows.replace_schema_metadata(told), path)
    line = command.fails("search", ASSETS / "digit.mp4", "--in", path)
    assert "somebody/weights" in line
    assert "--model" in line
    run = ("search", ASSETS / "digit.mp4", "--in", path, "--model", "small")
    assert command(*run)[0] == 0


def test_what_is_no_table_of_ours_is_told(command, table, tmp_path):
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    assert "text.parquet" in command.fails("search", "0", "--in", text)
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    assert "perceivio embed" in command.fails("search", "0", "--in", tmp_path / "foreign.parquet")
    assert "no such file" in command.fails("search", "0", "--in", tmp_path / "absent.parquet")
    parquet.write_table(parquet.read_table(table).slice(0, 0), tmp_path / "empty.parquet")
    assert "is empty" in command.fails("search", "0", "--in", tmp_path / "empty.parquet")
    fewer = parquet.read_table(table).drop_columns(["stop"])
    parquet.write_table(fewer, tmp_path / "fewer.parquet")
    assert "columns" in command.fails("search", "0", "--in", tmp_path / "fewer.parquet")
    cut = tmp_path / "cut.parquet"
    data = bytearray(table.read_bytes())
    data[200:2000] = bytes(1800)
    cut.write_bytes(data)
    assert "cut.parquet" in command.fails("search", "0", "--in", cut)
    assert "rows are 0 to" in command.fails("search", "999", "--in", table)
    assert "--at" in command.fails(
        "search", ASSETS / "digit.mp4", "--in", table, "--at", "0", "--start", "0.64"
    )
    assert "absent.mp4" in command.fails("search", tmp_path / "absent.mp4", "--in", table)


def test_an_altered_byte_of_a_vector_is_found(command, table, tmp_path):
    whole = parquet.ParquetFile(table).metadata.row_group(0)
    column = whole.column(4)
    assert column.path_in_schema.startswith("embedding")
    altered, data = tmp_path / "altered.parquet", table.read_bytes()
    begin = column.dictionary_page_offset or column.data_page_offset
    size = column.total_compressed_size
    for place in range(begin + 200, begin + size, size // 5):
        altered.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert "is damaged" in command.fails("search", "0", "--in", altered)


def test_vectors_that_are_not_finite_are_told(command, tmp_path):
    path = tmp_path / "t.parquet"
    with TableWriter(path, FACTS) as writer:
        writer.add("a", [(0, 1), (1, 2)], np.array([[1, 0, 0], [0, np.nan, 1]]))
    told = command.fails("search", 0, "--in", path)
    assert "t.parquet: is damaged: rows hold values that are not finite" in told


def test_a_table_does_not_take_the_place_of_an_input(command, tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes((ASSETS / "digit.mp4").read_bytes())
    run = ("embed", ASSETS / "digit.mp4", film, "-o", film, "--overwrite")
    assert "is an input itself" in command.fails(*run)
    assert film.read_bytes() == (ASSETS / "digit.mp4").read_bytes()


def test_of_latents_it_is_told_what_they_do_not_cover(command, table, tmp_path):
    kept = tmp_path / "digit.latents"
    perceivio.encode(ASSETS / "digit.mp4", kept, overlap=0)
    told = command.fails("search", kept, "--in", table, "--at", "9")
    assert "digit.latents: holds no window from 9 s on; it covers 0.00 to 1.92 s" in told
    kept.write_bytes(kept.read_bytes()[:-60])
    code, _, err = command("embed", kept, "-o", tmp_path / "t.parquet")
    assert code == 0
    assert "note: " in err
    assert "unfinished, or cut off" in err


def test_a_pooling_that_is_not_known_is_told(small):
    with pytest.raises(PerceivioError, match="spread, mean, both"):
        Pooler(small, "largest")  # pyright: ignore


@pytest.mark.parametrize("verb", ["embed", "search"])
def test_help_has_an_example(command, verb):
    code, told, _ = command(verb, "--help")
    assert code == 0
    assert f"Example: perceivio {verb}" in told


def test_processes_of_their_own(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "perceivio.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    result = run("embed", ASSETS / "digit.mp4", "-o", "t.parquet")
    assert result.returncode == 0, result.stderr
    assert "3 windows of 1 file" in result.stdout
    result = run("search", "0", "--in", "t.parquet")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("digit.mp4") == 2
