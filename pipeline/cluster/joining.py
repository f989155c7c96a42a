"""Whether a cluster can be joined, found out by a process of its own: Ray waits for minutes, or ends its process."""

import socket
import subprocess
import sys

from pipeline.errors import UserError

REACH_SECONDS = 5.0
JOIN_SECONDS = 40.0
JOIN = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"
DASHBOARD = "that of a head node's GCS is HOST:6379 as a rule, and 8265 is the port of its dashboard"
HINTS = {  # by words in what Ray says
    "token": "the cluster asks for a token: set RAY_AUTH_MODE=token and the RAY_AUTH_TOKEN that it was started with",
    "version mismatch": "it runs another Ray or Python: use the versions of the cluster",
    "could not find any running ray": "no cluster runs on this machine: give HOST:PORT, or null for a local Ray",
}


def check_cluster(address: str) -> None:
    """Raises UserError, in one line and within a minute, where no cluster can be joined at an address."""
    problem = _unreachable(address) or _unjoinable(address)
    if problem:
        raise UserError(f"runtime.address: cannot join the Ray cluster at {address}: {problem}")


def _unreachable(address: str) -> str | None:
    """Why nothing can be there, without Ray."""
    if address.startswith(("http://", "https://")):
        return f"this is the address of a dashboard or of its jobs: give HOST:PORT; {DASHBOARD}"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not (colon and port.isdigit()):
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        return f"nobody answers ({error}): is it up, and is the port right?"
    return None


def _unjoinable(address: str) -> str | None:
    """What Ray says against joining, in a line."""
    command = [sys.executable, "-c", JOIN, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=JOIN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no Ray cluster answers there within {JOIN_SECONDS:.0f} s: give the address of its GCS; {DASHBOARD}"
    return None if tried.returncode == 0 else _line(tried.stderr)


def _line(said: str) -> str:
    """The cause in what a process printed before it failed: what to do where that is known, else its last line."""
    for words, hint in HINTS.items():
        if words in said.lower():
            return hint
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "Ray ended without saying why"
