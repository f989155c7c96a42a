"""A run as a Slurm batch job: its options, the script that submit.py hands to sbatch, and what Slurm says of a job."""

import math
import os
import re
import shlex
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, field_validator

from jobs.submit.options import Options
from jobs.submit.rayjob import ROOT, STOPPED_EXIT_CODE, run_command

TEMPLATE = Path(__file__).parents[1] / "templates" / "slurm.sbatch"
STOP_MARGIN_SECONDS = 120  # the run is told to stop so long before the time limit
SHORTEST_SECONDS = STOP_MARGIN_SECONDS + 60  # Slurm may send a signal up to a minute early
UNLIMITED = ("unlimited", "infinite")
DIRECTIVE = re.compile(r"[a-z][a-z-]*(=[^\n]+)?")
PARTITION = re.compile(r"[\w.,-]+")
OWN_DIRECTIVES = {
    "nodes": "--nodes",
    "gpus-per-node": "--gpus-per-node",
    "cpus-per-task": "--cpus-per-task",
    "time": "--time",
    "partition": "--partition",
}
FIXED_DIRECTIVES = ("array", "ntasks", "ntasks-per-node", "signal", "requeue", "no-requeue", "open-mode", "no-kill")
STOPPED = ("CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE")
ENDED = ("COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", *STOPPED)


class _AtTemplate(string.Template):
    """Replaces `@name`, and leaves `$name` to the shell."""

    delimiter = "@"


class SlurmJob(Options):
    """What is requested from Slurm. `directive` adds options of sbatch, such as `account=vision`.

    With `metrics_port` 0, the port at which nodes offer metrics follows from the job's number.
    """

    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_task: int = Field(8, ge=1)
    time: str = "24:00:00"
    partition: str = ""
    metrics_port: int = Field(0, ge=0, le=65535)
    directive: tuple[str, ...] = ()

    @field_validator("time")
    @classmethod
    def _time_allows_a_clean_stop(cls, time: str) -> str:
        if seconds_of(time) <= SHORTEST_SECONDS:
            raise ValueError(
                f"the run is told to stop {STOP_MARGIN_SECONDS} to {SHORTEST_SECONDS} s before its limit: ask for more"
            )
        return time

    @field_validator("partition")
    @classmethod
    def _partition_is_a_word(cls, partition: str) -> str:
        if partition and not PARTITION.fullmatch(partition):
            raise ValueError("write the name of a partition, or several with commas; `sinfo` lists them")
        return partition

    @field_validator("directive")
    @classmethod
    def _directives_are_not_ours(cls, directives: tuple[str, ...]) -> tuple[str, ...]:
        for directive in directives:
            name = directive.partition("=")[0]
            if not DIRECTIVE.fullmatch(directive):
                raise ValueError(f"cannot read {directive!r}: write a long option of sbatch, such as account=vision")
            if name in OWN_DIRECTIVES:
                raise ValueError(f"use {OWN_DIRECTIVES[name]} for {directive!r}")
            if name in FIXED_DIRECTIVES:
                raise ValueError(f"{name} is set by submit: one task on each node that ends cleanly and is requeued")
        return directives

    def script(self, config_file: str, overrides: Sequence[str]) -> str:
        """The batch script that runs a configuration; submitted again, it continues where it stopped."""
        command = run_command(os.path.abspath(config_file), overrides, self.text)
        return _AtTemplate(TEMPLATE.read_text()).substitute(
            directives="\n".join(f"#SBATCH --{directive}" for directive in self._directives()),
            margin=STOP_MARGIN_SECONDS,
            folder=shlex.quote(os.getcwd()),
            binaries=shlex.quote(str(Path(sys.executable).parent)),
            root=shlex.quote(str(ROOT)),
            metrics=self.metrics_port or "$((port + 20000))",
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


def seconds_of(limit: str) -> float:
    """The seconds of a time limit as sbatch reads it: minutes, hours:minutes:seconds, days-hours and so on.

    Raises:
        ValueError: it is none of them.
    """
    if limit.lower() in UNLIMITED:
        return math.inf
    days, dash, rest = limit.rpartition("-")
    words = rest.split(":")
    if len(words) > 3 or not all(word.isdecimal() for word in (*words, *([days] if dash else []))):
        raise ValueError("write minutes, hours:minutes:seconds, or days-hours:minutes:seconds, such as 2-12:00:00")
    units = (3600, 60, 1) if dash or len(words) == 3 else (60, 1)  # hours follow days; one number alone is minutes
    return int(days or 0) * 86400 + sum(int(word) * unit for word, unit in zip(words, units, strict=False))


@dataclass(frozen=True, slots=True)
class SlurmState:
    """What `scontrol show job` says of a job."""

    state: str
    reason: str
    exit_code: int
    restarts: int
    log: str
    head: str

    @classmethod
    def parse(cls, text: str) -> "SlurmState":
        """Reads the output of `show_command`."""
        fields = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", text))
        code, _, number = fields.get("ExitCode", "0:0").partition(":")
        return cls(
            state=fields.get("JobState", ""),
            reason=fields.get("Reason", ""),
            exit_code=128 + int(number) if int(number or 0) else int(code),
            restarts=int(fields.get("Restarts", 0)),
            log=fields.get("StdOut", ""),
            head=fields.get("BatchHost", ""),
        )

    def __str__(self) -> str:
        return self.state if self.reason in ("", "None") else f"{self.state} ({self.reason})"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def run_exit_code(self) -> int:
        """The exit code of the run, once it has ended."""
        if self.state in STOPPED:
            return STOPPED_EXIT_CODE
        return self.exit_code or (0 if self.state == "COMPLETED" else 1)


def show_command(job_id: str) -> list[str]:
    return ["scontrol", "show", "job", "--oneliner", job_id]


def stop_command(job_id: str) -> list[str]:
    return ["scancel", job_id]


def ray_status_command(job_id: str, head: str) -> list[str]:
    """Asks the job's Ray how it is, on the node that holds its head and the token of the job."""
    ask = f". /tmp/latentmill-{shlex.quote(job_id)}/environment && ray status"
    return [
        "srun",
        f"--jobid={job_id}",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={head}",
        "bash",
        "-c",
        ask,
    ]
