"""Media files that are damaged or odd, each with what must come of it: one table, `table()`.

The films are stretches of the clips in assets/, small, with a number written over the middle of
each frame (media_files.py), so that what comes out can be compared with what was put in. Damage is
done to bytes. `python tests/odd_media_run.py` puts all of them through the program.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from media_files import RATE, make_media, numbered, steady

ASSETS = Path(__file__).parent.parent / "assets"
CLIPS = ASSETS.parent.parent / "shared" / "data" / "clips"  # more, where they lie beside a checkout
COUNT, FPS = 18, 25  # frames of a usual film here, and how many a second
SECONDS = COUNT / FPS
HZ = 437.5  # of a usual tone

os.environ.setdefault("SVT_LOG", "0")  # an encoder that talks

Make = Callable[[Path, Path], None]  # (folder of bases, the file to make)


@dataclass(frozen=True)
class Wanted:
    """What must come of a file; what is None is not asked.

    refused   a pattern of the one line that says why there is nothing
    may_fail  a refusal is as good as a result: the file is damaged
    kind      "video", "sound", "image"
    shows     numbers of the frames that are on display at 0, 1/25, 2/25, ... seconds
    frames    how many frames come out, at 25/s
    size      (width, height) as displayed
    rotation  degrees clockwise
    tone      Hz of the loudest tone in the sound; 0: silence
    seconds   that the file lasts, within a tenth
    most      seconds that it may last at most
    note      a pattern that one of the notes fits
    """

    refused: str | None = None
    may_fail: bool = False
    kind: str | None = None
    shows: Sequence[int] | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    rotation: int | None = None
    tone: float | None = None
    seconds: float | None = None
    most: float = 60.0
    note: str | None = None


@dataclass(frozen=True)
class Odd:
    """A file: its name with suffix, the kind of oddness it is counted under, how it is made."""

    kind: str
    name: str
    make: Make
    wanted: Wanted


# ---- what films and sounds are made of


@functools.cache
def scene() -> tuple[np.ndarray, ...]:
    """The first frames of a real film: uint8 RGB (64, 96, 3) each."""
    with av.open(str(ASSETS / "bbb_scene.mp4")) as container:
        frames = [frame for frame, _ in zip(container.decode(video=0), range(60), strict=False)]
    return tuple(f.reformat(96, 64, "rgb24").to_ndarray() for f in frames)


def film(count: int = COUNT, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Frames of the real film with their number over the middle half."""
    rows, columns = np.arange(height) * 64 // height, np.arange(width) * 96 // width
    frames = []
    for index in range(count):
        frame = scene()[index % 60][rows][:, columns].copy()
        band = slice(height // 4, max(height // 4 + 1, 3 * height // 4))
        frame[band] = numbered(index, height, width)[band]
        frames.append(frame)
    return frames


def tone(seconds: float = SECONDS, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """float32 (channels, samples): one tone in every channel."""
    clock = np.arange(round(seconds * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * HZ * clock)).astype(np.float32)
    return np.tile(wave, (channels, 1))


def of_film(**more) -> Make:
    """A film with a tone, or what `more` says instead; see `make_media`."""

    def make(_: Path, path: Path) -> None:
        count = more.get("count", COUNT)
        fps = more.get("fps", Fraction(FPS))
        options = {k: v for k, v in more.items() if k not in ("count", "shape")}
        options.setdefault("sound", tone(max(0.1, float(count / fps))))
        options.setdefault("times", steady(count, fps))
        make_media(path, film(count, *more.get("shape", (64, 96))), **options)

    return make


def of_sound(seconds: float = SECONDS, rate: int = RATE, channels: int = 1, **more) -> Make:
    def make(_: Path, path: Path) -> None:
        make_media(path, sound=tone(seconds, rate, channels), rate=rate, **more)

    return make


def of_pictures(**more) -> Make:
    """A film without sound."""
    return of_film(sound=None, **more)


def of_asset(name: str, seconds: float) -> Make:
    """The first seconds of a real clip, packets as they are, in its own container."""

    def make(_: Path, path: Path) -> None:
        source = ASSETS / name if (ASSETS / name).exists() else CLIPS / name
        copy_start(source, path, seconds)

    return make


def copy_start(source: Path, path: Path, seconds: float, options: dict | None = None) -> None:
    with (
        av.open(str(source)) as given,
        av.open(str(path), "w", options=options or {}) as taken,
    ):
        streams = [s for s in given.streams if s.type in ("video", "audio")]
        copies = {s.index: taken.add_stream_from_template(s) for s in streams}
        for packet in given.demux(streams):
            if packet.dts is None or packet.dts * packet.time_base > seconds:
                continue
            packet.stream = copies[packet.stream.index]
            taken.mux(packet)


# ---- files that are damaged below: name -> how it is made, seconds

PCM = {"sound_codec": "pcm_s16le"}
VIDEO_BASES: dict[str, Make] = {
    "scene.mp4": of_asset("bbb_scene.mp4", 0.7),
    "band.3gp": of_asset("band.3gp", 0.7),
    "hello.avi": of_asset("hello.avi", 0.7),
    "digit.mp4": of_asset("digit.mp4", 9),
    "film.mp4": of_film(),
    "front.mp4": of_film(options={"movflags": "faststart"}),
    "pieces.mp4": of_film(options={"movflags": "frag_keyframe+empty_moov"}),
    "film.mkv": of_film(sound_codec="flac"),
    "film.webm": of_film(codec="libvpx", sound_codec="libopus"),
    "film.avi": of_film(codec="mpeg4", sound_codec="mp2"),
    "film.mov": of_film(codec="mjpeg", pixels="yuvj420p", **PCM),
    "film.ts": of_film(codec="mpeg2video", sound_codec="mp2"),
    "film.mpg": of_film(codec="mpeg1video", sound_codec="mp2"),
    "film.wmv": of_film(codec="wmv2", sound_codec="wmav2"),
    "film.flv": of_film(codec="flv", sound_codec="libmp3lame", rate=44_100),
    "film.nut": of_film(codec="ffv1", pixels="bgr0", **PCM),
    "film.gif": of_pictures(codec="gif", pixels="rgb8"),
}
SOUND_BASES: dict[str, Make] = {
    "tone.wav": of_sound(**PCM),
    "tone.flac": of_sound(sound_codec="flac"),
    "tone.mp3": of_sound(sound_codec="libmp3lame"),
    "tone.ogg": of_sound(sound_codec="libopus", options={"page_duration": "100000"}),
    "tone.m4a": of_sound(format="mp4"),
    "tone.wma": of_sound(sound_codec="wmav2", format="asf"),
}
MORE_BASES: dict[str, Make] = {
    f"more.{suffix}": of_asset(name, 0.7)
    for name, suffix in (("band.webm", "webm"), ("band.wmv", "wmv"), ("hello.mpeg", "mpg"),
                         ("bbb_trailer.mp4", "mp4"), ("sintel_trailer.mp4", "mov"))
    if (CLIPS / name).exists()
}  # fmt: skip
BASES = VIDEO_BASES | SOUND_BASES | MORE_BASES


def base(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.exists():
        BASES[name](folder, path)
    return path.read_bytes()


# ---- damage: bytes in, bytes out

# A frame rate that damage has slowed down is believed: up to a minute a frame, see media.PAUSE.
DAMAGED = Wanted(may_fail=True, most=60.0 * COUNT)
Damage = Callable[[bytes, np.random.Generator], bytes]


def cut(share: float) -> Damage:
    return lambda data, _: data[: round(len(data) * share)]


def flipped(begin: float, end: float, count: int) -> Damage:
    """`count` bytes between two shares of the file take random values."""

    def damage(data: bytes, random: np.random.Generator) -> bytes:
        first, last = round(len(data) * begin), max(1, round(len(data) * end))
        changed = bytearray(data)
        for place in random.integers(first, last, count):
            changed[place] = random.integers(256)
        return bytes(changed)

    return damage


def in_header(data: bytes, random: np.random.Generator) -> bytes:
    """Four bytes of the header; of an MP4, whose header may be last, of that."""
    place = data.find(b"moov")
    first, last = (place, min(len(data), place + 1500)) if place > 0 else (4, min(400, len(data)))
    changed = bytearray(data)
    for where in random.integers(first, last, 4):
        changed[where] = random.integers(256)
    return bytes(changed)


def zeroed(share: float) -> Damage:
    def damage(data: bytes, random: np.random.Generator) -> bytes:
        size = round(len(data) * share)
        begin = int(random.integers(0, len(data) - size))
        return data[:begin] + bytes(size) + data[begin + size :]

    return damage


def missing_piece(data: bytes, random: np.random.Generator) -> bytes:
    begin = int(random.integers(0, len(data) * 3 // 4))
    return data[:begin] + data[begin + len(data) // 10 :]


def shuffled(data: bytes, random: np.random.Generator) -> bytes:
    pieces = [data[i : i + 512] for i in range(0, len(data), 512)]
    return b"".join(pieces[i] for i in random.permutation(len(pieces)))


def noise(data: bytes, random: np.random.Generator) -> bytes:
    """The header stands, and all behind it is noise."""
    return data[:600] + random.bytes(max(0, len(data) - 600))


DAMAGES: dict[str, tuple[tuple[str, Damage], ...]] = {
    "cut off": tuple((f"{s:g}", cut(s)) for s in (0.002, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)),
    "bytes flipped in the header": tuple((str(n), in_header) for n in range(5)),
    "bytes flipped in the payload": (
        ("1", flipped(0.1, 1, 1)),
        ("10", flipped(0.1, 1, 10)),
        ("100", flipped(0.1, 1, 100)),
        ("all over", flipped(0, 1, 30)),
    ),
    "a range zeroed": (("1%", zeroed(0.01)), ("10%", zeroed(0.1)), ("50%", zeroed(0.5))),
    "pieces lost or mixed": (
        ("lost", missing_piece),
        ("mixed", shuffled),
        ("noise", noise),
    ),
}


def damaged(name: str, damage: Damage, seed: int) -> Make:
    def make(folder: Path, path: Path) -> None:
        path.write_bytes(damage(base(folder, name), np.random.default_rng(seed)))

    return make


def damages(names: Sequence[str], rounds: int) -> Iterator[Odd]:
    """Every damage to every base, `rounds` times with other random numbers."""
    for name in names:
        stem, suffix = name.rsplit(".", 1)
        for kind, ways in DAMAGES.items():
            for way, (label, damage) in enumerate(ways):
                for turn in range(rounds if kind != "cut off" else 1):
                    seed = zlib.crc32(f"{name} {kind} {way}".encode()) + turn
                    label = label.replace(" ", "_")
                    title = f"{stem}_{kind.replace(' ', '_')}_{label}_{turn}.{suffix}"
                    yield Odd(kind, title, damaged(name, damage, seed), DAMAGED)


# ---- files that are whole, and odd

WHOLE = Wanted(kind="video", shows=range(COUNT), size=(96, 64), tone=HZ, seconds=SECONDS)
MUTE = Wanted(kind="video", shows=range(COUNT), tone=0, seconds=SECONDS, note="^no sound")
HEARD = Wanted(kind="sound", tone=HZ, seconds=SECONDS)


def odd() -> Iterator[Odd]:
    for name in ("film.mp4", "film.mkv", "film.mov", "film.avi", "film.webm"):
        for suffix in ("mp3", "png", "txt", "m3u8", "wav", "mp4", "none"):
            if not name.endswith(suffix):
                title = f"{name.replace('.', '_')}.{suffix}"
                yield Odd("wrong suffix", title, damaged(name, lambda d, _: d, 0), WHOLE)
    for name in SOUND_BASES:
        title = f"{name.replace('.', '_')}.mp4"
        yield Odd("wrong suffix", title, damaged(name, lambda d, _: d, 0), HEARD)
    for name in ("film.mp4", "film.mkv", "film.avi", "film.mov", "film.webm", "film.ts"):
        title = f"junk_behind_{name}"
        yield Odd(
            "junk behind", title, damaged(name, lambda d, r: d + r.bytes(3000), 1),
            Wanted(kind="video", frames=COUNT, tone=HZ, most=2),
        )  # fmt: skip
    yield from streams()
    yield from times()
    yield from pictures()
    yield from sounds()
    yield from lies()
    yield from no_media()
    yield from lists()
    yield from stills()


def streams() -> Iterator[Odd]:
    kind = "streams"
    for suffix, codec in (("mp4", "libx264"), ("mkv", "ffv1"), ("avi", "mpeg4"), ("webm", "libvpx"),
                          ("mov", "mjpeg"), ("ts", "mpeg2video"), ("flv", "flv")):  # fmt: skip
        pixels = {"mjpeg": "yuvj420p", "ffv1": "yuv444p"}.get(codec, "yuv420p")
        make = of_pictures(codec=codec, pixels=pixels)
        yield Odd(kind, f"no_sound.{suffix}", make, MUTE)
    for suffix, codec in (("mp4", "aac"), ("mkv", "flac"), ("webm", "libopus"), ("ts", "mp2"),
                          ("avi", "pcm_s16le"), ("mov", "pcm_s16le"), ("wmv", "wmav2"),
                          ("3gp", "aac"), ("ogg", "flac"), ("mka", "libmp3lame")):  # fmt: skip
        more = {"format": "matroska"} if suffix == "mka" else {}
        make = of_sound(sound_codec=codec, **more)
        yield Odd(kind, f"no_picture.{suffix}", make, HEARD)
    for seconds in (0.2, 0.5):
        wanted = Wanted(kind="video", shows=range(COUNT), tone=HZ, note="the sound ends .* early")
        make = of_film(sound=tone(seconds))
        yield Odd(kind, f"sound_of_{seconds}.mp4", make, wanted)
    for seconds in (1.5, 3.0):
        wanted = Wanted(kind="video", tone=HZ, seconds=seconds)
        make = of_film(sound=tone(seconds))
        yield Odd(kind, f"sound_of_{seconds}.mp4", make, wanted)
    for start in (0.2, 0.6):
        wanted = Wanted(kind="video", tone=HZ, note="the sound starts .* late")
        make = of_film(sound_start=start)
        yield Odd(kind, f"sound_from_{start}.mkv", make, wanted)
    for suffix, codec in (("mp3", "libmp3lame"), ("m4a", "aac"), ("flac", "flac")):
        more = {"format": "mp4"} if suffix == "m4a" else {}
        make = of_sound(sound_codec=codec, cover=True, **more)
        yield Odd(kind, f"cover.{suffix}", make, HEARD)
    for suffix in ("mp4", "mkv", "mov"):
        yield Odd(kind, f"two_of_each.{suffix}", several, Wanted(
            kind="video", shows=range(COUNT), size=(96, 64), tone=HZ))  # fmt: skip
    yield Odd(kind, "subtitles.mkv", with_subtitles, WHOLE)
    yield Odd(kind, "unknown_picture.avi", renamed("film.avi", b"FMP4", b"ZZZZ"),
              Wanted(kind="sound", tone=HZ, note="picture cannot be decoded"))  # fmt: skip


def several(_: Path, path: Path) -> None:
    """Two pictures and two sounds; the second ones are others."""
    with av.open(str(path), "w") as container:
        videos = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        sounds = [container.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for video in videos:
            video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        waves = tone(), -0.2 * np.sign(tone()).astype(np.float32)
        for stream, wave in zip(sounds, waves, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), "flt", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
        for index, picture in enumerate(film()):
            for video, pixels in zip(videos, (picture, 255 - picture), strict=True):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(video.encode(frame))
        for video in videos:
            container.mux(video.encode(None))


def with_subtitles(folder: Path, path: Path) -> None:
    """Subtitles that last an hour, and a film."""
    base(folder, "film.mkv")
    text = folder / "hour.srt"
    text.write_text("1\n00:00:00,100 --> 00:00:01,000\nA\n\n2\n01:00:00,000 --> 01:00:01,000\nB\n")
    with av.open(str(folder / "film.mkv")) as film, av.open(str(text)) as subtitles:  # noqa: SIM117
        with av.open(str(path), "w") as taken:
            packets = []
            for given in (film, subtitles):
                copies = {s.index: taken.add_stream_from_template(s) for s in given.streams}
                for packet in given.demux():
                    if packet.dts is not None:
                        packets.append((packet.dts * packet.time_base, len(packets), packet))
                        packet.stream = copies[packet.stream.index]
            for _, _, packet in sorted(packets):
                taken.mux(packet)


def renamed(name: str, old: bytes, new: bytes) -> Make:
    def make(folder: Path, path: Path) -> None:
        data = base(folder, name)
        assert old in data
        path.write_bytes(data.replace(old, new))

    return make


def retimed(
    suffix: str, change: Callable[[int, int | None], tuple[int | None, int | None]]
) -> Make:
    """film.mkv in another container, its picture's packets with other times: change(n, pts)."""

    def make(folder: Path, path: Path) -> None:
        source = "film.avi" if suffix in ("avi", "ts", "nut") else "film.mkv"
        base(folder, source)
        with av.open(str(folder / source)) as given, av.open(str(path), "w") as taken:
            streams = [s for s in given.streams if s.type == "video"]
            copies = {s.index: taken.add_stream_from_template(s) for s in streams}
            packets = [p for p in given.demux(streams) if p.dts is not None]
            for number, packet in enumerate(packets):
                packet.stream = copies[packet.stream.index]
                milliseconds = Fraction(1, 1000)
                stamp = packet.dts if packet.pts is None else packet.pts
                stamp = round(stamp * packet.time_base / milliseconds)
                packet.time_base = milliseconds
                packet.pts, packet.dts = change(number, stamp)
                packet.duration = 40
                taken.mux(packet)

    return make


def times() -> Iterator[Odd]:
    kind = "times"
    steady_pictures = Wanted(kind="video", shows=range(COUNT), note="^no sound")
    for start in (1, 60, 3600, 100_000):
        for suffix in ("mkv", "mp4", "ts"):
            if (start, suffix) != (100_000, "ts"):  # its clock has 33 bits: 26 hours
                make = retimed(suffix, lambda n, t, s=start: (t + 1000 * s,) * 2)
                yield Odd(kind, f"begins_at_{start}.{suffix}", make, steady_pictures)
    yield Odd(kind, "negative.mkv", retimed("nut", lambda n, t: (t - 200,) * 2), steady_pictures)
    # Half of the film, then a jump. Nothing goes on in between: it is left out, and noted.
    for name, seconds in (("minutes", 120), ("an_hour", 3600), ("ten_hours", 36_000)):
        for suffix in ("mkv", "mov", "mp4"):
            make = retimed(suffix, lambda n, t, s=seconds: (t + (1000 * s if n >= 9 else 0),) * 2)
            wanted = Wanted(kind="video", most=3, note="left out")
            yield Odd(kind, f"jumps_{name}.{suffix}", make, wanted)
    jump = of_film(sound=tone(3), times=[Fraction(n, 25) + 2 * (n >= 9) for n in range(COUNT)])
    shows = [*range(8), *[8] * 51, *range(9, COUNT)]
    yield Odd(kind, "pause_with_sound.mkv", jump, Wanted(kind="video", shows=shows, tone=HZ))
    slides = of_film(
        count=2, sound=np.tile(tone(1.0, 8000), (1, 75)), rate=8000, sound_codec="pcm_s16le",
        times=[Fraction(0), Fraction(70)], codec="mpeg4", fps=Fraction(1, 70),
    )  # fmt: skip
    stands = Wanted(kind="video", tone=HZ, frames=25 * 140, most=150)
    yield Odd("times", "slides_with_sound.mkv", slides, stands)
    # Back and forth, and the same again.
    again = retimed("mkv", lambda n, t: (40 * (n // 3),) * 2)
    yield Odd(kind, "repeats.mkv", again, Wanted(kind="video", most=2))
    yield Odd(kind, "all_at_once.mkv", retimed("mkv", lambda n, t: (0, 0)), Wanted(most=2))
    swings = retimed("nut", lambda n, t: (t, t))
    yield Odd(kind, "plain.nut", swings, steady_pictures)
    for order in (1, 2):
        name = f"wrong_order_{order}.mkv"
        make = damaged_times("film.mkv", order)
        yield Odd(kind, name, make, Wanted(may_fail=True, most=20))
    yield Odd(kind, "no_times.h264", raw("libx264", "h264"), Wanted(kind="video", frames=COUNT))
    yield Odd(kind, "no_times.m2v", raw("mpeg2video", "mpeg2video"),
              Wanted(kind="video", frames=COUNT))  # fmt: skip
    yield Odd(kind, "no_times.m4v", raw("mpeg4", "m4v"), Wanted(kind="video", frames=COUNT))
    for suffix in ("mkv", "avi", "nut"):
        heard = Wanted(kind="sound", seconds=80_000 / RATE, tone=HZ)
        yield Odd("small packets", f"small_packets.{suffix}", in_small_packets, heard)
    for fps in (Fraction(1), Fraction(2), Fraction(5), Fraction(10), Fraction(12), Fraction(15),
                Fraction(24000, 1001), Fraction(30000, 1001), Fraction(50), Fraction(60),
                Fraction(100), Fraction(120), Fraction(240)):  # fmt: skip
        for suffix in ("mp4", "mkv"):
            count = 2 if fps == 1 else max(2, round(Fraction(7, 10) * fps))
            frames = max(1, int(count / fps * 25 + Fraction(1, 2)))
            shows = [min(count - 1, int(Fraction(k, 25) * fps)) for k in range(frames)]
            # Matroska keeps milliseconds: the frame on display may be the one beside.
            exact = suffix == "mp4" or (fps <= 60 and fps.denominator == 1)
            wanted = Wanted(kind="video", frames=frames, shows=shows if exact else None, tone=HZ)
            name = f"{float(fps):.5g}_a_second.{suffix}"
            yield Odd("frame rates", name, of_film(count=count, fps=fps), wanted)


def in_small_packets(folder: Path, path: Path) -> None:
    """A tone in 40,000 packets of two samples: what is done for each packet is done often."""
    sound = (tone(80_000 / RATE)[0] * 32_767).astype("<i2").tobytes()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for first in range(0, len(sound), 4):
            packet = av.Packet(sound[first : first + 4])
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = first // 2
            packet.duration = 2
            container.mux(packet)


def damaged_times(name: str, seed: int) -> Make:
    """Cluster and block times of a Matroska take random values."""

    def make(folder: Path, path: Path) -> None:
        data, random = bytearray(base(folder, name)), np.random.default_rng(seed)
        place = data.find(b"\xa3")  # SimpleBlock
        while 0 < place < len(data) - 8:
            if data[place + 1] & 0x80:
                data[place + 3 : place + 5] = random.bytes(2)
            elif data[place + 1] & 0x40:
                data[place + 4 : place + 6] = random.bytes(2)
            place = data.find(b"\xa3", place + 200)
        path.write_bytes(bytes(data))

    return make


def raw(codec: str, format: str) -> Make:
    """The bare stream of a codec, without a container."""

    def make(_: Path, path: Path) -> None:
        make_media(path, film(), steady(COUNT, 25), codec=codec, format=format)

    return make


def pictures() -> Iterator[Odd]:
    for count in (1, 2, 15, 16, 17, 33):
        for suffix in ("mp4", "mkv"):
            wanted = Wanted(kind="video", shows=range(count), tone=HZ)
            sound = tone(count / 25)
            make = of_film(count=count, sound=sound if count > 2 else None)
            if count <= 2:
                wanted = Wanted(kind="video", shows=range(count))
            yield Odd("few frames", f"{count}_frames.{suffix}", make, wanted)
    for degrees, flip in ((0, True), (90, False), (90, True), (180, False), (180, True),
                          (270, False), (270, True)):  # fmt: skip
        for suffix in ("mp4", "mov"):
            size = (96, 64) if degrees % 180 == 0 else (64, 96)
            make = of_pictures(rotation=(degrees, flip))
            wanted = Wanted(kind="video", frames=COUNT, size=size, rotation=None)
            yield Odd("turned", f"turned_{degrees}{'_mirrored' * flip}.{suffix}", make, wanted)
    for width, height in ((1, 1), (2, 2), (1, 100), (3, 5), (17, 33), (97, 65), (8000, 2),
                          (2, 3000), (1023, 7), (4096, 16)):  # fmt: skip
        for suffix in ("mov", "avi"):
            codec = "png" if suffix == "mov" else "huffyuv"
            wanted = Wanted(kind="video", frames=5, size=(width, height))
            make = of_pictures(count=5, shape=(height, width), codec=codec, pixels="rgb24")
            yield Odd("sizes", f"{width}x{height}.{suffix}", make, wanted)
    for pixels in ("yuv420p10le", "yuv422p10le", "yuv444p12le", "gray", "gray10le", "gray16le",
                   "yuva420p", "yuva444p10le", "bgra", "gbrp16le", "yuv420p16le", "yuv410p",
                   "yuv411p", "yuv440p"):  # fmt: skip
        wanted = Wanted(kind="video", shows=range(COUNT), size=(96, 64))
        yield Odd("pixels", f"{pixels}.mkv", of_pictures(codec="ffv1", pixels=pixels), wanted)
    more = (("libx264", "yuv444p", "mp4"), ("libx264", "yuv420p10le", "mp4"),
            ("libx265", "yuv420p10le", "mp4"), ("prores_ks", "yuv422p10le", "mov"),
            ("prores_ks", "yuva444p10le", "mov"), ("qtrle", "argb", "mov"),
            ("libvpx", "yuva420p", "webm"), ("libvpx-vp9", "yuv444p", "webm"),
            ("libsvtav1", "yuv420p10le", "mp4"), ("dnxhd", "yuv422p", "mov"),
            ("rawvideo", "rgb24", "avi"), ("h263", "yuv420p", "3gp"), ("zmbv", "bgr0", "avi"),
            ("utvideo", "gbrp", "avi"), ("png", "rgba", "mov"), ("mjpeg", "yuvj444p", "avi"),
            ("libx264rgb", "rgb24", "mkv"), ("snow", "yuv420p", "avi"))  # fmt: skip
    encoders = {
        "libvpx": {"auto-alt-ref": "0"},
        "dnxhd": {"profile": "dnxhr_sq"},
        "libx265": {"x265-params": "log-level=none"},
    }
    shapes = {"dnxhd": (128, 256), "h263": (96, 128)}
    sizes = {"dnxhd": (256, 128), "h263": (140, 96)}  # H.263's pixels are 12 to 11
    for codec, pixels, suffix in more:
        shape = shapes.get(codec, (64, 96))
        count = 3 if codec == "dnxhd" else COUNT
        options = encoders.get(codec)
        wanted = Wanted(kind="video", shows=range(count), size=sizes.get(codec, (96, 64)))
        make = of_pictures(count=count, codec=codec, pixels=pixels, shape=shape, encoder=options)
        yield Odd("pixels", f"{codec}_{pixels}.{suffix}", make, wanted)
    for suffix in ("mkv", "ts"):
        yield Odd("pixels", f"interlaced.{suffix}", interlaced,
                  Wanted(kind="video", frames=COUNT, size=(96, 64)))  # fmt: skip
    for ratio in (Fraction(2), Fraction(1, 2), Fraction(16, 11), Fraction(1000), Fraction(1, 1000)):
        width = round(96 * ratio) if Fraction(1, 8) < ratio < 8 else 96
        make = of_pictures(aspect=ratio)
        name = f"pixels_{ratio.numerator}_to_{ratio.denominator}.mp4"
        yield Odd("sizes", name, make, Wanted(kind="video", frames=COUNT, size=(width, 64)))
    yield Odd("sizes", "changes_its_size.ts", joined("film.ts", "wide.ts"),
              Wanted(kind="video", size=(96, 64), most=2))  # fmt: skip


def interlaced(_: Path, path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        video.options = {"flags": "+ilme+ildct", "field_order": "tt"}
        for index, pixels in enumerate(film()):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def joined(*names: str) -> Make:
    """Files one behind the other, as `cat` joins them."""

    def make(folder: Path, path: Path) -> None:
        if "wide.ts" in names and not (folder / "wide.ts").exists():
            wide = of_film(count=5, shape=(48, 128), codec="mpeg2video", sound_codec="mp2")
            wide(folder, folder / "wide.ts")
        path.write_bytes(b"".join(
            (folder / n).read_bytes() if n == "wide.ts" else base(folder, n) for n in names
        ))  # fmt: skip

    return make


LAYOUTS = ("mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1")


def sounds() -> Iterator[Odd]:
    for count, layout in enumerate(LAYOUTS, 1):
        for suffix in ("wav", "flac", "mkv"):
            codec = "flac" if suffix != "wav" else "pcm_s16le"
            make = of_sound(channels=count, layout=layout, sound_codec=codec)
            yield Odd("channels", f"{count}_channels.{suffix}", make, HEARD)
    for rate in (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400,
                 192_000):  # fmt: skip
        for suffix in ("wav", "flac"):
            codec = "flac" if suffix == "flac" else "pcm_s16le"
            make = of_sound(rate=rate, sound_codec=codec)
            yield Odd("sampling rates", f"{rate}_hz.{suffix}", make, HEARD)
    for codec in ("pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw",
                  "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav"):  # fmt: skip
        make = of_sound(sound_codec=codec)
        yield Odd("sampling rates", f"{codec}.wav", make, HEARD)
    for rate in (1, 50, 700, 3_000, 384_000, 768_000):
        wanted = Wanted(may_fail=rate < 100, kind="sound", seconds=SECONDS if rate > 1 else 1)
        yield Odd("sampling rates", f"{rate}_hz_odd.wav", told_rate(rate), wanted)
    for count in (1, 480, 1920, 30_720):
        make = of_sound(count / RATE, sound_codec="pcm_s16le")
        wanted = Wanted(kind="sound", seconds=count / RATE)
        if count == 1:  # of 48,000 Hz: none at the model's rate
            wanted = Wanted(refused="nothing to read")
        yield Odd("few frames", f"{count}_samples.wav", make, wanted)
    # A WAV of not-a-number, of infinity, and far above full scale.
    for name, value in (("nan", np.nan), ("infinity", np.inf), ("loud", 1e30)):
        make = constant(value)
        yield Odd("channels", f"{name}.wav", make, Wanted(kind="sound", seconds=SECONDS))


def told_rate(rate: int) -> Make:
    def make(_: Path, path: Path) -> None:
        samples = (tone(SECONDS, max(rate, 2))[0] * 32_767).astype("<i2").tobytes()
        path.write_bytes(wav(samples, rate, 1, 16))

    return make


def wav(samples: bytes, rate: int, channels: int, bits: int, tag: int = 1) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def constant(value: float) -> Make:
    def make(_: Path, path: Path) -> None:
        samples = np.full(round(SECONDS * 8000), value, "<f4")
        path.write_bytes(wav(samples.tobytes(), 8000, 1, 32, tag=3))

    return make


# ---- headers that lie


def box(data: bytes, name: bytes, offset: int, value: int, size: int = 4, nth: int = 0) -> bytes:
    """An MP4 with a number in a box changed, `offset` bytes behind its name."""
    place = -1
    for _ in range(nth + 1):
        place = data.index(name, place + 1)
    place += 4 + offset
    return data[:place] + value.to_bytes(size, "big") + data[place + size :]


def lying(name: str, *changes: tuple[bytes, int, int, int]) -> Make:
    def make(folder: Path, path: Path) -> None:
        data = base(folder, name)
        for change in changes:
            data = box(data, *change)
        path.write_bytes(data)

    return make


def lies() -> Iterator[Odd]:
    kind = "headers that lie"
    hour = 3600 * 90_000
    early = Wanted(kind="video", frames=COUNT, tone=HZ, most=2)
    for name in ("film.mp4", "front.mp4"):
        yield Odd(kind, f"mvhd_{name}", lying(name, (b"mvhd", 16, 3_600_000, 4)), early)
        yield Odd(kind, f"tkhd_{name}", lying(name, (b"tkhd", 20, 3_600_000, 4)), early)
        yield Odd(kind, f"mdhd_{name}", lying(name, (b"mdhd", 16, hour, 4)), early)
        all_three = ((b"mvhd", 16, 3_600_000, 4), (b"tkhd", 20, 3_600_000, 4),
                     (b"mdhd", 16, hour, 4))  # fmt: skip
        yield Odd(kind, f"all_{name}", lying(name, *all_three), early)
        yield Odd(kind, f"mvhd_zero_{name}", lying(name, (b"mvhd", 16, 0, 4)), early)
        yield Odd(kind, f"mvhd_scale_{name}", lying(name, (b"mvhd", 12, 1, 4)), early)
        yield Odd(kind, f"mvhd_scale_zero_{name}", lying(name, (b"mvhd", 12, 0, 4)), early)
        free = Wanted(may_fail=True, most=60)
        yield Odd(kind, f"mdhd_scale_{name}", lying(name, (b"mdhd", 12, 1, 4)), free)
        yield Odd(kind, f"mdhd_scale_zero_{name}", lying(name, (b"mdhd", 12, 0, 4)), free)
        # Each frame is said to last an hour; only the sound tells the truth.
        long = Wanted(kind="video", most=2)
        yield Odd(kind, f"stts_{name}", lying(name, (b"stts", 12, hour, 4)), long)
        yield Odd(kind, f"stts_most_{name}", lying(name, (b"stts", 12, 2**31 - 1, 4)), long)
        yield Odd(kind, f"stts_count_{name}", lying(name, (b"stts", 8, 2**31 - 1, 4)), free)
        yield Odd(kind, f"stsz_count_{name}", lying(name, (b"stsz", 8, 2**31 - 1, 4)), free)
        many = ((b"stsz", 4, 1, 4), (b"stsz", 8, 2**27, 4))
        yield Odd(kind, f"stsz_many_{name}", lying(name, *many), free)
        yield Odd(kind, f"stsc_{name}", lying(name, (b"stsc", 12, 2**31 - 1, 4)), free)
        yield Odd(kind, f"stco_{name}", lying(name, (b"stco", 8, 2**32 - 1, 4)), free)
        yield Odd(kind, f"elst_hour_{name}", lying(name, (b"elst", 8, 3_600_000, 4)), early)
        # It is to begin an hour behind its own end: nothing of the picture is left.
        yield Odd(kind, f"elst_start_{name}", lying(name, (b"elst", 12, hour // 90, 4)), free)
        yield Odd(kind, f"elst_empty_{name}", lying(name, (b"elst", 12, 2**32 - 1, 4)), free)
        for side in (0, 65_535, 16_384):
            sizes = ((b"avc1", 24, side, 2), (b"avc1", 26, side, 2))
            yield Odd(kind, f"size_{side}_{name}", lying(name, *sizes), free)
    for size in (65_535, 16_000, 11_000):
        refused = Wanted(refused="67 million pixels")
        yield Odd("huge pictures", f"{size}.png", huge_png(size), refused)
    for size in (16_000, 12_000):
        yield Odd("huge pictures", f"{size}.mkv", huge("ffv1", size), refused)
        # Here the codec knows better than the container.
        whole = Wanted(kind="video", shows=range(COUNT), size=(96, 64))
        yield Odd("huge pictures", f"{size}.avi", huge("mpeg4", size), whole)
    for hours in (1, 1000):
        for name in ("film.mkv", "film.webm"):
            make = matroska_duration(name, hours * 3_600_000.0)
            yield Odd(kind, f"duration_{hours}_hours_{name}", make, early)
    for name, value in (("nan", np.nan), ("negative", -5.0), ("infinity", np.inf)):
        yield Odd(kind, f"duration_{name}.mkv", matroska_duration("film.mkv", value), early)
    for rate in (0, 1, 2**31):
        yield Odd(kind, f"avi_rate_{rate}.avi", avi_rate(rate), Wanted(may_fail=True, most=60))
    yield Odd(kind, "avi_frames.avi", avi_frames, early)
    for size in (0, 2**32 - 1, 2**31):
        yield Odd(kind, f"data_of_{size}.wav", wav_size(size), HEARD)
    yield Odd(kind, "channels_of_65535.wav", wav_channels(65_535), Wanted(may_fail=True))
    yield Odd(kind, "channels_of_0.wav", wav_channels(0), Wanted(may_fail=True))
    yield Odd(kind, "channels_of_16.wav", wav_channels(16), Wanted(may_fail=True))
    yield Odd(kind, "sparse.mp4", sparse, Wanted(kind="video", frames=COUNT, tone=HZ, most=2))
    yield Odd(kind, "sparse.ts", sparse, Wanted(may_fail=True, most=12))


def huge_png(size: int) -> Make:
    """A PNG of a few dozen bytes that claims to be huge, its checksum right."""

    def make(_: Path, path: Path) -> None:
        head = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
        packed = zlib.compress(bytes(4000))
        chunks = [head, b"IDAT" + packed, b"IEND"]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
        ))  # fmt: skip

    return make


def huge(codec: str, size: int) -> Make:
    """A whole film whose container claims a huge picture."""

    def make(folder: Path, path: Path) -> None:
        pixels = "bgr0" if codec == "ffv1" else "yuv420p"
        of_pictures(codec=codec, pixels=pixels)(folder, path)
        data = path.read_bytes()
        if codec == "ffv1":
            for element, side in ((b"\xb0\x81\x60", size), (b"\xba\x81\x40", size)):
                assert data.count(element) == 1
                wide = element[:1] + b"\x82" + side.to_bytes(2, "big")
                data = data.replace(element, wide)
            # The element around is as long as its header says: one byte less of padding in each.
            data = longer_track(data, 2)
        else:
            place = data.index(b"strf") + 12
            data = data[:place] + struct.pack("<ii", size, size) + data[place + 8 :]
        path.write_bytes(data)

    return make


def longer_track(data: bytes, more: int) -> bytes:
    """A Matroska whose tracks, the first track and its video settings grew by `more` bytes."""
    changed = bytearray(data)
    for name, after in ((b"\x16\x54\xae\x6b", 0), (b"\xae", None), (b"\xe0", None)):
        start = changed.index(b"\x16\x54\xae\x6b") if after is None else 0
        place = changed.index(name, start + (4 if after is None else 0)) + len(name)
        length = 1
        while not changed[place] & (0x80 >> (length - 1)):
            length += 1
        value = int.from_bytes(changed[place : place + length], "big") + more
        changed[place : place + length] = value.to_bytes(length, "big")
    return bytes(changed)


def matroska_duration(name: str, milliseconds: float) -> Make:
    def make(folder: Path, path: Path) -> None:
        data = base(folder, name)
        place = data.index(b"\x44\x89\x88") + 3
        path.write_bytes(data[:place] + struct.pack(">d", milliseconds) + data[place + 8 :])

    return make


def avi_rate(rate: int) -> Make:
    def make(folder: Path, path: Path) -> None:
        data = base(folder, "film.avi")
        place = data.index(b"strh") + 8 + 24
        path.write_bytes(data[:place] + struct.pack("<I", rate) + data[place + 4 :])

    return make


def avi_frames(folder: Path, path: Path) -> None:
    """An hour by both counts of frames in the header."""
    data = base(folder, "film.avi")
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        data = data[:place] + struct.pack("<I", 90_000) + data[place + 4 :]
    path.write_bytes(data)


def wav_size(size: int) -> Make:
    def make(folder: Path, path: Path) -> None:
        data = base(folder, "tone.wav")
        place = data.index(b"data") + 4
        path.write_bytes(data[:place] + struct.pack("<I", size) + data[place + 4 :])

    return make


def wav_channels(count: int) -> Make:
    def make(_: Path, path: Path) -> None:
        data = bytearray(wav(bytes(200_000), 8000, 1, 16))
        data[22:24] = struct.pack("<H", count)
        data[32:34] = struct.pack("<H", min(65_535, 2 * count))
        path.write_bytes(bytes(data))

    return make


def sparse(folder: Path, path: Path) -> None:
    """Four gigabytes (of a transport stream: sixteen megabytes) of nothing behind a film."""
    with path.open("wb") as file:
        file.write(base(folder, f"film{path.suffix}"))
        file.truncate(1 << (32 if path.suffix == ".mp4" else 24))


# ---- what is no media file, and what only points to one


def no_media() -> Iterator[Odd]:
    kind = "no media"
    contents = {
        "empty.mp4": (b"", "is empty"),
        "one_byte.mp4": (b"\0", "media file"),
        "text.mp4": (b"This is not a video.\n" * 200, "media file|text"),
        "text.txt": (b"Neither is this.\n" * 200, "media file|text"),
        "html.mp4": (b"<!DOCTYPE html><html><body>404</body></html>" * 9, "media file|text"),
        "json.mp4": (b'{"error": "not found"}', "media file|text"),
        "zeros.mp4": (bytes(100_000), "media file|decoded"),
        "ones.avi": (b"\xff" * 100_000, "media file|decoded"),
        "zip.mp4": (b"PK\x03\x04" + bytes(2000), "media file|decoded"),
        "elf.mkv": (b"\x7fELF\x02\x01\x01" + bytes(5000), "media file|decoded"),
        "pdf.mp4": (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(3000), "media file|decoded"),
        "subtitles.srt": (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n" * 9, "no video or sound"),
        "subtitles.ass": (b"[Script Info]\nTitle: a\n\n[Events]\n", "no video or sound|media file"),
        "subtitles.vtt": (b"WEBVTT\n\n00:01.000 --> 00:02.000\nHi\n", "no video or sound"),
        "only_ftyp.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video or sound|media file"),
        "only_ebml.mkv": (b"\x1aE\xdf\xa3\x80", "media file|cannot be read|video or sound"),
        "riff.avi": (b"RIFF\xff\xff\xff\x7fAVI LIST", "media file|cannot be read|decoded"),
        "table.csv": (b"a,b\n1,2\n" * 99, "media file|text"),
    }
    for name, (content, line) in contents.items():
        make = written(content)
        yield Odd(kind, name, make, Wanted(refused=line))
    for seed in range(12):
        content = np.random.default_rng(seed).bytes(20_000)
        suffix = ("mp4", "mkv", "avi", "mp3", "ts", "wav")[seed % 6]
        yield Odd(kind, f"noise_{seed}.{suffix}", written(content), Wanted(may_fail=True, most=10))
    yield Odd(kind, "folder.mp4", lambda _, path: path.mkdir(), Wanted(refused="is a folder"))
    yield Odd(kind, "nowhere.mp4", lambda _, path: path.symlink_to("/no/such"),
              Wanted(refused="no such file"))  # fmt: skip
    yield Odd(kind, "round.mp4", lambda _, path: path.symlink_to(path.name),
              Wanted(refused="no such file|cannot be read"))  # fmt: skip
    yield Odd(kind, "pipe.mp4", fifo, Wanted(refused="is no file"))
    yield Odd(kind, "device.mp4", lambda _, path: path.symlink_to("/dev/zero"),
              Wanted(refused="is no file"))  # fmt: skip
    yield Odd(kind, "%03d.mp4", damaged("film.mp4", lambda d, _: d, 0), WHOLE)
    yield Odd(kind, "http:__host_a?b=c;d|e.mp4", damaged("film.mp4", lambda d, _: d, 0), WHOLE)


def fifo(_: Path, path: Path) -> None:
    os.mkfifo(path)


def written(content: bytes) -> Make:
    return lambda _, path: path.write_bytes(content) and None


def pointing(text: str, target: str = "film.ts") -> Make:
    """A text that names a real film beside it, which must not be opened."""

    def make(folder: Path, path: Path) -> None:
        base(folder, target)
        beside = path.with_name("secret.ts")
        beside.write_bytes((folder / target).read_bytes())
        path.write_text(text.replace("FILM", str(beside)).replace("BESIDE", beside.name))

    return make


def lists() -> Iterator[Odd]:
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.72,\n{}\n#EXT-X-ENDLIST\n"
    contents = {
        "full.m3u8": hls.format("FILM"),
        "beside.m3u8": hls.format("BESIDE"),
        "url.m3u8": hls.format("file://FILM"),
        "renamed.mp4": hls.format("FILM"),
        "http.m3u8": hls.format("http://127.0.0.1:9/a.ts"),
        "stdin.m3u8": hls.format("fd:"),
        "pipe.m3u8": hls.format("pipe:0"),
        "data.m3u8": hls.format("data:video/mp2t;base64,RwAREAAC"),
        "concat_in.m3u8": hls.format("concat:FILM|FILM"),
        "subfile.m3u8": hls.format("subfile,,start,0,end,9999,,:FILM"),
        "key.m3u8": hls.format("BESIDE").replace(
            "#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/hostname"\n#EXTINF'
        ),
        "master.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfull.m3u8\n",
        "list.ffconcat": "ffconcat version 1.0\nfile BESIDE\n",
        "list.mp4": "ffconcat version 1.0\nfile BESIDE\n",
        "full.ffconcat": "ffconcat version 1.0\nfile FILM\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'type="static"><Period><AdaptationSet mimeType="video/mp2t"><Representation id="1">'
        "<BaseURL>FILM</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "list.m3u": "#EXTM3U\nFILM\n",
        "list.pls": "[playlist]\nFile1=FILM\n",
        "list.asx": '<asx version="3.0"><entry><ref href="FILM"/></entry></asx>',
        "list.xspf": '<?xml version="1.0"?><playlist><track><location>FILM</location></track>'
        "</playlist>",
        "subtitles.idx": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"
        "timestamp: 00:00:01:000, filepos: 000000000\n",
        "script.avs": 'DirectShowSource("FILM")\n',
        "rtsp.mp4": "RTSP/1.0 200 OK\r\n",
        "image.svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="FILM"/></svg>',
    }
    for name, text in contents.items():
        yield Odd("lists of other files", name, pointing(text),
                  Wanted(refused="."))  # fmt: skip
    yield Odd("lists of other files", "reference.mov", reference,
              Wanted(kind="sound", tone=0, note="picture cannot be decoded"))  # fmt: skip


def reference(folder: Path, path: Path) -> None:
    """A QuickTime film whose samples are said to be in another file."""
    data = base(folder, "film.mov")
    secret = path.with_name("secret.mov")
    secret.write_bytes(data)
    # Its own data reference is said not to be its own; what is in it is gone.
    for _ in range(2):
        place = data.index(b"url \0\0\0\1")
        data = data[:place] + b"url \0\0\0\0" + data[place + 8 :]
    place = data.index(b"mdat")
    size = int.from_bytes(data[place - 4 : place], "big")
    path.write_bytes(data[: place + 4] + bytes(size - 8) + data[place + size - 4 :])


def stills() -> Iterator[Odd]:
    kind = "stills and animations"
    still = Wanted(kind="image", frames=1, shows=[0], size=(96, 64))
    for suffix, codec, pixels in (("png", "png", "rgb24"), ("jpg", "mjpeg", "yuvj444p"),
                                  ("bmp", "bmp", "bgr24"), ("tiff", "tiff", "rgb24"),
                                  ("webp", "libwebp", "bgra"), ("png", "png", "rgb48be"),
                                  ("png", "png", "gray"), ("png", "png", "rgba"),
                                  ("png", "png", "monob"),
                                  ("ppm", "ppm", "rgb24"), ("jp2", "jpeg2000", "rgb24"),
                                  ("qoi", "qoi", "rgb24"), ("sgi", "sgi", "rgb24")):  # fmt: skip
        yield Odd(kind, f"{codec}_{pixels}.{suffix}", one_picture(codec, pixels), still)
    moving = Wanted(kind="video", shows=range(COUNT), size=(96, 64))
    for suffix, codec, pixels, container in (("gif", "gif", "rgb8", "gif"),
                                             ("png", "apng", "rgb24", "apng"),
                                             ("apng", "apng", "rgba", "apng")):  # fmt: skip
        make = of_pictures(codec=codec, pixels=pixels, format=container)
        yield Odd(kind, f"moving_{pixels}.{suffix}", make, moving)
    webp = of_pictures(codec="libwebp_anim", pixels="yuv420p", format="webp")
    yield Odd(kind, "moving.webp", webp, Wanted(may_fail=True, most=2))
    yield Odd(kind, "one.gif", of_pictures(count=1, codec="gif", pixels="rgb8"), still)
    # Of these the name is the only sign, and names are not believed.
    targa = one_picture("targa", "bgr24")
    yield Odd(kind, "targa.tga", targa, Wanted(refused="not a media file"))
    yield Odd(kind, "film.yuv", raw_pixels, Wanted(refused="media file|decoded|cannot"))
    for share in (0.3, 0.6, 0.95):
        for suffix, codec, pixels in (("png", "png", "rgb24"), ("jpg", "mjpeg", "yuvj420p"),
                                      ("webp", "libwebp", "bgra")):  # fmt: skip
            make = shortened(one_picture(codec, pixels), share)
            yield Odd(kind, f"cut_{share}.{suffix}", make, Wanted(may_fail=True, kind="image"))


def one_picture(codec: str, pixels: str) -> Make:
    def make(_: Path, path: Path) -> None:
        make_media(path, film(1), [Fraction(0)], codec=codec, pixels=pixels, format="image2",
                   fps=Fraction(1), options={"update": "1"})  # fmt: skip

    return make


def shortened(make: Make, share: float) -> Make:
    def shorter(folder: Path, path: Path) -> None:
        make(folder, path)
        data = path.read_bytes()
        path.write_bytes(data[: round(len(data) * share)])

    return shorter


def raw_pixels(_: Path, path: Path) -> None:
    path.write_bytes(b"".join(frame.tobytes() for frame in film(4)))


@functools.cache
def table(rounds: int = 1) -> dict[str, Odd]:
    """All of them by name, every random damage done in so many ways; from the second round on to
    more clips too, where they lie beside a checkout."""
    bases = BASES if rounds > 1 else VIDEO_BASES | SOUND_BASES
    return {odd.name: odd for odd in (*damages(tuple(bases), rounds), *odd())}
