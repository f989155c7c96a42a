"""Files that are fetched once for all processes of a node: weights. They are never removed."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline.storage.files import fetch_url
from pipeline.storage.urls import own_name


def cache_folder() -> Path:
    """Where this user's processes keep files on this node."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentmill"


def local_copy(url: str) -> str:
    """The local copy of a remote file or folder; concurrent callers wait for one download.

    Raises:
        FileNotFoundError: nothing is there.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    target = cache / name / own_name(url)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                fetch_url(url, scratch)
                target.parent.mkdir(exist_ok=True)
                os.rename(f"{scratch}/{target.name}", target)
    return str(target)
