"""Ray: a killable task for each decode, whose chunks come through the object store.

It does not decode (decode.py), and knows nothing of replicas.
"""

import asyncio
import math
import random
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.clips.plan import ClipRules
from pipeline.cluster.nodes import POLL_SECONDS, node_here
from pipeline.config.load import Config
from pipeline.errors import Reason
from pipeline.records import DecodeItem, Failure, Sample
from pipeline.video.memory_limit import bounded
from pipeline.video.simulated import SIGNATURE

OBJECTS_AHEAD = 1  # of one sample, that may wait in the object store
LOST_WORKER = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)  # decode again elsewhere


def _load(resizes: bool) -> None:
    """Decord, and torch where pictures are resized, are loaded only where decoding happens."""
    from pipeline.video import decode  # noqa: F401
    from pipeline.video.pixels.resize import get_ready

    if resizes:
        get_ready()


def _decode(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    """Decodes one sample in a process that may crash or be killed without harm to others."""
    _load(resizes=not video.startswith(SIGNATURE))  # by the worker's first task: a worker is kept for later ones
    from pipeline.video.decode import decode_sample

    yield None  # says, as later ones do, that a worker is at it: waiting for a free one is no fault of the video
    try:
        items = decode_sample(video, config.clip, config.limits, config.input.strict, rules, config.filter)
        yield from bounded(items, config.limits.decode_memory_bytes)
    except MemoryError:
        limit = f"{config.limits.decode_memory_bytes:,} bytes"
        yield Failure(Reason("decode", "memory_limit", f"took more than {limit} (limits.decode_memory_bytes)"))


_decode_task = ray.remote(max_retries=0, num_returns="streaming")(_decode)


def load_beside(workers: int, resizes: bool) -> None:
    """Has workers of this node load what decoding needs, while their replica loads its encoder: Ray keeps them."""
    here = NodeAffinitySchedulingStrategy(node_here(), soft=True)
    task = ray.remote(num_cpus=1, max_retries=0)(_load).options(scheduling_strategy=here)
    for _ in range(workers):
        task.remote(resizes)


class _Meeting:
    """Lets nobody go before all are there."""

    def __init__(self, wanted: int) -> None:
        self._missing, self._all_there = wanted, asyncio.Event()

    async def come(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._all_there.set()
        await self._all_there.wait()


def load_all(workers: int, resizes: bool) -> None:
    """Has so many workers load what decoding needs, each in a process of its own, and waits for them.

    For measurements: what follows starts none of them.
    """
    meeting = ray.remote(num_cpus=0)(_Meeting).remote(workers)

    def load_and_meet() -> None:
        _load(resizes)
        ray.get(meeting.come.remote())

    task = ray.remote(num_cpus=1, max_retries=0)(load_and_meet)
    ray.get([task.remote() for _ in range(workers)])
    ray.kill(meeting)


def _node_with_cpus() -> NodeAffinitySchedulingStrategy:
    """This node, or another where it has no CPUs: a task that asks for none may land on a head that does no work."""
    here = node_here()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    node = here if here in nodes or not nodes else random.choice(nodes)
    return NodeAffinitySchedulingStrategy(node, soft=True)


@dataclass(frozen=True, slots=True)
class RayDecoder:
    """Decodes every sample in a Ray task of its own; frames come through the object store.

    None comes where nothing else did for a while: whoever reads may stop then.
    """

    config: Config
    config_ref: Any
    rules: ClipRules

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem | None, None, None]:
        rules = replace(self.rules, spans=sample.spans, segment=segment)
        items = self._items(sample.video, rules, self._submit(sample.video, rules, cpus=1))
        next(items)  # into its try: who closes it, read or not, cancels the task
        return items

    def _submit(self, video: bytes, rules: ClipRules, cpus: int) -> Any:
        where = {} if cpus else {"scheduling_strategy": _node_with_cpus()}
        task = _decode_task.options(num_cpus=cpus, _generator_backpressure_num_objects=OBJECTS_AHEAD, **where)
        return task.remote(video, self.config_ref, rules)

    def _items(self, video: bytes, rules: ClipRules, stream: Any) -> Generator[Any, None, None]:
        delivered = 0
        try:
            yield None
            for _ in range(self.config.limits.max_attempts):
                try:
                    # What an attempt delivered before it died, the next one decodes to the same values.
                    position = 0
                    for item in self._delivered(stream):
                        if item is None or position >= delivered:
                            yield item
                            delivered += item is not None
                        position += item is not None
                        del item  # or its frames would stay in the object store until the next ones come
                    return
                except GetTimeoutError:
                    limit = f"{self.config.limits.decode_timeout_seconds:g} s"
                    what = f"no frame for {limit} (limits.decode_timeout_seconds)"
                    yield Failure(Reason("decode", "timeout", what))
                    return
                except LOST_WORKER:
                    # Later samples may hold every CPU while they wait to be read, and they wait for this one.
                    stream = self._submit(video, rules, cpus=0)
            what = f"the decoder's process died {self.config.limits.max_attempts}x"
            yield Failure(Reason("decode", "decoder_crashed", what))
        finally:
            ray.cancel(stream, force=True)

    def _delivered(self, stream: Any) -> Iterator[DecodeItem | None]:
        """What a task sends. How long it may say nothing counts from its first sign of life on."""
        silent_since = math.inf
        while True:
            limit_seconds = silent_since + self.config.limits.decode_timeout_seconds - time.monotonic()
            ready, _ = ray.wait([stream], timeout=max(0.0, min(POLL_SECONDS, limit_seconds)), fetch_local=False)
            if not ready:
                if limit_seconds <= POLL_SECONDS:
                    raise GetTimeoutError
                yield None
                continue
            try:
                item = ray.get(next(stream))
            except StopIteration:
                return
            if item is not None:
                yield item
                del item  # as above
            silent_since = time.monotonic()
