"""What demuxing a video stream reveals: the times of its frames, and where decoding may begin; uses PyAV."""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.video.streams import OpenVideo, describe

TIMELESS_CONTAINERS = ("avi",)  # they store decoding order, not presentation times
IDR, SLICES = 5, range(1, 6)  # types of H.264's units; an IDR slice is of a picture that forgets all before it


@dataclass(slots=True)
class Packets:
    """The packets of a stream.

    `marks` are the times of the frames shown, ascending, in units of the stream; `unmarked` counts frames shown whose
    packets carry no time, `undecodable` those left out because no decoder can begin with them. `pts` and `sizes` are
    those of every packet in decoding order, and `keys` the places among them where decoding can begin.
    """

    marks: "array[int]" = field(default_factory=lambda: array("q"))
    unmarked: int = 0
    undecodable: int = 0
    pts: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("i"))
    keys: "array[int]" = field(default_factory=lambda: array("q"))
    last_dts: int | None = None
    last_duration: int = 0
    corrupt: int = 0
    first_frame: VideoFrame | None = None
    decodes: bool = True

    @property
    def total(self) -> int:
        return len(self.pts)

    @property
    def shown(self) -> int:
        return len(self.marks) + self.unmarked


def read_packets(video: OpenVideo, container: str, limits: LimitsConfig) -> Packets:
    """Demuxes the whole stream and decodes its first frame.

    Raises:
        SampleError: it cannot be read, its times begin again, or it shows no frame.
    """
    packets, is_timed = Packets(), container not in TIMELESS_CONTAINERS
    try:
        for packet in video.packets():
            if is_timed:
                _check_order(packet, packets)
            _note(packet, video, packets)
            if packets.shown > limits.max_video_frames:
                raise SampleError(
                    "probe", "too_many_frames", f"more than limits.max_video_frames, {limits.max_video_frames}"
                )
    except av.error.FFmpegError as error:
        raise SampleError("probe", "unreadable", f"packet {packets.total}: {describe(error)}") from error
    _try_first_frame(video, None, packets)
    if not packets.shown:
        raise SampleError("probe", "no_frames", f"the {video.codec} stream shows no frame")
    np.frombuffer(packets.marks, np.int64).sort()  # in place: a film has a million frames
    if is_timed:
        _begin_with_the_first_picture(packets)
    return packets


def _check_order(packet: "Packet[VideoStream]", packets: Packets) -> None:
    if packet.dts is None:
        return
    if packets.last_dts is not None and packet.dts < packets.last_dts:
        what = f"packet {packets.total} goes back by {(packets.last_dts - packet.dts) * (packet.time_base or 0)} s"
        raise SampleError("probe", "times_begin_again", f"{what}: two recordings were joined, or the file is damaged")
    packets.last_dts = packet.dts


def _note(packet: "Packet[VideoStream]", video: OpenVideo, packets: Packets) -> None:
    packets.corrupt += packet.is_corrupt
    _try_first_frame(video, packet, packets)
    mark = packet.dts if packet.pts is None else packet.pts
    if packet.is_keyframe and _begins_anew(packet, video):
        packets.keys.append(packets.total)
    packets.pts.append(0 if mark is None else mark)
    packets.sizes.append(packet.size)
    if not packet.is_discard and not _is_hidden(packet, video):
        if mark is None:
            packets.unmarked += 1
        else:
            packets.marks.append(mark)
        packets.last_duration = packet.duration or packets.last_duration


def _try_first_frame(video: OpenVideo, packet: "Packet[VideoStream] | None", packets: Packets) -> None:
    """Feeds the decoder a packet, or the end of the stream, until it has given one frame or failed."""
    if packets.first_frame is None and packets.decodes:
        try:
            packets.first_frame = next(iter(video.decode(packet)), None)
        except av.error.FFmpegError as error:
            describe(error)
            packets.decodes = False  # decoding the pictures will report what is wrong


def _begin_with_the_first_picture(packets: Packets) -> None:
    """Leaves out the frames before the first that can be decoded: a cut may begin without a key frame."""
    first = packets.first_frame.pts if packets.first_frame else None
    if first is None or first == packets.marks[0] or first not in packets.marks:
        return
    packets.undecodable = packets.marks.index(first)
    del packets.marks[: packets.undecodable]


def _is_hidden(packet: "Packet[VideoStream]", video: OpenVideo) -> bool:
    """A VP8 frame that others refer to but that is never shown: bit 4 of its first byte is show_frame."""
    return video.codec == "vp8" and not memoryview(packet)[0] & 0x10


def _begins_anew(packet: "Packet[VideoStream]", video: OpenVideo) -> bool:
    """Whether nothing after a key frame needs anything before it; H.264 also marks mere recovery points as such."""
    if video.codec != "h264":
        return True
    header = video.stream.codec_context.extradata or b""
    length_bytes = (header[4] & 3) + 1 if header[:1] == b"\1" and len(header) > 4 else 0
    return _first_slice(bytes(packet), length_bytes) == IDR


def _first_slice(data: bytes, length_bytes: int) -> int | None:
    """The type of the first slice among H.264's units, which follow a length or, with 0, a start code."""
    types = _types_behind_lengths(data, length_bytes) if length_bytes else _types_behind_start_codes(data)
    return next((kind for kind in types if kind in SLICES), None)


def _types_behind_start_codes(data: bytes) -> Iterator[int]:
    return (match[1][0] & 31 for match in re.finditer(rb"\x00\x00\x01(.)", data, re.DOTALL))


def _types_behind_lengths(data: bytes, length_bytes: int) -> Iterator[int]:
    at = 0
    while at + length_bytes < len(data):
        yield data[at + length_bytes] & 31
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
