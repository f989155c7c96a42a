"""Ray: starts one here or joins a cluster.

Whether one can be joined is found out by a process of its own: Ray waits for minutes, or ends its process.
"""

import atexit
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import RayError

from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import HeadLostError, TransientError, UserError

REACH_SECONDS = 5.0
JOIN_SECONDS = 40.0
JOIN = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"
DASHBOARD = "that of a head node's GCS is HOST:6379 as a rule, and 8265 is the port of its dashboard"
HINTS = {  # by words in what Ray says
    "token": "the cluster asks for a token: set RAY_AUTH_MODE=token and the RAY_AUTH_TOKEN that it was started with",
    "version mismatch": "it runs another Ray or Python: use the versions of the cluster",
    "could not find any running ray": "no cluster runs on this machine: give HOST:PORT, or null for a local Ray",
}

# Left to itself Ray frees objects that were let go once a second: at the speed of a GPU that is gigabytes.
FREE_OBJECTS = {"free_objects_period_milliseconds": 100}


@contextmanager
def connected(runtime: RuntimeConfig) -> Iterator[None]:
    """Starts a local Ray, or joins the cluster at `runtime.address` and brings it our code.

    Raises:
        UserError: no cluster can be joined at the address.
        TransientError: a local Ray does not start.
    """
    options: dict[str, Any] = {"address": "local", "include_dashboard": False, "_system_config": FREE_OBJECTS}
    if runtime.address is not None:
        check_cluster(runtime.address)
        options = {"address": runtime.address, "runtime_env": {"py_modules": _our_packages()}}
    try:
        with _no_messages_of_raylets():
            ray.init(log_to_driver=False, logging_level="ERROR", namespace="latentmill", **options)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        cause = " ".join(str(error).split())
        if runtime.address is None:
            raise TransientError(f"a local Ray does not start here: {cause}") from error
        raise UserError(f"runtime.address: cannot join the Ray cluster at {runtime.address}: {cause}") from None
    try:
        yield
    except HeadLostError:
        atexit.unregister(ray.shutdown)  # it would wait for the head, and then abort
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def _our_packages() -> list[str]:
    return [str(Path(__file__).parents[2] / package) for package in ("encoder", "pipeline")]


@contextmanager
def _no_messages_of_raylets() -> Iterator[None]:
    """What is connected inside does not print pages of what a raylet logged before it died, against which Ray has no
    option: the run says which replicas it lost."""
    listen = ray_worker.listen_error_messages
    ray_worker.listen_error_messages = lambda worker, threads_stopped: None
    try:
        yield
    finally:
        ray_worker.listen_error_messages = listen


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
