"""The command `submit`: checks a configuration here, then hands the run to a Ray cluster, Slurm or Kubernetes.

rayjob.py, slurm.py and kuberay.py say what is sent; with --dry-run it is printed instead.
"""

import argparse
import dataclasses
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.arguments import Subparsers, add_command, add_config, config_file
from jobs.submit.kuberay import KubeRayJob
from jobs.submit.rayjob import CONFIG_FILE, PACKAGES, RayJob, exit_code, new_job_id, stage
from jobs.submit.slurm import SlurmJob
from pipeline.config.load import Config, load_config
from pipeline.errors import UserError

TARGETS = {"ray": RayJob, "slurm": SlurmJob, "kuberay": KubeRayJob}
NO_FILES = ("random:", "simulated:")  # weights that lie nowhere
HELP = {
    "address": "the cluster's dashboard, such as http://head:8265",
    "detach": "submit the job and return; otherwise follow its logs to the end",
    "stop": "a submission id: stop that job instead of submitting one",
    "directive": "one more line for sbatch, such as account=vision; may be repeated",
    "gpu_workers": "GPU pods: 4, or 0:8 to autoscale",
    "decode_workers": "pods without GPU, for decoding: 4, or 0:8 to autoscale",
    "preemptible": "tolerate the taints of preemptible and spot nodes",
    "retries": "how often Kubernetes restarts a run that failed; it continues where it stopped",
    "secret": "a Secret whose keys become environment variables; may be repeated",
}


def add(subparsers: Subparsers) -> None:
    """Adds `submit` with the options of every target, each made from a field of its dataclass."""
    parser = add_command(subparsers, "submit", submit, "the same run as a job of a Ray cluster, Slurm or Kubernetes")
    add_config(parser, required=False)
    parser.add_argument("--on", required=True, choices=TARGETS, help="where the run goes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, without submitting it")
    for target, kind in TARGETS.items():
        group = parser.add_argument_group(f"--on {target}")
        for field in dataclasses.fields(kind):
            _add_option(group, field)


def _add_option(group: Any, field: "dataclasses.Field[Any]") -> None:
    name, text = f"--{field.name.replace('_', '-')}", HELP.get(field.name)
    if field.default is False:
        group.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=text)
    elif field.default == ():
        group.add_argument(name, action="append", default=argparse.SUPPRESS, metavar="TEXT", help=text)
    else:
        shown = "" if field.default == "" else f"default: {field.default}"
        text = f"{text} ({shown})" if text and shown else text or shown
        group.add_argument(name, type=type(field.default), default=argparse.SUPPRESS, help=text)


def submit(chosen: argparse.Namespace) -> int:
    job = _job(chosen)
    if isinstance(job, RayJob) and job.stop:
        return _send(job.stop_command(), chosen.dry_run)
    file, overrides = config_file(chosen)
    config = load_config(file, overrides)
    match job:
        case RayJob():
            return _submit_to_ray(job, config, chosen.dry_run)
        case SlurmJob():
            return _send(["sbatch"], chosen.dry_run, job.script(file, overrides))
        case KubeRayJob():
            refuse_relative_paths(config)
            return _send(["kubectl", "create", "-f", "-"], chosen.dry_run, job.manifests(config))


def _job(chosen: argparse.Namespace) -> RayJob | SlurmJob | KubeRayJob:
    """The target with the options given. Raises UserError for an option of another target."""
    kind = TARGETS[chosen.on]
    own = [field.name for field in dataclasses.fields(kind)]
    every = [field.name for other in TARGETS.values() for field in dataclasses.fields(other)]
    given = {name: value for name, value in vars(chosen).items() if name in every}
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in own]
    if foreign:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in own)
        raise UserError(f"{', '.join(foreign)} is not an option of --on {chosen.on}: use {known}")
    job: RayJob | SlurmJob | KubeRayJob = kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    )
    return job


def refuse_relative_paths(config: Config) -> None:
    """Raises UserError for relative paths: the job runs in another folder, on another machine."""
    paths = {"output.path": [config.output.path], "input.shards": list(config.input.shards)}
    paths["input.table.files"] = list(config.input.table.files) if config.input.table else []
    paths["encoder.weights"] = [] if config.encoder.weights.startswith(NO_FILES) else [config.encoder.weights]
    for key, values in paths.items():
        for value in values:
            if "://" not in value and not os.path.isabs(value.removeprefix("@")):
                raise UserError(
                    f"{key}: {value} is relative: give a URL, or an absolute path that every node can reach"
                )


def _submit_to_ray(job: RayJob, config: Config, dry_run: bool) -> int:
    refuse_relative_paths(config)
    text = yaml.safe_dump(config.replaced({"runtime.address": "auto"}).model_dump(mode="json"), sort_keys=False)
    with tempfile.TemporaryDirectory(prefix="latentmill-") as folder:
        stage(Path(folder), text)
        if dry_run:
            print(f"# {', '.join(PACKAGES)} and {CONFIG_FILE}, which holds:\n{text}")
        job_id = new_job_id()
        sent = _send(job.submit_command(folder, job_id), dry_run)
    if dry_run or job.detach:
        return sent
    said = subprocess.run(job.status_command(job_id), capture_output=True, text=True, check=False)
    return exit_code(said.stdout + said.stderr, sent)


def _send(command: Sequence[str], dry_run: bool, content: str = "") -> int:
    """Runs a command with `content` as its standard input and returns its exit code; a dry run prints instead."""
    if dry_run:
        print(content or shlex.join(command))
        return 0
    try:
        return subprocess.run(command, input=content or None, text=True, check=False).returncode
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not installed here: submit from a machine that has it, or use --dry-run"
        ) from None
