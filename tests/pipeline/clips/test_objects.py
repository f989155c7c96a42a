"""Frames travel together as far as an object holds them, and never part of an encoder's chunk."""

import pytest
from support.clips import clip_of

from pipeline.clips.objects import OBJECT_BYTES, largest_object_bytes, objects_of
from pipeline.records import Geometry


def geometry(height_px: int, width_px: int) -> Geometry:
    return Geometry(width_px, height_px, 0, 0, width_px, height_px)


@pytest.mark.parametrize(
    ("chunks", "size_px", "objects"),
    [
        ((9, 8, 8, 8, 8, 8), (480, 720), (49,)),
        ((9, *[8] * 9), (480, 832), (49, 32)),
        ((9, 8), (4096, 4096), (9, 8)),
        ((1,), (16, 16), (1,)),
    ],
)
def test_objects_hold_as_many_chunks_as_fit(
    chunks: tuple[int, ...], size_px: tuple[int, int], objects: tuple[int, ...]
) -> None:
    assert objects_of(chunks, geometry(*size_px)) == objects


@pytest.mark.parametrize(
    ("values", "largest_bytes"),
    [
        ({"frames": 49, "buckets": ["480x720", "16x16"]}, 49 * 480 * 720 * 3),
        ({"frames": 81, "buckets": ["480x832"]}, OBJECT_BYTES),
        ({"frames": 81, "buckets": ["4096x4096"]}, 16 * 4096 * 4096 * 3),
        ({"frames": "full", "buckets": ["480x720"]}, OBJECT_BYTES),
        ({"frames": 5, "buckets": ["4096x4096"]}, 5 * 4096 * 4096 * 3),
    ],
)
def test_no_object_is_larger_than_is_said(values: dict[str, object], largest_bytes: int) -> None:
    assert largest_object_bytes(clip_of(**values), 16) == largest_bytes
