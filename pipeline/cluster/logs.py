"""Ray: keeps the logs of replicas at `runtime.logs`, by an actor on each of their nodes that copies them there.

The actor is a process beside the replica, so that what a replica wrote before it died is copied too. A file that has
changed is copied anew, as object stores cannot append. What a node wrote after its last copy is lost with the node.
"""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.nodes import end_actor, first_line
from pipeline.monitor.events import LogsNotKept
from pipeline.storage.store import Store
from pipeline.storage.urls import without_secrets

COPY_SECONDS = 60.0  # between copies of logs that grow
LAST_SECONDS = 10.0  # that the last copies may take when a run ends
MOST_BYTES = 16 << 20  # of a file that are kept: its end


def log_files() -> dict[str, str]:
    """The files into which Ray has this process write, by what each is: `out`, `err`, and the log of Ray's own core."""
    worker = ray.get_runtime_context().get_worker_id()
    paths = map(str, log_folder().glob(f"*{worker}*"))
    return {f"{worker[:8]}.{_kind(path)}": path for path in paths}


def log_folder() -> Path:
    """Where Ray keeps the logs of this node. Ray has no public way to ask."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


def _kind(path: str) -> str:
    name = Path(path).name
    return "ray.log" if name.startswith("python-core") else name.rpartition(".")[2]


@contextmanager
def told(what: str) -> Iterator[None]:
    """Writes to this process' log when something began and ended, and the whole traceback of what it failed with."""
    _tell(f"{what}: began")
    try:
        yield
    except Exception:  # raised again: the driver shows its first line alone
        _tell(f"{what}: failed\n{without_secrets(traceback.format_exc())}")
        raise
    _tell(f"{what}: ended")


def _tell(text: str) -> None:
    print(datetime.now(timezone.utc).isoformat(timespec="milliseconds"), text, file=sys.stderr, flush=True)


class LogKeeper:
    """Copies files of its node to a folder of a store, each time those that have changed."""

    def __init__(self, url: str, folder: str) -> None:
        self._store, self._folder = Store(url), folder
        self._files: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def keep(self, files: Mapping[str, str]) -> None:
        """From now on also these, by the name of the copy."""
        self._files |= files

    def copy(self) -> None:
        for name, path in self._files.items():
            size_bytes = os.path.getsize(path) if os.path.exists(path) else 0
            if size_bytes != self._sizes.get(name, 0):
                self._store.replace(f"{self._folder}/{name}", end_of(Path(path), MOST_BYTES))
                self._sizes[name] = size_bytes


def end_of(file: Path, most_bytes: int) -> bytes:
    """The last bytes of a file, `most_bytes` at most."""
    with file.open("rb") as opened:
        opened.seek(max(0, os.path.getsize(file) - most_bytes))
        return opened.read(most_bytes)


class Logs:
    """The logs of a run's replicas: `url` is `runtime.logs`, None keeps none; copies lie in a folder of the run."""

    def __init__(self, url: str | None, run: str) -> None:
        self._url, self._run = url and Store(url).root, run
        self._keepers: dict[str, Any] = {}  # by node
        self._writing: dict[str, set[int]] = {}  # the replicas of a node
        self._copying: dict[Any, tuple[str, bool]] = {}  # node, and whether it is the last copy there
        self._copy_at, self._has_failed = 0.0, False

    def keep(self, replica: int, node: str, files: Mapping[str, str]) -> None:
        """A replica writes to these files of its node."""
        if self._url is None:
            return
        if node not in self._keepers:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            keeper = ray.remote(num_cpus=0)(LogKeeper).options(scheduling_strategy=there)
            self._keepers[node], self._writing[node] = keeper.remote(self._url, self._run), set()
        self._writing[node].add(replica)
        self._keepers[node].keep.remote({f"replica-{replica:04d}-{name}": path for name, path in files.items()})

    def left(self, replica: int) -> None:
        """A replica has ended: what it wrote last is what one wants to read."""
        self._copy_at = 0.0
        for replicas in self._writing.values():
            replicas.discard(replica)

    def look(self) -> Iterator[LogsNotKept]:
        """Copies what has grown, now and then. Says once where that fails."""
        errors = self._ended(wait_seconds=0.0)
        if errors and not self._has_failed:
            self._has_failed = True
            yield LogsNotKept(errors[0])
        if time.monotonic() >= self._copy_at and not self._copying:
            self._copy_at = time.monotonic() + COPY_SECONDS
            self._copy()

    def end(self) -> None:
        """Copies everything a last time, as far as that takes seconds."""
        self._ended(LAST_SECONDS)
        self._copy()
        self._ended(LAST_SECONDS)
        for node in list(self._keepers):
            self._dismiss(node)

    def _copy(self) -> None:
        keepers = self._keepers.items()
        self._copying = {keeper.copy.remote(): (node, not self._writing[node]) for node, keeper in keepers}

    def _ended(self, wait_seconds: float) -> list[str]:
        """Notes the copies that have ended; returns what some failed with."""
        errors = []
        waiting = list(self._copying)
        for promise in ray.wait(waiting, num_returns=len(waiting), timeout=wait_seconds)[0] if waiting else ():
            node, is_last = self._copying.pop(promise)
            try:
                ray.get(promise)
            except RayActorError:
                is_last = True  # gone with its node, as a rule
            except RayError as error:
                errors.append(first_line(error))
            if is_last and not self._writing[node]:
                self._dismiss(node)
        return errors

    def _dismiss(self, node: str) -> None:
        """An autoscaler must find a node idle that has no replica any more."""
        end_actor(self._keepers.pop(node))
        del self._writing[node]
