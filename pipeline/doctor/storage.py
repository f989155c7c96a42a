"""Input, weights and output as one machine reaches them: rights, speed, and create-if-absent."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipeline.doctor.findings import Finding, bad, ok, warn
from pipeline.errors import LatentmillError
from pipeline.monitor.words import size
from pipeline.storage.files import read_at_most
from pipeline.storage.local_files import TEMPORARY
from pipeline.storage.store import Store
from pipeline.storage.urls import is_remote, public_url, without_secrets

READ_BYTES = WRITTEN_BYTES = 8 << 20
FAILURES = (OSError, LatentmillError, NotImplementedError, ValueError)
CREDENTIALS = "check the path, and the credentials of this machine (docs/credentials.md)"
MADE_UP = ("random:", "simulated:")


def nearest_folder(path: str) -> str:
    """The folder that exists and in which a run would begin to write; a URL as it is."""
    if is_remote(path):
        return path
    folder = Path(path).absolute()
    return str(next(each for each in (folder, *folder.parents) if each.is_dir()))


def probe_name() -> str:
    """A name that listings of an output root omit."""
    return f"{TEMPORARY}doctor-{uuid4().hex}"


def check_input(urls: Sequence[str], shards: int) -> Finding:
    """Reads the beginning of some shards."""
    read_bytes, began = 0, time.monotonic()
    for url in urls:
        try:
            read_bytes += len(read_at_most(url, READ_BYTES))
        except FAILURES as error:
            return bad("input", f"{public_url(url)} cannot be read: {_line(error)}", CREDENTIALS)
    rate = _rate(read_bytes, time.monotonic() - began)
    return ok("input", f"the beginning of {len(urls):,} of {shards:,} shards read at {rate}")


def check_weights(weights: str) -> Finding:
    """Whether weights that are local files are on this machine too; URLs were opened where the run starts."""
    if weights.startswith(MADE_UP) or is_remote(weights) or Path(weights).exists():
        return ok("weights", public_url(weights) if not weights.startswith(MADE_UP) else weights)
    advice = "put them on a file system that all nodes share, or name a URL, which each node fetches"
    return bad("weights", f"{weights} is not on this machine", advice)


def check_output(folder: str, marker: str | None) -> Iterator[Finding]:
    """Writes, reads and deletes a file of some size.

    Args:
        marker: the name of a file that another machine has put into the folder; None where this is the first.
    """
    try:
        store, name, data = Store(folder), probe_name(), os.urandom(WRITTEN_BYTES)
        if marker and not store.exists(marker):
            another = f"{public_url(folder)} is another folder on this machine than where the run starts"
            yield bad(
                "output", f"{another}: parts would be scattered", "set output.path to storage that all nodes share"
            )
            return
        began = time.monotonic()
        created, written_at = store.create(name, data), time.monotonic()
        same, read_at = store.read(name) == data, time.monotonic()
        again = store.create(name, b"another")
        yield _of_trial(folder, created and same and not again, written_at - began, read_at - written_at)
    except FAILURES as error:
        yield bad("output", f"{public_url(folder)} cannot be written: {_line(error)}", CREDENTIALS)
        return
    try:
        store.delete(name)
    except FAILURES as error:
        left = f"{public_url(folder)}: {name} was written and cannot be deleted ({_line(error)})"
        yield warn("output", f"{left}; runs delete nothing", "allow it for `verify --repair` and `remove`")


def _of_trial(folder: str, sound: bool, write_seconds: float, read_seconds: float) -> Finding:
    where = public_url(folder)
    if not sound:
        overwrites = f"{where} overwrites a file that was to be created only where there is none"
        return bad(
            "output", f"{overwrites}: replicas could replace each other's parts", "use storage with conditional writes"
        )
    write, read = _rate(WRITTEN_BYTES, write_seconds), _rate(WRITTEN_BYTES, read_seconds)
    return ok("output", f"{where}: written at {write} and read at {read}; nothing is overwritten")


@contextmanager
def marked(folder: str) -> Iterator[str | None]:
    """A small file in the folder, for other machines to look for; None where it cannot be written."""
    store, name = Store(folder), probe_name()
    try:
        store.create(name, b"doctor")
    except FAILURES:
        yield None
        return
    try:
        yield name
    finally:
        with suppress(*FAILURES):  # check_output says so of its own file
            store.delete(name)


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{size(size_bytes / max(seconds, 1e-9))}/s"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return without_secrets(f"{type(error).__name__}: {text}" if text else type(error).__name__)
