"""Rows in the order of their samples, whatever the order in which they come: early ones wait on local disk."""

import pickle
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Any

Write = Callable[[str, Mapping[str, Any]], None]  # a row's bucket, its values


class OrderedRows:
    """Passes on the rows of each sample, by window, once it and all samples before it have ended.

    What waits is in a file without a name, so a killed process leaves nothing behind.
    """

    def __init__(self, first_index: int, write: Write) -> None:
        self._next_index, self._write = first_index, write
        self._file: IO[bytes] | None = None  # until there is a row
        self._waiting: dict[int, list[tuple[int, str, int]]] = {}  # by sample: window, bucket, where in the file
        self._ended: set[int] = set()

    def add(self, bucket: str, values: Mapping[str, Any]) -> None:
        """Takes a row of a sample that has not ended."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        offset = self._file.seek(0, 2)
        pickle.dump(values, self._file, protocol=5)
        self._waiting.setdefault(values["sample_index"], []).append((values["window_index"], bucket, offset))

    def end(self, sample_index: int) -> None:
        """Says that no more rows of a sample will come."""
        self._ended.add(sample_index)
        while self._next_index in self._ended:
            self._ended.remove(self._next_index)
            self._pass_on(self._next_index)
            self._next_index += 1
        if self._file is not None and not self._waiting:
            self._file.truncate(0)

    def end_all(self) -> None:
        """Says that no more rows will come."""
        for sample_index in sorted(self._waiting):
            self._pass_on(sample_index)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _pass_on(self, sample_index: int) -> None:
        for _, bucket, offset in sorted(self._waiting.pop(sample_index, [])):
            assert self._file is not None, "rows were added"
            self._file.seek(offset)
            self._write(bucket, pickle.load(self._file))
