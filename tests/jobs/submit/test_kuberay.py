"""The RayJob that `submit --on kuberay` sends is one that KubeRay's schema takes, and says what was asked for."""

import copy
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from support.jobs import config_file
from support.kuberay_facts import RAY_JOB, faults
from support.paths import ROOT
from support.runs import MakeConfig

from jobs.cli import main
from jobs.submit import following, notice
from jobs.submit.kuberay import LONGEST_NAME, LONGEST_PREFIX, KubeRayJob, KubeRayState, Workers, new_name, stop_command
from jobs.submit.manifest import CONFIG_ANNOTATION, MOST_CONFIG_BYTES, manifest, patched
from jobs.submit.options import parse_options
from jobs.submit.rayjob import PACKAGES
from pipeline.config.load import Config, parse_config
from pipeline.errors import UserError

Json = dict[str, Any]


def job_of(config: Config, patch: Any = None, **options: Any) -> Json:
    job: Json = yaml.safe_load(
        manifest(KubeRayJob(**{"image": "registry/latentmill:1"} | options), config, "a-1", patch)
    )
    return job


def cluster_of(job: Json) -> Json:
    cluster: Json = job["spec"]["rayClusterSpec"]
    return cluster


def templates_of(job: Json) -> list[Json]:
    """The templates of every pod of a job: the submitter's, the head's, those of the workers."""
    groups = [cluster_of(job)["headGroupSpec"], *cluster_of(job)["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def pods_of(job: Json) -> list[Json]:
    return [template["spec"] for template in templates_of(job)]


def container_of(pod: Json) -> Json:
    (container,) = pod["containers"]
    return dict(container)


def held_by(job: Json) -> Config:
    """The configuration in a job, as the head's pod reads it."""
    head = cluster_of(job)["headGroupSpec"]["template"]
    return parse_config(yaml.safe_load(head["metadata"]["annotations"][CONFIG_ANNOTATION]))


EVERYTHING = {
    "name": "night",
    "namespace": "video",
    "gpu_workers": "2:8",
    "gpus": 4,
    "decode_workers": "0:3",
    "ephemeral_storage": "200Gi",
    "preemptible": True,
    "retries": 5,
    "keep_seconds": 600,
    "secret": ("s3-keys",),
    "pvc": ("videos:/videos", "latents:/latents"),
    "label": ("kueue.x-k8s.io/queue-name=gpus", "kueue.x-k8s.io/priority-class=low"),
    "node_selector": ("pool=spot",),
    "image_pull_secret": ("registry",),
    "service_account": "precompute",
    "priority_class": "low",
}


# --- the schema


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["least", "everything"])
def test_the_job_is_what_the_schema_takes(make_config: MakeConfig, options: Json) -> None:
    assert faults(job_of(make_config(), **options), RAY_JOB) == []


CLUSTER = ".spec.rayClusterSpec"
HEAD_POD = f"{CLUSTER}.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec.update(backOffLimit=3), ".spec.backOffLimit is unknown"),
        (lambda spec: spec.update(backoffLimit="3"), ".spec.backoffLimit is '3'"),
        (lambda spec: spec.update(backoffLimit=True), ".spec.backoffLimit is True"),
        (lambda spec: spec.update(submissionMode="K8SJobMode"), ".spec.submissionMode is 'K8SJobMode'"),
        (lambda spec: spec.pop("entrypoint"), ".spec.entrypoint is missing"),
        (lambda spec: spec["rayClusterSpec"].update(auth={}), f"{CLUSTER}.auth is unknown"),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus is 0",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
            f"{CLUSTER}.workerGroupSpecs[0].maxReplicas is missing",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(serviceAccount="a"),
            f"{HEAD_POD}.serviceAccount is unknown",
        ),
        (
            lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"][
                "limits"
            ].update(memory="64GB"),
            f"{HEAD_POD}.containers[0].resources.limits.memory is '64GB'",
        ),
    ],
)
def test_the_schema_finds_what_kuberay_would_refuse(
    make_config: MakeConfig, change: Callable[[Json], object], said: str
) -> None:
    spoilt = copy.deepcopy(job_of(make_config()))
    change(spoilt["spec"])
    assert faults(spoilt, RAY_JOB) == [said]


@pytest.mark.parametrize("memory", ["64Gi", "1.5Ti", "500M", "68719476736"])
def test_memory_that_we_take_is_memory_that_kubernetes_takes(make_config: MakeConfig, memory: str) -> None:
    assert faults(job_of(make_config(), gpu_memory=memory), RAY_JOB) == []


# --- the configuration and the job's name


def test_a_job_holds_its_configuration_and_reads_no_other(make_config: MakeConfig) -> None:
    config = make_config()
    job = job_of(config, namespace="video")
    assert (job["kind"], job["metadata"]["name"], job["metadata"]["namespace"]) == ("RayJob", "a-1", "video")
    held = held_by(job)
    assert held.model_copy(update={"runtime": config.runtime}) == config
    assert held.runtime.address == "auto"
    assert held.runtime.replica_bounds == (1, 1)
    assert job["spec"]["entrypoint"] == "python -m jobs run /etc/latentmill/config.yaml"
    head = cluster_of(job)["headGroupSpec"]["template"]["spec"]
    (file,) = head["volumes"][0]["downwardAPI"]["items"]
    assert file == {"path": "config.yaml", "fieldRef": {"fieldPath": f"metadata.annotations['{CONFIG_ANNOTATION}']"}}
    assert head["containers"][0]["volumeMounts"] == [
        {"name": "config", "mountPath": "/etc/latentmill", "readOnly": True}
    ]


def test_one_object_is_sent_so_that_nothing_of_an_earlier_job_can_be_run(make_config: MakeConfig) -> None:
    text = manifest(KubeRayJob(image="x"), make_config(), "a-1")
    (job,) = yaml.safe_load_all(text)
    assert job["kind"] == "RayJob"
    assert "configMap" not in text


def test_every_submission_has_a_name_of_its_own_that_kubernetes_takes() -> None:
    names = {new_name("n" * LONGEST_PREFIX) for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"[a-z][-a-z0-9]*[a-z0-9]", name) and len(name) == LONGEST_NAME for name in names)


def test_a_configuration_that_no_object_can_hold_is_refused(make_config: MakeConfig) -> None:
    shards = [f"s3://bucket/{'x' * 90}-{number}.tar" for number in range(MOST_CONFIG_BYTES // 100)]
    with pytest.raises(UserError, match="write long lists of shards to a file"):
        job_of(make_config().replaced({"input.shards": shards}))


# --- the job


def test_a_cluster_lives_as_long_as_its_job_and_little_longer(make_config: MakeConfig) -> None:
    spec = job_of(make_config(), keep_seconds=600)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] == 600
    assert spec["submissionMode"] == "K8sJobMode"  # whose pod keeps the log of the run when the cluster is gone


def test_a_failed_job_is_started_again_only_where_that_is_asked_for(make_config: MakeConfig) -> None:
    assert job_of(make_config())["spec"]["backoffLimit"] == 0  # KubeRay cannot tell exit codes apart
    assert job_of(make_config(), retries=3)["spec"]["backoffLimit"] == 3


def test_ray_asks_for_a_token_that_kuberay_makes(make_config: MakeConfig) -> None:
    cluster = cluster_of(job_of(make_config()))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__


def test_the_head_pod_neither_encodes_nor_decodes(make_config: MakeConfig) -> None:
    head = cluster_of(job_of(make_config()))["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert "nvidia.com/gpu" not in container_of(head["template"]["spec"])["resources"]["limits"]


def test_gpu_pods_have_the_resources_requested(make_config: MakeConfig) -> None:
    options = {"gpu_workers": "2:8", "gpus": 4, "gpu_cpu": 48, "gpu_memory": "256Gi", "ephemeral_storage": "200Gi"}
    job = job_of(make_config(), **options)
    assert held_by(job).runtime.replica_bounds == (32, 32)
    (gpu,) = cluster_of(job)["workerGroupSpecs"]
    assert (gpu["groupName"], gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == ("gpu", 2, 2, 8)
    limits = {"cpu": 48, "memory": "256Gi", "nvidia.com/gpu": 4, "ephemeral-storage": "200Gi"}
    container = container_of(gpu["template"]["spec"])
    assert container["resources"] == {"limits": limits, "requests": limits}
    assert container["image"] == "registry/latentmill:1"
    assert [taint["key"] for taint in gpu["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def test_decode_pods_are_a_group_of_their_own_without_gpus(make_config: MakeConfig) -> None:
    job = job_of(make_config(), decode_workers="0:4", decode_cpu=32, decode_memory="64Gi", node_selector=("pool=gpu",))
    gpu, decode = cluster_of(job)["workerGroupSpecs"]
    assert (decode["groupName"], decode["minReplicas"], decode["maxReplicas"]) == ("decode", 0, 4)
    pod = decode["template"]["spec"]
    assert container_of(pod)["resources"]["limits"] == {"cpu": 32, "memory": "64Gi"}
    assert pod["tolerations"] == []
    assert gpu["template"]["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert "nodeSelector" not in pod


@pytest.mark.parametrize(("workers", "autoscales"), [("4", False), ("0:4", True), ("4:4", False)])
def test_a_group_that_may_grow_turns_the_autoscaler_on(make_config: MakeConfig, workers: str, autoscales: bool) -> None:
    assert cluster_of(job_of(make_config(), gpu_workers=workers))["enableInTreeAutoscaling"] is autoscales


def test_preemptible_pods_tolerate_the_taints_of_spot_nodes(make_config: MakeConfig) -> None:
    job = job_of(make_config(), preemptible=True, decode_workers="1")
    for group in cluster_of(job)["workerGroupSpecs"]:
        keys = {taint["key"] for taint in group["template"]["spec"]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= keys


def test_a_pod_that_is_stopped_has_its_node_drained_first(make_config: MakeConfig) -> None:
    for group in cluster_of(job_of(make_config(), decode_workers="1"))["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        command = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", notice.__name__]
        assert pod["terminationGracePeriodSeconds"] == 120


def test_replicas_of_a_machine_are_those_among_its_processes(tmp_path: Path) -> None:
    for number, command in enumerate((b"ray::Replica.run\0", b"ray::IDLE\0", b"bash\0-c\0ray::Replica\0", b"")):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "cmdline").write_bytes(command)
    assert notice.replicas_here(tmp_path) == 1


def test_secrets_are_named_and_never_written(make_config: MakeConfig) -> None:
    _, *ray_pods = pods_of(job_of(make_config(), secret=("s3-keys", "hub-token"), decode_workers="1"))
    for pod in ray_pods:
        references = [{"secretRef": {"name": name}} for name in ("s3-keys", "hub-token")]
        assert container_of(pod)["envFrom"] == references


def test_claims_are_mounted_in_every_pod_of_ray(make_config: MakeConfig) -> None:
    _, *ray_pods = pods_of(job_of(make_config(), pvc=("videos:/videos", "latents:/data/out"), decode_workers="1"))
    for pod in ray_pods:
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        mounts = {claims.get(mount["name"]): mount["mountPath"] for mount in container_of(pod)["volumeMounts"]}
        assert {"videos": "/videos", "latents": "/data/out"}.items() <= mounts.items()


def test_every_pod_is_one_that_the_restricted_profile_takes(make_config: MakeConfig) -> None:
    job = job_of(make_config(), **EVERYTHING)
    security = [container_of(pod)["securityContext"] for pod in pods_of(job)]
    security.append(cluster_of(job)["autoscalerOptions"]["securityContext"])
    for container in security:
        assert container["allowPrivilegeEscalation"] is False
        assert container["capabilities"] == {"drop": ["ALL"]}
    for pod in pods_of(job):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume.keys() - {"name"}}
        assert kinds <= {"downwardAPI", "persistentVolumeClaim"}


def test_every_pod_has_the_account_the_priority_and_the_pull_secrets(make_config: MakeConfig) -> None:
    for pod in pods_of(job_of(make_config(), **EVERYTHING)):
        assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("precompute", "low")
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    for pod in pods_of(job_of(make_config())):
        assert not {"serviceAccountName", "priorityClassName"} & pod.keys()


def test_labels_of_a_queue_are_those_of_the_job(make_config: MakeConfig) -> None:
    labels = job_of(make_config(), **EVERYTHING)["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["app.kubernetes.io/name"] == "latentmill"


def test_the_image_runs_as_a_user_without_rights_and_holds_every_package() -> None:
    lines = (ROOT / "jobs" / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert any(line.startswith("FROM nvidia/cuda:") for line in lines)
    for package in PACKAGES:
        assert f"COPY {package} {package}" in lines


# --- patches


def test_a_patch_has_the_last_word_and_finds_groups_and_containers_by_their_names(make_config: MakeConfig) -> None:
    env = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    container = {"name": "ray-worker", "env": env}
    group = {"groupName": "gpu", "template": {"spec": {"containers": [container]}}}
    cluster = {"authOptions": None, "workerGroupSpecs": [group]}
    patch = {"spec": {"activeDeadlineSeconds": 3600, "rayClusterSpec": cluster}}
    plain, job = job_of(make_config(), decode_workers="1"), job_of(make_config(), patch, decode_workers="1")
    assert faults(job, RAY_JOB) == []
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    assert "authOptions" not in cluster_of(job)
    gpu, decode = cluster_of(job)["workerGroupSpecs"]
    assert container_of(gpu["template"]["spec"]) == container_of(pods_of(plain)[2]) | {"env": env}
    assert decode == cluster_of(plain)["workerGroupSpecs"][1]


def test_entries_that_a_patch_adds_come_last_and_lists_without_names_are_replaced() -> None:
    assert patched([{"name": "a", "x": 1}], [{"name": "b"}, {"name": "a", "y": 2}]) == [
        {"name": "a", "x": 1, "y": 2},
        {"name": "b"},
    ]
    assert patched({"drop": ["ALL"]}, {"drop": ["NET_RAW"]}) == {"drop": ["NET_RAW"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spec: [", "is not YAML"),
        ("- 1", "write what to change below metadata and spec"),
        ("rayClusterSpec: {}", "write what to change below metadata and spec"),
        ("metadata: {name: b}", "use --name and --namespace"),
        (None, "No such file"),
    ],
)
def test_a_patch_that_cannot_be_merged_is_refused(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    patch = tmp_path / "patch.yaml"
    if text is not None:
        patch.write_text(text)
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", path, "--on", "kuberay", "--image", "x", "--patch", str(patch), "--dry-run"]) == 2
    assert said in capsys.readouterr().err


# --- options


@pytest.mark.parametrize(("text", "workers"), [("4", Workers(4, 4)), ("0:8", Workers(0, 8))])
def test_a_number_of_pods_may_be_a_range(text: str, workers: Workers) -> None:
    assert Workers.parse(text) == workers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpu_workers": "0"}, "--gpu-workers 0: at least one pod must encode"),
        ({"gpu_workers": "many"}, "--gpu-workers many: cannot read it as a number of pods"),
        ({"decode_workers": "4:2"}, "--decode-workers 4:2: the first number of pods"),
        ({"gpus": "0"}, "--gpus 0: input should be greater than or equal to 1"),
        ({"name": "Night"}, f"--name Night: use at most {LONGEST_PREFIX} characters"),
        ({"name": "n" * (LONGEST_PREFIX + 1)}, f"at most {LONGEST_PREFIX} characters"),
        ({"gpu_memory": "64GB"}, "--gpu-memory 64GB: write an amount as Kubernetes does"),
        ({"retries": "-1"}, "--retries -1: input should be greater than or equal to 0"),
        ({"secret": ["S3"]}, "--secret: 'S3' names nothing in Kubernetes"),
        ({"pvc": ["videos"]}, "--pvc: cannot read 'videos': write a claim and where it is mounted"),
        ({"label": ["gpus"]}, "--label: cannot read 'gpus': write a label and its value"),
        ({"node_selector": ["pool:spot"]}, "--node-selector: cannot read 'pool:spot'"),
        ({"image": ""}, "--on kuberay needs --image"),
    ],
)
def test_options_that_kubernetes_would_refuse_are_refused_here(options: Json, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_options(KubeRayJob, {"image": "x"} | options)
    assert said in str(refused.value)


# --- what KubeRay says of a job, and a stand-in for kubectl


def shown(deployment: str, job: str = "", message: str = "") -> Json:
    head = {"podName": "a-1-head"}
    status = {"jobDeploymentStatus": deployment, "jobStatus": job, "message": message, "jobId": "a-1-x"}
    return {"status": status | {"rayClusterStatus": {"head": head}}}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (shown("Complete", "SUCCEEDED"), 0),
        (shown("Complete", "STOPPED"), 143),
        (shown("Failed", "FAILED", "Job entrypoint command failed with exit code 2, last available logs ..."), 2),
        (shown("Failed", "", "the submitter failed"), 1),
    ],
)
def test_a_followed_kuberay_job_ends_with_the_exit_code_of_its_run(status: Json, code: int) -> None:
    state = KubeRayState.parse(json.dumps(status))
    assert state.ended
    assert state.run_exit_code == code


def test_a_job_without_a_status_yet_is_new() -> None:
    state = KubeRayState.parse("{}")
    assert (str(state), state.ended, state.has_log) == ("New", False, False)


def test_a_running_job_is_stopped_so_that_its_log_stays_and_one_before_that_is_deleted() -> None:
    running = KubeRayState.parse(json.dumps(shown("Running", "RUNNING")))
    command = stop_command("video", "a-1", running)
    assert command[:5] == ["kubectl", "--namespace=video", "exec", "a-1-head", "--container=ray-head"]
    assert command[-5:] == ["ray", "job", "stop", "--address=http://127.0.0.1:8265", "a-1-x"]
    waiting = KubeRayState.parse(json.dumps(shown("Initializing")))
    assert stop_command("video", "a-1", waiting)[2:] == ["delete", "rayjob", "a-1"]


KUBECTL = """#!/bin/bash
cd {folder}
echo "$*" >> commands
case "$*" in
  *create*) cat > sent.yaml; echo "rayjob.ray.io/made created" ;;
  *"get rayjob unknown"*) echo 'Error from server (NotFound): rayjobs.ray.io "unknown" not found' >&2; exit 1 ;;
  *get*)
    next=$(ls answers | head -1); cat "answers/$next"
    if [ "$(ls answers | wc -l)" -gt 1 ]; then rm "answers/$next"; fi ;;
  *logs*) echo "2 shards done, 0 left" ;;
esac
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kubectl that notes its commands, and says of a job what `answers/*` hold, one after the other."""
    (tmp_path / "answers").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text(KUBECTL.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(following, "POLL_SECONDS", 0)
    return tmp_path


def say_in_turn(folder: Path, *answers: Json) -> None:
    for number, told in zip(itertools.count(), answers, strict=False):
        (folder / "answers" / f"{number}.json").write_text(json.dumps(told))


def test_a_kuberay_job_is_followed_to_its_end_with_its_log(
    kubectl: Path, make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = shown("Failed", "FAILED", "Job entrypoint command failed with exit code 1. No logs available.")
    say_in_turn(kubectl, {}, shown("Initializing"), shown("Initializing"), shown("Running", "RUNNING"), failed)
    path = config_file(make_config(), kubectl / "c.yaml")
    assert main(["submit", path, "--on", "kuberay", "--image", "x", "--name", "night"]) == 1
    name = yaml.safe_load((kubectl / "sent.yaml").read_text())["metadata"]["name"]
    assert name.startswith("night-")
    made, *lines = capfd.readouterr().out.splitlines()
    assert made == "rayjob.ray.io/made created"
    assert lines[:3] == [f"{name}: New", f"{name}: Initializing", f"{name}: Running RUNNING"]
    assert lines[3] == "2 shards done, 0 left"
    assert lines[4].startswith(f"{name}: Failed FAILED: Job entrypoint")
    assert f"--namespace=default logs --follow job/{name}" in (kubectl / "commands").read_text()


def test_a_job_that_is_started_again_is_followed_with_its_new_log(kubectl: Path, make_config: MakeConfig) -> None:
    running, done = shown("Running", "RUNNING"), shown("Complete", "SUCCEEDED")
    say_in_turn(kubectl, running, running, shown("Retrying"), running, done)
    path = config_file(make_config(), kubectl / "c.yaml")
    assert main(["submit", path, "--on", "kuberay", "--image", "x", "--retries", "1"]) == 0
    asked = [line.split() for line in (kubectl / "commands").read_text().splitlines()]
    logs = ["--since=5s" in words for words in asked if "logs" in words]
    assert logs == [False, True, False]


def test_a_kuberay_job_can_be_asked_and_stopped(kubectl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    say_in_turn(kubectl, shown("Running", "RUNNING"))
    assert main(["submit", "--on", "kuberay", "--namespace", "video", "--status", "night-1"]) == 0
    assert capfd.readouterr().out == "night-1: Running RUNNING\n"
    assert main(["submit", "--on", "kuberay", "--namespace", "video", "--stop", "night-1"]) == 0
    assert "ray job stop" in (kubectl / "commands").read_text()


def test_a_job_that_kubernetes_does_not_have_is_named(kubectl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--on", "kuberay", "--stop", "unknown"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == 'latentmill: kubectl: Error from server (NotFound): rayjobs.ray.io "unknown" not found'
