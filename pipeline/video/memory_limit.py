"""A bound on the memory that this process may take for one piece of work."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def bounded(items: Iterator[T], more_bytes: int) -> Iterator[T]:
    """The same items, made in at most `more_bytes` beyond what this process has now.

    Raises:
        MemoryError: making an item took more, if its maker reports that.
    """
    limit_bytes = private_bytes() + more_bytes
    while True:
        with memory_limit(limit_bytes):  # not while the consumer works: its memory does not count
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[None]:
    """Makes allocations fail that would bring this process over `limit_bytes` of private memory.

    Only private memory counts (RLIMIT_DATA): Ray maps its shared object store in parts of any size.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def private_bytes() -> int:
    """Memory that this process shares with no other."""
    kibibytes = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert kibibytes is not None, "Linux reports VmData for every process"
    return int(kibibytes[1]) << 10
