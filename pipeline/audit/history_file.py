"""history/TIME.json: what a driver counts, written beside the output while it goes on, so that any machine can tell."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from pipeline.errors import TransientError
from pipeline.monitor.events import Event
from pipeline.monitor.history import History, HistoryJson
from pipeline.monitor.live import live_json
from pipeline.monitor.run_counts import RunCounts
from pipeline.output.paths import HISTORY
from pipeline.storage.store import Store

WRITE_SECONDS = 10.0
HISTORIES_READ = 4


class HistoryFile:
    """Counts events, and writes what they come to in a thread: a slow store does not hold up the run."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor) -> None:
        self._store, self._pool = store, pool
        self._history = History(int(time.time()), time.monotonic())
        self._counts = RunCounts(0)
        self._path = f"{HISTORY}/{time.time_ns()}.json"
        self._writing: Future[None] | None = None
        self._write_at = time.monotonic() + WRITE_SECONDS

    def add(self, event: Event) -> None:
        now = time.monotonic()
        self._history.add(event, now)
        self._counts.add(event, now)

    def tick(self) -> None:
        """Has it written when that is due, unless the last time still goes on; call it often."""
        if time.monotonic() >= self._write_at and (self._writing is None or self._writing.done()):
            self._write_at = time.monotonic() + WRITE_SECONDS
            self._writing = self._pool.submit(self._write, self._to_json(has_ended=False))

    def end(self) -> None:
        self._pool.submit(self._write, self._to_json(has_ended=True))

    def _to_json(self, has_ended: bool) -> HistoryJson:
        began, at = self._history.began_unix_seconds, time.time()
        live = live_json(self._counts, socket.gethostname(), began, time.monotonic(), at)
        return self._history.to_json(int(at) if has_ended else None, live)

    def _write(self, values: HistoryJson) -> None:
        with suppress(OSError, TransientError):  # nothing depends on it
            self._store.replace(self._path, json.dumps(values, separators=(",", ":")).encode())


@contextmanager
def kept_history(store: Store, check: Callable[[], None]) -> Iterator[tuple[HistoryFile, Callable[[], None]]]:
    """A file for what is added inside, which ends with it, and `check` that also has it written when that is due."""
    with ThreadPoolExecutor(1, "history") as pool:
        history = HistoryFile(store, pool)

        def checked() -> None:
            history.tick()
            check()

        try:
            yield history, checked
        finally:
            history.end()


def read_history(store: Store) -> tuple[HistoryJson, ...]:
    """What the last runs kept, the oldest first."""
    names = [name for name in store.names(HISTORY) if name.endswith(".json")]
    return tuple(json.loads(store.read(f"{HISTORY}/{name}")) for name in names[-HISTORIES_READ:])
