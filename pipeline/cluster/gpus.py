"""GPUs that a run waits for, and GPUs that are faulty: decided on names, counts and times alone."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import TransientError
from pipeline.monitor.events import WaitingForGpus

BUSY_SECONDS = 10.0  # that replicas may take to be placed before GPUs count as in use by others
AGAIN_SECONDS = 60.0
DEATHS_OF_A_GPU = 2  # in a row, with nothing committed between


@dataclass(slots=True)
class Waiting:
    """Watches a run that has no replica on a GPU; `limit_minutes` is the longest that it may last, None for ever."""

    limit_minutes: float | None
    _since_seconds: float | None = None
    _say_at_seconds: float = 0.0
    _saw_gpus: bool = False

    def look(self, replicas: int, placed: int, gpus: int, now_seconds: float) -> WaitingForGpus | None:
        """What is to be said now of `replicas` that are wanted, of which Ray has `placed` some.

        Raises:
            TransientError: none was placed for too long.
        """
        if placed or not replicas:
            self._since_seconds = None
            return None
        if self._since_seconds is None or self._saw_gpus != bool(gpus):
            self._since_seconds = now_seconds if self._since_seconds is None else self._since_seconds
            self._say_at_seconds, self._saw_gpus = now_seconds + (BUSY_SECONDS if gpus else 0.0), bool(gpus)
        if self.limit_minutes is not None and now_seconds - self._since_seconds >= self.limit_minutes * 60:
            raise TransientError(
                f"no replica found a GPU for {self.limit_minutes:g} minutes (runtime.wait_for_gpus_minutes)"
            )
        if now_seconds < self._say_at_seconds:
            return None
        self._say_at_seconds = now_seconds + AGAIN_SECONDS
        return WaitingForGpus(replicas, gpus)


class Gpu(NamedTuple):
    """A GPU of a node: Ray's id of the node, and the number that the GPU has there."""

    node: str
    number: str


@dataclass(slots=True)
class GpuHealth:
    """Counts replicas that died on a GPU before they committed anything. A faulty GPU stays so for the whole run."""

    faulty: set[Gpu] = field(default_factory=set)
    _deaths: dict[Gpu, list[frozenset[str]]] = field(default_factory=dict)

    def works(self, gpu: Gpu) -> None:
        """Something was committed from there."""
        self._deaths.pop(gpu, None)

    def died(self, gpu: Gpu, shards: Collection[str]) -> bool:
        """A replica died there that had committed nothing, at work on `shards`. Returns whether the GPU is faulty now.

        Where all of them died at one and the same shard, that shard may be what kills them.
        """
        deaths = self._deaths.setdefault(gpu, [])
        deaths.append(frozenset(shards))
        if len(deaths) < DEATHS_OF_A_GPU or frozenset.intersection(*deaths):
            return False
        self.faulty.add(gpu)
        return True

    def faulty_on(self, nodes: Collection[str]) -> int:
        """How many GPUs of these nodes are faulty."""
        return sum(gpu.node in nodes for gpu in self.faulty)
