"""Reading any file anywhere by its URL, through fsspec, with retries where storage may recover."""

import io
import os
import shutil
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_storage_options

from pipeline.errors import TransientError, UserError
from pipeline.records import FileInfo
from pipeline.storage.urls import is_remote, own_name, public_url, without_secrets

READ_BLOCK_BYTES = 4 << 20
ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.1  # before the second attempt; four times as long before each further one
RETRIED_HTTP_STATUSES = (408, 425, 429)  # too slow, too early, too often
PERMANENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

T = TypeVar("T")


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        UserError: the protocol is unknown, or its library is not installed.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{public_url(url)} needs a library that is not installed: {error}") from None
    except ValueError as error:
        raise UserError(f"{public_url(url)} cannot be opened: {error}") from None
    filesystem.invalidate_cache()  # fsspec may return one that remembers old listings
    return filesystem, path


def retried(action: Callable[[], T], give_up: tuple[type[OSError], ...] = ()) -> T:
    """The result of an action that is tried again after storage errors, with a longer wait each time.

    Args:
        give_up: further errors that are raised at once.

    Raises:
        TransientError: storage still fails after the last attempt.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if isinstance(error, PERMANENT + give_up) or not _of_storage(error):
                raise
            if attempt == ATTEMPTS - 1:
                message = without_secrets(str(error))
                raise TransientError(f"storage still fails after {ATTEMPTS} attempts: {message}") from error
            time.sleep(FIRST_WAIT_SECONDS * 4**attempt)
    raise AssertionError("unreachable")


def _of_storage(error: Exception) -> bool:
    """Whether it is an OSError, or an exception that a storage library defines."""
    return isinstance(error, OSError) or type(error).__module__ != "builtins"


def read_url(url: str) -> bytes:
    """All bytes behind a URL or path. Raises FileNotFoundError."""
    filesystem, path = filesystem_of(url)
    return bytes(retried(lambda: filesystem.cat_file(path)))


def read_at_most(url: str, limit_bytes: int) -> bytes:
    """The first `limit_bytes` of a file, all of it where it has fewer.

    Raises:
        FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError: it cannot be read.
        UserError, ValueError: this is not a URL or path.
    """
    filesystem, path = filesystem_of(url)

    def read() -> bytes:
        try:
            if "http" in filesystem.protocol:  # its `open` reports every error as a missing file
                return bytes(filesystem.cat_file(path, end=limit_bytes)[:limit_bytes])
            with filesystem.open(path, "rb") as file:
                return bytes(file.read(limit_bytes))
        except Exception as error:
            status = int(getattr(error, "status", 0) or 0)
            if 400 <= status < 500 and status not in RETRIED_HTTP_STATUSES:
                raise PermissionError(f"HTTP status {status}") from error
            raise

    return retried(read)


def open_url(url: str) -> IO[bytes]:
    """A reader for one pass from front to back: it reads ahead, and does not cache the whole file."""
    filesystem, path = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        return retried(lambda: filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES))
    return patient(retried(lambda: filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES, cache_type="readahead")))


def patient(file: Any) -> IO[bytes]:
    """The same reader, with retries."""
    return cast(IO[bytes], PatientFile(file))


class PatientFile(io.RawIOBase):
    """A reader of remote storage that retries failed reads, and raises TransientError where they keep failing.

    An OSError inside a library that parses the file would be taken for damage in the file.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data = retried(lambda: self._file.read(len(buffer)))  # a read that fails does not move
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def glob_urls(pattern: str) -> list[str]:
    """Sorted URLs that match a glob."""
    filesystem, path = filesystem_of(pattern)
    return [_with_protocol(pattern, found) for found in sorted(retried(lambda: filesystem.glob(path)))]


def _with_protocol(like: str, path: str) -> str:
    protocol = infer_storage_options(like)["protocol"] if is_remote(like) else ""
    return f"{protocol}://{path}" if protocol and "://" not in path else path


def stat_url(url: str) -> FileInfo:
    """Size and version tag of a file: the etag that storage gives, or a local file's modification time.

    Raises:
        FileNotFoundError: nothing is there.
    """
    filesystem, path = filesystem_of(url)
    info = retried(lambda: filesystem.info(path))
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    if not etag and info.get("mtime"):
        etag = f"mtime-{info['mtime']:.6f}"
    return FileInfo(size_bytes=int(info.get("size") or 0), etag=etag)


def fetch_url(url: str, folder: str) -> None:
    """Copies a file, or a folder with all that is in it, into a local folder, under its own name.

    Raises:
        FileNotFoundError: nothing is there.
    """
    filesystem, path = filesystem_of(url)
    if not retried(lambda: filesystem.exists(path)):
        raise FileNotFoundError(url)
    target = f"{folder}/{own_name(url)}"

    def fetch() -> None:
        shutil.rmtree(target, ignore_errors=True)  # fsspec would copy into an existing folder, one level deeper
        filesystem.get(path, target, recursive=True)

    retried(fetch)
