"""The memory bound: it bites while an item is made, and only then."""

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.guard import bounded

ROOM_BYTES = 64 << 20


def takes(*sizes_bytes: int) -> Iterator[int]:
    for size_bytes in sizes_bytes:
        yield int(np.ones(size_bytes, np.uint8)[-1]) * size_bytes


def test_items_that_fit_pass_and_one_that_does_not_fails() -> None:
    items = bounded(takes(1 << 20, ROOM_BYTES // 2, 4 * ROOM_BYTES), ROOM_BYTES)
    assert next(items) == 1 << 20
    assert next(items) == ROOM_BYTES // 2
    with pytest.raises(MemoryError):
        next(items)


def test_the_consumer_is_not_bounded() -> None:
    for _ in bounded(takes(1, 1), ROOM_BYTES):
        assert np.ones(4 * ROOM_BYTES, np.uint8).all()
    assert np.ones(4 * ROOM_BYTES, np.uint8).all()
