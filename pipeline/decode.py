"""From the bytes of a video to the frames of its clips, chunk by chunk; the only file that uses Decord.

It does not decide which frames (clips.py) and does not guard its process: a decoder may crash or hang, so this runs
where that costs one sample.
"""

import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import decord
import numpy as np

from pipeline.clips import ClipRules, plan_spans
from pipeline.config import ClipConfig, FilterConfig, LimitsConfig
from pipeline.containers import container_of
from pipeline.decode_pyav import pyav_pictures
from pipeline.errors import SampleError, ShardError
from pipeline.filters import check_header
from pipeline.probe import Probe, probe
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, Opened, Uint8Frames
from pipeline.resize import fit

ALL = FilterConfig()  # leaves nothing out
SAME_TIME_SECONDS = 0.001  # Decord gives times as float32
NO_SUBSTITUTES = 0.0001  # share of frames that Decord may replace by their neighbours: none
DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError)


def decode_sample(
    video: bytes,
    clip: ClipConfig,
    limits: LimitsConfig,
    strict: bool,
    rules: ClipRules,
    wanted: FilterConfig = ALL,
) -> Iterator[DecodeItem]:
    """Opened, then the chunks of all clips in the order in which they fill; a Failure is the last item, if any.

    Raises:
        ShardError: `clip.tail: error` met a count that is not legal.
        MemoryError, OSError: this machine failed, not the video; the same sample may pass elsewhere.
    """
    decord.logging.set_level(decord.logging.QUIET)
    try:
        yield from _decode(video, clip, limits, strict, rules, wanted)
    except SampleError as error:
        yield Failure(error.stage, error.reason, error.detail)
    except (MemoryError, OSError, ShardError):
        raise
    except Exception as error:  # the same bytes would bring whatever a decoder raised again, so it is the video's
        yield Failure("decode", "decoder_error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _decode(
    video: bytes, clip: ClipConfig, limits: LimitsConfig, strict: bool, rules: ClipRules, wanted: FilterConfig
) -> Iterator[DecodeItem]:
    if len(video) > limits.max_video_bytes:
        raise SampleError(
            "probe", "too_large", f"{len(video)} bytes, limits.max_video_bytes is {limits.max_video_bytes}"
        )
    container = container_of(video)
    with memory_file(video) as path:
        found = probe(path, container, limits)
        check_header(found.header, wanted.min_seconds, wanted.min_short_side_px, wanted.min_fps)
        clips, refused = plan_spans(found.header, clip, rules)
        yield Opened(found.header, clips, refused)
        if not clips:
            return
        needed = array("q", np.unique(np.concatenate([spec.frame_indices for spec in clips])).tobytes())
        pictures = _pictures(path, found, needed, limits, strict)
        yield from cut_chunks(clips, ((i, fit(p, clips[0].geometry)) for i, p in zip(needed, pictures, strict=True)))


@contextmanager
def memory_file(video: bytes) -> Iterator[str]:
    """A path under which decoders read the bytes. Decord's own reader of bytes reads past their end."""
    handle = os.memfd_create("video")
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(video)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _pictures(
    path: str, found: Probe, needed: Sequence[int], limits: LimitsConfig, strict: bool
) -> Iterator[Uint8Frames]:
    """The upright pictures, `h w c`, at the ascending indices `needed`: Decord's, and PyAV's from where it gives up."""
    given = 0
    if not strict and not found.decord_doubt:
        try:
            for picture in _decord_pictures(path, found, needed):
                yield picture
                given += 1
            return
        except DECORD_ERRORS:
            pass  # PyAV decodes what Decord cannot, or says what is wrong
    yield from pyav_pictures(path, found, needed[given:], limits, strict)


def _decord_pictures(path: str, found: Probe, needed: Sequence[int]) -> Iterator[Uint8Frames]:
    """Reads forward from frame 0 and never jumps: Decord's random access gives wrong frames in many files."""
    reader = decord.VideoReader(path, num_threads=1, fault_tol=NO_SUBSTITUTES)
    header = found.header
    assert len(reader) == header.frames, "Decord counts other frames than the container"
    if found.start_seconds is not None:
        starts = reader.get_frame_timestamp(range(header.frames))[:, 0]
        drift_seconds = np.abs(starts - starts[0] - np.asarray(header.pts_seconds))
        assert drift_seconds.max() < SAME_TIME_SECONDS, "Decord has other times than the container"
    read = 0
    for index in needed:
        for _ in range(read, index):
            reader.next()
        picture, read = reader.next(), index + 1
        assert picture.shape == (header.height_px, header.width_px, 3), "Decord gives another size"
        yield picture.asnumpy()


def cut_chunks(clips: Sequence[ClipSpec], pictures: Iterable[tuple[int, Uint8Frames]]) -> Iterator[Chunk]:
    """Deals pictures `h w c`, which come once and by ascending index, to all clips that use them.

    A clip's frames are held only until its next chunk is full; clips that overlap hold the same pictures.
    """
    waiting = deque(sorted(clips, key=lambda spec: spec.frame_indices[0]))
    open_clips: list[_OpenClip] = []
    for index, picture in pictures:
        while waiting and waiting[0].frame_indices[0] <= index:
            open_clips.append(_OpenClip(waiting.popleft()))
        for clip in open_clips:
            yield from clip.take(index, picture)
        open_clips = [clip for clip in open_clips if clip.due]


class _OpenClip:
    """A clip that has begun: which of its frames comes next, and those that wait for its chunk to be full."""

    def __init__(self, spec: ClipSpec) -> None:
        self._spec, self._position = spec, 0
        self._held: list[Uint8Frames] = []
        self.due = deque(spec.chunk_frames)

    def take(self, index: int, picture: Uint8Frames) -> Iterator[Chunk]:
        """Takes the picture as often as the clip uses it."""
        frames = self._spec.frame_indices
        while self._position < len(frames) and frames[self._position] == index:
            self._position += 1
            self._held.append(picture)
            if len(self._held) == self.due[0]:
                yield Chunk(self._spec.window_index, np.stack(self._held))
                self.due.popleft()
                self._held.clear()
