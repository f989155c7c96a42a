"""Frames are the right ones, whichever library decodes them; a video that cannot be decoded harms no other sample."""

import ctypes
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import av
import decord
import numpy as np
import pytest
from av.video.stream import VideoStream
from support.paths import ROOT

import pipeline.video.decode
from encoder import LatentSpec
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.errors import Reason
from pipeline.records import Chunk, DecodeItem, Failure, Geometry, Opened, Uint8Frames
from pipeline.video.decode import decode_sample, memory_file
from pipeline.video.pixels.resize import fit
from pipeline.video.pyav_pictures import PyavPictures
from pipeline.video.synthetic.videos import draw_frame, make_video, read_number

VIDEOS = ROOT.parent / "shared" / "videos"
MANIFEST = json.loads((VIDEOS / "manifest.json").read_text()) if VIDEOS.exists() else {"good": {}, "bad": {}}
LIMITS = LimitsConfig()
RULES = ClipRules(LatentSpec("cogvideox", latent_channels=16, temporal_ratio=4, spatial_ratio=8), chunk_frames=8)
needs_videos = pytest.mark.skipif(not VIDEOS.exists(), reason="the shared videos are not here")


def decode(video: bytes, strict: bool = False, **clip: object) -> list[DecodeItem]:
    config = ClipConfig.model_validate({"frames": "full", "fps": None, "buckets": ["64x128"], **clip})
    return list(decode_sample(video, config, LIMITS, strict, RULES))


def opened_of(items: list[DecodeItem]) -> Opened:
    assert isinstance(items[0], Opened), items[0]
    return items[0]


def frames_by_window(items: list[DecodeItem]) -> list[Uint8Frames]:
    """`t h w c` of each clip; every chunk must be as long as the plan says, and nothing may have failed."""
    chunks = [item for item in items[1:] if isinstance(item, Chunk)]
    assert len(chunks) == len(items) - 1, items[-1]
    windows = []
    for clip in opened_of(items).clips:
        own = [chunk.frames for chunk in chunks if chunk.window_index == clip.window_index]
        assert tuple(len(frames) for frames in own) == clip.chunk_frames
        assert all(frames.dtype == np.uint8 and frames.flags.c_contiguous for frames in own)
        windows.append(np.concatenate(own))
    return windows


def times_of(opened: Opened, number: int) -> list[float]:
    return [opened.header.pts_seconds[index] for index in opened.clips[number].frame_indices]


def numbers(frames: Uint8Frames) -> list[int]:
    return [read_number(frame) for frame in frames]


def reference_frames(path: Path) -> Iterator[tuple[float | None, Uint8Frames]]:
    """Time and upright picture of every frame, by PyAV and nothing of ours."""
    with av.open(str(path), metadata_errors="replace") as opened:
        stream = opened.streams.best("video")
        packets = (packet for packet in opened.demux(stream) if packet.size)
        for packet in [*packets, None]:
            for frame in stream.decode(packet):
                seconds = None if frame.pts is None else float(frame.pts * stream.time_base)
                yield seconds, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


FORMATS = [
    ("mp4", "libx264", {"bf": "3", "g": "12"}),
    ("mov", "prores_ks", {}),
    ("mp4", "libx265", {"x265-params": "log-level=none"}),
    ("matroska", "libx264", {"bf": "2"}),
    ("webm", "libvpx", {}),
    ("webm", "libvpx-vp9", {}),
    ("avi", "mpeg4", {"bf": "2"}),
    ("avi", "mjpeg", {}),
    ("flv", "flv", {}),
    ("asf", "wmv2", {}),
    ("mpegts", "libx264", {"bf": "2"}),
    ("mpeg", "mpeg2video", {"bf": "2"}),
    ("gif", "gif", {}),
]
PIX_FMTS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p", "gif": "rgb8"}


@cache
def in_format(number: int) -> bytes:
    container, codec, options = FORMATS[number]
    pix_fmt = PIX_FMTS.get(codec, "yuv420p")
    return make_video(33, 25, 128, 64, container=container, codec=codec, options=options, pix_fmt=pix_fmt)


@pytest.mark.parametrize(
    "number", range(len(FORMATS)), ids=[f"{codec} in {container}" for container, codec, _ in FORMATS]
)
@pytest.mark.parametrize("strict", [False, True])
def test_every_format_gives_the_right_frames(number: int, strict: bool):
    (frames,) = frames_by_window(decode(in_format(number), strict))
    assert numbers(frames) == list(range(33))


@pytest.mark.parametrize("window", ["head", "center", "uniform:3", "slide:4", "slide:1"])
def test_windows_hold_the_frames_that_their_clips_name(window: str):
    items = decode(make_video(30, 25, 128, 64), frames=9, window=window)
    clips = opened_of(items).clips
    windows = frames_by_window(items)
    assert [numbers(frames) for frames in windows] == [list(clip.frame_indices) for clip in clips]


def test_a_lower_rate_takes_frames_by_their_times():
    times = [0.0, 0.02, 0.1, 0.5, 0.55, 1.0, 1.4, 1.52, 2.01]
    items = decode(make_video(9, 25, 128, 64, pts_seconds=times), frames=5, fps=2)
    assert numbers(frames_by_window(items)[0]) == [0, 3, 5, 7, 8]
    assert times_of(opened_of(items), 0) == pytest.approx([0.0, 0.5, 1.0, 1.52, 2.01], abs=1e-4)


def test_a_frame_that_a_clip_uses_twice_comes_twice():
    items = decode(make_video(40, 9.6, 128, 64), frames=33, fps=10)
    (frames,) = frames_by_window(items)
    assert numbers(frames) == list(opened_of(items).clips[0].frame_indices)
    assert len(set(numbers(frames))) < 33


def test_chunks_come_as_soon_as_they_are_full(small_objects: None):
    items = decode(make_video(30, 25, 128, 64), frames=17, window="slide:4")
    assert [item.window_index for item in items[1:] if isinstance(item, Chunk)] == [0, 1, 0, 2, 1, 3, 2, 3]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_rotated_picture_is_shown_upright(degrees: int):
    video = make_video(5, 25, 128, 64, rotation_degrees=degrees)
    size = "128x64" if degrees in (90, 270) else "64x128"
    (frames,) = frames_by_window(decode(video, buckets=[size]))
    stored = np.rot90(frames, -degrees // 90, axes=(1, 2))
    assert numbers(stored) == list(range(5))


def test_wide_pixels_are_made_square():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(3, 128, 64), format="rgb24")))
        output.mux(stream.encode(None))
    items = decode(file.getvalue(), buckets=["32x128"])
    geometry = opened_of(items).clips[0].geometry
    assert (geometry.resized_width_px, geometry.resized_height_px) == (128, 32)
    assert numbers(frames_by_window(items)[0]) == [3]


def coded_colours(kr: float, kb: float, full_range: bool, colorspace: int) -> tuple[bytes, Uint8Frames]:
    """A video of eight vertical bars made as YUV by the standard's formulas, and their RGB."""
    rgb = np.array(
        [[255] * 3, [0] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128] * 3, [200, 50, 100]], np.uint8
    )
    red, green, blue = rgb.T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    offset, luma_scale, chroma_scale = (0, 255, 255) if full_range else (16, 219, 224)
    planes = [
        offset + luma_scale * luma,
        128 + chroma_scale * (blue - luma) / 2 / (1 - kb),
        128 + chroma_scale * (red - luma) / 2 / (1 - kr),
    ]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        stream.codec_context.options = {"qp": "0"}
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full_range else 1
        frame = av.VideoFrame(128, 128, "yuv420p")
        for plane, bars in zip(frame.planes, planes, strict=True):
            row = np.zeros(plane.line_size, np.uint8)
            row[: plane.width] = np.repeat(np.clip(np.rint(bars), 0, 255), plane.width // 8)
            plane.update(np.tile(row, plane.height).tobytes())
        frame.colorspace, frame.color_range = colorspace, 2 if full_range else 1
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue(), rgb


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("kr", "kb", "colorspace"), [(0.299, 0.114, 2), (0.299, 0.114, 6), (0.2126, 0.0722, 1)], ids=["?", "601", "709"]
)
def test_colours_follow_the_standard_that_the_file_names(
    kr: float, kb: float, colorspace: int, full_range: bool, strict: bool
):
    video, rgb = coded_colours(kr, kb, full_range, colorspace)
    (frames,) = frames_by_window(decode(video, strict, buckets=["128x128"]))
    assert np.abs(frames[0, 64, 8::16].astype(int) - rgb).max() <= 3


def cubic_weights(source_px: int, target_px: int) -> np.ndarray:
    """`target source`: bicubic (a = -0.5) stretched over the source pixels of one target pixel."""
    scale = max(1.0, source_px / target_px)
    centres = (np.arange(target_px)[:, None] + 0.5) * source_px / target_px
    x = np.abs((np.arange(source_px)[None, :] + 0.5 - centres) / scale)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def resample(down: np.ndarray, across: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.einsum("yh,xw,hwc->yxc", down, across, picture, optimize=True)


@pytest.mark.parametrize(("resized_px", "cut"), [((160, 90), (4, 0, 152, 90)), ((400, 225), (0, 5, 400, 200))])
def test_resize_is_antialiased_bicubic(resized_px: tuple[int, int], cut: tuple[int, int, int, int]):
    noise = np.random.default_rng(0).integers(0, 256, (36, 64, 3)).astype(float)
    picture = resample(cubic_weights(36, 180), cubic_weights(64, 320), noise)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    left, top, width, height = cut
    exact = resample(cubic_weights(180, resized_px[1]), cubic_weights(320, resized_px[0]), picture)
    exact = np.clip(exact, 0, 255)[top : top + height, left : left + width]
    ours = fit(picture, Geometry(*resized_px, left_px=left, top_px=top, width_px=width, height_px=height))
    assert 10 * np.log10(255**2 / np.mean((ours - exact) ** 2)) > 55


def test_a_picture_of_the_right_size_is_not_touched():
    picture = draw_frame(0, 128, 64)
    assert np.array_equal(fit(picture, Geometry(128, 64, 0, 0, 128, 64)), picture)


@pytest.mark.slow
@needs_videos
@pytest.mark.parametrize("name", MANIFEST["good"])
def test_frames_of_good_files_are_those_of_an_independent_decoder(name: str):
    path = VIDEOS / "good" / name
    video = path.read_bytes()
    items = decode(video, window="full", buckets=["48x48"])
    (frames,) = frames_by_window(items)
    clip, times = opened_of(items).clips[0], times_of(opened_of(items), 0)
    references = list(reference_frames(path))[: len(frames)]
    # 10-bit and interlaced chroma has several right conversions: FFmpeg's filters and its plain scaler differ
    tolerance = 4 if name in ("real_h265_10bits.mp4", "syn_interlaced.mp4", "der_bikes_hevc10_opengop.mkv") else 0
    for position, (time, picture) in enumerate(references):
        assert np.abs(frames[position].astype(int) - fit(picture, clip.geometry)).mean() <= tolerance
        if not name.endswith(".avi"):
            assert times[position] == pytest.approx(time - references[0][0], abs=1e-6)
    assert all(later > earlier for earlier, later in pairwise(times))


def outcome(path: str, strict: bool) -> tuple[int, str]:
    """Frames that came and `stage/reason` of the failure, "" without one. Runs where a crash costs one process."""
    window = "head" if "36000" in path else "full"
    items = decode(Path(path).read_bytes(), strict, frames=49, window=window, buckets=["16x16", "64x128"])
    failure = items[-1].why.code if isinstance(items[-1], Failure) else ""
    return sum(len(item.frames) for item in items if isinstance(item, Chunk)), failure


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


ROW = ""
NOT_A_VIDEO = "probe/not_a_video"
# what comes of each hostile file: (lenient, strict); a valid one is a row in both
EXPECTED = {
    "all_zero_64k.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "audio_only.mp3": (NOT_A_VIDEO, NOT_A_VIDEO),
    "audio_only.mp4": ("probe/no_video_stream", "probe/no_video_stream"),
    "bitflip64_mdat.mp4": (ROW, "decode/damaged"),
    "bomb_36000f_64x64.mp4": (ROW, ROW),
    "bomb_8192x8192_60f.mp4": ("probe/too_large", "probe/too_large"),
    "bomb_png_30000.png": (NOT_A_VIDEO, NOT_A_VIDEO),
    "editlist_90_vs_75.mp4": (ROW, ROW),
    "ffconcat_file.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "hls_playlist_file.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "hls_playlist_http.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "html_404.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "missing_moov.mp4": ("probe/unreadable", "probe/unreadable"),
    "mjpeg_sof_65000.avi": ("decode/damaged", "decode/damaged"),
    "moov_flip_segv.mp4": ("decode/missing_frames", "decode/incomplete"),
    "one_frame.mp4": (ROW, ROW),
    "png_named.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "random_64k.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "real_Megamind_bugy.avi": (ROW, ROW),  # its damage was encoded with it: no decoder reports any
    "resolution_change.ts": ("probe/times_begin_again", "probe/times_begin_again"),
    "stsd_65535.mp4": (ROW, ROW),
    "subtitle.srt.mp4": (NOT_A_VIDEO, NOT_A_VIDEO),
    "tiny_16x16.mp4": (ROW, ROW),
    "trunc_50.avi": (ROW, "decode/incomplete"),
    "trunc_50.mkv": (ROW, "decode/incomplete"),
    "trunc_faststart_50.mp4": (ROW, "decode/incomplete"),
    "ts_valid_decord_fails.ts": (ROW, ROW),
    "zero_bytes.mp4": ("probe/empty", "probe/empty"),
    "zeroed_middle.mp4": ("decode/missing_frames", "decode/damaged"),
}


# frames where they are not those that ffprobe decodes: cut at the end, by an edit list, or by what we ask for
SHOWN = {
    "bomb_36000f_64x64.mp4": 49,
    "editlist_90_vs_75.mp4": 75,
    "trunc_50.avi": 128,
    "trunc_50.mkv": 150,
    "trunc_faststart_50.mp4": 18,
}


@needs_videos
def test_every_hostile_file_has_an_expected_end():
    assert EXPECTED.keys() == MANIFEST["bad"].keys()


@pytest.mark.slow
@needs_videos
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_hostile_files_end_as_expected_and_nothing_crashes(name: str, strict: bool, other_process: ProcessPoolExecutor):
    frames, failure = other_process.submit(outcome, str(VIDEOS / "bad" / name), strict).result(timeout=120)
    assert failure == EXPECTED[name][strict]
    if failure == ROW:
        whole = SHOWN.get(name) or int(MANIFEST["bad"][name]["ffprobe_frames"])
        assert frames == 1 + (whole - 1) // 4 * 4


@needs_videos
def test_frames_before_the_damage_are_a_row_where_strict_is_off():
    items = decode((VIDEOS / "bad" / "zeroed_middle.mp4").read_bytes(), frames=9)
    assert len(frames_by_window(items)[0]) == 9


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A file whose opening is noticed, and the handle on which the kernel reports it."""
    path = tmp_path / "canary.mp4"
    path.write_bytes(make_video(9, 25, 128, 64))
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    in_open = 0x20
    assert libc.inotify_add_watch(handle, bytes(path), in_open) >= 0
    yield path, handle
    os.close(handle)


def was_opened(handle: int) -> bool:
    try:
        return len(os.read(handle, 4096)) > 0
    except BlockingIOError:
        return False


def test_nothing_is_opened_because_of_what_a_video_says(canary: tuple[Path, int]):
    path, handle = canary
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/canary.mp4"
        for target in (str(path), f"file:{path}", url):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"<?xml version='1.0'?><MPD><BaseURL>{target}</BaseURL></MPD>",
                f"v=0\nc=IN IP4 127.0.0.1\nm=video {server.getsockname()[1]} RTP/AVP 96\na=control:{target}\n",
            ):
                assert isinstance(decode(text.encode())[-1], Failure)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not was_opened(handle)
    path.read_bytes()
    assert was_opened(handle)  # the watch works


def with_external_media(video: bytes, url: bytes) -> bytes:
    """The mp4 with its one data reference, `url ` to itself, turned into one to `url`; the boxes around it grow."""
    at = video.index(b"url \0\0\0\1") - 4
    entry = (12 + len(url)).to_bytes(4, "big") + b"url \0\0\0\0" + url
    grown = bytearray(video[:at] + entry + video[at + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size_at = video.index(box) - 4
        size = int.from_bytes(video[size_at : size_at + 4], "big") + len(url)
        grown[size_at : size_at + 4] = size.to_bytes(4, "big")
    return bytes(grown)


def test_an_mp4_that_names_another_file_as_its_media_does_not_get_it_opened(canary: tuple[Path, int]):
    path, handle = canary
    decode(with_external_media(make_video(9, 25, 128, 64), b"file://" + bytes(path) + b"\0"))
    assert not was_opened(handle)


@pytest.mark.slow
def test_decoding_does_not_need_ray_and_writes_nothing_to_the_console():
    code = (
        "import sys; from test_decode import *; decode(make_video(9, 25, 128, 64)[:-300]);"
        "video = make_video(9, 25, 128, 64); middle = len(video) // 2;"
        "items = decode(video[:middle] + bytes(60) + video[middle + 60:]);"
        "sys.exit('ray' in sys.modules or len(items) < 2)"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


ALL_INTRA = {"g": "1"}  # then Decord decodes


class GivesUpAtFrame7:
    """Decord that fails in the middle of a video."""

    real_reader = decord.VideoReader

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.reader = self.real_reader(*args, **kwargs)
        self.given = 0

    def __len__(self) -> int:
        return len(self.reader)

    def get_frame_timestamp(self, indices: range) -> np.ndarray:
        return self.reader.get_frame_timestamp(indices)

    def next(self) -> object:
        if self.given == 7:
            raise decord.DECORDError("cannot")
        self.given += 1
        return self.reader.next()


def test_where_decord_gives_up_pyav_goes_on_with_the_next_frame(monkeypatch: pytest.MonkeyPatch):
    video = make_video(21, 25, 128, 64, options=ALL_INTRA)
    undisturbed = frames_by_window(decode(video))[0]
    monkeypatch.setattr(decord, "VideoReader", GivesUpAtFrame7)
    assert np.array_equal(frames_by_window(decode(video))[0], undisturbed)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_decord_and_pyav_give_the_same_bytes(pix_fmt: str, monkeypatch: pytest.MonkeyPatch):
    video = make_video(9, 25, 128, 64, pix_fmt=pix_fmt, options=ALL_INTRA)
    by_pyav = frames_by_window(decode(video, strict=True))[0]
    monkeypatch.delattr(PyavPictures, "pictures")
    assert np.array_equal(frames_by_window(decode(video))[0], by_pyav)


@pytest.mark.parametrize("error", [MemoryError(), OSError("disk")])
def test_a_failure_of_this_machine_is_not_blamed_on_the_video(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline.video.decode, "probe", fail)
    with pytest.raises(type(error)):
        decode(make_video(5, 25, 128, 64))


def test_an_unforeseen_error_is_a_failure_of_the_sample(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\xa4", 0, 1, "a codec said\nso")

    monkeypatch.setattr(pipeline.video.decode, "probe", fail)
    (failure,) = decode(make_video(5, 25, 128, 64))
    assert isinstance(failure, Failure)
    assert failure.why.code == "decode/decoder_error"
    assert "\n" not in failure.why.detail


def test_a_video_over_the_limit_of_bytes_is_not_even_copied():
    items = list(decode_sample(b"12345", ClipConfig(), LimitsConfig(max_video_bytes=4), False, RULES))
    assert items == [Failure(Reason("probe", "too_large", "5 bytes, limits.max_video_bytes is 4"))]


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_a_video_that_changes_its_size_is_rejected_by_name(codec: str):
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for first, (width_px, height_px) in ((0, (128, 64)), (9, (160, 96))):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
            encoder.time_base = encoder.framerate = Fraction(1, 25)
            frames = [
                av.VideoFrame.from_ndarray(draw_frame(first + number, width_px, height_px), format="rgb24")
                for number in range(9)
            ]
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = first + number, Fraction(1, 25)
            for packet in [packet for frame in [*frames, None] for packet in encoder.encode(frame)]:
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                output.mux(packet)
    items = decode(file.getvalue())
    assert isinstance(items[-1], Failure)
    assert items[-1].why.reason == "size_changes"


def test_a_memory_file_holds_the_bytes_and_is_gone_afterwards():
    before = len(os.listdir("/proc/self/fd"))
    with memory_file(b"12345") as path:
        assert Path(path).read_bytes() == b"12345"
        assert not os.path.realpath(path).startswith("/tmp")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sample_left_half_way_leaves_nothing_open():
    before = len(os.listdir("/proc/self/fd"))
    items = decode_sample(
        make_video(33, 25, 128, 64), ClipConfig(frames=33, fps=None, buckets=("64x128",)), LIMITS, False, RULES
    )
    assert isinstance(next(items), Opened)
    assert isinstance(next(items), Chunk)
    items.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("width_px", [128, 64], ids=["decord", "pyav"])
def test_a_decoder_sends_heartbeats_while_it_reads_frames_that_no_clip_needs(width_px: int):
    video = make_video(40, 25, width_px, 64, options={"bf": "0"})  # each frame refers to the one before
    clip = ClipConfig(frames=5, fps=None, window="center", buckets=("48x48",))
    impatient, patient = (LimitsConfig(decode_timeout_seconds=seconds) for seconds in (1e-9, 1e9))
    opened, *rest = decode_sample(video, clip, impatient, False, RULES)
    assert isinstance(opened, Opened)
    first = opened.clips[0].frame_indices[0]
    assert rest[:first] == [None] * first == [None] * 17
    assert sum(isinstance(item, Chunk) for item in rest) == 1
    assert None not in list(decode_sample(video, clip, patient, False, RULES))
