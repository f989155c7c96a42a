"""A store whose writes can be ended for good, so that a replica may be killed without leaving half a file behind.

It does not know who ends them, or what is written.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import TransientError
from pipeline.storage.store import Store


class RetiringStore(Store):
    """A store for one writer at a time, as a replica is. `retire` is for another thread."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._writing, self._retired = threading.Lock(), False

    def create(self, path: str, data: bytes) -> bool:
        with self._unless_retired():
            return super().create(path, data)

    def create_from(self, path: str, local_file: str) -> bool:
        with self._unless_retired():
            return super().create_from(path, local_file)

    def retire(self) -> None:
        """Waits for the file that is being created, if any; none is begun afterwards."""
        self._retired = True
        with self._writing:
            pass

    @contextmanager
    def _unless_retired(self) -> Iterator[None]:
        with self._writing:
            if self._retired:
                raise TransientError(f"the run is over: nothing more is written to {self.root}")
            yield
