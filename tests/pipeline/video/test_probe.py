"""The container's own words are read right, and what is not a video, or too large, is rejected before it is decoded."""

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.stream import VideoStream
from support.paths import SHARED_VIDEOS

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.video.probe import Probe, probe
from pipeline.video.signatures import container_of
from pipeline.video.synthetic.videos import draw_frame, make_video

LIMITS = LimitsConfig()


@pytest.fixture
def probed(tmp_path: Path) -> Callable[..., Probe]:
    def probe_bytes(video: bytes, limits: LimitsConfig = LIMITS) -> Probe:
        path = tmp_path / "video"
        path.write_bytes(video)
        return probe(str(path), container_of(video), limits)

    return probe_bytes


def mux(container: str, packets_of: Callable[[av.container.OutputContainer, VideoStream], None], **sizes: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = sizes.get("width_px", 96), sizes.get("height_px", 64), "yuv420p"
        packets_of(output, stream)
    return file.getvalue()


def encode_frames(output: av.container.OutputContainer, stream: VideoStream, frames: int = 5) -> None:
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(draw_frame(number, stream.width, stream.height), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("container", "codec", "expected"),
    [
        ("mp4", "libx264", "mov"),
        ("mov", "libx264", "mov"),
        ("matroska", "libx264", "matroska"),
        ("webm", "libvpx", "matroska"),
        ("avi", "mpeg4", "avi"),
        ("flv", "flv", "flv"),
        ("asf", "wmv2", "asf"),
        ("mpegts", "libx264", "mpegts"),
        ("mpeg", "mpeg2video", "mpeg"),
        ("ogg", "libvpx", "ogg"),
    ],
)
def test_a_container_is_known_by_its_signature_and_read_by_its_own_demuxer(
    container: str, codec: str, expected: str, probed: Callable[..., Probe]
):
    video = make_video(10, 25, 96, 64, container=container, codec=codec)
    assert container_of(video) == expected
    header = probed(video).header
    assert (header.container, header.width_px, header.height_px) == (expected, 96, 64)
    assert header.pts_seconds == pytest.approx([index / 25 for index in range(10)], abs=0.001)


def test_a_ts_file_with_a_time_before_each_packet_is_known():
    packet = b"time" + b"\x47" + bytes(187)
    assert container_of(packet * 4) == "mpegts"


@pytest.mark.parametrize(
    "video",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n",
        b"ffconcat version 1.0\nfile 'x.mp4'\n",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        b"<!doctype html><html>",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"ID3\x04\x00\x00",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\x1aE\xdf\xa3\x01\x00\x00\x00 an EBML file of another kind",
        bytes(4096),
        b"\x47",
    ],
)
def test_what_is_not_a_video_is_not_even_opened(video: bytes):
    with pytest.raises(SampleError, match="probe/not_a_video: begins with b"):
        container_of(video)


def test_an_empty_video_has_a_reason_of_its_own():
    with pytest.raises(SampleError, match="probe/empty"):
        container_of(b"")


def test_a_picture_over_the_limit_is_rejected_with_both_numbers(probed: Callable[..., Probe]):
    with pytest.raises(SampleError, match=r"too_large: 96x64 is 6144 pixels, limits\.max_frame_px is 6143"):
        probed(make_video(3, 25, 96, 64), LimitsConfig(max_frame_px=6143))
    assert probed(make_video(3, 25, 96, 64), LimitsConfig(max_frame_px=6144)).header.frames == 3


def test_a_video_with_too_many_frames_is_rejected_while_it_is_counted(probed: Callable[..., Probe]):
    with pytest.raises(SampleError, match=r"too_many_frames: more than limits\.max_video_frames, 9"):
        probed(make_video(10, 25, 96, 64), LimitsConfig(max_video_frames=9))


def test_b_frames_are_listed_in_the_order_they_are_shown(probed: Callable[..., Probe]):
    found = probed(make_video(20, 25, 128, 64, options={"bf": "3"}))
    assert found.header.pts_seconds == pytest.approx([index / 25 for index in range(20)])


def test_decord_is_doubted_where_a_frame_needs_others(probed: Callable[..., Probe]):
    assert probed(make_video(20, 25, 128, 64)).decord_doubt == "a missing picture would go unnoticed"
    assert probed(make_video(20, 25, 128, 64, options={"g": "1"})).decord_doubt == ""


def test_uneven_times_are_kept(probed: Callable[..., Probe]):
    times = [0.0, 0.04, 0.5, 0.52, 1.7]
    assert probed(make_video(5, 25, 96, 64, pts_seconds=times)).header.pts_seconds == pytest.approx(times, abs=1e-4)


def test_times_begin_at_zero_and_the_clock_of_the_container_is_remembered(probed: Callable[..., Probe]):
    found = probed(make_video(5, 25, 96, 64, container="mpegts"))
    assert found.header.pts_seconds[0] == 0
    assert found.header.start_seconds is not None
    assert found.header.start_seconds > 0


def test_avi_has_no_presentation_times(probed: Callable[..., Probe]):
    found = probed(make_video(12, 25, 96, 64, container="avi", codec="mpeg4", options={"bf": "2"}))
    assert found.header.start_seconds is None
    assert found.header.pts_seconds == pytest.approx([index / 25 for index in range(12)])


@pytest.mark.parametrize(("degrees", "size_px"), [(0, (96, 64)), (90, (64, 96)), (180, (96, 64)), (270, (64, 96))])
def test_sizes_are_those_of_the_picture_as_shown(degrees: int, size_px: tuple[int, int], probed: Callable[..., Probe]):
    found = probed(make_video(3, 25, 96, 64, rotation_degrees=degrees))
    assert (found.header.width_px, found.header.height_px) == size_px
    assert found.header.rotation_degrees == degrees
    assert ("turned" in found.decord_doubt) == (degrees != 0)


def test_the_rotation_of_a_single_frame_is_found(probed: Callable[..., Probe]):
    assert probed(make_video(1, 25, 96, 64, rotation_degrees=90)).header.rotation_degrees == 90


@pytest.mark.parametrize(("degrees", "hflip"), [(0, True), (45, False)])
def test_a_mirror_image_or_an_oblique_rotation_is_rejected_with_its_reason(
    degrees: int, hflip: bool, probed: Callable[..., Probe]
):
    def packets(output: av.container.OutputContainer, stream: VideoStream) -> None:
        stream.set_display_rotation(degrees, hflip=hflip)
        encode_frames(output, stream)

    with pytest.raises(SampleError, match="unsupported_rotation"):
        probed(mux("mp4", packets))


def test_rotation_also_rotates_the_aspect_of_pixels(probed: Callable[..., Probe]):
    def packets(output: av.container.OutputContainer, stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)
        encode_frames(output, stream)

    assert probed(mux("mp4", packets)).header.sample_aspect == pytest.approx(3 / 4)


def test_cover_art_is_not_a_video(probed: Callable[..., Probe]):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mjpeg", rate=1)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        output.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(0, 96, 64), format="rgb24")))
        output.mux(stream.encode(None))
    with pytest.raises(SampleError, match="no_video_stream"):
        probed(file.getvalue())


def test_a_frame_that_is_never_shown_is_not_counted(probed: Callable[..., Probe]):
    video = make_video(12, 25, 96, 64, container="webm", codec="libvpx")
    with av.open(io.BytesIO(video)) as opened:
        fifth = [bytes(packet) for packet in opened.demux(video=0) if packet.size][4]
    assert video.count(fifth) == 1
    hidden = video.replace(fifth, bytes([fifth[0] & ~0x10]) + fifth[1:])
    expected = [index / 25 for index in range(12) if index != 4]
    assert probed(hidden).header.pts_seconds == pytest.approx(expected, abs=0.001)


def test_a_cut_file_falls_short_of_what_it_declares(probed: Callable[..., Probe]):
    video = make_video(100, 25, 96, 64, container="matroska", options={"g": "10"})
    assert probed(video).shortfall == ""
    assert "are declared" in probed(video[: len(video) // 2]).shortfall


def test_a_file_without_its_index_is_unreadable(probed: Callable[..., Probe]):
    video = make_video(30, 25, 96, 64)
    with pytest.raises(SampleError, match="probe/unreadable: not a readable mov file: Invalid data"):
        probed(video[: len(video) // 2])


def good_videos() -> list[tuple[str, dict[str, object]]]:
    path = SHARED_VIDEOS / "manifest.json"
    return list(json.loads(path.read_text())["good"].items()) if path.exists() else []


@pytest.mark.skipif(not SHARED_VIDEOS.exists(), reason="the shared videos are not here")
@pytest.mark.parametrize(("name", "entry"), good_videos())
def test_every_good_file_shows_as_many_frames_as_a_decoder_counts(name: str, entry: dict, probed: Callable[..., Probe]):
    frames = {"real_nasa_13013.mp4": 390}.get(name, entry["expected_frames"])  # its second video stream is the best
    found = probed((SHARED_VIDEOS / "good" / name).read_bytes())
    assert found.header.frames == frames
    assert found.shortfall == ""
