"""A run as a KubeRay RayJob: its options, and the manifests that submit.py hands to kubectl."""

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from jobs.submit.rayjob import run_command
from pipeline.config.load import Config
from pipeline.errors import UserError

CONFIG_FOLDER = "/etc/latentmill"
CONFIG_FILE = "config.yaml"
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
PREEMPTIBLE_TAINTS = (
    "cloud.google.com/gke-spot",
    "cloud.google.com/gke-preemptible",
    "kubernetes.azure.com/scalesetpriority",
)
LONGEST_NAME = 47  # KubeRay appends to it, up to Kubernetes' 63 characters
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[kMGTPE])?")


class _Readable(yaml.SafeDumper):
    """Writes YAML for review by people: block texts, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Readable.add_representer(str, _Readable.represent_str)


@dataclass(frozen=True, slots=True)
class Workers:
    """The least and most pods of a group, which autoscales where they differ."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "Workers":
        """Reads `4` or `0:8`."""
        least, _, most = text.partition(":")
        try:
            workers = cls(int(least), int(most or least))
        except ValueError:
            raise UserError(f"cannot read {text!r} as a number of pods: write 4, or 0:8 to autoscale") from None
        if not 0 <= workers.least <= workers.most:
            raise UserError(f"{text!r} pods: the first number must be at least 0, the second at least the first")
        return workers


@dataclass(frozen=True, slots=True)
class KubeRayJob:
    """What is requested from Kubernetes. The keys of each `secret` become environment variables of every pod.

    `gpu_workers` and `decode_workers` count pods; a GPU pod has `gpus` GPUs, a decode pod none.
    """

    image: str = ""
    name: str = "latentmill"
    namespace: str = "default"
    gpu_workers: str = "1"
    gpus: int = 1
    gpu_cpu: int = 12
    gpu_memory: str = "64Gi"
    decode_workers: str = "0"
    decode_cpu: int = 16
    decode_memory: str = "32Gi"
    preemptible: bool = False
    retries: int = 3
    secret: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.image:
            raise UserError(
                "--on kuberay needs --image: the image that jobs/docker/Dockerfile builds, in your registry"
            )
        if len(self.name) > LONGEST_NAME or not NAME.fullmatch(self.name):
            raise UserError(
                f"--name {self.name}: use at most {LONGEST_NAME} characters, lower-case letters, digits and dashes, "
                "beginning with a letter and not ending with a dash"
            )
        for option, memory in (("--gpu-memory", self.gpu_memory), ("--decode-memory", self.decode_memory)):
            if not QUANTITY.fullmatch(memory):
                raise UserError(f"{option} {memory}: write memory as Kubernetes does, such as 64Gi or 64G")
        if self.retries < 0:
            raise UserError(f"--retries {self.retries}: write 0 or more")

    def manifests(self, config: Config) -> str:
        """A ConfigMap with the configuration and the RayJob that runs it, as YAML for `kubectl create`."""
        most = Workers.parse(self.gpu_workers).most * self.gpus
        here: dict[str, Any] = {"runtime.address": "auto"}
        if config.runtime.replicas == "auto":  # an autoscaler adds only the GPUs that are requested
            here["runtime.replicas"] = {"min": most, "max": most}
        text = yaml.safe_dump(config.replaced(here).model_dump(mode="json"), sort_keys=False)
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(),
            "data": {CONFIG_FILE: text},
        }
        job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": self._metadata(), "spec": self._spec()}
        return yaml.dump_all([config_map, job], Dumper=_Readable, sort_keys=False)

    def _metadata(self) -> dict[str, Any]:
        return {"name": self.name, "namespace": self.namespace, "labels": {"app.kubernetes.io/name": "latentmill"}}

    def _spec(self) -> dict[str, Any]:
        return {
            "entrypoint": " ".join(run_command(f"{CONFIG_FOLDER}/{CONFIG_FILE}")),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": self.retries,
            "rayClusterSpec": self._cluster(),
        }

    def _cluster(self) -> dict[str, Any]:
        gpu, decode = Workers.parse(self.gpu_workers), Workers.parse(self.decode_workers)
        groups = [self._group("gpu", gpu, self._limits(self.gpu_cpu, self.gpu_memory, self.gpus))]
        if decode.most:
            groups.append(self._group("decode", decode, self._limits(self.decode_cpu, self.decode_memory)))
        return {
            "rayVersion": metadata.version("ray"),
            "enableInTreeAutoscaling": any(workers.least < workers.most for workers in (gpu, decode)),
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0"},  # only the run's own loop runs there
                "template": self._pod("ray-head", self._limits(4, "16Gi"), [], [_config_mount()], self._volumes()),
            },
            "workerGroupSpecs": groups,
        }

    def _group(self, name: str, workers: Workers, limits: dict[str, Any]) -> dict[str, Any]:
        tolerations = [GPU_TOLERATION] if name == "gpu" else []
        if self.preemptible:
            tolerations = [*tolerations, *({"key": taint, "operator": "Exists"} for taint in PREEMPTIBLE_TAINTS)]
        return {
            "groupName": name,
            "replicas": workers.least,
            "minReplicas": workers.least,
            "maxReplicas": workers.most,
            "rayStartParams": {},
            "template": self._pod("ray-worker", limits, tolerations, [], []),
        }

    def _pod(
        self,
        container: str,
        limits: dict[str, Any],
        tolerations: list[dict[str, str]],
        mounts: list[dict[str, Any]],
        volumes: list[dict[str, Any]],
    ) -> dict[str, Any]:
        spec = {
            "name": container,
            "image": self.image,
            "envFrom": [{"secretRef": {"name": secret}} for secret in self.secret],
            "resources": {"limits": limits, "requests": limits},
            "volumeMounts": mounts,
        }
        return {"spec": {"containers": [spec], "tolerations": tolerations, "volumes": volumes}}

    def _limits(self, cpu: int, memory: str, gpus: int = 0) -> dict[str, Any]:
        return {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": gpus} if gpus else {})

    def _volumes(self) -> list[dict[str, Any]]:
        return [{"name": "config", "configMap": {"name": self.name}}]


def _config_mount() -> dict[str, Any]:
    return {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}
