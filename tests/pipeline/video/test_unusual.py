"""Unusual videos, as public reports describe them: cut, joined, HDR, interlaced, transparent, behind a cover."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from support.paths import SHARED

from encoder.spec import LatentSpec
from pipeline.clips.plan import ClipRules
from pipeline.config.input import FilterConfig
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.records import Chunk, DecodeItem, Failure, Opened, Uint8Frames, VideoHeader
from pipeline.video.decode import decode_sample
from pipeline.video.synthetic.videos import draw_frame, make_video, read_number

REPORTS = SHARED / "reports"
RULES = ClipRules(LatentSpec("cogvideox", latent_channels=16, temporal_ratio=4, spatial_ratio=8), chunk_frames=8)
needs_reports = pytest.mark.skipif(not REPORTS.exists(), reason="the reported files are not here")


def decode(video: bytes, strict: bool = False, wanted: str | None = None, **clip: object) -> list[DecodeItem]:
    values = {"frames": "full", "fps": None, "buckets": ["64x96"], "upscale": True, **clip}
    items = decode_sample(
        video, ClipConfig.model_validate(values), LimitsConfig(), strict, RULES, FilterConfig(video=wanted)
    )
    return [item for item in items if item is not None]


def reported(name: str, **options: object) -> list[DecodeItem]:
    return decode((REPORTS / name).read_bytes(), **options)


def header_of(items: list[DecodeItem]) -> VideoHeader:
    assert isinstance(items[0], Opened), items[0]
    return items[0].header


def frames_of(items: list[DecodeItem]) -> Uint8Frames:
    """`t h w c` of the one clip, which came whole."""
    frames = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    assert isinstance(items[0], Opened)
    assert len(frames) == items[0].clips[0].frames
    return frames


def failure_of(items: list[DecodeItem]) -> str:
    assert isinstance(items[-1], Failure)
    return items[-1].why.code


def without_first_packet(container: str) -> bytes:
    """Three groups of 24 pictures, the first without its key frame."""
    options = {"g": "24", "bf": "0", "sc_threshold": "0"}
    written_as = "mpegts" if container == "avi" else "mp4"  # AVI wants units of H.264 behind start codes
    video = make_video(72, 24, 96, 64, container=written_as, options=options)
    file = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(file, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][1:]:
            packet.stream = stream
            output.mux(packet)
    return file.getvalue()


@needs_reports
def test_a_cut_without_a_key_frame_gives_the_pictures_that_there_are_at_their_own_times() -> None:
    items = reported("nokey_start.mp4")
    header = header_of(items)
    assert (header.frames, header.pts_seconds[0]) == (48, 0)
    assert header.start_seconds == pytest.approx(2.0, abs=0.001)
    frames = frames_of(items)
    assert all((left != right).any() for left, right in pairwise(frames))
    assert failure_of(reported("nokey_start.mp4", strict=True)) == "decode/incomplete"


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_in_every_container_pictures_stay_at_their_times_where_the_first_key_frame_is_missing(container: str) -> None:
    items = decode(without_first_packet(container))
    shown = [read_number(frame) for frame in frames_of(items)]
    assert shown == list(range(24, 24 + len(shown)))
    times = header_of(items).pts_seconds
    assert [round(24 * (time - times[0])) for time in times][: len(shown)] == list(range(len(shown)))


def test_pictures_that_a_decoder_leaves_out_of_an_avi_are_noticed() -> None:
    assert failure_of(decode(without_first_packet("avi"))) == "decode/times_disagree"


@needs_reports
def test_joined_recordings_are_rejected_by_name() -> None:
    assert failure_of(reported("ts_joined.ts")) == "probe/times_begin_again"


@needs_reports
def test_the_film_behind_a_still_picture_is_taken() -> None:
    header = header_of(reported("png_first.mp4"))
    assert (header.codec, header.frames, header.video_stream) == ("h264", 48, 1)


@needs_reports
def test_hdr_is_rejected_by_name_unless_the_configuration_takes_it() -> None:
    assert failure_of(reported("hdr_pq_bars.mp4")) == "clip/hdr"
    header = header_of(reported("hdr_pq_bars.mp4", hdr="keep"))
    assert (header.color_transfer, header.color_primaries) == ("smpte2084", "bt2020")


@needs_reports
def test_tone_mapped_patches_have_the_codes_of_their_light() -> None:
    """Patches of 1, 10, 50, 100 and 203 cd/m2, of which the last is SDR white."""
    frames = frames_of(reported("hdr_pq_bars.mp4", hdr="tonemap", buckets=["128x160"]))
    patches = frames[4, 64, 16::32].mean(axis=-1)
    exact = 255 * (np.array([1, 10, 50, 100, 203]) / 203) ** (1 / 2.4)
    assert patches == pytest.approx(exact, abs=3)


@needs_reports
def test_transparent_areas_are_black_and_opaque_ones_keep_their_colour() -> None:
    items = reported("alpha_vp9.webm", buckets=["128x160"])
    assert header_of(items).has_alpha
    picture = frames_of(items)[5]
    assert picture[10, ::16].max() == 0
    assert picture[64, 80] == pytest.approx([0, 127, 0], abs=2)


def combs(frames: Uint8Frames) -> float:
    """How much neighbouring rows differ where something moves."""
    moving = np.abs(np.diff(frames.astype(int), axis=0)).sum(-1)[:, 1:-1] > 60
    rows = np.abs(2 * frames[:-1, 1:-1].astype(int) - frames[:-1, :-2] - frames[:-1, 2:]).sum(-1)
    return float(rows[moving].mean())


@needs_reports
def test_an_interlaced_film_is_said_to_be_one_and_is_deinterlaced_on_wish() -> None:
    size = {"buckets": ["128x192"]}
    items = reported("interlaced.mp4", **size)
    assert header_of(items).interlaced
    smooth = frames_of(reported("interlaced.mp4", deinterlace=True, **size))
    assert combs(smooth) < combs(frames_of(items))
    progressive = make_video(20, 25, 96, 64)
    assert np.array_equal(frames_of(decode(progressive)), frames_of(decode(progressive, deinterlace=True)))


def test_deinterlaced_frames_keep_their_times_and_order() -> None:
    video = make_video(30, 25, 96, 64, options={"x264-params": "interlaced=1"})
    assert [read_number(frame) for frame in frames_of(decode(video, deinterlace=True))] == list(range(29))


def test_a_cover_picture_without_a_flag_is_passed_over() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream(codec, rate=25) for codec in ("mjpeg", "libx264")]
        for stream, size_px, pix_fmt in zip(streams, (256, 64), ("yuvj420p", "yuv420p"), strict=True):
            assert isinstance(stream, VideoStream)
            stream.width = stream.height = size_px
            stream.pix_fmt = pix_fmt
        for number in range(9):
            for stream in streams[number > 0 :]:
                frame = av.VideoFrame.from_ndarray(draw_frame(number, stream.width, stream.height), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    items = decode(file.getvalue(), buckets=["64x64"])
    assert (header_of(items).codec, header_of(items).video_stream) == ("h264", 1)
    assert [read_number(frame) for frame in frames_of(items)] == list(range(9))


def test_a_condition_on_the_header_leaves_videos_out_before_they_are_decoded() -> None:
    video = make_video(9, 25, 96, 64)
    assert failure_of(decode(video, wanted="codec == 'hevc'")) == "filter/video"
    assert failure_of(decode(video, wanted="source_fps > 'fast'")) == "filter/not_comparable"
    wanted = "codec in ['h264'] and not interlaced and source_width == 96 and color_transfer == 'unknown'"
    assert len(frames_of(decode(video, wanted=wanted))) == 9
    with pytest.raises(ValueError, match=r"unknown codecs in .* a video has container, codec, "):
        FilterConfig(video="codecs == 'h264'")
