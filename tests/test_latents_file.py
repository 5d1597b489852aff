"""Files of latents: every byte of them, killed encodes, time, models, and what is made of them."""

import dataclasses
import hashlib
import json
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import beeps, make_media, numbered
from models import tiny_config
from test_cli import fails_in_one_line
from test_cli import perceivio as command

import perceivio
from perceivio import cli, keep
from perceivio.errors import PerceivioError
from perceivio.identity import identity
from perceivio.latents import Header, LatentsError, LatentsFile, chunk_of, is_latents
from perceivio.latents_writer import LatentsWriter, block_size
from perceivio.model import MultimodalAutoencoder
from perceivio.quantise import PRECISIONS, error_bound, pack

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "assets"


@pytest.fixture(scope="module")
def small():
    return perceivio.load("small")


@pytest.fixture
def clip(tmp_path):
    """Two seconds of numbered frames and beeps."""
    times = [Fraction(i, 25) for i in range(50)]
    sound = beeps([0.3, 1.2], 2.0)
    return make_media(tmp_path / "clip.mkv", [numbered(i) for i in range(50)], times, sound)


def header(precision="int8", n=3, d=4, **changes):
    plain = Header(
        identity="ab" * 32,
        model="small",
        precision=precision,
        latents=n,
        channels=d,
        block=block_size(precision, n, d),
        window=(16, 25),
        frames=16,
        samples=10_240,
        overlap=2,
        start=0.0,
        duration=None,
        kind="video",
        source_duration=5.0,
        picture=None,
        sound=None,
        files=(keep.FileMark("clip.mp4", 123, "cd" * 32),),
    )
    return dataclasses.replace(plain, **changes)


def write(path, count=3, head=None, notes=("a note",), finish=True):
    """A file of random latents; returns them."""
    head = head or header()
    generator = torch.Generator().manual_seed(count)
    latents = [
        torch.randn(1, head.latents, head.channels, generator=generator) for _ in range(count)
    ]
    with LatentsWriter(path, head) as writer:
        for index, values in enumerate(latents):
            start = head.start + float(index * head.step)
            writer.add(start, start + float(head.seconds), 16, 10_240, values)
        if finish:
            writer.finish(notes, (2, 0.08))
    return latents


def read_all(path):
    with LatentsFile(path) as file:
        return file.finished, list(file), file.notes, file.lost


def refusal(path):
    """What is said of a file that cannot be read; empty where it can."""
    try:
        read_all(path)
    except LatentsError as error:
        return str(error)
    return ""


# ---- the format --------------------------------------------------------------------------------


@given(
    st.sampled_from(PRECISIONS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 4),
    st.floats(0, 1e6),
)
@settings(deadline=None, max_examples=60)
def test_records_come_back(tmp_path_factory, precision, n, d, count, start):
    path = tmp_path_factory.mktemp("f") / "x.latents"
    head = header(precision, n, d, start=start)
    latents = write(path, count, head)
    with LatentsFile(path) as file:
        assert file.header == head
        assert file.finished
        assert len(file) == count
        assert (file.notes, file.lost) == (["a note"], (2, 0.08))
        for index, (record, values) in enumerate(zip(file, latents, strict=True)):
            assert record.index == index
            assert record.start == start + float(index * Fraction(14, 25))
            assert (record.frames, record.samples) == (16, 10_240)
            bound = error_bound(pack(values[0], precision), precision)
            assert ((record.latents - values)[0].abs() <= bound).all()
    assert is_latents(path)


def test_every_altered_byte_is_found(tmp_path):
    path, other = tmp_path / "x.latents", tmp_path / "y.latents"
    write(path)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= int(random.integers(1, 256))
        other.write_bytes(altered)
        assert refusal(other).startswith(f"{other}: "), f"byte {place} of {len(data)}"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_cut_is_found_and_what_is_there_can_be_read(tmp_path, count):
    path, other = tmp_path / "x.latents", tmp_path / "y.latents"
    latents = write(path, count)
    whole = read_all(path)[1]
    data = path.read_bytes()
    reached = set()
    for size in range(len(data)):
        other.write_bytes(data[:size])
        try:
            finished, records, _, _ = read_all(other)
        except LatentsError:
            assert size < len(data) - 52 - len(latents) * 100, size  # in the header only
            continue
        assert not finished
        reached.add(len(records))
        for record, wanted in zip(records, whole, strict=False):
            assert torch.equal(record.latents, wanted.latents)
    assert reached == set(range(count + 1))
    for more in (b"\0", b"DONE", data):
        other.write_bytes(data + more)
        with pytest.raises(LatentsError):
            read_all(other)


def test_records_cannot_be_moved_or_taken_from_another_file(tmp_path):
    path, other = tmp_path / "x.latents", tmp_path / "y.latents"
    write(path)
    write(other, head=header(start=1.0))
    data, size = path.read_bytes(), header().record
    begin = data.index(b"LATS")
    first, second = data[begin : begin + size], data[begin + size : begin + 2 * size]
    swapped = data[:begin] + second + first + data[begin + 2 * size :]
    without = data[:begin] + first + data[begin + 2 * size :]
    again = data[:begin] + first + data[begin:]
    foreign = other.read_bytes()
    taken = foreign[: foreign.index(b"LATS")] + data[begin:]
    for made in (swapped, without, again, taken):
        other.write_bytes(made)
        with pytest.raises(LatentsError):
            read_all(other)


def forged(head, *chunks):
    """A file with any header and chunks, all of whose checksums are right."""
    data = b"\x93LATENTS" + struct.pack("<I", 1)
    made, check = chunk_of(b"HEAD", head, data)
    data += made
    for name, held in chunks:
        made, check = chunk_of(name, held, check)
        data += made
    return data


@pytest.mark.parametrize(
    "change",
    [
        {"latents": 2**62},
        {"latents": -1},
        {"latents": 3.0},
        {"latents": True},
        {"channels": 10**300},
        {"block": 2**60},
        {"block": 0},
        {"precision": "int1"},
        {"identity": "small"},
        {"window": [1, 0]},
        {"window": [1]},
        {"window": [2**300, 1]},
        {"window": "64"},
        {"frames": 2**40},
        {"frames": 0, "samples": 0},
        {"overlap": 9},
        {"start": float("nan")},
        {"start": float("inf")},
        {"start": "0"},
        {"duration": -1},
        {"kind": "virus"},
        {"picture": {"width": 1}},
        {"picture": 5},
        {"sound": {"rate": 0, "channels": 2}},
        {"files": []},
        {"files": [{"name": "x" * 5000, "bytes": 1, "ends": "cd" * 32}]},
        {"model": 7},
        {"surprise": 1},
    ],
    ids=str,
)
def test_absurd_headers_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "x.latents"
    plain = json.loads(header().to_json()) | change
    path.write_bytes(forged(json.dumps(plain).encode()))
    with pytest.raises(LatentsError, match=r"x\.latents: ") as caught:
        LatentsFile(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_other_absurdities_are_refused_and_cost_nothing(tmp_path):
    path, head = tmp_path / "x.latents", header().to_json()
    moment = struct.pack("<QddII", 0, 0.0, 0.64, 16, 10_240)
    block = bytes(header().block)
    nan = block_of(torch.full((3, 4), float("nan")))
    floats = header("float32").to_json()
    note = b'{"notes": [], "lost_packets": 0, "lost_seconds": 0}'
    done = struct.pack("<Q", 0)
    many = struct.pack("<Q", 2**63)
    deep = b"[" * 100_000
    prefix = b"\x93LATENTS" + struct.pack("<I", 1)
    made = {
        "empty": b"",
        "magic alone": prefix[:8],
        "another version": b"\x93LATENTS" + struct.pack("<I", 2),
        "a long header": prefix + struct.pack("<4sQ", b"HEAD", 2**63),
        "no header": prefix + struct.pack("<4sQ", b"DONE", 8),
        "deep JSON": forged(deep),
        "JSON of another kind": forged(b"[]"),
        "huge digits": forged(b'{"latents": ' + b"9" * 10_000 + b"}"),
        "no safetensors": forged(head, (b"LATS", moment + block)),
        "not finite": forged(floats, (b"LATS", moment + nan)),
        "another index": forged(head, (b"LATS", b"\1" + moment[1:] + block)),
        "another time": forged(
            head, (b"LATS", struct.pack("<QddII", 0, 9.0, 9.6, 16, 0) + block)
        ),
        "too many frames": forged(
            head, (b"LATS", struct.pack("<QddII", 0, 0.0, 0.6, 2**31, 0) + block)
        ),
        "many records": forged(head, (b"NOTE", note), (b"DONE", many)),
        "notes of a kind": forged(head, (b"NOTE", b'{"notes": 5}'), (b"DONE", done)),
        "no notes": forged(head, (b"NOTE", b"{}"), (b"DONE", done)),
        "a long note": forged(head) + struct.pack("<4sQ", b"NOTE", 2**40),
        "zeros": forged(head) + bytes(5_000_000),
    }
    tracemalloc.start()
    for what, data in made.items():
        path.write_bytes(data)
        del data
        said = refusal(path)
        assert said.startswith(f"{path}: "), what
        assert len(said) < 300
        assert "\n" not in said
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000
    path.write_bytes(forged(head, (b"NOTE", note), (b"DONE", done)))
    assert read_all(path)[:2] == (True, [])


def block_of(values):
    from safetensors.torch import save

    return save({"values": values})


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "x.latents"
    head = header("float32", 168, 320)
    peaks = []
    for count in (4, 100):
        path.unlink(missing_ok=True)
        tracemalloc.start()
        write_zeros(path, head, count)
        with LatentsFile(path) as file:
            assert sum(record.latents.numel() for record in file) == count * 168 * 320
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert peaks[1] < 1.5 * peaks[0] < 5_000_000


def write_zeros(path, head, count):
    zeros = torch.zeros(1, head.latents, head.channels)
    with LatentsWriter(path, head) as writer:
        for index in range(count):
            start = float(index * head.step)
            writer.add(start, start + 0.64, 16, 10_240, zeros)
        writer.finish()


@given(st.floats(0, 12), st.floats(0, 5), st.integers(0, 8), st.floats(0, 3))
@settings(deadline=None, max_examples=100)
def test_time_finds_the_records_that_cover_it(tmp_path_factory, start, length, overlap, begin):
    path = tmp_path_factory.mktemp("f") / "x.latents"
    write(path, 12, header(overlap=overlap, start=begin))
    with LatentsFile(path) as file:
        every = list(file)
        stop = start + length
        wanted = [r.index for r in every if r.start < stop and r.stop > start]
        if stop > start:
            assert [r.index for r in file.between(start, stop)] == wanted
        last = [11] if start == file.stop else []
        covering = [r.index for r in every if r.start <= start < r.stop] or last
        if covering:
            assert [r.index for r in file.at(start)] == covering
            assert len(covering) <= 2
        else:
            with pytest.raises(LatentsError, match="covers"):
                file.at(start)
        assert file[-1].index == 11
        assert file.stop == every[-1].stop
        with pytest.raises(IndexError):
            file[12]


def test_the_page_reads_it_in_plain_python(tmp_path):
    page = (ROOT / "docs" / "latents.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    script = tmp_path / "plain.py"
    script.write_text(next(block for block in blocks if "safetensors" in block))
    for precision in ("float32", "float16", "int8"):
        path = tmp_path / f"{precision}.latents"
        write(path, 3, header(precision))
        result = subprocess.run(
            [sys.executable, script, path], capture_output=True, text=True, check=True
        )
        first, *rows = result.stdout.splitlines()
        assert first == precision
        assert len(rows) == 3
        for row, record in zip(rows, read_all(path)[1], strict=True):
            index, *_, total = row.split()
            assert int(index) == record.index
            assert float(total) == pytest.approx(record.latents.sum().item(), abs=1e-4)


def test_identity_is_what_it_was():
    """Files of latents can be decoded as long as this is so."""
    module = MultimodalAutoencoder(tiny_config())
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape) + number)
    name = identity(module)
    assert identity(module.half()) == name  # whole numbers, small enough
    module.float().config = module.config.replace(self_attends=8)
    assert identity(module) != name
    # By hand, from what the docstring says.
    module.config = tiny_config()
    stated = {
        "modalities": {
            "depth": {
                "shape": [4, 6], "channels": 2, "patch": [2, 3], "output_patch": [2, 2],
                "bands": 3, "resolution": [4, 6], "embed": 5, "mean": 0.5, "std": 2.0,
            },
            "kind": {"shape": [], "channels": 3, "query": 4, "names": ["a", "b", "c"]},
        },
        "latents": 5, "latent_channels": 8, "process": {"heads": 2}, "self_attends": 2,
        "output_channels": 6,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for key, parameter in sorted(module.named_parameters()):
        digest.update(f"\n{key} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().numpy().astype("<f4").tobytes())
    assert digest.hexdigest() == name


# ---- encode and decode -------------------------------------------------------------------------


def test_decode_writes_what_reconstruct_writes(small, tmp_path):
    source = ASSETS / "bbb_scene.mp4"
    wanted = perceivio.reconstruct(source, tmp_path / "a.mp4", small, start=0.5, duration=1.7)
    kept = perceivio.encode(
        source, tmp_path / "x.latents", small, start=0.5, duration=1.7, precision="float32"
    )
    found = perceivio.decode(kept.written, tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert found.classes == wanted.classes
    assert [w.classes for w in found.windows] == [w.classes for w in wanted.windows]
    assert found.media_seconds == pytest.approx(wanted.media_seconds)
    assert kept.bytes == kept.written.stat().st_size
    assert kept.windows == len(found.windows) == 3


def test_sound_and_stills_too(small, tmp_path):
    tone = make_media(
        tmp_path / "tone.flac", sound=beeps([0.2, 0.9], 1.7), sound_codec="flac"
    )
    with av.open(str(ASSETS / "bbb_scene.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "still.png")
    for source, suffix in ((tone, ".wav"), (tmp_path / "still.png", ".png")):
        wanted = perceivio.reconstruct(source, tmp_path / f"a{suffix}", small)
        kept = perceivio.encode(source, tmp_path, small, precision="float32")
        assert kept.written == tmp_path / f"{source.stem}.latents"
        found = perceivio.decode(kept.written, tmp_path, small)
        assert found.written == tmp_path / f"{source.stem}_reconstruction{suffix}"
        assert found.written.read_bytes() == wanted.written.read_bytes()
        assert found.info.kind == wanted.info.kind


def test_a_span_is_that_span_of_the_whole(small, tmp_path):
    tone = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 16_000).astype(np.float32)
    source = make_media(tmp_path / "n.wav", sound=tone, rate=16_000, sound_codec="pcm_s16le")
    kept = perceivio.encode(source, tmp_path, small, precision="int8", start=0.25)
    perceivio.decode(kept.written, tmp_path / "whole.wav", small)
    whole = samples_of(tmp_path / "whole.wav")
    assert len(whole) == round(2.75 * 16_000)
    for start, duration in ((0.25, 0.5), (0.9, 1.0), (1.4, 0.01), (2.2, None), (1.37, 0.02)):
        part = tmp_path / f"{start}.wav"
        report = perceivio.decode(kept.written, part, small, start=start, duration=duration)
        first = round((start - 0.25) * 16_000)
        last = None if duration is None else first + round(duration * 16_000)
        assert np.array_equal(samples_of(part), whole[first:last])
        assert report.media_seconds == pytest.approx(duration or 3 - start, abs=1e-4)
    for start in (0.0, 3.1):
        with pytest.raises(LatentsError, match=r"covers 0\.25 to 3\.00 s"):
            perceivio.decode(kept.written, tmp_path / "no.wav", small, start=start)


def samples_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


def frames_of(path):
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24").astype(float) for f in container.decode(video=0)]


def test_pictures_of_a_span_are_those_of_the_whole(small, clip, tmp_path):
    kept = perceivio.encode(clip, tmp_path, small)
    perceivio.decode(kept.written, tmp_path / "whole.mp4", small)
    perceivio.decode(kept.written, tmp_path / "part.mp4", small, start=0.6, duration=0.8)
    whole, part = frames_of(tmp_path / "whole.mp4"), frames_of(tmp_path / "part.mp4")
    assert (len(whole), len(part)) == (50, 20)
    for index, frame in enumerate(part):
        away = [np.mean((frame - other) ** 2) for other in whole]
        assert int(np.argmin(away)) == index + 15


def test_classes_are_those_of_the_file(small, tmp_path):
    source = ASSETS / "digit.mp4"
    kept = perceivio.encode(source, tmp_path, small, precision="float32", overlap=0)
    wanted, found = perceivio.classify(source, small), perceivio.classify(kept.written)
    assert found.classes == wanted.classes
    assert [w.classes for w in found.windows] == [w.classes for w in wanted.windows]
    assert found.classes[0].name == "5"
    part = perceivio.classify(kept.written, small, start=0.7, duration=0.2)
    assert [w.start for w in part.windows] == pytest.approx([0.64])


def test_another_model_is_refused_and_both_are_named(small, clip, tmp_path):
    kept = perceivio.encode(clip, tmp_path, small)
    other = perceivio.Autoencoder(MultimodalAutoencoder(small.config), "mine")
    for use in (perceivio.decode, lambda p, _, m: perceivio.classify(p, m)):
        with pytest.raises(LatentsError) as caught:
            use(kept.written, tmp_path / "x.mp4", other)
        for word in ("'small'", small.identity[:12], "'mine'", other.identity[:12], "--model"):
            assert word in str(caught.value)
    assert not (tmp_path / "x.mp4").exists()
    # By the name in the file: loaded where it is here, and never from somewhere.
    folder = other.save(tmp_path / "folder")
    made = perceivio.load(folder)
    path = perceivio.encode(clip, tmp_path / "y.latents", made).written
    assert perceivio.decode(path, tmp_path / "y.mp4").windows
    for name in ("someone/else", str(tmp_path / "absent")):
        made.source = name
        path = perceivio.encode(clip, tmp_path / "y.latents", made, overwrite=True).written
        with pytest.raises(LatentsError, match="say where it is with --model"):
            perceivio.decode(path, tmp_path / "z.mp4")
    made.source = "small"  # it says so, and is not
    path = perceivio.encode(clip, tmp_path / "y.latents", made, overwrite=True).written
    with pytest.raises(LatentsError, match=f"{made.identity[:12]}.*{small.identity[:12]}"):
        perceivio.decode(path, tmp_path / "z.mp4")


# ---- stopped and gone on with ------------------------------------------------------------------


def test_a_killed_encode_goes_on_to_the_same_bytes(small, tmp_path):
    source = ASSETS / "band.3gp"
    target = tmp_path / "x.latents"
    part = tmp_path / "x.latents.part"
    arguments = ["encode", str(source), "-o", str(target), "--duration", "12", "-p", "int8"]
    process = subprocess.Popen([sys.executable, "-m", "perceivio.cli", *arguments])
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size > 150_000) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists()
    assert not target.exists()
    with LatentsFile(part) as file:
        left, size, first = len(file), file.header.record, part.read_bytes().index(b"LATS")
    with part.open("r+b") as file:  # killed in the middle of a record, at the least kind moment
        half = part.read_bytes()[first : first + size // 2]
        file.seek(first + left * size)
        file.write(half)
        file.truncate()
    with LatentsFile(part) as file:
        assert len(file) == left
        assert not file.finished
        assert left >= 2
        assert all(record.index == index for index, record in enumerate(file))
    report = perceivio.decode(part, tmp_path / "part.mp4", small)
    assert len(report.windows) == left
    assert f"unfinished, or cut off: {left} windows" in report.notes[0]
    result = command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["windows_gone_on_from"] == left < found["windows"] == 22
    assert f"went on behind {left} windows of x.latents.part" in result.stderr
    assert not part.exists()
    whole = perceivio.encode(
        source, tmp_path / "y.latents", small, duration=12, precision="int8"
    )
    assert target.read_bytes() == whole.written.read_bytes()
    assert whole.gone_on == 0


def test_wherever_it_was_cut_it_goes_on(tmp_path):
    path, part = tmp_path / "x.latents", tmp_path / "x.latents.part"
    latents = write(path)
    data = path.read_bytes()
    path.unlink()
    for size in [0, 5, 20, *range(100, len(data), 37), len(data) - 1, len(data)]:
        for damage in (b"", b"LATS"):
            part.write_bytes(data[:size] + damage)
            if damage and size < data.index(b"LATS"):
                continue  # a header that is not ours: refused, see below
            with LatentsWriter(path, header()) as writer:
                for index in range(writer.done, 3):
                    start = float(index * header().step)
                    writer.add(start, start + 0.64, 16, 10_240, latents[index])
                writer.finish(["a note"], (2, 0.08))
            assert path.read_bytes() == data
            assert not part.exists()
            path.unlink()


def test_what_cannot_be_written_is_told_and_left(tmp_path):
    path, part = tmp_path / "x.latents", tmp_path / "x.latents.part"
    part.mkdir()
    with pytest.raises(LatentsError, match=r"x.latents: cannot be written: Is a directory"):
        LatentsWriter(path, header())
    assert part.is_dir()


def test_pipes_keep_their_bytes(tmp_path):
    """What is read of a pipe to see what it holds, nobody can read again."""
    write(tmp_path / "x.latents")
    data = (tmp_path / "x.latents").read_bytes()
    code = "from perceivio.latents import *; import sys; assert not is_latents('/dev/stdin')"
    code += "; assert sys.stdin.buffer.read(8) == MAGIC"
    subprocess.run([sys.executable, "-c", code], input=data, check=True)
    code = "from perceivio.latents import LatentsFile; LatentsFile('/dev/stdin')"
    failed = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert b"/dev/stdin: is a pipe; write it to a file" in failed.stderr


def test_anothers_unfinished_file_is_not_touched(tmp_path):
    path, part = tmp_path / "x.latents", tmp_path / "x.latents.part"
    write(path, finish=False)
    before = part.read_bytes()
    for change, words in (
        ({"precision": "int4", "block": block_size("int4", 3, 4)}, "precision (int8, not int4)"),
        ({"identity": "01" * 32}, "another model"),
        ({"files": (keep.FileMark("clip.mp4", 124, "cd" * 32),)}, "another source"),
        ({"overlap": 3}, "overlap (2, not 3)"),
        ({"duration": 1.0}, "duration (None, not 1.0)"),
    ):
        with pytest.raises(LatentsError, match="--overwrite") as caught:
            LatentsWriter(path, header(**change))
        assert words in str(caught.value)
        assert part.read_bytes() == before
    with LatentsWriter(path, header(overlap=3), overwrite=True) as writer:
        assert writer.done == 0
    assert not part.exists()  # nothing was added: nothing is left
    part.write_text("my own diary")
    with pytest.raises(LatentsError, match="remove it"):
        LatentsWriter(path, header())
    assert part.read_text() == "my own diary"
    part.unlink()
    with LatentsWriter(path, header()) as writer:
        writer.add(0.0, 0.64, 16, 10_240, torch.zeros(1, 3, 4))
        with pytest.raises(LatentsError, match="another process is writing it"):
            LatentsWriter(path, header())
    path.write_text("precious")
    with pytest.raises(PerceivioError, match="already exists"):
        LatentsWriter(path, header())
    with LatentsWriter(path, header(), overwrite=True) as writer:
        assert writer.done == 1


def test_a_changed_source_is_noticed(small, clip, tmp_path):
    class Stops(perceivio.Autoencoder):
        def encode(self, inputs):
            if len(seen) == 2:
                raise PerceivioError("power cut")
            seen.append(1)
            return super().encode(inputs)

    seen = []
    with pytest.raises(PerceivioError, match="power cut"):
        perceivio.encode(clip, tmp_path, Stops(small.module))
    assert (tmp_path / "clip.latents.part").exists()
    with clip.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(LatentsError, match="begun with another source"):
        perceivio.encode(clip, tmp_path, small)
    kept = perceivio.encode(clip, tmp_path, small, overwrite=True)
    assert kept.gone_on == 0


# ---- the command -------------------------------------------------------------------------------


def run(capsys, *arguments):
    """The command in this process: its exit code, and what it printed."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, left.value.code, printed.out, printed.err)


def test_the_command_encodes_decodes_and_classifies(clip, tmp_path, capsys):
    out = tmp_path / "out"
    result = command("encode", clip, ASSETS / "digit.mp4", "-o", out, "-p", "int4", "--json")
    assert result.returncode == 0, result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["written"] == str(out / "clip.latents")
    assert first["bytes"] == (out / "clip.latents").stat().st_size < 130_000
    assert second["precision"] == "int4"
    assert sorted(p.name for p in out.iterdir()) == ["clip.latents", "digit.latents"]
    renamed = (out / "digit.latents").rename(out / "digit.bin")  # known by its bytes
    result = run(capsys, "classify", renamed, "--top", "1")
    assert result.returncode == 0, result.stderr
    assert "whole file" in result.stdout
    result = command("decode", out / "clip.latents", renamed, "-o", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wrote") == 2
    assert len(frames_of(out / "clip_reconstruction.mp4")) == 50
    for arguments, words in (
        (("encode", clip, "-o", out / "clip.latents"), ("already exists", "--overwrite")),
        (("encode", clip, "-o", out / "x.mp4"), ("ends in .latents",)),
        (("encode", renamed), ("holds latents already",)),
        (("encode", tmp_path / "absent"), ("absent",)),
        (("encode", clip, "-p", "int3"), ("int3",)),
        (("reconstruct", renamed), ("holds latents", "perceivio decode")),
        (("decode", clip), ("clip.mkv", "no file of latents")),
        (("decode", tmp_path / "absent"), ("absent",)),
        (("decode", renamed, "--start", "70"), ("covers 0.00 to",)),
        (("decode", renamed, "--model", "smal"), ("did you mean small",)),
    ):
        fails_in_one_line(run(capsys, *arguments), *words)
    data = bytearray(renamed.read_bytes())
    data[len(data) // 2] ^= 1
    renamed.write_bytes(data)
    fails_in_one_line(run(capsys, "classify", renamed), "digit.bin", "damaged")


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_help_has_an_example(verb, capsys):
    result = run(capsys, verb, "--help")
    assert result.returncode == 0
    assert f"Example: perceivio {verb}" in result.stdout
