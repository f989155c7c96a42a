"""The order in which those who share one shard go through its slices."""

import random

WORKERS_PER_SHARD = 8  # the shard's first and its helpers: each of those reads the tar once more


def helping_order(slices: int, place: int) -> list[int]:
    """The slices of a shard in the order in which a helper goes through them.

    First its own share, so that helpers do not meet; then the rest in an order of its own, so that two who are equally
    fast do not go side by side: what another has committed is passed over, and what both make is the same.
    """
    own = list(range(place % WORKERS_PER_SHARD, slices, WORKERS_PER_SHARD))
    rest = [index for index in range(slices) if index not in set(own)]
    return own + random.Random(place).sample(rest, len(rest))
