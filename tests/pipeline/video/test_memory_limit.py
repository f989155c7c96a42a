"""The memory bound holds while an item is made, and only then."""

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.video.memory_limit import bounded

ROOM_BYTES = 64 << 20
TOO_MUCH_BYTES = 4 << 30  # far more than this process could free meanwhile; zeros are not touched, so it costs nothing


def takes(*sizes_bytes: int) -> Iterator[int]:
    for size_bytes in sizes_bytes:
        yield np.zeros(size_bytes, np.uint8).size


def test_items_that_fit_pass_and_one_that_does_not_fails() -> None:
    items = bounded(takes(1 << 20, ROOM_BYTES // 2, TOO_MUCH_BYTES), ROOM_BYTES)
    assert next(items) == 1 << 20
    assert next(items) == ROOM_BYTES // 2
    with pytest.raises(MemoryError):
        next(items)


def test_the_consumer_is_not_bounded() -> None:
    for _ in bounded(takes(1, 1), ROOM_BYTES):
        assert np.zeros(TOO_MUCH_BYTES, np.uint8).size == TOO_MUCH_BYTES
    assert np.zeros(TOO_MUCH_BYTES, np.uint8).size == TOO_MUCH_BYTES
