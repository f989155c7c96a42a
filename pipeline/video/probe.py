"""What a video file is, by its container, before it is decoded; uses PyAV.

Only the first picture is decoded, because FFmpeg reports the rotation only there.
"""

import struct
from array import array
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import VideoHeader
from pipeline.video.packets import TIMELESS_CONTAINERS, Packets, read_packets
from pipeline.video.pixels.rgb import HDR_TRANSFERS, has_alpha
from pipeline.video.streams import OpenVideo, open_video

SHORTFALL_SECONDS = 0.25  # none of 125 valid files ended earlier than declared by more than this and three frames
SHORTFALL_FRAMES = 3
DECORD_CONTAINERS = ("mov", "matroska", "avi", "asf", "flv")
DECORD_LEAST_WIDTH_PX = 128  # below it FFmpeg pads rows so much that Decord may take the padding for channels
DECORD_MOST_PX = 4096 * 2304  # above it Decord's unbounded queue of decoded frames takes gigabytes
# Decord silently rescales frames of another size to the first one's; Theora repeats a frame without a packet
DECORD_NEVER_CODECS = ("mjpeg", "theora", "vp8", "vp9")
UNKNOWN, UNSPECIFIED = "unknown", 2
# FFmpeg's names of the transfers and primaries of ITU-T H.273
TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A header, and what decides how the video may be decoded.

    `decord_doubt` says why Decord may be wrong on such a video, "" where it is right. `shortfall` says what the
    container declares but does not hold, "" where it is complete.
    """

    header: VideoHeader
    packets: Packets
    decord_doubt: str
    shortfall: str


def probe(path: str, container: str, limits: LimitsConfig) -> Probe:
    """Reads the header and the times of all packets.

    Raises:
        SampleError: not a video, or larger than the limits.
    """
    with open_video(path, container, limits) as video:
        coded = video.stream.codec_context
        check_size(coded.width, coded.height, limits)
        packets = read_packets(video, container, limits)
        header = _header(video, packets)
        doubt = _decord_doubt(header, video, packets)
        packets.first_frame = None  # its pixels are not needed any more
        return Probe(header, packets, doubt, _shortfall(header, video.stream, packets))


def check_size(width_px: int, height_px: int, limits: LimitsConfig) -> None:
    if width_px < 1 or height_px < 1:
        raise SampleError("probe", "unreadable", f"a picture of {width_px}x{height_px} (width x height)")
    if width_px * height_px > limits.max_frame_px:
        raise SampleError(
            "probe",
            "too_large",
            f"{width_px}x{height_px} is {width_px * height_px} pixels, limits.max_frame_px is {limits.max_frame_px}",
        )


def _header(video: OpenVideo, packets: Packets) -> VideoHeader:
    stream, first = video.stream, packets.first_frame
    picture = first or stream.codec_context
    width_px, height_px = picture.width, picture.height
    sample_aspect = float(stream.sample_aspect_ratio or 1)
    rotation_degrees = _rotation_degrees(first) if first else 0
    if rotation_degrees in (90, 270):
        width_px, height_px, sample_aspect = height_px, width_px, 1 / sample_aspect
    container = video.file.format.name.partition(",")[0]
    pts_seconds = _pts_seconds(stream, packets)
    end_seconds = pts_seconds[-1] + float(packets.last_duration * (stream.time_base or 0))
    declared_seconds = None if packets.undecodable else _declared_seconds(video.file, stream)
    return VideoHeader(
        container=container,
        codec=video.codec,
        width_px=width_px,
        height_px=height_px,
        sample_aspect=sample_aspect,
        rotation_degrees=rotation_degrees,
        pts_seconds=pts_seconds,
        duration_seconds=float(declared_seconds or end_seconds),
        start_seconds=_start_seconds(container, stream, packets),
        video_stream=stream.index,
        pixel_format=first.format.name if first else stream.codec_context.pix_fmt or UNKNOWN,
        color_transfer=TRANSFERS.get(_stated(picture.color_trc, stream.codec_context.color_trc), UNKNOWN),
        color_primaries=PRIMARIES.get(_stated(picture.color_primaries, stream.codec_context.color_primaries), UNKNOWN),
        interlaced=first is not None and first.interlaced_frame,
        has_alpha=first is not None and has_alpha(first),
    )


def _stated(of_frame: int, of_stream: int) -> int:
    """What the first frame says about colour or, where it says nothing, the stream."""
    return int(of_stream if of_frame in (0, UNSPECIFIED) else of_frame)


def _rotation_degrees(frame: VideoFrame) -> int:
    """Counter-clockwise rotation that shows the picture upright.

    Raises:
        SampleError: not a quarter turn, or a mirror image, which would end up in the latents.
    """
    degrees = frame.rotation % 360
    matrix = frame.side_data.get("DISPLAYMATRIX")  # nine native integers, row by row
    a, b, _, c, d = struct.unpack("=5i", memoryview(matrix)[:20]) if matrix else (1, 0, 0, 0, 1)  # type: ignore[arg-type]
    if degrees % 90 or a * d - b * c <= 0:
        raise SampleError("probe", "unsupported_rotation", f"rotated by {degrees} degrees or mirrored: {(a, b, c, d)}")
    return int(degrees)


def _pts_seconds(stream: VideoStream, packets: Packets) -> "array[float]":
    """Times of the frames shown, ascending from 0. Where packets carry none, frames are evenly spaced."""
    if not packets.unmarked and (time_base := stream.time_base):
        marks = np.frombuffer(packets.marks, np.int64)
        return array("d", ((marks - marks[0]) * time_base.numerator / time_base.denominator).tobytes())
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise SampleError("probe", "no_times", "neither packets nor header say when frames are shown")
    return array("d", (float(index / rate) for index in range(packets.shown)))


def _declared_seconds(opened: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(opened.duration, av.time_base) if opened.duration else None


def _start_seconds(container: str, stream: VideoStream, packets: Packets) -> float | None:
    if container in TIMELESS_CONTAINERS or packets.unmarked:
        return None
    return float(packets.marks[0] * (stream.time_base or 0))


def _decord_doubt(header: VideoHeader, video: OpenVideo, packets: Packets) -> str:
    coded = video.stream.codec_context
    picture = (coded.width, coded.height)
    times = header.pts_seconds
    doubts = {
        f"in {header.container}": header.container not in DECORD_CONTAINERS,
        f"coded by {header.codec}": header.codec in DECORD_NEVER_CODECS,
        f"{picture[0]}x{picture[1]} pixels": picture[0] < DECORD_LEAST_WIDTH_PX
        or picture[0] * picture[1] > DECORD_MOST_PX,
        "the picture is turned": header.rotation_degrees != 0,
        "no first picture": packets.first_frame is None,
        "a missing picture would go unnoticed": len(packets.keys) != packets.total,
        "several video streams": video.streams > 1,
        "HDR": header.color_transfer in HDR_TRANSFERS,
        "interlaced": header.interlaced,
        "transparent": header.has_alpha,
        "the stream's size is not its header's": sorted(picture) != sorted((header.width_px, header.height_px)),
        "frames are cut off or hidden": packets.total != header.frames,
        "times begin below zero": packets.unmarked > 0 or packets.marks[0] < 0,
        "two frames have one time": any(left == right for left, right in pairwise(times)),
    }
    return "; ".join(doubt for doubt, holds in doubts.items() if holds)


def _shortfall(header: VideoHeader, stream: VideoStream, packets: Packets) -> str:
    if packets.undecodable:
        return f"it begins without a key frame: {packets.undecodable} of its first frames cannot be decoded"
    if packets.corrupt:
        return f"{packets.corrupt} packets are damaged"
    if header.container == "mov" and stream.frames > packets.total:
        return f"{stream.frames} frames are declared, {packets.total} are present"
    end_seconds = header.pts_seconds[-1] + float(packets.last_duration * (stream.time_base or 0))
    frame_seconds = header.pts_seconds[-1] / max(1, header.frames - 1)
    if header.duration_seconds - end_seconds > max(SHORTFALL_SECONDS, SHORTFALL_FRAMES * frame_seconds):
        return f"{header.duration_seconds:.2f} s are declared, {end_seconds:.2f} s are present"
    return ""
