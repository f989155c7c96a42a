"""What a run shows while it goes on: a live display on a terminal, plain lines elsewhere. Nothing depends on it."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from pipeline.monitor.events import (
    ConvolutionsHalved,
    Event,
    GpuExcluded,
    LogsNotKept,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)
from pipeline.monitor.live import feeding
from pipeline.monitor.run_counts import RunCounts
from pipeline.monitor.words import duration
from pipeline.storage.urls import without_secrets

LIVE_INTERVAL_SECONDS, PLAIN_INTERVAL_SECONDS = 0.1, 10.0


class RunProgress:
    """Counts events and shows the counts, as a context manager around the run."""

    def __init__(self, shards: int, shards_done: int, console: Console, of_texts: bool = False) -> None:
        self._console, self._of_texts = console, of_texts
        self._shards, self._counts = shards, RunCounts(shards_done)
        self._rejects_told: set[str] = set()
        self._last_shown = time.monotonic()
        columns = (
            TextColumn("shards"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._display = Display(*columns, console=console, disable=not console.is_terminal)
        self._bar = self._display.add_task("starting", total=shards, completed=shards_done)

    def __enter__(self) -> "RunProgress":
        self._display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._display.stop()

    def started(self, replicas: int, wanted: int, run: str) -> None:
        left, placed = self._shards - self._counts.shards_done, f"{replicas}"
        placed += f" of {wanted} have a GPU" if replicas < wanted else ""
        self._say(f"{left:,} of {self._shards:,} shards to do, replicas: {placed}, run {run}")
        self._counts.began_at = time.monotonic()

    def event(self, event: Event) -> None:
        """Counts one event, and shows the counts when they are due."""
        self._counts.add(event, time.monotonic())
        match event:
            case ShardFailed():
                fate = "given up" if event.final else "will be tried again"
                self._say(f"shard {event.shard} failed, {fate}: {event.error}")
            case ReplicaJoined():
                self._say(f"replica {event.replica} joined{_where(event)}")
            case ReplicaReleased():
                self._say(f"replica {event.replica} is let go{_where(event)}: what is left has work for fewer")
            case ReplicaLost():
                self._say(f"replica {event.replica} was lost{_where(event)}: {event.error}")
            case WaitingForGpus() | GpuExcluded() | ConvolutionsHalved():
                self._say(str(event))
            case SliceDone():
                self._say_new_rejects(event)
            case LogsNotKept():
                self._say(f"logs of replicas cannot be kept (runtime.logs): {event.error}")
        self._show(isinstance(event, ShardDone))

    def tick(self) -> None:
        """Shows the counts when they are due, whether or not anything happens; call it often."""
        self._show(important=False)

    def _say_new_rejects(self, event: SliceDone) -> None:
        """Says the first reject of each reason: what goes wrong is seen at once, and not thousands of times."""
        for reject in event.rejects:
            if not (event.reused or reject.is_filtered or reject.why.code in self._rejects_told):
                self._rejects_told.add(reject.why.code)
                self._say(f"first reject of its kind: {event.shard}/{reject.key}: {without_secrets(str(reject.why))}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def _show(self, important: bool) -> None:
        """Shows the counts if they are due: what they say of the last minute takes a while to add up."""
        now, is_live = time.monotonic(), self._console.is_terminal
        if not important and now - self._last_shown <= (LIVE_INTERVAL_SECONDS if is_live else PLAIN_INTERVAL_SECONDS):
            return
        self._last_shown = now
        if is_live:
            self._display.update(self._bar, completed=self._counts.shards_done, description=self._text())
        else:
            self._say_line(now)

    def _text(self) -> str:
        counts, now = self._counts, time.monotonic()
        made, encoded = f"{counts.clips:,} clips", "frames"
        if self._of_texts:
            made, encoded = f"{counts.captions:,} captions", "tokens"
        rates = f"{counts.recent_rate(now):,.1f} {encoded}/s ({counts.rate(now):,.1f} on average)"
        words = [made, f"{counts.rejects:,} rejects", f"{len(counts.replicas):,} replicas", rates]
        if (busy := counts.recent_busy(now)) is not None:
            words.append(feeding(busy, counts.decoding, counts.ready))
        return ", ".join(words)

    def _say_line(self, now: float) -> None:
        left_seconds = self._counts.seconds_left(self._shards, now)
        left = f", about {duration(left_seconds)} left" if left_seconds else ""
        self._say(f"{self._counts.shards_done:,}/{self._shards:,} shards, {self._text()}{left}")


def _where(event: ReplicaJoined | ReplicaLost | ReplicaReleased) -> str:
    return f" at {event.address}" if event.address else ""
