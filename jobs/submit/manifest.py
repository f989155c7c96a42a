"""The RayJob that kuberay.py's options ask for, as YAML for `kubectl create`.

The configuration travels in an annotation of the head's pod, which is mounted there as a file: one object holds all of
a job, so that nothing of an earlier job can be run, and nothing is left when the RayJob is deleted.
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import yaml

from jobs.submit.kuberay import KubeRayJob, Workers
from jobs.submit.rayjob import run_command
from pipeline.config.load import Config
from pipeline.errors import UserError

CONFIG_FOLDER = "/etc/latentmill"
CONFIG_FILE = "config.yaml"
CONFIG_ANNOTATION = "latentmill/config"
MOST_CONFIG_BYTES = 200_000  # Kubernetes takes 256 KiB of annotations
USER_ID = 10001  # of jobs/docker/Dockerfile
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
PREEMPTIBLE_TAINTS = (
    "cloud.google.com/gke-spot",
    "cloud.google.com/gke-preemptible",
    "kubernetes.azure.com/scalesetpriority",
)
# What the "restricted" Pod Security Standard asks of pods and of containers.
POD_SECURITY = {"runAsNonRoot": True, "fsGroup": USER_ID, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
NOTICE = ["python", "-m", "jobs.submit.notice"]
GRACE_SECONDS = 120  # that a pod has for it, where its machine gives it as long
MERGED_BY = ("name", "groupName")  # what tells the entries of a list apart in a patch


class _Readable(yaml.SafeDumper):
    """Writes YAML for review by people: block texts, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Readable.add_representer(str, _Readable.represent_str)


def manifest(job: KubeRayJob, config: Config, name: str, patch: Any = None) -> str:
    """The RayJob that runs a configuration, as YAML; `patch` has the last word."""
    document = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": {"app.kubernetes.io/name": "latentmill", **_pairs(job.label)},
        },
        "spec": _spec(job, config_text(job, config)),
    }
    return yaml.dump(patched(document, patch or {}), Dumper=_Readable, sort_keys=False)


def config_text(job: KubeRayJob, config: Config) -> str:
    """The configuration as the job reads it."""
    most = Workers.parse(job.gpu_workers).most * job.gpus
    here: dict[str, Any] = {"runtime.address": "auto"}
    if config.runtime.replicas == "auto":  # an autoscaler adds only the GPUs that are requested
        here["runtime.replicas"] = {"min": most, "max": most}
    text = yaml.safe_dump(config.replaced(here).model_dump(mode="json"), sort_keys=False)
    if len(text.encode()) > MOST_CONFIG_BYTES:
        raise UserError(
            f"the configuration has {len(text.encode()):,} bytes, a RayJob can hold {MOST_CONFIG_BYTES:,}: write long "
            "lists of shards to a file, and its name as input.shards: '@URL'"
        )
    return text


def patched(document: Any, patch: Any) -> Any:
    """A document with a patch merged into it: null removes a key, lists of named entries are merged by their names."""
    if isinstance(document, Mapping) and isinstance(patch, Mapping):
        merged = {key: patched(document.get(key), value) for key, value in patch.items() if value is not None}
        return {key: value for key, value in document.items() if key not in patch} | merged
    if isinstance(document, list) and isinstance(patch, list):
        key = next((key for key in MERGED_BY if all(_has(entry, key) for entry in (*document, *patch))), None)
        return _merged(document, patch, key) if key else patch
    return patch


def _has(entry: Any, key: str) -> bool:
    return isinstance(entry, Mapping) and key in entry


def _merged(entries: list[Any], patch: list[Any], key: str) -> list[Any]:
    changes = {entry[key]: entry for entry in patch}
    kept = [patched(entry, changes.pop(entry[key], {})) for entry in entries]
    return [*kept, *changes.values()]


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _spec(job: KubeRayJob, config: str) -> dict[str, Any]:
    return {
        "entrypoint": " ".join(run_command(f"{CONFIG_FOLDER}/{CONFIG_FILE}", text=job.text)),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": job.keep_seconds,
        "backoffLimit": job.retries,
        "submitterPodTemplate": _submitter(job),
        "rayClusterSpec": _cluster(job, config),
    }


def _submitter(job: KubeRayJob) -> dict[str, Any]:
    """The pod that submits the Ray job and prints its log."""
    container = _container(job, "ray-job-submitter", {"cpu": 1, "memory": "1Gi"})
    return {"spec": {**_pod_spec(job, container), "restartPolicy": "Never"}}


def _cluster(job: KubeRayJob, config: str) -> dict[str, Any]:
    gpu, decode = Workers.parse(job.gpu_workers), Workers.parse(job.decode_workers)
    groups = [_group(job, "gpu", gpu, {"cpu": job.gpu_cpu, "memory": job.gpu_memory, "nvidia.com/gpu": job.gpus})]
    if decode.most:
        groups.append(_group(job, "decode", decode, {"cpu": job.decode_cpu, "memory": job.decode_memory}))
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": {"mode": "token"},  # KubeRay makes the token and keeps it in a Secret
        "enableInTreeAutoscaling": any(workers.least < workers.most for workers in (gpu, decode)),
        "autoscalerOptions": {"securityContext": CONTAINER_SECURITY},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},  # only the run's own loop runs there
            "template": _head(job, config),
        },
        "workerGroupSpecs": groups,
    }


def _head(job: KubeRayJob, config: str) -> dict[str, Any]:
    container = _ray_container(job, "ray-head", {"cpu": 4, "memory": "16Gi"})
    spec = _pod_spec(job, container)
    file = {"path": CONFIG_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{CONFIG_ANNOTATION}']"}}
    container["volumeMounts"].append({"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True})
    spec["volumes"] = [*_volumes(job), {"name": "config", "downwardAPI": {"items": [file]}}]
    return {"metadata": {"annotations": {CONFIG_ANNOTATION: config}}, "spec": spec}


def _group(job: KubeRayJob, name: str, workers: Workers, limits: dict[str, Any]) -> dict[str, Any]:
    if job.ephemeral_storage:
        limits = {**limits, "ephemeral-storage": job.ephemeral_storage}
    container = _ray_container(job, "ray-worker", limits) | {"lifecycle": {"preStop": {"exec": {"command": NOTICE}}}}
    spec = {**_pod_spec(job, container), "volumes": _volumes(job), "terminationGracePeriodSeconds": GRACE_SECONDS}
    spec["tolerations"] = [GPU_TOLERATION] if name == "gpu" else []
    if job.preemptible:
        spec["tolerations"] += [{"key": taint, "operator": "Exists"} for taint in PREEMPTIBLE_TAINTS]
    if name == "gpu" and job.node_selector:
        spec["nodeSelector"] = _pairs(job.node_selector)
    return {
        "groupName": name,
        "replicas": workers.least,
        "minReplicas": workers.least,
        "maxReplicas": workers.most,
        "rayStartParams": {},
        "template": {"spec": spec},
    }


def _pod_spec(job: KubeRayJob, container: dict[str, Any]) -> dict[str, Any]:
    names = {"serviceAccountName": job.service_account, "priorityClassName": job.priority_class}
    return {
        "containers": [container],
        "securityContext": POD_SECURITY,
        "imagePullSecrets": [{"name": name} for name in job.image_pull_secret],
        **{key: name for key, name in names.items() if name},
    }


def _ray_container(job: KubeRayJob, name: str, limits: dict[str, Any]) -> dict[str, Any]:
    """A container of the run: with the secrets and the claims."""
    return {
        **_container(job, name, limits),
        "envFrom": [{"secretRef": {"name": secret}} for secret in job.secret],
        "volumeMounts": [{"name": f"claim-{n}", "mountPath": path} for n, (_, path) in enumerate(_claims(job))],
    }


def _container(job: KubeRayJob, name: str, limits: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "image": job.image,
        "resources": {"limits": limits, "requests": limits},
        "securityContext": CONTAINER_SECURITY,
    }


def _volumes(job: KubeRayJob) -> list[dict[str, Any]]:
    return [
        {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}}
        for n, (claim, _) in enumerate(_claims(job))
    ]


def _claims(job: KubeRayJob) -> list[tuple[str, str]]:
    return [(claim, path) for claim, _, path in (text.partition(":") for text in job.pvc)]
