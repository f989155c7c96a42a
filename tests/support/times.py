"""Whether pictures are those of the times that a clip states, judged by FFmpeg's own frames and their pts."""

import io
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from pipeline.records import Chunk, Geometry, Opened, Uint8Frames

SAME_TIME_SECONDS = 2e-3
NEARER = 3.0  # of 255, mean of a picture: two decoders and two resizers differ by less

Timed = tuple[tuple[float, npt.NDArray[np.float32]], ...]


def misplaced_pictures(video: bytes, opened: Opened, chunks: Sequence[Chunk]) -> int:
    """How many pictures of the clips are much nearer to a frame of another time than to that of their own.

    Frames that FFmpeg gives no time, and turned pictures, are not judged.
    """
    header = opened.header
    if header.start_seconds is None or header.rotation_degrees:
        return 0
    found, left = 0, list(chunks)
    for spec in opened.clips:
        frames = np.concatenate([left.pop(0).frames for _ in spec.chunk_frames])
        timed = _timed_frames(video, header.video_stream, spec.geometry)
        times = [header.start_seconds + header.pts_seconds[index] for index in spec.frame_indices]
        found += sum(_is_misplaced(frame, time, timed) for frame, time in zip(frames, times, strict=True))
    return found


def _is_misplaced(picture: Uint8Frames, time: float, timed: Timed) -> bool:
    def nearest(frames: Iterable[npt.NDArray[np.float32]]) -> float:
        return min((float(np.abs(frame - picture).mean()) for frame in frames), default=np.inf)

    own = nearest(frame for at, frame in timed if _is_same(at, time))
    if own <= NEARER:
        return False  # none can be nearer by more, and to compare with all takes long
    return nearest(frame for at, frame in timed if not _is_same(at, time)) + NEARER < own


def _is_same(at: float, time: float) -> bool:
    return abs(at - time) <= SAME_TIME_SECONDS


@lru_cache(maxsize=1)  # one video is judged in several modes in succession
def _timed_frames(video: bytes, stream: int, geometry: Geometry) -> Timed:
    """Every frame that FFmpeg decodes from the first packet on, and its pts in seconds."""
    return tuple(_decoded(video, stream, geometry))


def _decoded(video: bytes, stream: int, geometry: Geometry) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    left, top = geometry.left_px, geometry.top_px
    with av.open(io.BytesIO(video)) as container:
        track = container.streams[stream]
        track.thread_count = 1
        packets = container.demux(track)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                return
            except FFmpegError:
                continue
            for frame in decoded:
                if frame.time is not None:
                    size = geometry.resized_width_px, geometry.resized_height_px
                    shown = frame.reformat(*size, format="rgb24", interpolation="BICUBIC").to_ndarray()
                    shown = shown[top : top + geometry.height_px, left : left + geometry.width_px]
                    yield frame.time, shown.astype(np.float32)
