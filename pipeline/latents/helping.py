"""How those who share one shard divide its slices: each goes through them in an order of its own, and claims them."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

WORKERS_PER_SHARD = 8  # the shard's first and its helpers: each of those reads the tar once more
PATIENCE = 3.0  # times the longest slice so far, for one that another is at
LEAST_PATIENCE_SECONDS = 30.0
SHARDS_REMEMBERED = 10_000  # of which slices are claimed: many more than are being made


def helping_order(slices: int, place: int) -> list[int]:
    """The slices of a shard in the order in which a helper goes through them.

    First its own share, so that helpers do not meet; then the rest in an order of its own, so that two who are equally
    fast do not go side by side: what another has committed is passed over, and what both make is the same.
    """
    own = list(range(place % WORKERS_PER_SHARD, slices, WORKERS_PER_SHARD))
    rest = [index for index in range(slices) if index not in set(own)]
    return own + random.Random(place).sample(rest, len(rest))


Claim = Literal["mine", "taken", "made"]


class Claims(Protocol):
    """Who is at which slice, so that those who share a shard do not make the same. A hint: nothing is lost without."""

    def take(self, shard: str, place: int, slice_index: int) -> Claim:
        """Asks for a slice: it is `mine` now, `taken` by another, or was `made` by one in this run."""

    def made(self, shard: str, slice_index: int) -> None:
        """Says that a slice is committed."""


class NoClaims:
    """Where one alone makes a shard, every slice is its own."""

    def take(self, shard: str, place: int, slice_index: int) -> Claim:
        return "mine"

    def made(self, shard: str, slice_index: int) -> None:
        pass


@dataclass(slots=True)
class _Claimed:
    """The slices of a shard that are being made, each by a place since a time, and those that were made."""

    making: dict[int, tuple[int, float]] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)


@dataclass(slots=True)
class SharedClaims:
    """The claims of a run. One that takes several times as long as any slice so far may be taken by another."""

    now_seconds: Callable[[], float] = time.monotonic
    least_patience_seconds: float = LEAST_PATIENCE_SECONDS
    _shards: dict[str, _Claimed] = field(default_factory=dict)
    _longest_seconds: float = 0.0

    def take(self, shard: str, place: int, slice_index: int) -> Claim:
        claimed, now = self._of(shard), self.now_seconds()
        if slice_index in claimed.made:
            return "made"
        by, since = claimed.making.get(slice_index, (place, now))
        if by != place and now - since < max(self.least_patience_seconds, PATIENCE * self._longest_seconds):
            return "taken"
        claimed.making[slice_index] = (place, now)
        return "mine"

    def made(self, shard: str, slice_index: int) -> None:
        claimed, now = self._of(shard), self.now_seconds()
        _, since = claimed.making.pop(slice_index, (0, now))
        self._longest_seconds = max(self._longest_seconds, now - since)
        claimed.made.add(slice_index)

    def release(self, shard: str, place: int) -> None:
        """Whoever had this place is gone, or failed."""
        making = self._of(shard).making
        for slice_index in [slice_index for slice_index, (by, _) in making.items() if by == place]:
            del making[slice_index]

    def forget(self, shard: str) -> None:
        """A shard is begun anew."""
        self._shards.pop(shard, None)

    def _of(self, shard: str) -> _Claimed:
        while shard not in self._shards and len(self._shards) >= SHARDS_REMEMBERED:
            del self._shards[next(iter(self._shards))]
        return self._shards.setdefault(shard, _Claimed())
