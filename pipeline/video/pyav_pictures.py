"""Pictures decoded by PyAV, which says when each frame is shown: that time is compared with the one announced."""

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from zlib import crc32

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import Uint8Frames
from pipeline.video.pixels.rgb import Look, ToRgb, deinterlaced
from pipeline.video.probe import Probe
from pipeline.video.seek import Key, Read, plan_seeks
from pipeline.video.streams import OpenVideo, describe, open_video

Decoded = tuple[int, Uint8Frames] | None  # a picture `h w c` and its index; None for a frame that nobody needs
SKIPPING_CODECS = ("h264",)  # of HEVC, a picture of a higher layer may refer to what claims to be no reference
REORDERED_FRAMES = 16  # the most by which decoding order and display order differ in any codec


@dataclass(frozen=True, slots=True)
class PyavPictures:
    """The upright pictures of one video; frames that are not needed are decoded but not converted."""

    path: str
    found: Probe
    limits: LimitsConfig
    strict: bool
    look: Look

    def pictures(self, needed: bytearray) -> Iterator[Decoded]:
        """The pictures where `needed` has a 1, reached by key frames where that gives the same ones at less cost.

        Raises:
            SampleError: as `from_the_start`.
        """
        given, header = -1, self.found.header
        plan = plan_seeks(header, self.found.packets, needed) if self._may_leave_out else None
        attempts: list[Callable[[bytearray], Iterator[Decoded]]] = []
        if plan and (yield from self._agrees(plan.check)):
            attempts = [partial(self._by_key, plan.reads)]
        elif self._may_leave_out and header.codec in SKIPPING_CODECS and not header.interlaced:
            attempts = [partial(self._from_the_start, skips=True)]
        for attempt in attempts:
            try:
                for decoded in attempt(needed):
                    yield decoded
                    given = decoded[0] if decoded else given
                return
            except SampleError:
                pass  # not what demuxing announced, or damaged: how that is concealed depends on all before it
        yield from self.from_the_start(bytearray(given + 1) + needed[given + 1 :])

    @property
    def _may_leave_out(self) -> bool:
        """Whether frames may stay undecoded: times tell which those are, and nobody asks what is wrong in them."""
        return not (self.strict or self.look.deinterlace or self.found.header.start_seconds is None)

    def from_the_start(self, needed: bytearray) -> Iterator[Decoded]:
        """The pictures where `needed` has a 1, decoding all frames before them.

        Raises:
            SampleError: a needed frame is missing, or shown at another time than announced; with `strict`, anything
                before the last needed frame is damaged.
        """
        yield from self._from_the_start(needed)

    def _from_the_start(self, needed: bytearray, skips: bool = False) -> Iterator[Decoded]:
        """With `skips`, frames that neither a clip nor another frame needs are not decoded."""
        if self.strict and self.found.shortfall:
            raise SampleError("decode", "incomplete", self.found.shortfall)
        with self.open() as video:
            is_timed = self.found.header.start_seconds is not None
            packets = self.lean_packets(video, needed) if skips else video.packets()
            if self.strict or skips:
                frames = sound_frames(video, packets)
            else:
                frames = frames_of(video, packets, skip_errors=is_timed)
            if self.look.deinterlace:
                frames = deinterlaced(frames, video.stream.time_base)
            yield from self._needed_pictures(self._placed(frames), needed, video)

    def open(self) -> AbstractContextManager[OpenVideo]:
        """The video, at its first packet."""
        return open_video(self.path, self.found.header.container, self.limits, self.found.header.video_stream)

    def _by_key(self, reads: Iterable[Read], needed: bytearray) -> Iterator[Decoded]:
        for read in reads:
            with self.open() as video:
                mine = bytearray(read.key.index) + needed[read.key.index : read.last + 1]
                yield from self._needed_pictures(self._placed_from(read.key, video), mine, video)

    def _agrees(self, check: Read) -> Generator[None, None, bool]:
        """Whether some frames are the same bits decoded from the start and by a seek; None for each one decoded."""
        sums: list[dict[int, int]] = []
        for key in (Key(0, 0), check.key):
            sums.append({})
            try:
                with self.open() as video:
                    placed = (
                        self._placed(sound_frames(video, video.packets()))
                        if not sums[1:]
                        else self._placed_from(key, video)
                    )
                    for position, frame in placed:
                        yield None
                        if position >= check.key.index:
                            sums[-1][position] = checksum(frame)
                        if position >= check.last:
                            break
            except SampleError:
                return False
        return sums[0] == sums[1]

    def _placed_from(self, key: Key, video: OpenVideo) -> Iterator[tuple[int, VideoFrame]]:
        """The frames from a key frame on, each with its index. Nothing may be missing.

        Raises:
            SampleError: packets or frames are not those that demuxing the whole video found.
        """
        marks, position = self.found.packets.marks, key.index - 1
        for frame in sound_frames(video, self._packets_from(key, video)):
            if frame.pts is not None and frame.pts < marks[key.index]:
                continue  # it is shown before the key frame and may need what is before that
            position += 1
            if position == len(marks) or frame.pts != marks[position]:
                raise SampleError("decode", "times_disagree", f"frame {position} did not come after a seek")
            yield position, frame

    def _packets_from(self, key: Key, video: OpenVideo) -> Iterator["Packet[VideoStream]"]:
        packets = self.found.packets
        earlier = packets.marks[max(0, key.index - REORDERED_FRAMES)]  # some containers are sought by decoding time
        video.file.seek(earlier, stream=video.stream)
        place, begun = key.packet, False
        for packet in video.packets():
            begun = begun or (packet.pts, packet.size) == (packets.pts[place], packets.sizes[place])
            if not begun:
                continue  # the seek led to an earlier key frame
            if place == packets.total or (packet.pts, packet.size) != (packets.pts[place], packets.sizes[place]):
                raise SampleError("decode", "times_disagree", f"packet {place} did not come after a seek")
            yield packet
            place += 1

    def _needed_pictures(
        self, placed: Iterable[tuple[int, VideoFrame]], needed: bytearray, video: OpenVideo
    ) -> Iterator[Decoded]:
        to_rgb = ToRgb(self.found.header, self.look, video.stream.time_base)
        index = needed.find(1)
        for position, frame in placed:
            if position > index:
                break
            yield (index, to_rgb(frame)) if position == index else None
            if position == index and (index := needed.find(1, index + 1)) < 0:
                return
        raise SampleError(
            "decode",
            "missing_frames",
            f"frame {index} of {self.found.header.frames} could not be decoded, but a clip needs it",
        )

    def lean_packets(self, video: OpenVideo, needed: bytearray) -> Iterator["Packet[VideoStream]"]:
        """All packets; before each, the decoder is told whether it may pass over a picture that no other refers to."""
        marks = self.found.packets.marks
        for packet in video.packets():
            at = len(marks) if packet.pts is None else bisect_left(marks, packet.pts)
            is_spare = at < len(marks) and marks[at] == packet.pts and not needed[at]
            video.decoder.skip_frame = "NONREF" if is_spare else "DEFAULT"
            yield packet

    def _placed(self, frames: Iterable[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        """Each frame with its index among those announced, by its time or, without times, by counting."""
        position, is_timed = -1, self.found.header.start_seconds is not None
        for frame in frames:
            position = self._position(frame, position) if is_timed else _counted(frame, position)
            yield position, frame

    def _position(self, frame: VideoFrame, previous: int) -> int:
        marks = self.found.packets.marks
        at = len(marks) if frame.pts is None else bisect_left(marks, frame.pts, lo=previous + 1)
        if at == len(marks) or marks[at] != frame.pts:
            seconds = "unknown" if frame.time is None else f"{frame.time:.4f} s"
            what = f"the frame after {previous} is at {seconds} by the container's clock, no remaining packet is"
            raise SampleError("decode", "times_disagree", what)
        return at


def _counted(frame: VideoFrame, previous: int) -> int:
    """The next index. The packet that a frame came from shows where the decoder left frames out."""
    position = previous + 1
    if frame.dts is not None and abs(frame.dts - position) > REORDERED_FRAMES:
        what = f"picture {position} is that of packet {frame.dts}: the decoder leaves pictures out"
        raise SampleError("decode", "times_disagree", what)
    return position


def sound_frames(video: OpenVideo, packets: Iterable["Packet[VideoStream]"]) -> Iterator[VideoFrame]:
    """All frames in display order. Raises SampleError where the decoder reports any damage."""
    video.decoder.options = {**video.decoder.options, "err_detect": "explode"}
    for number, frame in enumerate(frames_of(video, packets, skip_errors=False)):
        if frame.is_corrupt:
            raise SampleError("decode", "damaged", f"the decoder reports damage in frame {number} that it gives")
        yield frame


def checksum(frame: VideoFrame) -> int:
    """Of all samples of a frame as it was decoded, without the padding of its rows."""
    sum_ = 0
    sample_bytes = 2 if frame.format.components[0].bits > 8 else 1
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height]
        sum_ = crc32(rows[:, : plane.width * sample_bytes].tobytes(), sum_)
    return sum_


def frames_of(video: OpenVideo, packets: Iterable["Packet[VideoStream]"], skip_errors: bool) -> Iterator[VideoFrame]:
    """All frames in display order. Where frames carry times, one that fails can be left out."""
    for packet in chain(packets, (None,)):
        try:
            yield from video.decode(packet)
        except av.error.FFmpegError as error:
            what = describe(error)
            if not skip_errors:
                raise SampleError("decode", "damaged", what) from error
