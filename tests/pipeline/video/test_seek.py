"""Frames reached by key frames are bit for bit those of decoding from the start, or no seek is made."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from support.paths import SHARED_VIDEOS

from pipeline.config.runtime import LimitsConfig
from pipeline.records import Uint8Frames
from pipeline.video import pyav_pictures, seek
from pipeline.video.decode import memory_file
from pipeline.video.pixels.rgb import Look
from pipeline.video.probe import probe
from pipeline.video.pyav_pictures import PyavPictures
from pipeline.video.seek import Key, Read, plan_reads, plan_seeks
from pipeline.video.signatures import container_of
from pipeline.video.synthetic.videos import draw_frame, make_video, read_number

LIMITS = LimitsConfig()
FRAMES = 300
GOP = {"g": "24", "keyint_min": "24", "sc_threshold": "0"}
X265 = "log-level=none:keyint=24:min-keyint=24:scenecut=0:bframes=3:"
SEEKS = {
    "closed": {"options": {**GOP, "bf": "3"}},
    "b-pyramid": {"options": {**GOP, "bf": "4", "x264-params": "b-pyramid=strict"}},
    "many references": {"options": {**GOP, "bf": "2", "refs": "8"}},
    "matroska": {"options": GOP, "container": "matroska"},
    "ts": {"options": {**GOP, "bf": "2"}, "container": "mpegts"},
    "vfr": {"options": GOP, "pts_seconds": [0.04 * number + 0.01 * (number % 3) for number in range(FRAMES)]},
    "hevc, open": {"codec": "libx265", "options": {"x265-params": X265 + "open-gop=1"}},
    "hevc, closed": {"codec": "libx265", "options": {"x265-params": X265 + "open-gop=0"}},
    "mpeg4": {"codec": "mpeg4", "options": {**GOP, "bf": "2"}},
    "vp9": {
        "codec": "libvpx-vp9",
        "container": "webm",
        "options": {"g": "24", "deadline": "realtime", "cpu-used": "8"},
    },
}
REFUSED = {
    "open gop of h264": {"options": {**GOP, "bf": "3", "x264-params": "open-gop=1"}},
    "recovery points": {"options": {**GOP, "x264-params": "intra-refresh=1"}},
    "one key frame": {"options": {"g": "1000", "sc_threshold": "0"}},
    "no times": {"codec": "mpeg4", "container": "avi", "options": {**GOP, "bf": "2"}},
    "another codec": {"codec": "mpeg2video", "container": "mpegts", "options": GOP},
}


WANTED = [239], [240], [241, 263], [190, 191, 192, 260], list(range(215, 265, 3))


@contextmanager
def opened(video: bytes, strict: bool = False) -> Iterator[PyavPictures]:
    with memory_file(video) as path:
        found = probe(path, container_of(video), LIMITS)
        yield PyavPictures(path, found, LIMITS, strict, Look())


drawn = cache(draw_frame)  # drawing takes as long as encoding, and all videos show the same


@cache
def made(name: str) -> bytes:
    return make_video(FRAMES, 25, 128, 64, draw=drawn, **(SEEKS | REFUSED | {"plain": {"options": GOP}})[name])


def marked(frames: int, wanted: list[int]) -> bytearray:
    needed = bytearray(frames)
    for index in wanted:
        needed[index] = 1
    return needed


def pictures(decoded: Iterator[tuple[int, Uint8Frames] | None]) -> dict[int, Uint8Frames]:
    return {item[0]: item[1] for item in decoded if item}


def equal(left: dict[int, Uint8Frames], right: dict[int, Uint8Frames]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[index], right[index]) for index in left)


def without_reading_from_the_start(*_: object) -> Iterator[None]:
    raise AssertionError("the frames were to come by a seek")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEKS)
def test_a_seek_gives_the_bits_of_decoding_from_the_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(made(name)) as video:
        from_the_start = pictures(video.from_the_start(marked(FRAMES, sorted(set().union(*WANTED)))))
        for wanted in WANTED:
            needed = marked(FRAMES, wanted)
            expected = {index: from_the_start[index] for index in wanted}
            assert [read_number(picture) for picture in expected.values()] == wanted
            assert plan_seeks(video.found.header, video.found.packets, needed) is not None
            with monkeypatch.context() as patched:
                patched.setattr(PyavPictures, "from_the_start", without_reading_from_the_start)
                assert equal(pictures(video.pictures(needed)), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_no_seek_is_made_where_it_might_give_other_frames(name: str) -> None:
    with opened(made(name)) as video:
        needed = marked(FRAMES, [270, 280])
        assert plan_seeks(video.found.header, video.found.packets, needed) is None
        assert [read_number(picture) for picture in pictures(video.pictures(needed)).values()] == [270, 280]


def cut_without_decoding(video: bytes, first: int) -> bytes:
    """The mp4 from packet `first` on: an edit list hides what stands before it since the last key frame."""
    file = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(file, "w", format="mp4") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        start = None
        for packet in source.demux(video=0):
            if packet.size:
                start = packet.dts + first * packet.duration if start is None else start
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()


def test_an_edit_list_that_cuts_frames_off_refuses_seeks() -> None:
    with opened(cut_without_decoding(made("closed"), 10)) as video:
        frames = video.found.header.frames
        assert frames < FRAMES
        needed = marked(frames, [frames - 10])
        assert plan_seeks(video.found.header, video.found.packets, needed) is None
        assert equal(pictures(video.pictures(needed)), pictures(video.from_the_start(needed)))


def test_a_seek_that_shows_other_frames_than_announced_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = marked(FRAMES, [250, 260])
    with opened(made("closed")) as video:
        expected = pictures(video.from_the_start(needed))
        monkeypatch.setattr(PyavPictures, "_agrees", agrees)
        for place in (245, 255):
            video.found.packets.sizes[place] += 1  # the file has another packet here than the index says
            assert equal(pictures(video.pictures(needed)), expected)
            video.found.packets.sizes[place] -= 1


def agrees(*_: object) -> Iterator[None]:
    yield None
    return True


def test_frames_that_differ_after_a_seek_end_seeking(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = marked(FRAMES, [250])
    sums = iter(range(10**6))
    monkeypatch.setattr(pyav_pictures, "checksum", lambda _: next(sums))
    monkeypatch.setattr(PyavPictures, "_by_key", without_reading_from_the_start)
    with opened(made("closed")) as video:
        assert [read_number(picture) for picture in pictures(video.pictures(needed)).values()] == [250]


@pytest.mark.parametrize("pyramid", ["none", "strict", "normal"])
def test_frames_that_no_other_needs_are_passed_over_and_the_others_keep_their_bits(pyramid: str) -> None:
    options = {"g": "1000", "bf": "4", "x264-params": f"b-pyramid={pyramid}:b-adapt=0"}
    with opened(make_video(120, 25, 128, 64, draw=drawn, options=options)) as video:
        for step in (3, 4, 7):
            needed = marked(120, list(range(0, 120, step)))
            items = list(video.pictures(needed))
            assert len(items) < needed.rindex(1) + 1
            assert equal(pictures(iter(items)), pictures(video.from_the_start(needed)))


def test_a_frame_that_is_lost_by_passing_over_others_comes_by_decoding_all(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = marked(120, [50, 100])
    monkeypatch.setattr(PyavPictures, "lean_packets", lambda _, video, __: list(video.packets())[:60])
    with opened(make_video(120, 25, 128, 64, draw=drawn, options={"g": "1000"})) as video:
        assert [read_number(picture) for picture in pictures(video.pictures(needed)).values()] == [50, 100]


def test_strict_decoding_reads_everything() -> None:
    with opened(made("closed"), strict=True) as video:
        decoded = list(video.pictures(marked(FRAMES, [250])))
        assert len(decoded) == 251


def test_reads_begin_at_the_last_key_frame_and_join_where_a_seek_saves_little() -> None:
    keys = [Key(packet=number, index=number) for number in (0, 50, 100, 150)]
    assert plan_reads(keys, [10, 30]) == (Read(keys[0], 30),)
    assert plan_reads(keys, [49, 50]) == (Read(keys[0], 50),)
    assert plan_reads(keys, [10, 60, 120, 160]) == (Read(keys[0], 10), Read(keys[1], 60), Read(keys[2], 160))
    assert plan_reads(keys, [10, 160]) == (Read(keys[0], 10), Read(keys[3], 160))


def good_videos() -> list[str]:
    path = SHARED_VIDEOS / "manifest.json"
    return list(json.loads(path.read_text())["good"]) if path.exists() else []


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_VIDEOS.exists(), reason="the shared videos are not here")
@pytest.mark.parametrize("name", good_videos())
def test_every_good_file_gives_the_same_frames_by_key_as_from_the_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek, "LEAST_SAVED_FRAMES", -(10**6))  # even where nothing is saved
    with opened((SHARED_VIDEOS / "good" / Path(name)).read_bytes()) as video:
        frames = video.found.header.frames
        wanted = sorted({frames - 1, frames - 2, frames // 2, 3 * frames // 4} & set(range(frames)))
        assert all(later > earlier for earlier, later in pairwise(wanted))
        expected = pictures(video.from_the_start(marked(frames, wanted)))
        assert equal(pictures(video.pictures(marked(frames, wanted))), expected)
        assert list(expected) == wanted


def test_a_lost_key_frame_gives_what_decoding_from_the_start_gives() -> None:
    data = made("plain")
    with av.open(io.BytesIO(data)) as source:
        packet = [packet for packet in source.demux(video=0) if packet.size][240]
        damaged = data[: packet.pos] + bytes(packet.size) + data[packet.pos + packet.size :]
    needed = marked(FRAMES, [242])
    with opened(damaged) as video:
        assert equal(pictures(video.pictures(needed)), pictures(video.from_the_start(needed)))
