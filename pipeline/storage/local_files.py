"""Create-if-absent on a local disk: a file appears under its name whole and flushed to disk, or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO
from uuid import uuid4

from pipeline.errors import TransientError

TEMPORARY = ".tmp-"
BLOCK_BYTES = 4 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def beside(target: Path) -> Path:
    """A new temporary name in the folder of a file; listings omit such names."""
    return target.with_name(f"{TEMPORARY}{target.name}-{uuid4().hex}")


def create_local(target: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Writes a temporary file beside the target, flushes it to disk, and links it to the name unless that exists.

    Returns:
        Whether this call created the file.

    Raises:
        TransientError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = beside(target)
    try:
        with open(scratch, "xb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.link(scratch, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in DISK_FULL:
            raise TransientError(f"no room to write {target}: {error.strerror}") from error
        raise
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_into(local_file: str, handle: IO[bytes]) -> None:
    with open(local_file, "rb") as source:
        while block := source.read(BLOCK_BYTES):
            handle.write(block)
