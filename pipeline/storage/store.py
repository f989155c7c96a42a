"""An output root on any fsspec storage: list, read, and create a file only where it is absent.

Create-if-absent is the only write of the commit protocol.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import RetiredError
from pipeline.storage.files import filesystem_of, patient, retried
from pipeline.storage.local_files import TEMPORARY, beside, copy_into, create_local
from pipeline.storage.urls import expanded, is_remote

LEFT_BEHIND_SECONDS = 3600.0


class Store:
    """A folder on any fsspec file system. Paths are relative to `root`, `/`-separated.

    Raises:
        UserError: the URL's protocol is unknown or its library is not installed, or a variable in it is not set.
    """

    def __init__(self, root: str) -> None:
        root = expanded(root)
        self.root = root if is_remote(root) else os.path.abspath(root)
        self.fs, self._base = filesystem_of(self.root)
        self._local = isinstance(self.fs, LocalFileSystem)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return type(self), (self.root,)

    def url(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def _full(self, path: str) -> str:
        return f"{self._base.rstrip('/')}/{path}" if path else self._base

    def _fresh(self) -> Any:
        """The file system, with its cached listings dropped: other processes write there too."""
        self.fs.invalidate_cache()
        return self.fs

    def names(self, folder: str) -> list[str]:
        """Sorted names of files and folders in a folder, by one listing; none where the folder is missing."""
        return self._listed(lambda: self._fresh().ls(self._full(folder), detail=False))

    def names_from(self, folder: str, prefix: str) -> list[str]:
        """As `names`, of files that begin with `prefix`: object stores list no others."""
        if self._local:
            return [name for name in self.names(folder) if name.startswith(prefix)]
        found = self._listed(lambda: self._fresh().find(self._full(folder), prefix=prefix))
        return [name for name in found if name.startswith(prefix)]

    def _listed(self, listing: Callable[[], list[str]]) -> list[str]:
        try:
            found = retried(listing)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name and not name.startswith(TEMPORARY))

    def left_behind(self, folder: str) -> list[str]:
        """Names of temporary files in a folder that have not grown for an hour: their writer was killed."""
        latest = time.time() - LEFT_BEHIND_SECONDS
        there = Path(self._full(folder)).glob(f"{TEMPORARY}*") if self._local else ()
        return sorted(file.name for file in there if file.stat().st_mtime < latest)

    def remove_left_behind(self, path: str) -> None:
        """Deletes a file of `left_behind`."""
        assert path.rpartition("/")[2].startswith(TEMPORARY), f"{path} was published"
        Path(self._full(path)).unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        return bool(retried(lambda: self._fresh().exists(self._full(path))))

    def read(self, path: str) -> bytes:
        """All bytes of a small file, by one request. Raises FileNotFoundError."""
        # s3fs asks for the size first, to read large files in pieces
        options = {"max_concurrency": 1} if hasattr(self.fs, "max_concurrency") else {}
        return bytes(retried(lambda: self._fresh().cat_file(self._full(path), **options)))

    def open(self, path: str) -> IO[bytes]:
        """A seekable reader of a file."""
        file = retried(lambda: self._fresh().open(self._full(path), "rb"))
        return file if self._local else patient(file)

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
        """Writes a file that each run makes again (summary, report, history), never a part or a manifest."""
        if self._local:
            target = Path(self._full(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = beside(target)
            scratch.write_bytes(data)
            scratch.replace(target)
        else:
            retried(lambda: self.fs.pipe_file(self._full(path), data))

    def delete(self, path: str) -> None:
        """Deletes a file if it exists (`remove`). Nothing else deletes what was published."""
        try:
            retried(lambda: self.fs.rm_file(self._full(path)))
        except FileNotFoundError:
            return

    def move(self, source: str, target: str) -> None:
        """Sets a bad file aside (`verify --repair`)."""
        if self._local:
            Path(self._full(target)).parent.mkdir(parents=True, exist_ok=True)
        retried(lambda: self.fs.mv(self._full(source), self._full(target)))

    def _create_remote(self, put: Callable[[str], object], path: str) -> bool:
        # Where an acknowledgement was lost, the second attempt finds the file. The caller then checks what is there,
        # as it does where another process was first.
        try:
            retried(lambda: put(self._full(path)), give_up=(FileExistsError,))
        except FileExistsError:
            return False
        return True


class RetiringStore(Store):
    """A store whose writes can be ended for good, so that killing its process leaves no half-written file.

    Several threads may write; `retire` is called by another one.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._writing, self._retired = 0, False
        self._changed = threading.Condition()

    def create(self, path: str, data: bytes) -> bool:
        with self._unless_retired():
            return super().create(path, data)

    def create_from(self, path: str, local_file: str) -> bool:
        with self._unless_retired():
            return super().create_from(path, local_file)

    def retire(self) -> None:
        """Waits for the files that are being created, if any; later writes raise RetiredError."""
        with self._changed:
            self._retired = True
            self._changed.wait_for(lambda: not self._writing)

    @contextmanager
    def _unless_retired(self) -> Iterator[None]:
        with self._changed:
            if self._retired:
                raise RetiredError(f"the run is over: nothing more is written to {self.root}")
            self._writing += 1
        try:
            yield
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()
