"""Storage through fsspec: list, open, read, and the one write that the commit protocol knows, create-if-absent.

It does not know what the files mean.
"""

import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_storage_options

from pipeline.errors import TransientError, UserError
from pipeline.records import FileInfo
from pipeline.storage.local_files import TEMPORARY, beside, copy_into, create_local

READ_BLOCK_BYTES = 4 << 20
LEFT_BEHIND_SECONDS = 3600.0
ATTEMPTS = 5
USER = re.compile(r"//[^/\s]+@")
QUERY = re.compile(r"(?<=\w)\?[^\s'\"<>]*=[^\s'\"<>]*|(?<=://)([^\s'\"<>?]+)\?[^\s'\"<>]*")
PASSING_STATUSES = (408, 425, 429)  # of HTTP: too slow, too early, too often
PERMANENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

T = TypeVar("T")


def public_url(url: str) -> str:
    """The URL without user, password and query, which may hold secrets; a local path becomes absolute."""
    if "://" not in url:
        return os.path.abspath(url)
    parts = urlsplit(url, allow_fragments=False)  # a # is part of an object's name
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def without_secrets(text: str) -> str:
    """A message of some library without the users, passwords and queries of the URLs in it."""
    return QUERY.sub(r"\1", USER.sub("//", text))


class Store:
    """A folder on any fsspec file system. Paths are relative to `root`, `/`-separated.

    Raises:
        UserError: the URL's protocol is unknown or its library is not installed.
    """

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else os.path.abspath(root)
        self.fs, self._base = _filesystem(self.root)
        self._local = isinstance(self.fs, LocalFileSystem)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return type(self), (self.root,)

    def url(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def _full(self, path: str) -> str:
        return f"{self._base.rstrip('/')}/{path}" if path else self._base

    def _fresh(self) -> Any:
        """The file system without the listings that it remembers: other processes write there too."""
        self.fs.invalidate_cache()
        return self.fs

    def names(self, folder: str) -> list[str]:
        """Sorted names of what lies in a folder, by one listing; none where the folder is missing."""
        try:
            found = _retried(lambda: self._fresh().ls(self._full(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name and not name.startswith(TEMPORARY))

    def left_behind(self, folder: str) -> list[str]:
        """Names of temporary files in a folder that grew no more for an hour: a process was killed over them."""
        latest = time.time() - LEFT_BEHIND_SECONDS
        there = Path(self._full(folder)).glob(f"{TEMPORARY}*") if self._local else ()
        return sorted(file.name for file in there if file.stat().st_mtime < latest)

    def remove_left_behind(self, path: str) -> None:
        """Deletes a file of `left_behind`: the only deletion there is."""
        assert path.rpartition("/")[2].startswith(TEMPORARY), f"{path} was published"
        Path(self._full(path)).unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        return bool(_retried(lambda: self._fresh().exists(self._full(path))))

    def read(self, path: str) -> bytes:
        """All bytes of a file. Raises FileNotFoundError."""
        return bytes(_retried(lambda: self._fresh().cat_file(self._full(path))))

    def open(self, path: str) -> IO[bytes]:
        """A seekable reader of a file."""
        file = _retried(lambda: self._fresh().open(self._full(path), "rb"))
        return file if self._local else _patient(file)

    def create(self, path: str, data: bytes) -> bool:
        """Creates a small file unless it exists. Returns whether this call made it."""
        if self._local:
            return create_local(Path(self._full(path)), lambda handle: handle.write(data))
        return self._create_remote(lambda full: self.fs.pipe_file(full, data, mode="create"), path)

    def create_from(self, path: str, local_file: str) -> bool:
        """Creates a file with the bytes of a local one unless it exists. Returns whether this call made it."""
        if self._local:
            return create_local(Path(self._full(path)), lambda handle: copy_into(local_file, handle))
        return self._create_remote(lambda full: self.fs.put_file(local_file, full, mode="create"), path)

    def replace(self, path: str, data: bytes) -> None:
        """Writes a file that is made again by each run (summary, report): never a part or a manifest."""
        if self._local:
            target = Path(self._full(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = beside(target)
            scratch.write_bytes(data)
            scratch.replace(target)
        else:
            _retried(lambda: self.fs.pipe_file(self._full(path), data))

    def move(self, source: str, target: str) -> None:
        """Sets a bad file aside (`verify --repair`)."""
        if self._local:
            Path(self._full(target)).parent.mkdir(parents=True, exist_ok=True)
        _retried(lambda: self.fs.mv(self._full(source), self._full(target)))

    def _create_remote(self, put: Callable[[str], object], path: str) -> bool:
        # A lost acknowledgement answers "exists" on the second try: the caller then checks what is there, as it
        # does when another process won the race.
        try:
            _retried(lambda: put(self._full(path)), give_up=(FileExistsError,))
        except FileExistsError:
            return False
        return True


def _retried(action: Callable[[], T], give_up: tuple[type[OSError], ...] = ()) -> T:
    """Tries an action again after passing faults of the storage, waiting longer each time."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if isinstance(error, PERMANENT + give_up) or not _of_storage(error):
                raise
            if attempt == ATTEMPTS - 1:
                said = without_secrets(str(error))
                raise TransientError(f"storage still fails after {ATTEMPTS} attempts: {said}") from error
            time.sleep(0.1 * 4**attempt)
    raise AssertionError("unreachable")


def _of_storage(error: Exception) -> bool:
    """An OSError, or one of the other exceptions that storage libraries define for what the network did."""
    return isinstance(error, OSError) or type(error).__module__ != "builtins"


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{public_url(url)} needs a library that is not installed: {error}") from None
    except ValueError as error:
        raise UserError(f"{public_url(url)} cannot be opened: {error}") from None
    filesystem.invalidate_cache()  # it may be one that was used before: other processes have written since
    return filesystem, path


def read_url(url: str) -> bytes:
    """All bytes behind a URL or path. Raises FileNotFoundError."""
    filesystem, path = _filesystem(url)
    return bytes(_retried(lambda: filesystem.cat_file(path)))


def read_at_most(url: str, limit_bytes: int) -> bytes:
    """The first `limit_bytes` of a file, all of it where it has fewer.

    Raises:
        FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError: the storage will not give it.
        UserError, ValueError: this is no URL or path.
    """
    filesystem, path = _filesystem(url)

    def read() -> bytes:
        try:
            if "http" in filesystem.protocol:  # its `open` says of every fault that nothing is there
                return bytes(filesystem.cat_file(path, end=limit_bytes)[:limit_bytes])
            with filesystem.open(path, "rb") as file:
                return bytes(file.read(limit_bytes))
        except Exception as error:
            status = int(getattr(error, "status", 0) or 0)
            if 400 <= status < 500 and status not in PASSING_STATUSES:
                raise PermissionError(f"HTTP status {status}") from error
            raise

    return _retried(read)


def open_url(url: str) -> IO[bytes]:
    """A reader made for one pass from front to back: read-ahead, no cache of the whole file."""
    filesystem, path = _filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        return _retried(lambda: filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES))
    return _patient(_retried(lambda: filesystem.open(path, "rb", block_size=READ_BLOCK_BYTES, cache_type="readahead")))


def _patient(file: Any) -> IO[bytes]:
    return cast(IO[bytes], _PatientFile(file))


class _PatientFile(io.RawIOBase):
    """A reader of remote storage in which a fault that passes is tried again, and one that lasts is no OSError.

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
        data = _retried(lambda: self._file.read(len(buffer)))  # a read that fails does not move
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def glob_urls(pattern: str) -> list[str]:
    """Sorted URLs that match a glob."""
    filesystem, path = _filesystem(pattern)
    return [_with_protocol(pattern, found) for found in sorted(_retried(lambda: filesystem.glob(path)))]


def _with_protocol(like: str, path: str) -> str:
    protocol = infer_storage_options(like)["protocol"] if "://" in like else ""
    return f"{protocol}://{path}" if protocol and "://" not in path else path


def stat_url(url: str) -> FileInfo:
    """Size and version tag of a file: the storage's etag, or a local file's time of change.

    Raises:
        FileNotFoundError: nothing is there.
    """
    filesystem, path = _filesystem(url)
    info = _retried(lambda: filesystem.info(path))
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    if not etag and info.get("mtime"):
        etag = f"mtime-{info['mtime']:.6f}"
    return FileInfo(size_bytes=int(info.get("size") or 0), etag=etag)


def is_remote(url: str) -> bool:
    return "://" in url


def fetch_url(url: str, folder: str) -> None:
    """Brings a file, or a folder with all that is in it, into a local folder, under its own name.

    Raises:
        FileNotFoundError: nothing is there.
    """
    filesystem, path = _filesystem(url)
    if not _retried(lambda: filesystem.exists(path)):
        raise FileNotFoundError(url)
    target = f"{folder}/{own_name(url)}"

    def fetch() -> None:
        shutil.rmtree(target, ignore_errors=True)  # into a folder that is there fsspec puts another one
        filesystem.get(path, target, recursive=True)

    _retried(fetch)


def own_name(url: str) -> str:
    """The last part of a URL's path."""
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]
