"""Opens a video file for PyAV: by its own demuxer, at the stream that is the film, with the decoder that fits it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these leave the alpha channel out


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """An open file, its video stream, and the decoder of that stream. `streams` counts the video streams."""

    file: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext
    streams: int

    def packets(self) -> Iterator["Packet[VideoStream]"]:
        """The packets of the stream, from where the file stands."""
        # Theora repeats a frame with an empty packet, which a decoder would take for the end
        return (packet for packet in self.file.demux(self.stream) if packet.size)

    def decode(self, packet: "Packet[VideoStream] | None") -> list[VideoFrame]:
        """The frames that come with a packet; with None, those that are left."""
        return self.decoder.decode(packet)

    @property
    def codec(self) -> str:
        return str(self.stream.codec_context.codec.canonical_name)


@contextmanager
def open_video(path: str, container: str, limits: LimitsConfig, stream_index: int | None = None) -> Iterator[OpenVideo]:
    """The file and its film, read by the container's own demuxer and no other.

    Raises:
        SampleError: the container cannot be read or holds no video.
    """
    if stream_index is None:
        stream_index = _film(path, container, limits)
    with _opened(path, container, limits) as file:
        stream = file.streams[stream_index]
        assert isinstance(stream, VideoStream), "the file has the same streams each time that it is opened"
        decoder = stream.codec_context
        name = ALPHA_DECODERS.get(str(decoder.codec.canonical_name), "")
        if name and stream.metadata.get("alpha_mode") == "1":
            decoder = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
        decoder.options = _most_px(limits)
        decoder.thread_count = 1  # decode tasks run side by side; their threads would only compete
        yield OpenVideo(file, stream, decoder, len(file.streams.video))


def _opened(path: str, container: str, limits: LimitsConfig) -> InputContainer:
    try:
        return av.open(path, format=container, options=_most_px(limits), metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise SampleError("probe", "unreadable", f"not a readable {container} file: {describe(error)}") from error


def _most_px(limits: LimitsConfig) -> dict[str, str]:
    return {"max_pixels": str(limits.max_frame_px)}


def _film(path: str, container: str, limits: LimitsConfig) -> int:
    """The index of FFmpeg's best video stream; where that is a still picture, of the one with the most frames."""
    with _opened(path, container, limits) as file:
        best = file.streams.best("video")
        streams = [stream for stream in file.streams.video if stream.codec_context and not _is_cover_art(stream)]
        if not streams or best is None:
            what = f"the {container} file has no video stream that we can decode"
            raise SampleError("probe", "no_video_stream", what)
        if streams == [best]:
            return best.index
        try:
            counts = Counter(packet.stream.index for packet in file.demux(*streams) if packet.size)
        except av.error.FFmpegError as error:
            raise SampleError("probe", "unreadable", f"its video streams: {describe(error)}") from error
        return best.index if counts[best.index] > 1 else max(streams, key=lambda stream: counts[stream.index]).index


def _is_cover_art(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def describe(error: av.error.FFmpegError) -> str:
    """FFmpeg's message without our file name. Running out of memory is not the video's fault: that error is raised."""
    if isinstance(error, MemoryError):
        raise error
    return str(error.strerror)
