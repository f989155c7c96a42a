"""A run as a Slurm batch job: its options, and the script that submit.py hands to sbatch."""

import os
import shlex
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.submit.rayjob import ROOT, run_command

TEMPLATE = Path(__file__).parents[1] / "templates" / "slurm.sbatch"


class _AtTemplate(string.Template):
    """Replaces `@name`, and leaves `$name` to the shell."""

    delimiter = "@"


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """What is requested from Slurm. `directive` adds options of sbatch, such as `account=vision`."""

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 8
    time: str = "24:00:00"
    partition: str = ""
    directive: tuple[str, ...] = ()

    def script(self, config_file: str, overrides: Sequence[str]) -> str:
        """The batch script that runs a configuration; submitted again, it continues where it stopped."""
        command = run_command(os.path.abspath(config_file), overrides)
        return _AtTemplate(TEMPLATE.read_text()).substitute(
            directives="\n".join(f"#SBATCH --{directive}" for directive in self._directives()),
            folder=shlex.quote(os.getcwd()),
            binaries=shlex.quote(str(Path(sys.executable).parent)),
            root=shlex.quote(str(ROOT)),
            resources=f"--num-cpus={self.cpus_per_task} --num-gpus={self.gpus_per_node}",
            run=shlex.join(command),
        )

    def _directives(self) -> list[str]:
        asked = {"gpus-per-node": self.gpus_per_node, "partition": self.partition}
        return [
            "job-name=latentmill",
            f"nodes={self.nodes}",
            "ntasks-per-node=1",
            f"cpus-per-task={self.cpus_per_task}",
            f"time={self.time}",
            *(f"{name}={value}" for name, value in asked.items() if value),
            *self.directive,
        ]
