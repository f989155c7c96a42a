"""What KubeRay 1.6 and Kubernetes 1.32 take in a RayJob: the fields' names and types, written down for the tests.

Only fields that a job of ours may use are listed, so that a misspelt field is unknown here as it would be on a cluster.
Read from the API references of `ray.io/v1` and of Kubernetes' core/v1. `authOptions` came with KubeRay 1.5.1.
"""

import re
from dataclasses import dataclass, field
from typing import Any

KUBERAY = "1.6"
KUBERNETES = "1.32"


@dataclass(frozen=True)
class Fields:
    """An object that has these fields and no others; the required ones must be there."""

    known: dict[str, Any]
    required: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True)
class MapOf:
    """An object with any keys."""

    value: Any


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: frozenset[str]


def fields(*required: str, **known: Any) -> Fields:
    return Fields(known, frozenset(required))


def one_of(*words: str) -> OneOf:
    return OneOf(frozenset(words))


# A list of one schema is a list of such values.
INTEGER, STRING, BOOLEAN = int, str, bool
QUANTITY = "quantity"  # an integer, or a text such as 64Gi, 1.5, 100m or 1e3
QUANTITY_PATTERN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?(\d+(\.\d*)?|\.\d+))?")
SECCOMP = fields("type", type=one_of("RuntimeDefault", "Localhost", "Unconfined"), localhostProfile=STRING)
CONTAINER_SECURITY = fields(
    allowPrivilegeEscalation=BOOLEAN,
    capabilities=fields(add=[STRING], drop=[STRING]),
    privileged=BOOLEAN,
    readOnlyRootFilesystem=BOOLEAN,
    runAsNonRoot=BOOLEAN,
    runAsUser=INTEGER,
    runAsGroup=INTEGER,
    seccompProfile=SECCOMP,
)
POD_SECURITY = fields(
    runAsNonRoot=BOOLEAN, runAsUser=INTEGER, runAsGroup=INTEGER, fsGroup=INTEGER, seccompProfile=SECCOMP
)
RESOURCES = fields(limits=MapOf(QUANTITY), requests=MapOf(QUANTITY))
CONTAINER = fields(
    "name",
    name=STRING,
    image=STRING,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    env=[fields("name", name=STRING, value=STRING)],
    envFrom=[fields(secretRef=fields(name=STRING))],
    lifecycle=fields(preStop=fields(exec=fields(command=[STRING]))),
    resources=RESOURCES,
    securityContext=CONTAINER_SECURITY,
    volumeMounts=[fields("mountPath", "name", name=STRING, mountPath=STRING, readOnly=BOOLEAN)],
)
POD_FIELD = fields("path", path=STRING, fieldRef=fields("fieldPath", fieldPath=STRING))
VOLUME = fields(
    "name",
    name=STRING,
    downwardAPI=fields(items=[POD_FIELD]),
    persistentVolumeClaim=fields("claimName", claimName=STRING, readOnly=BOOLEAN),
)
POD = fields(
    metadata=fields(annotations=MapOf(STRING), labels=MapOf(STRING)),
    spec=fields(
        "containers",
        containers=[CONTAINER],
        imagePullSecrets=[fields(name=STRING)],
        nodeSelector=MapOf(STRING),
        priorityClassName=STRING,
        restartPolicy=one_of("Always", "OnFailure", "Never"),
        securityContext=POD_SECURITY,
        serviceAccountName=STRING,
        terminationGracePeriodSeconds=INTEGER,
        tolerations=[
            fields(
                key=STRING,
                operator=one_of("Exists", "Equal"),
                effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            )
        ],
        volumes=[VOLUME],
    ),
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
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=STRING,
    authOptions=fields(mode=one_of("disabled", "token"), secretName=STRING, enableK8sTokenAuth=BOOLEAN),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=fields(
        idleTimeoutSeconds=INTEGER, image=STRING, resources=RESOURCES, securityContext=CONTAINER_SECURITY
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=[WORKERS],
)
RAY_JOB = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=fields(name=STRING, namespace=STRING, labels=MapOf(STRING), annotations=MapOf(STRING)),
    spec=fields(
        "entrypoint",
        activeDeadlineSeconds=INTEGER,
        backoffLimit=INTEGER,
        entrypoint=STRING,
        rayClusterSpec=CLUSTER,
        shutdownAfterJobFinishes=BOOLEAN,
        submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        submitterConfig=fields(backoffLimit=INTEGER),
        submitterPodTemplate=POD,
        suspend=BOOLEAN,
        ttlSecondsAfterFinished=INTEGER,
    ),
)


def faults(value: Any, schema: Any, at: str = "") -> list[str]:
    """Where a value is not what its schema says."""
    match schema:
        case Fields() if isinstance(value, dict):
            missing = [f"{at}.{name} is missing" for name in schema.required - value.keys()]
            unknown = [f"{at}.{name} is unknown" for name in value.keys() - schema.known.keys()]
            known = [name for name in value if name in schema.known]
            below = [fault for name in known for fault in faults(value[name], schema.known[name], f"{at}.{name}")]
            return missing + unknown + below
        case MapOf() if isinstance(value, dict):
            wrong = [f"{at} has a key that is no string" for key in value if not isinstance(key, str)]
            return wrong + [fault for key in value for fault in faults(value[key], schema.value, f"{at}.{key}")]
        case [item] if isinstance(value, list):
            return [fault for number, one in enumerate(value) for fault in faults(one, item, f"{at}[{number}]")]
        case OneOf() if value in schema.words:
            return []
        case "quantity" if type(value) in (int, str) and QUANTITY_PATTERN.fullmatch(str(value)):
            return []
        case type() if type(value) is schema:
            return []
    return [f"{at} is {value!r}"]
