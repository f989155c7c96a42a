"""Pictures decoded by PyAV: of videos that Decord gets wrong, and of all with `input.strict`, which detects damage."""

from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import Uint8Frames, VideoHeader
from pipeline.video.probe import Probe, describe, open_video

Decoded = tuple[int, Uint8Frames] | None  # a picture `h w c` and its index; None for a frame that nobody needs
ROUNDING_SECONDS = 1e-6  # probe and decoder read the same integers; only floats differ


def pyav_pictures(path: str, probe: Probe, needed: bytearray, limits: LimitsConfig, strict: bool) -> Iterator[Decoded]:
    """The upright pictures where `needed` has a 1; other frames are decoded but not converted.

    Raises:
        SampleError: a needed frame is missing; with `strict`, anything before the last needed frame is damaged.
    """
    if strict and probe.shortfall:
        raise SampleError("decode", "incomplete", probe.shortfall)
    with open_video(path, probe.header.container, limits) as (opened, stream):
        if strict:
            stream.codec_context.options = {**stream.codec_context.options, "err_detect": "explode"}
        to_rgb = _ToRgb(probe.header, stream)
        position, index = -1, needed.find(1)
        for frame in _frames(opened, stream, skip_errors=not strict and probe.start_seconds is not None):
            if strict and frame.is_corrupt:
                raise SampleError("decode", "damaged", f"the decoder reports damage in the frame after {position}")
            position = _position(frame.pts, stream.time_base, position, probe)
            if position > index:
                break
            yield (index, to_rgb(frame)) if position == index else None
            if position == index and (index := needed.find(1, index + 1)) < 0:
                return
        raise SampleError(
            "decode",
            "missing_frames",
            f"frame {index} of {probe.header.frames} could not be decoded, but a clip needs it",
        )


def _frames(opened: InputContainer, stream: VideoStream, skip_errors: bool) -> Iterator[VideoFrame]:
    """All frames in display order. Where frames carry times, one that fails can be left out."""
    # Theora repeats a frame with an empty packet, which a decoder would take for the end
    packets = (packet for packet in opened.demux(stream) if packet.size)
    for packet in chain(packets, (None,)):
        try:
            yield from stream.decode(packet)
        except av.error.FFmpegError as error:
            what = describe(error)
            if not skip_errors:
                raise SampleError("decode", "damaged", what) from error


def _position(pts: int | None, time_base: Fraction | None, previous: int, probe: Probe) -> int:
    """Index of a frame among those that the container announced, by its time or, without times, by counting."""
    if probe.start_seconds is None:
        return previous + 1
    pts_seconds = probe.header.pts_seconds
    time_seconds = -1.0 if pts is None or time_base is None else float(pts * time_base) - probe.start_seconds
    at = max(previous + 1, bisect_left(pts_seconds, time_seconds - ROUNDING_SECONDS))
    if at == len(pts_seconds) or abs(pts_seconds[at] - time_seconds) > ROUNDING_SECONDS:
        raise SampleError(
            "decode", "times_disagree", f"the frame after {previous} is at {time_seconds:.4f} s, no remaining packet is"
        )
    return at


class _ToRgb:
    """Frame -> upright `h w c`, through the FFmpeg filters that Decord uses: both give the same bytes."""

    def __init__(self, header: VideoHeader, stream: VideoStream) -> None:
        self._time_base = stream.time_base  # the last frames of a video come without one
        self._quarter_turns = header.rotation_degrees // 90
        shown_px = (header.width_px, header.height_px)
        self._stored_px = shown_px[::-1] if self._quarter_turns % 2 else shown_px
        self._graphs: dict[str, Graph] = {}

    def __call__(self, frame: VideoFrame) -> Uint8Frames:
        size_px = (frame.width, frame.height)
        if size_px != self._stored_px:
            raise SampleError("decode", "size_changes", f"a frame of {size_px} after {self._stored_px} (width, height)")
        graph = self._graphs.get(frame.format.name) or self._add_graph(frame)
        graph.push(frame)
        return np.rot90(cast(Uint8Frames, graph.pull().to_ndarray()), self._quarter_turns)

    def _add_graph(self, frame: VideoFrame) -> Graph:
        graph = self._graphs[frame.format.name] = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base
        )
        convert, sink = graph.add("format", "rgb24"), graph.add("buffersink")
        source.link_to(convert)
        convert.link_to(sink)
        graph.configure()
        return graph
