"""Decoded frames -> upright RGB, through FFmpeg's filters; uses PyAV.

The filters are those that Decord uses, so both decoders give the same bytes. Transparent areas are shown on black.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.frame import VideoFrame

from pipeline.config.latents import ClipConfig
from pipeline.errors import SampleError
from pipeline.records import Uint8Frames, VideoHeader
from pipeline.video.pixels.tonemap import HLG, PQ, to_sdr

DEINTERLACE = ("bwdif", "mode=send_frame:deint=interlaced")  # one picture for each frame, by motion, of both fields
HDR_TRANSFERS = (PQ, HLG)


@dataclass(frozen=True, slots=True)
class Look:
    """What is done to the pixels of a video beside conversion to RGB."""

    tonemap: bool = False
    deinterlace: bool = False


def look_of(header: VideoHeader, clip: ClipConfig) -> Look:
    """What the configuration asks for, where the video needs it.

    Raises:
        SampleError: the video is HDR and `clip.hdr` is reject.
    """
    is_hdr = header.color_transfer in HDR_TRANSFERS
    if is_hdr and clip.hdr == "reject":
        raise SampleError("clip", "hdr", f"its transfer is {header.color_transfer}; clip.hdr: tonemap | keep takes it")
    return Look(is_hdr and clip.hdr == "tonemap", clip.deinterlace and header.interlaced)


def deinterlaced(frames: Iterable[VideoFrame], time_base: Fraction | None) -> Iterator[VideoFrame]:
    """The frames without combs, each at its own time."""
    graph: Graph | None = None
    for frame in _with_end(frames):
        if graph is None:
            if frame is None:
                return
            graph = _graph(frame, time_base, DEINTERLACE)
        graph.push(frame)
        yield from _pulled(graph, time_base)


@dataclass(slots=True)
class ToRgb:
    """Frame -> upright `h w c`."""

    header: VideoHeader
    look: Look
    time_base: Fraction | None
    _graphs: dict[str, Graph] = field(default_factory=dict)

    def __call__(self, frame: VideoFrame) -> Uint8Frames:
        turns = self.header.rotation_degrees // 90
        shown_px = (self.header.width_px, self.header.height_px)
        stored_px = shown_px[::-1] if turns % 2 else shown_px
        if (frame.width, frame.height) != stored_px:
            what = f"a frame of {(frame.width, frame.height)} after {stored_px} (width, height)"
            raise SampleError("decode", "size_changes", what)
        return np.rot90(self._rgb(frame), turns)

    def _rgb(self, frame: VideoFrame) -> Uint8Frames:
        if self.look.tonemap:
            coded = self._converted(frame, "rgb48le")
            return to_sdr(
                cast(npt.NDArray[np.uint16], coded), self.header.color_transfer, self.header.color_primaries == "bt2020"
            )
        if has_alpha(frame):
            return on_black(cast(Uint8Frames, self._converted(frame, "rgba")))
        return cast(Uint8Frames, self._converted(frame, "rgb24"))

    def _converted(self, frame: VideoFrame, pixel_format: str) -> npt.NDArray[Any]:
        graph = self._graphs.get(frame.format.name)
        if graph is None:  # the last frames of a video come without a time base
            graph = self._graphs[frame.format.name] = _graph(frame, self.time_base, ("format", pixel_format))
        graph.push(frame)
        return graph.pull().to_ndarray()


def has_alpha(frame: VideoFrame) -> bool:
    """Whether pixels of such a frame may be transparent."""
    return any(component.is_alpha for component in frame.format.components)


def on_black(picture: Uint8Frames) -> Uint8Frames:
    """`h w 4` -> `h w 3`: each colour by its opacity."""
    colours = picture[..., :3].astype(np.uint16) * picture[..., 3:]
    return ((colours + 127) // 255).astype(np.uint8)


def _graph(frame: VideoFrame, time_base: Fraction | None, step: tuple[str, str]) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    middle, sink = graph.add(*step), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    return graph


def _with_end(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame | None]:
    yield from frames
    yield None


def _pulled(graph: Graph, time_base: Fraction | None) -> Iterator[VideoFrame]:
    """What a graph has ready, with times in units of the stream."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None and frame.time_base and time_base:
            frame.pts = round(frame.pts * frame.time_base / time_base)
            frame.time_base = time_base
        yield cast(VideoFrame, frame)
