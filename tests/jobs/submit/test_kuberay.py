"""The RayJob that `submit --on kuberay` sends is one that KubeRay's schema takes, and each of its fields says what is
meant."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
import yaml
from support.runs import MakeConfig

from jobs.submit.kuberay import KubeRayJob, Workers
from pipeline.config.load import parse_config


@dataclass(frozen=True)
class Fields:
    """An object that has these fields and no others; the required ones must be there."""

    known: dict[str, Any]
    required: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True)
class MapOf:
    """An object with any keys."""

    value: Any


def fields(*required: str, **known: Any) -> Fields:
    return Fields(known, frozenset(required))


# The fields that we send, as the CustomResourceDefinition of KubeRay has them: ray-project/kuberay, below ray-operator
# apis/ray/v1/rayjob_types.go and raycluster_types.go, of which config/crd/bases/ray.io_rayjobs.yaml is made, with
# Kubernetes' own types inside pods. A list of one schema is a list of such values.
INTEGER, STRING, BOOLEAN = int, str, bool
QUANTITY = "quantity"  # int or string; the pattern is the CRD's own
QUANTITY_PATTERN = (
    r"(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?"
)
CONTAINER = fields(
    "name",
    name=STRING,
    image=STRING,
    envFrom=[fields(secretRef=fields(name=STRING))],
    resources=fields(limits=MapOf(QUANTITY), requests=MapOf(QUANTITY)),
    volumeMounts=[fields("mountPath", "name", name=STRING, mountPath=STRING, readOnly=BOOLEAN)],
)
POD = fields(
    spec=fields(
        "containers",
        containers=[CONTAINER],
        tolerations=[fields(key=STRING, operator=STRING, effect=STRING)],
        volumes=[fields("name", name=STRING, configMap=fields(name=STRING))],
    )
)
HEAD = fields("template", rayStartParams=MapOf(STRING), template=POD)
WORKERS = fields(
    *("groupName", "maxReplicas", "minReplicas", "template"),
    groupName=STRING,
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    rayStartParams=MapOf(STRING),
    template=POD,
)
METADATA = fields(name=STRING, namespace=STRING, labels=MapOf(STRING))
RAY_JOB = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion=STRING,
    kind=STRING,
    metadata=METADATA,
    spec=fields(
        "entrypoint",
        entrypoint=STRING,
        submissionMode=STRING,
        shutdownAfterJobFinishes=BOOLEAN,
        backoffLimit=INTEGER,
        rayClusterSpec=fields(
            "headGroupSpec",
            rayVersion=STRING,
            enableInTreeAutoscaling=BOOLEAN,
            headGroupSpec=HEAD,
            workerGroupSpecs=[WORKERS],
        ),
    ),
)
CONFIG_MAP = fields(*("apiVersion", "kind"), apiVersion=STRING, kind=STRING, metadata=METADATA, data=MapOf(STRING))


def faults(value: Any, schema: Any, at: str = "") -> list[str]:
    """Where a value is not what its schema says."""
    match schema:
        case Fields() if isinstance(value, dict):
            missing = [f"{at}.{name} is missing" for name in schema.required - value.keys()]
            unknown = [f"{at}.{name} is unknown" for name in value.keys() - schema.known.keys()]
            known = [name for name in value if name in schema.known]
            return (
                missing
                + unknown
                + [f for name in known for f in faults(value[name], schema.known[name], f"{at}.{name}")]
            )
        case MapOf() if isinstance(value, dict):
            wrong = [f"{at} has a key that is no string" for key in value if not isinstance(key, str)]
            return wrong + [f for key in value for f in faults(value[key], schema.value, f"{at}.{key}")]
        case [item] if isinstance(value, list):
            return [f for number, one in enumerate(value) for f in faults(one, item, f"{at}[{number}]")]
        case "quantity" if type(value) in (int, str) and re.fullmatch(QUANTITY_PATTERN, str(value)):
            return []
        case type() if type(value) is schema:
            return []
    return [f"{at} is {value!r}"]


def documents(make_config: MakeConfig, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    job = KubeRayJob(**{"image": "registry/latentmill:1"} | options)
    config_map, ray_job = yaml.safe_load_all(job.manifests(make_config()))
    return config_map, ray_job


EVERYTHING = {
    "name": "night",
    "namespace": "video",
    "gpu_workers": "2:8",
    "gpus": 4,
    "decode_workers": "0:3",
    "preemptible": True,
    "retries": 5,
    "secret": ("s3-keys",),
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["least", "everything"])
def test_the_documents_are_what_the_schemas_take(make_config: MakeConfig, options: dict[str, Any]) -> None:
    config_map, job = documents(make_config, **options)
    assert faults(config_map, CONFIG_MAP) == []
    assert faults(job, RAY_JOB) == []


def spoil(change: Callable[[dict[str, Any]], object], job: dict[str, Any]) -> dict[str, Any]:
    spoilt = copy.deepcopy(job)
    change(spoilt["spec"])
    return spoilt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.update(backOffLimit=3), ".spec.backOffLimit is unknown"),
        (lambda spec: spec.update(backoffLimit="3"), ".spec.backoffLimit is '3'"),
        (lambda spec: spec.update(backoffLimit=True), ".spec.backoffLimit is True"),
        (lambda spec: spec.pop("entrypoint"), ".spec.entrypoint is missing"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            ".spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus is 0",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
            ".spec.rayClusterSpec.workerGroupSpecs[0].maxReplicas is missing",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"][
                "limits"
            ].update(memory="64GB"),
            ".spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].resources.limits.memory is '64GB'",
        ),
    ],
)
def test_the_schema_finds_what_kuberay_would_refuse(
    make_config: MakeConfig, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    assert faults(spoil(change, documents(make_config)[1]), RAY_JOB) == [said]


def pod(
    container: str, limits: dict[str, Any], tolerations: list[dict[str, str]], config: str | None
) -> dict[str, Any]:
    mounts = [{"name": "config", "mountPath": "/etc/latentmill", "readOnly": True}] if config else []
    spec = {
        "name": container,
        "image": "registry/latentmill:1",
        "envFrom": [{"secretRef": {"name": "s3-keys"}}],
        "resources": {"limits": limits, "requests": limits},
        "volumeMounts": mounts,
    }
    volumes = [{"name": "config", "configMap": {"name": config}}] if config else []
    return {"spec": {"containers": [spec], "tolerations": tolerations, "volumes": volumes}}


def test_every_field_of_a_job_says_what_was_asked_for(make_config: MakeConfig) -> None:
    spot = [
        {"key": "cloud.google.com/gke-spot", "operator": "Exists"},
        {"key": "cloud.google.com/gke-preemptible", "operator": "Exists"},
        {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Exists"},
    ]
    gpu_taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    metadata = {"name": "night", "namespace": "video", "labels": {"app.kubernetes.io/name": "latentmill"}}
    config_map, job = documents(make_config, **EVERYTHING)
    text = config_map.pop("data")
    assert config_map == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    assert text.keys() == {"config.yaml"}
    assert parse_config(yaml.safe_load(text["config.yaml"])).runtime.replica_bounds == (32, 32)
    assert job == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": "python -m jobs run /etc/latentmill/config.yaml",
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": 5,
            "rayClusterSpec": {
                "rayVersion": ray.__version__,
                "enableInTreeAutoscaling": True,
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0"},
                    "template": pod("ray-head", {"cpu": 4, "memory": "16Gi"}, [], "night"),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "gpu",
                        "replicas": 2,
                        "minReplicas": 2,
                        "maxReplicas": 8,
                        "rayStartParams": {},
                        "template": pod(
                            "ray-worker",
                            {"cpu": 12, "memory": "64Gi", "nvidia.com/gpu": 4},
                            [gpu_taint, *spot],
                            None,
                        ),
                    },
                    {
                        "groupName": "decode",
                        "replicas": 0,
                        "minReplicas": 0,
                        "maxReplicas": 3,
                        "rayStartParams": {},
                        "template": pod("ray-worker", {"cpu": 16, "memory": "32Gi"}, spot, None),
                    },
                ],
            },
        },
    }


@pytest.mark.parametrize(("text", "workers"), [("4", Workers(4, 4)), ("0:8", Workers(0, 8))])
def test_a_number_of_pods_may_be_a_range(text: str, workers: Workers) -> None:
    assert Workers.parse(text) == workers


@pytest.mark.parametrize("memory", ["64Gi", "1.5Ti", "500M", "68719476736"])
def test_memory_that_we_take_is_memory_that_kubernetes_takes(make_config: MakeConfig, memory: str) -> None:
    assert faults(documents(make_config, gpu_memory=memory)[1], RAY_JOB) == []
