"""How many frames of a clip travel together from the decoder to the encoder: a whole clip where it fits."""

from collections.abc import Iterable

from pipeline.config.latents import ClipConfig
from pipeline.records import Geometry

OBJECT_BYTES = 64 << 20  # fewer, larger objects cost less: each is a round trip


def objects_of(chunks: Iterable[int], geometry: Geometry) -> tuple[int, ...]:
    """Frames of each object, given those of the encoder's chunks: as many whole chunks as OBJECT_BYTES hold."""
    most_frames = OBJECT_BYTES // _frame_bytes(geometry.height_px, geometry.width_px)
    objects: list[int] = []
    for frames in chunks:
        if objects and objects[-1] + frames <= most_frames:
            objects[-1] += frames
        else:
            objects.append(frames)
    return tuple(objects)


def largest_object_bytes(clip: ClipConfig, most_chunk_frames: int) -> int:
    """What an object of any clip may hold; an object has at least one chunk, of `most_chunk_frames` at the most."""
    sizes = []
    for frames, (height_px, width_px) in zip(clip.bucket_frames, clip.bucket_sizes_px, strict=True):
        frame_bytes = _frame_bytes(height_px, width_px)
        most_bytes = max(OBJECT_BYTES, most_chunk_frames * frame_bytes)
        sizes.append(most_bytes if frames is None else min(frames * frame_bytes, most_bytes))
    return max(sizes)


def _frame_bytes(height_px: int, width_px: int) -> int:
    return 3 * height_px * width_px
