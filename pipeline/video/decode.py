"""From the bytes of a video to the frames of its clips, chunk by chunk.

Nothing here guards the process: a decoder may crash or hang, so call this where that costs no more than one sample.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from encoder import SIMULATED
from pipeline.clips.plan import ClipRules, plan_spans
from pipeline.config.input import FilterConfig
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.errors import Reason, SampleError, ShardError
from pipeline.metadata.filters import check_header
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, Opened, Uint8Frames, VideoHeader
from pipeline.video.decord_pictures import DECORD_ERRORS, decord_pictures
from pipeline.video.images.image import open_image
from pipeline.video.pixels.resize import fit
from pipeline.video.pixels.rgb import look_of
from pipeline.video.probe import probe
from pipeline.video.pyav_pictures import Decoded, PyavPictures
from pipeline.video.signatures import container_of, image_format_of
from pipeline.video.simulated import read_simulated

NO_FILTER = FilterConfig()
HEARTBEATS_PER_TIMEOUT = 4


def decode_sample(
    video: bytes,
    clip: ClipConfig,
    limits: LimitsConfig,
    strict: bool,
    rules: ClipRules,
    wanted: FilterConfig = NO_FILTER,
) -> Iterator[DecodeItem | None]:
    """Opened, then the chunks of all clips in the order in which they fill; a Failure is the last item, if any.

    None is yielded when nothing else has been for a while: the decoder is working through frames that no clip needs.

    Raises:
        ShardError: `clip.tail: error` met a count that is not legal.
        MemoryError, OSError: this machine failed, not the video; the same sample may pass elsewhere.
    """
    try:
        yield from _decode(video, clip, limits, strict, rules, wanted)
    except SampleError as error:
        yield Failure(error.why)
    except (MemoryError, OSError, ShardError):
        raise
    except Exception as error:  # the same bytes would fail the same way again: it is the video's fault
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Failure(Reason("decode", "decoder_error", what))


def _decode(
    video: bytes, clip: ClipConfig, limits: LimitsConfig, strict: bool, rules: ClipRules, wanted: FilterConfig
) -> Iterator[DecodeItem | None]:
    if len(video) > limits.max_video_bytes:
        raise SampleError(
            "probe", "too_large", f"{len(video)} bytes, limits.max_video_bytes is {limits.max_video_bytes}"
        )
    if rules.spec.name == SIMULATED and (simulated := read_simulated(video)):
        _filter(simulated.header, wanted)
        yield from _clips_of(simulated.header, simulated.pictures, clip, limits, rules)
        return
    if rules.images and (format_ := image_format_of(video)):
        image = open_image(video, format_, limits)
        _filter(image.header, wanted)
        picture = partial(image.pictures, look_of(image.header, clip), strict)
        yield from _clips_of(image.header, picture, clip, limits, rules)
        return
    container = container_of(video)
    with memory_file(video) as path:
        found = probe(path, container, limits)
        _filter(found.header, wanted)
        by_pyav = PyavPictures(path, found, limits, strict, look_of(found.header, clip))
        pictures = partial(_pictures, by_pyav)
        yield from _clips_of(found.header, pictures, clip, limits, rules)


def _filter(header: VideoHeader, wanted: FilterConfig) -> None:
    check_header(header, wanted.min_seconds, wanted.min_short_side_px, wanted.min_fps, wanted.video)


def _clips_of(
    header: VideoHeader,
    pictures: Callable[[bytearray], Iterator[Decoded]],
    clip: ClipConfig,
    limits: LimitsConfig,
    rules: ClipRules,
) -> Iterator[DecodeItem | None]:
    """What `decode_sample` yields of a video with this header; `pictures` gives those that are marked."""
    clips, refused = plan_spans(header, clip, rules)
    yield Opened(header, clips, refused)
    if not clips:
        return
    chunks = cut_chunks(clips, pictures(marked(clips, header.frames)))
    yield from with_heartbeats(chunks, limits.decode_timeout_seconds / HEARTBEATS_PER_TIMEOUT)


@contextmanager
def memory_file(video: bytes) -> Iterator[str]:
    """A path under which decoders read the bytes. Decord's own reader of bytes overruns them."""
    handle = os.memfd_create("video")
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(video)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def marked(clips: Sequence[ClipSpec], frames: int) -> bytearray:
    """A byte for each frame of a video: 1 where a clip needs it."""
    needed = bytearray(frames)
    for spec in clips:
        for index in spec.frame_indices:
            needed[index] = 1
    return needed


def _pictures(by_pyav: PyavPictures, needed: bytearray) -> Iterator[Decoded]:
    """The needed pictures, upright, `h w c`, each with its index; None for each other frame.

    Decord, which converts every frame that it reads, decodes where all are needed; where it gives up, PyAV goes on.
    """
    given, found = -1, by_pyav.found
    if not by_pyav.strict and not found.decord_doubt and 0 not in needed[: needed.rindex(1)]:
        try:
            for decoded in decord_pictures(by_pyav.path, found, needed):
                yield decoded
                given = decoded[0] if decoded else given
            return
        except DECORD_ERRORS:
            pass  # PyAV decodes what Decord cannot, or says what is wrong
    left = bytearray(given + 1) + needed[given + 1 :]
    yield from by_pyav.pictures(left)


def with_heartbeats(chunks: Iterable[Chunk | None], pause_seconds: float) -> Iterator[Chunk | None]:
    """The chunks, and None between them whenever decoding goes on for `pause_seconds` without one."""
    since = time.monotonic()
    for chunk in chunks:
        if chunk is not None or time.monotonic() - since >= pause_seconds:
            yield chunk
            since = time.monotonic()


def cut_chunks(clips: Sequence[ClipSpec], decoded: Iterable[Decoded]) -> Iterator[Chunk | None]:
    """Deals pictures `h w c`, which come once and by ascending index, to all clips that use them; None after each.

    A clip's frames are held only until its next chunk is full; clips that overlap share the pictures.
    """
    waiting = deque(sorted(clips, key=lambda spec: spec.frame_indices[0]))
    open_clips: list[_OpenClip] = []
    for item in decoded:
        if item is not None:
            index, picture = item[0], fit(item[1], clips[0].geometry)  # which all clips of a video share
            while waiting and waiting[0].frame_indices[0] <= index:
                open_clips.append(_OpenClip(waiting.popleft()))
            for clip in open_clips:
                yield from clip.take(index, picture)
            open_clips = [clip for clip in open_clips if clip.due]
        yield None


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
