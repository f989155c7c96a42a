"""A run as a job of an existing Ray cluster: what is shipped, and the `ray job` commands that submit.py calls."""

import re
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import field_validator

from jobs.submit.options import Options
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
PACKAGES = ("encoder", "pipeline", "jobs", "configs")
CONFIG_FILE = "submitted.yaml"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
DASHBOARD = re.compile(r"https?://[^\s@]+")
DEFAULT_URL = "http://127.0.0.1:8265"
RAY_JOB = (sys.executable, "-m", "ray.scripts.scripts", "job")

FAILED = re.compile(r"entrypoint command failed with exit code (-?\d+)")
WAS_STOPPED, SUCCEEDED = "was stopped", "succeeded"
STOPPED_EXIT_CODE = 143  # Ray stops a job by SIGTERM


class RayJob(Options):
    """The dashboard of a cluster; without an address RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this machine.

    `stop` and `status` name a job by its submission id; with `detach`, a job is submitted and not waited for.
    """

    address: str = ""

    @field_validator("address")
    @classmethod
    def _address_is_a_dashboard(cls, address: str) -> str:
        if address and not DASHBOARD.fullmatch(address):
            raise ValueError("give the cluster's dashboard, without a user, such as http://head:8265")
        return address

    def url(self, environment: Mapping[str, str]) -> str:
        """The URL of the dashboard that jobs are sent to."""
        named = [name for name in ADDRESS_VARIABLES if environment.get(name)]
        url = self.address or (environment[named[0]] if named else DEFAULT_URL)
        if not DASHBOARD.fullmatch(url):
            raise UserError(f"{named[0]}={url} is not a dashboard: give --address, such as http://head:8265")
        return url.rstrip("/")

    def submit_command(self, url: str, working_dir: str, job_id: str) -> list[str]:
        options = ["--no-wait"] if self.detach else []
        options += [f"--submission-id={job_id}", f"--working-dir={working_dir}"]
        return [*RAY_JOB, "submit", f"--address={url}", *options, "--", *run_command(CONFIG_FILE, text=self.text)]


def status_command(url: str, job_id: str) -> list[str]:
    return [*RAY_JOB, "status", f"--address={url}", job_id]


def stop_command(url: str, job_id: str) -> list[str]:
    return [*RAY_JOB, "stop", f"--address={url}", job_id]


def new_job_id() -> str:
    """A unique id for a job, with the time of its submission."""
    return f"latentmill-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def exit_code(status: str, submitted: int) -> int:
    """The exit code of a run, from the output of `ray job status`; that of `ray job submit` where it has none.

    `ray job submit` exits with 1 whatever the run's code was, and with 0 if the job was stopped. It is never taken for
    success: a cluster that went down after a stop cannot be asked for the job's status any more.
    """
    if failed := FAILED.search(status):
        code = int(failed[1])
        return code if code > 0 else 128 - code  # negative: the signal that ended the process
    if WAS_STOPPED in status:
        return STOPPED_EXIT_CODE
    return 0 if SUCCEEDED in status else submitted or 1


def run_command(config: str, overrides: Sequence[str] = (), text: str = "") -> list[str]:
    """The command that a machine of the cluster runs: for latents, or for the embeddings of the name `text`."""
    command = ["text", config, "--name", text] if text else ["run", config]
    return ["python", "-m", "jobs", *command, *overrides]


def stage(folder: Path, config_text: str) -> None:
    """Fills a folder with what a job needs: our packages and the configuration, never data.

    Ray unpacks files on the cluster with the permissions that they have here: none for other users.
    """
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / CONFIG_FILE).write_text(config_text)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
