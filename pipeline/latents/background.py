"""Two threads beside the encoder: one reads ahead, one writes behind, both bounded.

It does not know what is read or written.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.2


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Runs an iterator in a thread; its exception is raised here, in its place.

    At most `depth` items wait for the consumer, while the thread makes one more.

    The thread ends when the consumer stops (closes the generator) or the iterator does.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stop), name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stop.set()
        thread.join()


def _fill(
    items: Iterator[T], ready: "queue.Queue[tuple[bool, T | BaseException | None]]", stop: threading.Event
) -> None:
    try:
        for item in items:
            if not _offer(ready, (True, item), stop):
                return
        _offer(ready, (False, None), stop)
    except BaseException as error:  # it is not handled here: the consumer gets it
        _offer(ready, (False, error), stop)


def _offer(
    ready: "queue.Queue[tuple[bool, T | BaseException | None]]",
    value: tuple[bool, T | BaseException | None],
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            ready.put(value, timeout=POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False


class WriteBehind(Generic[T]):
    """Runs calls one after the other in a thread, at most `depth` waiting.

    After a call that failed none is run any more: what follows a failed write must not be committed. The failure is
    raised by the next use.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._waiting: deque[Future[T]] = deque()
        self._failure: BaseException | None = None

    def submit(self, call: Callable[[], T]) -> list[T]:
        """Queues a call, waiting while too many are queued. Returns the results that became ready, in order."""
        self._waiting.append(self._pool.submit(self._run, call))
        ready = []
        while len(self._waiting) > self._depth or (self._waiting and self._waiting[0].done()):
            ready.append(self._waiting.popleft().result())
        return ready

    def drain(self) -> list[T]:
        """Waits for every queued call."""
        ready = [future.result() for future in self._waiting]
        self._waiting.clear()
        return ready

    def _run(self, call: Callable[[], T]) -> T:
        if self._failure:
            raise self._failure
        try:
            return call()
        except BaseException as failure:
            self._failure = failure
            raise

    def __enter__(self) -> "WriteBehind[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
