"""A run as a KubeRay RayJob: its options, and what KubeRay says of a job. manifest.py makes what is sent."""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from jobs.submit.options import Options
from jobs.submit.rayjob import STOPPED_EXIT_CODE, exit_code
from pipeline.errors import UserError

LONGEST_NAME = 47  # KubeRay appends to it, up to Kubernetes' 63 characters
SUFFIX_BYTES = 4  # of what makes the name of each job its own: 8 characters and a dash
LONGEST_PREFIX = LONGEST_NAME - 2 * SUFFIX_BYTES - 1
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[kMGTPE])?")
LABEL = re.compile(r"([a-z0-9][-.a-z0-9]*/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?=([A-Za-z0-9][-._A-Za-z0-9]*)?")
CLAIM = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?:/[^\s:]*")


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
            raise UserError("cannot read it as a number of pods: write 4, or 0:8 to autoscale") from None
        if not 0 <= workers.least <= workers.most:
            raise UserError("the first number of pods must be at least 0, the second at least the first")
        return workers


class KubeRayJob(Options):
    """What is requested from Kubernetes. The keys of each `secret` become environment variables of the pods of Ray.

    `gpu_workers` and `decode_workers` count pods; a GPU pod has `gpus` GPUs, a decode pod none.
    """

    image: str = ""
    name: str = "latentmill"
    namespace: str = "default"
    gpu_workers: str = "1"
    gpus: int = Field(1, ge=1)
    gpu_cpu: int = Field(12, ge=1)
    gpu_memory: str = "64Gi"
    decode_workers: str = "0"
    decode_cpu: int = Field(16, ge=1)
    decode_memory: str = "32Gi"
    ephemeral_storage: str = ""
    preemptible: bool = False
    retries: int = Field(0, ge=0)
    keep_seconds: int = Field(60, ge=0)
    secret: tuple[str, ...] = ()
    pvc: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    node_selector: tuple[str, ...] = ()
    image_pull_secret: tuple[str, ...] = ()
    service_account: str = ""
    priority_class: str = ""
    patch: str = ""

    @model_validator(mode="after")
    def _an_image_is_named(self) -> "KubeRayJob":
        if not (self.image or self.stop or self.status):
            raise ValueError(
                "--on kuberay needs --image: the image that jobs/docker/Dockerfile builds, in your registry"
            )
        return self

    @field_validator("name")
    @classmethod
    def _kubernetes_takes_the_name(cls, name: str) -> str:
        if len(name) > LONGEST_PREFIX or not NAME.fullmatch(name):
            raise ValueError(
                f"use at most {LONGEST_PREFIX} characters, lower-case letters, digits and dashes, beginning with a "
                "letter and not ending with a dash"
            )
        return name

    @field_validator("gpu_workers", "decode_workers")
    @classmethod
    def _pods_can_be_counted(cls, text: str) -> str:
        Workers.parse(text)
        return text

    @field_validator("gpu_workers")
    @classmethod
    def _some_pod_encodes(cls, text: str) -> str:
        if Workers.parse(text).most == 0:
            raise ValueError("at least one pod must encode: write 1, or 0:1 to autoscale")
        return text

    @field_validator("gpu_memory", "decode_memory", "ephemeral_storage")
    @classmethod
    def _quantities_are_those_of_kubernetes(cls, quantity: str) -> str:
        if quantity and not QUANTITY.fullmatch(quantity):
            raise ValueError("write an amount as Kubernetes does, such as 64Gi or 64G")
        return quantity

    @field_validator("secret", "image_pull_secret", "service_account", "priority_class", "namespace")
    @classmethod
    def _objects_have_names_of_kubernetes(cls, names: Any) -> Any:
        for name in [names] if isinstance(names, str) else names:
            if name and not OBJECT_NAME.fullmatch(name):
                raise ValueError(f"{name!r} names nothing in Kubernetes: use lower-case letters, digits and dashes")
        return names

    @field_validator("label", "node_selector")
    @classmethod
    def _labels_have_values(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            if not LABEL.fullmatch(label):
                raise ValueError(f"cannot read {label!r}: write a label and its value, such as pool=spot")
        return labels

    @field_validator("pvc")
    @classmethod
    def _claims_have_paths(cls, claims: tuple[str, ...]) -> tuple[str, ...]:
        for claim in claims:
            if not CLAIM.fullmatch(claim):
                raise ValueError(
                    f"cannot read {claim!r}: write a claim and where it is mounted, such as videos:/videos"
                )
        return claims


def new_name(prefix: str) -> str:
    """A name of its own for each job, so that submitting again never meets an earlier one."""
    return f"{prefix}-{secrets.token_hex(SUFFIX_BYTES)}"


@dataclass(frozen=True, slots=True)
class KubeRayState:
    """What `kubectl get rayjob` says of a job: of its deployment, and of the Ray job in it."""

    deployment: str
    job: str
    message: str
    ray_job_id: str
    head_pod: str

    @classmethod
    def parse(cls, text: str) -> "KubeRayState":
        """Reads the output of `get_command`."""
        status: dict[str, Any] = json.loads(text).get("status") or {}
        head = (status.get("rayClusterStatus") or {}).get("head") or {}
        return cls(
            deployment=status.get("jobDeploymentStatus") or "New",
            job=status.get("jobStatus") or "",
            message=status.get("message") or "",
            ray_job_id=status.get("jobId") or "",
            head_pod=head.get("podName") or "",
        )

    def __str__(self) -> str:
        states = " ".join(word for word in (self.deployment, self.job) if word)
        return f"{states}: {self.message}" if self.message else states

    @property
    def ended(self) -> bool:
        return self.deployment in ("Complete", "Failed")

    @property
    def has_log(self) -> bool:
        return self.ended or self.deployment == "Running"

    @property
    def run_exit_code(self) -> int:
        """The exit code of the run, once it has ended."""
        if self.job == "STOPPED":
            return STOPPED_EXIT_CODE
        return 0 if self.job == "SUCCEEDED" else exit_code(self.message, 1)


def get_command(namespace: str, name: str) -> list[str]:
    return ["kubectl", f"--namespace={namespace}", "get", "rayjob", name, "--output=json"]


def log_command(namespace: str, name: str, again: bool) -> list[str]:
    """Follows the log of the run, which is that of the pod that submitted it; `again` leaves out what is old."""
    recent = ["--since=5s"] if again else []
    return ["kubectl", f"--namespace={namespace}", "logs", "--follow", *recent, f"job/{name}"]


def stop_command(namespace: str, name: str, state: KubeRayState) -> list[str]:
    """Stops the Ray job, so that the run ends cleanly and its log stays; before it runs, the RayJob is deleted."""
    kubectl = ["kubectl", f"--namespace={namespace}"]
    if state.deployment != "Running" or not state.head_pod:
        return [*kubectl, "delete", "rayjob", name]
    ray = ["ray", "job", "stop", "--address=http://127.0.0.1:8265", state.ray_job_id]
    return [*kubectl, "exec", state.head_pod, "--container=ray-head", "--", *ray]
