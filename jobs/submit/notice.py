"""What a pod of KubeRay runs before it is stopped: tells Ray that its node ends, and waits until no replica is there.

A SIGTERM to Ray's processes ends a node at once. On a node that Ray drains, replicas take no more samples and commit
what they can. `python -m jobs.submit.notice`, with further options of `ray drain-node`.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

ANSWER_SECONDS = 20.0  # of a head that may be gone
DRAIN = (
    *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
    *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is stopped"),
)
REPLICA = b"ray::Replica"


def main(options: list[str]) -> None:
    """Kubernetes bounds the waiting, by the pod's grace period."""
    drained = subprocess.run([*DRAIN, *options], timeout=ANSWER_SECONDS, check=False)
    while drained.returncode == 0 and replicas_here():
        time.sleep(1)


def replicas_here(processes: Path = Path("/proc")) -> int:
    """How many replicas run on this machine, of which a container sees its own."""
    found = 0
    for command in processes.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            found += command.read_bytes().startswith(REPLICA)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
