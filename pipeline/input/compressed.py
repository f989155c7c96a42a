"""Tars that are compressed, as a stream: told by their first bytes, whatever they are called."""

import gzip
import io
import zlib
from typing import IO, Any, cast

import pyarrow as pa

from pipeline.errors import ShardError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
NOT_READ = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\3\4": "zip", b"7z\xbc\xaf": "7z", b"\x04\x22\x4d\x18": "lz4"}
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
SKIPPED_BYTES = 1 << 20


def uncompressed(file: IO[bytes]) -> IO[bytes]:
    """What a file unpacks to, or the file itself. Going back is not possible; going forward unpacks what is between.

    Raises:
        ShardError: it is packed in a way that is not read.
    """
    head = file.read(4)
    file.seek(0)
    for signature, name in NOT_READ.items():
        if head.startswith(signature):
            raise ShardError(f"it is packed by {name}: use a plain tar, or one packed by gzip or zstd")
    if head.startswith(GZIP):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return cast(IO[bytes], _Zstd(file)) if head == ZSTD else file


class _Zstd(io.RawIOBase):
    """A zstd stream, by PyArrow's codec; damage is a ShardError."""

    def __init__(self, file: IO[bytes]) -> None:
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(size if size >= 0 else None))
        except OSError as error:
            raise ShardError(f"damaged zstd stream: {error}") from error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        left = offset
        while left and (block := self.read(min(left, SKIPPED_BYTES))):
            left -= len(block)
        return offset - left
