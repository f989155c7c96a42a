"""Some of many, to look at or to measure."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, or all where there are fewer, evenly spread from the first on."""
    taken = min(count, len(items))
    return [items[index * len(items) // taken] for index in range(taken)]
