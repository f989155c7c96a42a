"""How long a run has been without any GPU, and when that is to be said: decided on counts and times alone."""

from dataclasses import dataclass

from pipeline.errors import TransientError
from pipeline.monitor.events import WaitingForGpus

BUSY_SECONDS = 10.0  # that replicas may take to be placed before GPUs count as in use by others
AGAIN_SECONDS = 60.0


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
