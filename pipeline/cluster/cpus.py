"""How many CPUs this process may use: a container or a Slurm step often has fewer than its machine."""

import os
from collections.abc import Iterable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """CPUs of this process by its affinity and its cgroup's quota."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    return max(1, min([len(os.sched_getaffinity(0)), *quotas(CGROUPS, lines)]))


def quotas(root: Path, lines: Iterable[str]) -> list[int]:
    """The CPUs that each cgroup from this process up to `root` grants, rounded up, where it says so.

    Args:
        lines: of /proc/self/cgroup, such as `0::/slice/step` (version 2) or `4:cpu,cpuacct:/slice` (version 1).
    """
    granted = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        of_version_1 = "cpu" in controllers.split(",")
        if controllers and not of_version_1:
            continue
        top = root / "cpu" if of_version_1 else root
        folder = top / path.strip("/")
        for each in (folder, *(parent for parent in folder.parents if parent.is_relative_to(top))):
            quota = _quota_of_version_1(each) if of_version_1 else _quota(each)
            granted += [quota] if quota else []
    return granted


def _quota(folder: Path) -> int | None:
    words = _words(folder / "cpu.max")
    return _cpus(int(words[0]), int(words[1])) if len(words) == 2 and words[0] != "max" else None


def _quota_of_version_1(folder: Path) -> int | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _cpus(int(quota[0]), int(period[0])) if quota and period and int(quota[0]) > 0 else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _cpus(quota: int, period: int) -> int:
    return max(1, -(-quota // period))
