"""A run as a job of a Ray cluster that is already there: what is shipped, and the `ray job` commands that send it.

It does not run them: submit.py does.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("encoder", "pipeline", "jobs", "configs")
CONFIG_FILE = "submitted.yaml"
RAY_JOB = (sys.executable, "-m", "ray.scripts.scripts", "job")


@dataclass(frozen=True, slots=True)
class RayJob:
    """How to reach the cluster. Without an address, Ray's own RAY_API_SERVER_ADDRESS or RAY_ADDRESS says where.

    `stop` names a job to stop instead of sending one; `detach` sends one and does not wait for it.
    """

    address: str = ""
    detach: bool = False
    stop: str = ""

    def submit_command(self, working_dir: str) -> list[str]:
        waiting = ["--no-wait"] if self.detach else []
        return self._ray_job("submit", *waiting, f"--working-dir={working_dir}", "--", *run_command(CONFIG_FILE))

    def stop_command(self) -> list[str]:
        return self._ray_job("stop", self.stop)

    def _ray_job(self, verb: str, *rest: str) -> list[str]:
        where = [f"--address={self.address}"] if self.address else []
        return [*RAY_JOB, verb, *where, *rest]


def run_command(config: str, overrides: Sequence[str] = ()) -> list[str]:
    """What a cluster's machine is told to run."""
    return ["python", "-m", "jobs", "run", config, *overrides]


def stage(folder: Path, config_text: str) -> None:
    """Fills a folder with all that a job needs: our packages and the configuration. Data never goes along."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / CONFIG_FILE).write_text(config_text)
