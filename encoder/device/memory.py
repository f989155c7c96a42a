"""How much memory a device has available."""

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_bytes(device: torch.device) -> int:
    """Bytes that a computation on `device` may still take; on a CPU within the limit of the container, if any."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_machine_bytes(), _container_bytes())


def _machine_bytes() -> int:
    if not MEMINFO.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not Linux: all of it
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")


def _container_bytes() -> int:
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return _machine_bytes()
    return max(0, int(limit.read_text()) - int(used.read_text()))


def readable(size_bytes: int) -> str:
    """`17.9 GB`, or MB where that is less than one."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
