"""Follows a job of Slurm or Kubernetes to its end, as `ray job submit` does for Ray: thin loops over their answers."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jobs.submit import kuberay, slurm
from jobs.submit.kuberay import KubeRayState
from jobs.submit.sending import ask
from jobs.submit.slurm import SlurmState

POLL_SECONDS = 2


def follow_slurm(job_id: str) -> int:
    """Prints a job's states and its log until it ends, through every requeue; returns the exit code of its run."""
    say, shown_bytes = _changes(), 0
    while True:
        state = slurm_state(job_id)
        say(f"job {job_id}: {state}")
        shown_bytes = _show_log(Path(state.log), shown_bytes)
        if state.ended:
            return state.run_exit_code
        time.sleep(POLL_SECONDS)


def follow_kuberay(namespace: str, name: str) -> int:
    """Prints a job's states and the log of its run until it ends; returns the exit code of the run."""
    say, seen = _changes(), False
    while True:
        state = kuberay_state(namespace, name)
        say(f"{name}: {state}")
        if not state.has_log:
            seen = False  # a retry has a log of its own
        elif not (state.ended and seen):
            ended = subprocess.run(kuberay.log_command(namespace, name, again=seen), check=False)
            seen = seen or ended.returncode == 0
        if state.ended:
            return state.run_exit_code
        time.sleep(POLL_SECONDS)


def slurm_state(job_id: str) -> SlurmState:
    """Raises UserError for a job that Slurm does not have."""
    return SlurmState.parse(ask(slurm.show_command(job_id)))


def kuberay_state(namespace: str, name: str) -> KubeRayState:
    """Raises UserError for a job that Kubernetes does not have."""
    return KubeRayState.parse(ask(kuberay.get_command(namespace, name)))


def _changes() -> Callable[[str], None]:
    """Prints a line unless it is the one that was printed last."""
    last = ""

    def say(text: str) -> None:
        nonlocal last
        if text != last:
            print(text, flush=True)
        last = text

    return say


def _show_log(log: Path, shown_bytes: int) -> int:
    """Prints what was added to a log, where this machine sees it; returns how much of it is shown."""
    if not log.is_file():
        return shown_bytes
    with log.open("rb") as file:
        file.seek(shown_bytes)
        added = file.read()
    sys.stdout.write(added.decode(errors="replace"))
    sys.stdout.flush()
    return shown_bytes + len(added)
