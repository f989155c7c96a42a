"""A run as a job of an existing Ray cluster: what is shipped, and the `ray job` commands that submit.py calls."""

import re
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("encoder", "pipeline", "jobs", "configs")
CONFIG_FILE = "submitted.yaml"
RAY_JOB = (sys.executable, "-m", "ray.scripts.scripts", "job")

FAILED = re.compile(r"entrypoint command failed with exit code (-?\d+)")
WAS_STOPPED = "was stopped"
STOPPED_EXIT_CODE = 143  # Ray stops a job by SIGTERM


@dataclass(frozen=True, slots=True)
class RayJob:
    """How to reach the cluster. Without an address, Ray uses RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    `stop` is the id of a job to stop instead of submitting one; with `detach`, a job is submitted and not waited for.
    """

    address: str = ""
    detach: bool = False
    stop: str = ""

    def submit_command(self, working_dir: str, job_id: str) -> list[str]:
        options = ["--no-wait"] if self.detach else []
        options += [f"--submission-id={job_id}", f"--working-dir={working_dir}"]
        return self._ray_job("submit", *options, "--", *run_command(CONFIG_FILE))

    def status_command(self, job_id: str) -> list[str]:
        return self._ray_job("status", job_id)

    def stop_command(self) -> list[str]:
        return self._ray_job("stop", self.stop)

    def _ray_job(self, verb: str, *rest: str) -> list[str]:
        where = [f"--address={self.address}"] if self.address else []
        return [*RAY_JOB, verb, *where, *rest]


def new_job_id() -> str:
    """A unique id for a job, with the time of its submission."""
    return f"latentmill-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def exit_code(status: str, submitted: int) -> int:
    """The exit code of a run, from the output of `ray job status`; `submitted` where that has none.

    `ray job submit` exits with 1 whatever the run's code was, and with 0 if the job was stopped.
    """
    failed = FAILED.search(status)
    if failed is None:
        return STOPPED_EXIT_CODE if WAS_STOPPED in status else submitted
    code = int(failed[1])
    return code if code > 0 else 128 - code  # negative: the signal that ended the process


def run_command(config: str, overrides: Sequence[str] = ()) -> list[str]:
    """The command that a machine of the cluster runs."""
    return ["python", "-m", "jobs", "run", config, *overrides]


def stage(folder: Path, config_text: str) -> None:
    """Fills a folder with what a job needs: our packages and the configuration, never data."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / CONFIG_FILE).write_text(config_text)
