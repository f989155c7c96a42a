"""What is fetched once for every process of a node: weights.

It does not know what it keeps, and never removes any of it.
"""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline.storage.store import fetch_url, own_name


def local_copy(url: str) -> str:
    """A file or folder brought to this node, once: whoever comes while it is fetched waits for it.

    Raises:
        FileNotFoundError: nothing is there.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentmill"
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
