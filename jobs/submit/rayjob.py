"""A run as a job of a Ray cluster that is already there: what is shipped, and the `ray job` commands that send it.

It does not run them: submit.py does.
"""

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
    """How to reach the cluster. Without an address, Ray's own RAY_API_SERVER_ADDRESS or RAY_ADDRESS says where.

    `stop` names a job to stop instead of sending one; `detach` sends one and does not wait for it.
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
    """A name for a job that no other has, and that says when it was sent."""
    return f"latentmill-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def exit_code(status: str, submitted: int) -> int:
    """The exit code of a run, from what `ray job status` says of its job; `submitted` where that says nothing.

    `ray job submit` itself ends with 1 whatever the run's code was, and with 0 where the job was stopped.
    """
    failed = FAILED.search(status)
    if failed is None:
        return STOPPED_EXIT_CODE if WAS_STOPPED in status else submitted
    code = int(failed[1])
    return code if code > 0 else 128 - code  # below 0: the number of the signal that ended it


def run_command(config: str, overrides: Sequence[str] = ()) -> list[str]:
    """What a cluster's machine is told to run."""
    return ["python", "-m", "jobs", "run", config, *overrides]


def stage(folder: Path, config_text: str) -> None:
    """Fills a folder with all that a job needs: our packages and the configuration. Data never goes along."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / CONFIG_FILE).write_text(config_text)
