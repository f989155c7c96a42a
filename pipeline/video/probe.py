"""What a video file is, by its container, before it is decoded; uses PyAV.

Only the first picture is decoded, because FFmpeg reports the rotation only there.
"""

import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import VideoHeader

SHORTFALL_SECONDS = 0.25  # none of 125 valid files ended earlier than declared by more than this and three frames
SHORTFALL_FRAMES = 3
DECORD_CONTAINERS = ("mov", "matroska", "avi", "asf", "flv")
DECORD_LEAST_WIDTH_PX = 128  # below it FFmpeg pads rows so much that Decord may take the padding for channels
DECORD_MOST_PX = 4096 * 2304  # above it Decord's unbounded queue of decoded frames takes gigabytes
TIMELESS_CONTAINERS = ("avi",)  # they store decoding order, not presentation times
# Decord silently rescales frames of another size to the first one's; Theora repeats a frame without a packet
DECORD_NEVER_CODECS = ("mjpeg", "theora", "vp8", "vp9")


@dataclass(frozen=True, slots=True)
class Probe:
    """A header, and what decides how the video may be decoded.

    `start_seconds` is when the first frame is shown by the container's clock, None where packets carry no such times.
    `decord_doubt` says why Decord may be wrong on such a video, "" where it is right. `shortfall` says what the
    container declares but does not hold, "" where it is complete.
    """

    header: VideoHeader
    start_seconds: float | None
    decord_doubt: str
    shortfall: str


@dataclass(slots=True)
class _Packets:
    """What demuxing a stream reveals. `marks` are the times of the frames shown, ascending, in units of the stream.

    `unmarked` counts the frames shown whose packets carry no time.
    """

    marks: "array[int]" = field(default_factory=lambda: array("q"))
    unmarked: int = 0
    last_duration: int = 0
    total: int = 0
    corrupt: int = 0
    first_frame: VideoFrame | None = None
    decodes: bool = True

    @property
    def shown(self) -> int:
        return len(self.marks) + self.unmarked


@contextmanager
def open_video(path: str, container: str, limits: LimitsConfig) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its best video stream, read by the container's own demuxer and no other.

    Raises:
        SampleError: the container cannot be read or holds no video.
    """
    most_px = {"max_pixels": str(limits.max_frame_px)}
    try:
        opened = av.open(path, format=container, options=most_px, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise SampleError("probe", "unreadable", f"not a readable {container} file: {describe(error)}") from error
    with opened:
        stream = opened.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.codec_context is None or _is_cover_art(stream):
            raise SampleError(
                "probe", "no_video_stream", f"the {container} file has no video stream that we can decode"
            )
        stream.codec_context.options = most_px
        stream.codec_context.thread_count = 1  # decode tasks run side by side; their threads would only compete
        yield opened, stream


def _is_cover_art(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def describe(error: av.error.FFmpegError) -> str:
    """FFmpeg's message without our file name. Running out of memory is not the video's fault: that error is raised."""
    if isinstance(error, MemoryError):
        raise error
    return str(error.strerror)


def probe(path: str, container: str, limits: LimitsConfig) -> Probe:
    """Reads the header and the times of all packets.

    Raises:
        SampleError: not a video, or larger than the limits.
    """
    with open_video(path, container, limits) as (opened, stream):
        _check_size(stream.codec_context.width, stream.codec_context.height, limits)
        packets = _demux(opened, stream, limits)
        header = _header(opened, stream, packets)
        return Probe(
            header=header,
            start_seconds=_start_seconds(header, stream, packets),
            decord_doubt=_decord_doubt(header, stream, packets),
            shortfall=_shortfall(header, stream, packets),
        )


def _check_size(width_px: int, height_px: int, limits: LimitsConfig) -> None:
    if width_px < 1 or height_px < 1:
        raise SampleError("probe", "unreadable", f"a picture of {width_px}x{height_px} (width x height)")
    if width_px * height_px > limits.max_frame_px:
        raise SampleError(
            "probe",
            "too_large",
            f"{width_px}x{height_px} is {width_px * height_px} pixels, limits.max_frame_px is {limits.max_frame_px}",
        )


def _demux(opened: InputContainer, stream: VideoStream, limits: LimitsConfig) -> _Packets:
    packets = _Packets()
    try:
        for packet in opened.demux(stream):
            if packet.size:
                _note(packet, stream, packets)
            if packets.shown > limits.max_video_frames:
                raise SampleError(
                    "probe", "too_many_frames", f"more than limits.max_video_frames, {limits.max_video_frames}"
                )
    except av.error.FFmpegError as error:
        raise SampleError("probe", "unreadable", f"packet {packets.total}: {describe(error)}") from error
    _try_first_frame(stream, None, packets)
    if not packets.shown:
        raise SampleError("probe", "no_frames", f"the {_codec_name(stream)} stream shows no frame")
    np.frombuffer(packets.marks, np.int64).sort()  # in place: a film has a million frames
    return packets


def _note(packet: "Packet[VideoStream]", stream: VideoStream, packets: _Packets) -> None:
    packets.total += 1
    packets.corrupt += packet.is_corrupt
    _try_first_frame(stream, packet, packets)
    if not packet.is_discard and not _is_hidden(packet, stream):
        if (mark := packet.dts if packet.pts is None else packet.pts) is None:
            packets.unmarked += 1
        else:
            packets.marks.append(mark)
        packets.last_duration = packet.duration or packets.last_duration


def _try_first_frame(stream: VideoStream, packet: "Packet[VideoStream] | None", packets: _Packets) -> None:
    """Feeds the decoder a packet, or the end of the stream, until it has given one frame or failed."""
    if packets.first_frame is None and packets.decodes:
        try:
            packets.first_frame = next(iter(stream.decode(packet)), None)
        except av.error.FFmpegError as error:
            describe(error)
            packets.decodes = False  # decoding the pictures will report what is wrong


def _is_hidden(packet: "Packet[VideoStream]", stream: VideoStream) -> bool:
    """A VP8 frame that others refer to but that is never shown: bit 4 of its first byte is show_frame."""
    return _codec_name(stream) == "vp8" and not memoryview(packet)[0] & 0x10


def _codec_name(stream: VideoStream) -> str:
    return str(stream.codec_context.codec.canonical_name)


def _header(opened: InputContainer, stream: VideoStream, packets: _Packets) -> VideoHeader:
    picture = packets.first_frame or stream.codec_context
    width_px, height_px = picture.width, picture.height
    sample_aspect = float(stream.sample_aspect_ratio or 1)
    rotation_degrees = _rotation_degrees(packets.first_frame) if packets.first_frame else 0
    if rotation_degrees in (90, 270):
        width_px, height_px, sample_aspect = height_px, width_px, 1 / sample_aspect
    pts_seconds = _pts_seconds(stream, packets)
    end_seconds = pts_seconds[-1] + float(packets.last_duration * (stream.time_base or 0))
    return VideoHeader(
        container=opened.format.name.partition(",")[0],
        codec=_codec_name(stream),
        width_px=width_px,
        height_px=height_px,
        sample_aspect=sample_aspect,
        rotation_degrees=rotation_degrees,
        pts_seconds=pts_seconds,
        duration_seconds=float(_declared_seconds(opened, stream) or end_seconds),
    )


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


def _pts_seconds(stream: VideoStream, packets: _Packets) -> "array[float]":
    """Times of the frames shown, ascending from 0. Where packets carry none, frames are evenly spaced."""
    if not packets.unmarked and (time_base := stream.time_base):
        first = packets.marks[0]
        return array("d", (float((mark - first) * time_base) for mark in packets.marks))
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise SampleError("probe", "no_times", "neither packets nor header say when frames are shown")
    return array("d", (float(index / rate) for index in range(packets.shown)))


def _declared_seconds(opened: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(opened.duration, av.time_base) if opened.duration else None


def _start_seconds(header: VideoHeader, stream: VideoStream, packets: _Packets) -> float | None:
    if header.container in TIMELESS_CONTAINERS or packets.unmarked:
        return None
    return float(packets.marks[0] * (stream.time_base or 0))


def _decord_doubt(header: VideoHeader, stream: VideoStream, packets: _Packets) -> str:
    picture = (stream.codec_context.width, stream.codec_context.height)
    times = header.pts_seconds
    doubts = {
        f"in {header.container}": header.container not in DECORD_CONTAINERS,
        f"coded by {header.codec}": header.codec in DECORD_NEVER_CODECS,
        f"{picture[0]}x{picture[1]} pixels": picture[0] < DECORD_LEAST_WIDTH_PX
        or picture[0] * picture[1] > DECORD_MOST_PX,
        "the picture is turned": header.rotation_degrees != 0,
        "no first picture": packets.first_frame is None,
        "the stream's size is not its header's": sorted(picture) != sorted((header.width_px, header.height_px)),
        "frames are cut off or hidden": packets.total != header.frames,
        "times begin below zero": packets.unmarked > 0 or packets.marks[0] < 0,
        "two frames have one time": any(left == right for left, right in pairwise(times)),
    }
    return "; ".join(doubt for doubt, holds in doubts.items() if holds)


def _shortfall(header: VideoHeader, stream: VideoStream, packets: _Packets) -> str:
    if packets.corrupt:
        return f"{packets.corrupt} packets are damaged"
    if header.container == "mov" and stream.frames > packets.total:
        return f"{stream.frames} frames are declared, {packets.total} are present"
    end_seconds = header.pts_seconds[-1] + float(packets.last_duration * (stream.time_base or 0))
    frame_seconds = header.pts_seconds[-1] / max(1, header.frames - 1)
    if header.duration_seconds - end_seconds > max(SHORTFALL_SECONDS, SHORTFALL_FRAMES * frame_seconds):
        return f"{header.duration_seconds:.2f} s are declared, {end_seconds:.2f} s are present"
    return ""
