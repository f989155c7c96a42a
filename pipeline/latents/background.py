"""Threads beside the encoder: calls that were handed over run in order, and few of them wait."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs calls in `threads` threads, which begin them in order; whoever hands over one more than `depth` waits.

    After a call that failed none is begun: what follows a failed write must not be committed. The failure is raised by
    the next use.
    """

    def __init__(self, name: str, depth: int, threads: int = 1) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting: deque[Future[T]] = deque()
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Hands over a call; waits while too many are unfinished."""
        future = self._pool.submit(self._run, call)
        self._waiting.append(future)
        while len(self._waiting) > self._depth:
            self._results.append(self._waiting.popleft().result())
        return future

    def ready(self) -> list[T]:
        """The results that came since the last call, in order, up to the first call that is unfinished."""
        while self._waiting and self._waiting[0].done():
            self._results.append(self._waiting.popleft().result())
        results, self._results = self._results, []
        return results

    def drain(self) -> list[T]:
        """Waits for every call; their results as `ready` gives them."""
        for future in self._waiting:
            future.result()
        return self.ready()

    def _run(self, call: Callable[[], T]) -> T:
        if self._failure:
            raise self._failure
        try:
            return call()
        except BaseException as failure:
            self._failure = failure
            raise

    def __enter__(self) -> "Background[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._failure = self._failure or error or CancelledError()
        self._pool.shutdown(wait=True, cancel_futures=True)
