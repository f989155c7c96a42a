"""What a run shows while it goes on: a live display on a terminal, plain lines elsewhere. Nothing depends on it."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from pipeline.monitor.events import Event, Progress, ShardDone, ShardFailed, SliceDone, WaitingForGpus

PLAIN_INTERVAL_SECONDS = 10.0


class RunProgress:
    """Counts events and shows the counts, as a context manager around the run."""

    def __init__(self, shards: int, shards_done: int, console: Console) -> None:
        self._console = console
        self._shards, self._done = shards, shards_done
        self._clips = self._rejects = self._frames = 0
        self._began = self._last_line = time.monotonic()
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

    def started(self, replicas: int, run: str) -> None:
        left = self._shards - self._done
        self._console.print(
            f"{left:,} of {self._shards:,} shards to do, replicas: {replicas}, run {run}", highlight=False
        )
        self._began = time.monotonic()

    def event(self, event: Event) -> None:
        """Counts one event, and shows the counts when they are due."""
        match event:
            case Progress():
                self._frames += event.frames
            case SliceDone():
                self._clips += event.rows
                self._rejects += sum(not reject.is_filtered for reject in event.rejects)
            case ShardDone():
                self._done += 1
            case ShardFailed():
                fate = "given up" if event.final else "will be tried again"
                self._console.print(f"shard {event.shard} failed, {fate}: {event.error}", markup=False, highlight=False)
            case WaitingForGpus():
                text = "waiting for GPUs: the cluster has none (an integer runtime.replicas would use its CPUs)"
                self._console.print(text, highlight=False)
        self._display.update(self._bar, completed=self._done, description=self._counts())
        self._plain_line(isinstance(event, ShardDone))

    def _counts(self) -> str:
        rate = self._frames / max(time.monotonic() - self._began, 1e-9)
        return f"{self._clips:,} clips, {self._rejects:,} rejects, {rate:,.1f} frames/s"

    def _plain_line(self, important: bool) -> None:
        now = time.monotonic()
        if self._console.is_terminal or not (important or now - self._last_line > PLAIN_INTERVAL_SECONDS):
            return
        self._last_line = now
        self._console.print(f"{self._done:,}/{self._shards:,} shards, {self._counts()}", highlight=False)
