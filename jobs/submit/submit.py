"""The command `submit`: checks a configuration here, then hands the run to a Ray cluster, Slurm or Kubernetes.

rayjob.py, slurm.py and kuberay.py with manifest.py say what is sent; with --dry-run it is printed instead.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from encoder import SHIPPED_WEIGHTS
from jobs.arguments import Subparsers, add_command, add_config, config_file
from jobs.signals import Stopped
from jobs.submit import dashboard, kuberay, rayjob, slurm
from jobs.submit.credentials import refuse_secrets
from jobs.submit.following import follow_kuberay, follow_slurm, kuberay_state, slurm_state
from jobs.submit.kuberay import KubeRayJob
from jobs.submit.manifest import manifest
from jobs.submit.options import Options, option_name, parse_options
from jobs.submit.rayjob import CONFIG_FILE, PACKAGES, RayJob, stage
from jobs.submit.sending import answer_of, ask, send
from jobs.submit.slurm import SlurmJob
from pipeline.config.load import Config, load_config, read_yaml
from pipeline.errors import UserError

TARGETS: dict[str, type[Options]] = {"ray": RayJob, "slurm": SlurmJob, "kuberay": KubeRayJob}
NO_FILES = ("random:", "simulated:")  # weights that lie nowhere
HELP = {
    "address": "the cluster's dashboard, such as http://head:8265",
    "text": "NAME: embed captions of the rows that there are, as `latentmill text` does, instead of making latents",
    "detach": "submit the job and return; otherwise follow its log to the end",
    "stop": "a job: stop it instead of submitting one",
    "status": "a job: ask for its status instead of submitting one",
    "time": "when Slurm ends the job; the run stops before and is queued again",
    "metrics_port": "where Prometheus reads each machine; 0: a port that follows from the job's number",
    "directive": "one more line for sbatch, such as account=vision; may be repeated",
    "name": "what the names of jobs begin with",
    "gpu_workers": "GPU pods: 4, or 0:8 to autoscale",
    "gpus": "GPUs of a GPU pod",
    "decode_workers": "pods without GPU, for decoding: 4, or 0:8 to autoscale",
    "ephemeral_storage": "local disk of a GPU or decode pod, such as 200Gi",
    "preemptible": "tolerate the taints of preemptible and spot nodes",
    "retries": "how often KubeRay starts a failed job again, whatever its exit code, on a new cluster",
    "keep_seconds": "how long the pods of Ray, GPUs included, stay after the job's end",
    "secret": "a Secret whose keys become environment variables; may be repeated",
    "pvc": "a claim and where every pod of Ray mounts it, such as videos:/videos; may be repeated",
    "label": "a label of the RayJob, such as kueue.x-k8s.io/queue-name=gpus; may be repeated",
    "node_selector": "a label of the nodes for GPU pods, such as pool=spot; may be repeated",
    "image_pull_secret": "a Secret to fetch the image with; may be repeated",
    "service_account": "the service account of every pod",
    "priority_class": "the priority class of every pod",
    "patch": "a YAML file that is merged into the RayJob at the end",
}


def add(subparsers: Subparsers) -> None:
    """Adds `submit` with the options of every target, each made from a field of its model."""
    parser = add_command(subparsers, "submit", submit, "the same run as a job of a Ray cluster, Slurm or Kubernetes")
    add_config(parser, required=False)
    parser.add_argument("--on", required=True, choices=TARGETS, help="where the run goes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, without submitting it")
    for name in Options.model_fields:
        _add_option(parser, Options, name)
    for target, kind in TARGETS.items():
        group = parser.add_argument_group(f"--on {target}")
        for name in kind.model_fields:
            if name not in Options.model_fields:
                _add_option(group, kind, name)


def _add_option(group: Any, kind: type[Options], field: str) -> None:
    name, text, default = option_name(field), HELP.get(field), kind.model_fields[field].default
    if default is False:
        group.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=text)
    elif default == ():
        group.add_argument(name, action="append", default=argparse.SUPPRESS, metavar="TEXT", help=text)
    else:
        shown = "" if default == "" else f"default: {default}"
        text = f"{text} ({shown})" if text and shown else text or shown
        group.add_argument(name, default=argparse.SUPPRESS, help=text)


def submit(chosen: argparse.Namespace) -> int:
    job = _job(chosen)
    if job.stop or job.status:
        if chosen.dry_run:
            raise UserError("--dry-run is for submitting: leave it out with --stop and --status")
        return _ask_or_stop(job)
    file, overrides = config_file(chosen)
    config = load_config(file, overrides)
    refuse_secrets(config)
    if job.text and config.text is None:
        raise UserError(f"--text {job.text} needs text.encoder: name a text encoder, as in text.encoder=PATH")
    match job:
        case RayJob():
            return _submit_to_ray(job, config, chosen.dry_run)
        case SlurmJob():
            return _submit_to_slurm(job, job.script(file, overrides), chosen.dry_run)
        case KubeRayJob():
            return _submit_to_kuberay(job, config, chosen.dry_run)
    raise AssertionError(job)


def _job(chosen: argparse.Namespace) -> Options:
    """The target with the options given. Raises UserError for an option of another target."""
    kind = TARGETS[chosen.on]
    every = {name for other in TARGETS.values() for name in other.model_fields}
    given = {name: value for name, value in vars(chosen).items() if name in every}
    foreign = [option_name(name) for name in given if name not in kind.model_fields]
    if foreign:
        known = ", ".join(option_name(name) for name in kind.model_fields)
        raise UserError(f"{', '.join(foreign)} is not an option of --on {chosen.on}: use {known}")
    return parse_options(kind, given)


def refuse_relative_paths(config: Config) -> None:
    """Raises UserError for relative paths: the job runs in another folder, on another machine."""
    paths = {"output.path": [config.output.path], "input.shards": list(config.input.shards)}
    paths["input.table.files"] = list(config.input.table.files) if config.input.table else []
    weights = config.encoder.weights
    is_path = weights not in SHIPPED_WEIGHTS and not weights.startswith(NO_FILES)
    paths["encoder.weights"] = [weights] if is_path else []
    paths["runtime.logs"] = [config.runtime.logs] if config.runtime.logs else []
    if config.text is not None:
        paths["text.encoder"] = [config.text.location]
        paths["text.captions"] = [config.text.captions] if config.text.captions else []
    for key, values in paths.items():
        for value in values:
            if "://" not in value and not os.path.isabs(value.removeprefix("@")):
                raise UserError(
                    f"{key}: {value} is relative: give a URL, or an absolute path that every node can reach"
                )


def _submit_to_ray(job: RayJob, config: Config, dry_run: bool) -> int:
    refuse_relative_paths(config)
    text = yaml.safe_dump(config.replaced({"runtime.address": "auto"}).model_dump(mode="json"), sort_keys=False)
    url, job_id = job.url(os.environ), rayjob.new_job_id()
    if dry_run:
        print(f"# {', '.join(PACKAGES)} and {CONFIG_FILE}, which holds:\n{text}")
        return send(job.submit_command(url, "FOLDER", job_id), dry_run)
    dashboard.check_cluster(url, os.environ)
    return _followed("ray", job_id, lambda: _send_to_ray(job, url, text, job_id))


def _send_to_ray(job: RayJob, url: str, text: str, job_id: str) -> int:
    with tempfile.TemporaryDirectory(prefix="latentmill-") as folder:
        stage(Path(folder), text)
        sent = send(job.submit_command(url, folder, job_id), env=_environment(url))
    if job.detach:
        return sent
    told = answer_of(rayjob.status_command(url, job_id), env=_environment(url))
    if told.returncode:
        print(f"{url} does not say any more how {job_id} ended; submitted again, the run goes on", flush=True)
    return rayjob.exit_code(told.stdout + told.stderr, sent)


def _submit_to_slurm(job: SlurmJob, script: str, dry_run: bool) -> int:
    command = ["sbatch", "--parsable"]
    if dry_run:
        return send(command, dry_run, script)
    job_id = ask(command, script).strip().partition(";")[0]
    print(f"submitted job {job_id}", flush=True)

    def follow() -> int:
        print(f"job {job_id}: its log is {slurm_state(job_id).log}", flush=True)
        return 0 if job.detach else follow_slurm(job_id)

    return _followed("slurm", job_id, follow)


def _submit_to_kuberay(job: KubeRayJob, config: Config, dry_run: bool) -> int:
    refuse_relative_paths(config)
    name = kuberay.new_name(job.name)
    text = manifest(job, config, name, _read_patch(job.patch))
    command = ["kubectl", "create", "--filename=-"]
    if dry_run:
        return send(command, dry_run, text)
    print(ask(command, text).strip(), flush=True)
    return 0 if job.detach else _followed("kuberay", name, lambda: follow_kuberay(job.namespace, name))


def _read_patch(path: str) -> Any:
    if not path:
        return None
    try:
        patch = read_yaml(Path(path).read_bytes(), path)
    except OSError as error:
        raise UserError(f"--patch {path}: {error.strerror}") from None
    if not isinstance(patch, dict) or not patch.keys() <= {"metadata", "spec"}:
        raise UserError(f"--patch {path}: write what to change below metadata and spec, as in a RayJob")
    if {"name", "namespace"} & (patch.get("metadata") or {}).keys():
        raise UserError(f"--patch {path}: use --name and --namespace for the job's name and namespace")
    return patch


def _followed(target: str, job_id: str, follow: Callable[[], int]) -> int:
    """Follows a job; a signal ends the following, and the job goes on."""
    try:
        return follow()
    except Stopped as stop:
        ask_with = f"latentmill submit --on {target} --status {job_id}"
        print(f"a job that was submitted goes on: `{ask_with}` asks about it, --stop ends it", flush=True)
        return stop.exit_code


def _ask_or_stop(job: Options) -> int:
    """Stops the job that was named, or prints its status."""
    job_id = job.stop or job.status
    match job:
        case RayJob():
            url = job.url(os.environ)
            dashboard.check_job(url, job_id, os.environ)
            command = rayjob.stop_command(url, job_id) if job.stop else rayjob.status_command(url, job_id)
            return send(command, env=_environment(url))
        case SlurmJob():
            state = slurm_state(job_id)
            if job.stop:
                return send(slurm.stop_command(job_id))
            print(f"job {job_id}: {state}, log {state.log}", flush=True)
            return send(slurm.ray_status_command(job_id, state.head)) if state.state == "RUNNING" else 0
        case KubeRayJob():
            told = kuberay_state(job.namespace, job_id)
            print(f"{job_id}: {told}", flush=True)
            return send(kuberay.stop_command(job.namespace, job_id, told)) if job.stop else 0
    raise AssertionError(job)


def _environment(url: str) -> dict[str, str]:
    """The environment of Ray's commands, in which these variables would win over --address."""
    return {**os.environ, "RAY_API_SERVER_ADDRESS": url}
