"""What `latentmill submit` sends, field by field; a Ray cluster and a real Slurm run it, stopped half way too."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT
from support.runs import MakeConfig, output_files, run_all, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from jobs.submit.kuberay import KubeRayJob
from jobs.submit.rayjob import PACKAGES, RayJob, exit_code, new_job_id, stage
from jobs.submit.slurm import SlurmJob
from pipeline.config.load import Config, load_config, parse_config
from pipeline.run import with_convolutions

SLURM_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
WAIT_SECONDS = 240


def config_file(config: Config, path: Path) -> str:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(path)


@pytest.fixture
def shards(tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    """Six shards of eight samples."""
    for number in range(6):
        write_tar(tmp_path / f"s{number}.tar", samples_of([*videos[1:], videos[number % 8]]))


def manifests(config: Config, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, job = yaml.safe_load_all(KubeRayJob(image="registry/latentmill:1", **options).manifests(config))
    return config_map, job


def cluster_of(job: dict[str, Any]) -> dict[str, Any]:
    cluster: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return cluster


def container_of(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return dict(container)


# --- ray


def test_a_ray_job_ships_our_packages_and_the_configuration_and_no_data(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    stage(tmp_path, "a: 1\n")
    assert {entry.name for entry in tmp_path.iterdir()} == {"encoder", "pipeline", "jobs", "configs", "submitted.yaml"}
    assert (tmp_path / "jobs" / "templates" / "slurm.sbatch").exists()
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_ray_job_is_sent_with_its_address_folder_and_entrypoint() -> None:
    command = RayJob(address="http://head:8265").submit_command("/staged", "latentmill-1")
    options = ["submit", "--address=http://head:8265", "--submission-id=latentmill-1", "--working-dir=/staged", "--"]
    assert command[3:] == ["job", *options, "python", "-m", "jobs", "run", "submitted.yaml"]
    assert "--no-wait" in RayJob(detach=True).submit_command("/staged", "latentmill-1")
    assert RayJob(stop="latentmill-1").stop_command()[-2:] == ["stop", "latentmill-1"]
    assert RayJob().status_command("latentmill-1")[-3:] == ["job", "status", "latentmill-1"]
    assert new_job_id() != new_job_id()


@pytest.mark.parametrize(
    ("status", "submitted", "code"),
    [
        (
            "Job 'a' failed\nStatus message: Job entrypoint command failed with exit code 2, last available logs ...",
            1,
            2,
        ),
        ("Status message: Job entrypoint command failed with exit code 1. No logs available.", 1, 1),
        ("Status message: Job entrypoint command failed with exit code -9. No logs available.", 1, 137),
        ("Job 'a' was stopped", 0, 143),
        ("Job 'a' succeeded", 0, 0),
        ("ConnectionError: no cluster", 1, 1),
    ],
)
def test_a_followed_ray_job_ends_with_the_exit_code_of_its_run(status: str, submitted: int, code: int) -> None:
    assert exit_code(status, submitted) == code


def test_a_dry_run_prints_the_configuration_that_the_cluster_would_run(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", path, "clip.fps=16", "--on", "ray", "--dry-run"]) == 0
    printed, command = capsys.readouterr().out.strip().rsplit("\n", 1)
    sent = parse_config(yaml.safe_load(printed))
    expected = load_config(path, ["clip.fps=16", "runtime.address=auto"])
    assert sent == expected
    assert "ray.scripts.scripts job submit" in command


# --- slurm


def script_of(job: SlurmJob, *overrides: str) -> str:
    return job.script("configs/demo.yaml", overrides)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (SlurmJob(nodes=3), "#SBATCH --nodes=3"),
        (SlurmJob(gpus_per_node=8), "#SBATCH --gpus-per-node=8"),
        (SlurmJob(cpus_per_task=48), "#SBATCH --cpus-per-task=48"),
        (SlurmJob(time="2-00:00:00"), "#SBATCH --time=2-00:00:00"),
        (SlurmJob(partition="spot"), "#SBATCH --partition=spot"),
        (SlurmJob(directive=("account=vision", "qos=low")), "#SBATCH --account=vision\n#SBATCH --qos=low"),
        (SlurmJob(), "#SBATCH --ntasks-per-node=1"),
        (SlurmJob(), "#SBATCH --requeue"),
        (SlurmJob(), "#SBATCH --no-kill"),
        (SlurmJob(), "#SBATCH --signal=B:TERM@120"),
        (SlurmJob(), "#SBATCH --open-mode=append"),
    ],
)
def test_every_slurm_option_becomes_a_directive(job: SlurmJob, line: str) -> None:
    directives = script_of(job).split("\n\n")[0]
    assert f"\n{line}\n" in directives


def test_a_slurm_script_leaves_out_options_that_were_not_given() -> None:
    script = script_of(SlurmJob())
    assert "gpus-per-node" not in script
    assert "partition" not in script


def test_a_slurm_script_tells_ray_what_each_node_has_and_runs_the_configuration_from_any_folder() -> None:
    script = script_of(SlurmJob(gpus_per_node=8, cpus_per_task=48), "clip.buckets=[64x64, 32x32]")
    assert script.count("--num-cpus=48 --num-gpus=8") == 2
    (run,) = (line for line in script.splitlines() if "jobs run" in line)
    words = shlex.split(run)
    assert words[:4] == ["python", "-m", "jobs", "run"]
    assert words[4] == os.path.abspath("configs/demo.yaml")
    assert words[5] == "clip.buckets=[64x64, 32x32]"


def test_a_slurm_script_is_one_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n"], input=script_of(SlurmJob(nodes=2), "a.b='c d'"), text=True, check=True)


# --- kuberay


def test_a_kuberay_job_runs_the_configuration_that_its_config_map_holds(make_config: MakeConfig) -> None:
    config = make_config()
    config_map, job = manifests(config, name="night", namespace="video")
    for document in (config_map, job):
        assert (document["metadata"]["name"], document["metadata"]["namespace"]) == ("night", "video")
    assert (config_map["apiVersion"], config_map["kind"]) == ("v1", "ConfigMap")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    held = parse_config(yaml.safe_load(config_map["data"]["config.yaml"]))
    assert held.model_copy(update={"runtime": config.runtime}) == config
    assert held.runtime.address == "auto"
    assert held.runtime.replica_bounds == (1, 1)
    assert job["spec"]["entrypoint"] == "python -m jobs run /etc/latentmill/config.yaml"
    head = cluster_of(job)["headGroupSpec"]["template"]["spec"]
    assert head["volumes"] == [{"name": "config", "configMap": {"name": "night"}}]
    assert head["containers"][0]["volumeMounts"][0]["mountPath"] == "/etc/latentmill"


def test_a_kuberay_cluster_lives_as_long_as_its_job_and_is_tried_again(make_config: MakeConfig) -> None:
    _, job = manifests(make_config(), retries=5)
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["submissionMode"] == "K8sJobMode"
    assert job["spec"]["backoffLimit"] == 5
    assert cluster_of(job)["rayVersion"].count(".") == 2


def test_the_head_pod_neither_encodes_nor_decodes(make_config: MakeConfig) -> None:
    head = cluster_of(manifests(make_config())[1])["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert "nvidia.com/gpu" not in container_of(head)["resources"]["limits"]


def test_gpu_pods_have_the_resources_requested(make_config: MakeConfig) -> None:
    config_map, job = manifests(make_config(), gpu_workers="2:8", gpus=4, gpu_cpu=48, gpu_memory="256Gi")
    held = parse_config(yaml.safe_load(config_map["data"]["config.yaml"]))
    assert held.runtime.replica_bounds == (32, 32)
    (gpu,) = cluster_of(job)["workerGroupSpecs"]
    assert (gpu["groupName"], gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == ("gpu", 2, 2, 8)
    limits = {"cpu": 48, "memory": "256Gi", "nvidia.com/gpu": 4}
    assert container_of(gpu)["resources"] == {"limits": limits, "requests": limits}
    assert container_of(gpu)["image"] == "registry/latentmill:1"
    assert [taint["key"] for taint in gpu["template"]["spec"]["tolerations"]] == ["nvidia.com/gpu"]


def test_decode_pods_are_a_group_of_their_own_without_gpus(make_config: MakeConfig) -> None:
    _, job = manifests(make_config(), decode_workers="0:4", decode_cpu=32, decode_memory="64Gi")
    _, decode = cluster_of(job)["workerGroupSpecs"]
    assert (decode["groupName"], decode["minReplicas"], decode["maxReplicas"]) == ("decode", 0, 4)
    assert container_of(decode)["resources"]["limits"] == {"cpu": 32, "memory": "64Gi"}
    assert decode["template"]["spec"]["tolerations"] == []


@pytest.mark.parametrize(("workers", "autoscales"), [("4", False), ("0:4", True), ("4:4", False)])
def test_a_group_that_may_grow_turns_the_autoscaler_on(make_config: MakeConfig, workers: str, autoscales: bool) -> None:
    _, job = manifests(make_config(), gpu_workers=workers)
    assert cluster_of(job)["enableInTreeAutoscaling"] is autoscales


def test_preemptible_pods_tolerate_the_taints_of_spot_nodes(make_config: MakeConfig) -> None:
    _, job = manifests(make_config(), preemptible=True, decode_workers="1")
    for group in cluster_of(job)["workerGroupSpecs"]:
        keys = {taint["key"] for taint in group["template"]["spec"]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= keys


def test_secrets_are_named_and_never_written(make_config: MakeConfig) -> None:
    _, job = manifests(make_config(), secret=("s3-keys", "hub-token"), decode_workers="1")
    cluster = cluster_of(job)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        references = [{"secretRef": {"name": name}} for name in ("s3-keys", "hub-token")]
        assert container_of(group)["envFrom"] == references


def test_the_image_runs_as_a_user_without_rights_and_holds_every_package() -> None:
    lines = (ROOT / "jobs" / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert any(line.startswith("FROM nvidia/cuda:") for line in lines)
    for package in PACKAGES:
        assert f"COPY {package} {package}" in lines


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "slurm", "--image", "x"], "--image is not an option of --on slurm: use --nodes"),
        (["--on", "kuberay"], "--on kuberay needs --image"),
        (["--on", "kuberay", "--image", "x", "--gpu-workers", "many"], "cannot read 'many' as a number of pods"),
        (["--on", "kuberay", "--image", "x", "--gpu-workers", "4:2"], "'4:2' pods"),
        (
            ["--on", "kuberay", "--image", "x", "--name", "Night"],
            "--name Night: use at most 47 characters",
        ),
        (["--on", "kuberay", "--image", "x", "--name", "n" * 48], "at most 47 characters"),
        (
            ["--on", "kuberay", "--image", "x", "--gpu-memory", "64GB"],
            "--gpu-memory 64GB: write memory as Kubernetes does",
        ),
        (["--on", "kuberay", "--image", "x", "--retries", "-1"], "--retries -1: write 0 or more"),
        (["output.path=out/x", "--on", "ray"], "output.path: out/x is relative"),
        (["input.shards='@list.txt'", "--on", "ray"], "input.shards: @list.txt is relative"),
        (
            ["input.shards=null", "input.table={files: t.csv, video: url}", "--on", "ray"],
            "input.table.files: t.csv is relative",
        ),
        (
            ["encoder.weights=weights/vae", "--on", "kuberay", "--image", "x"],
            "encoder.weights: weights/vae is relative",
        ),
        (["clip.frame=9", "--on", "slurm"], "did you mean frames?"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", path, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_cluster_command_is_named(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", path, "--on", "kuberay", "--image", "x"]) == 2
    assert "kubectl is not installed here" in capsys.readouterr().err


# --- real clusters


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def wait_for(what: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it does not happen"
        assert process is None or process.poll() is None, "the process ended"
        time.sleep(0.2)


def parts_of(config: Config) -> list[Path]:
    return list(Path(config.output.path).rglob("*.parquet"))


def undisturbed(config: Config, tiny: VideoEncoder, tmp_path: Path) -> dict[str, bytes]:
    """The files of a run in this process, with the same configuration elsewhere."""
    config = with_convolutions(config, {})  # as a run notes it, where the encoder has nothing to choose
    run_all(config.replaced({"output.path": str(tmp_path / "undisturbed")}), tiny)
    return output_files(tmp_path / "undisturbed")


@pytest.fixture
def ray_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one node on loopback; gives the address that jobs are sent to."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "only-for-this-test-" + "0" * 32)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"--{name}={port}" for name, port in ports.items()]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    size = [
        "--num-cpus=2",
        "--object-store-memory=100000000",
        "--include-dashboard=true",
        "--node-ip-address=127.0.0.1",
    ]
    with subprocess.Popen([*start, *size, *options], env=os.environ | {"PATH": _path()}) as head:
        try:
            wait_for(lambda: _listens(ports["dashboard-port"]), head)
            yield f"http://127.0.0.1:{ports['dashboard-port']}"
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.ray
def test_a_ray_job_stopped_half_way_and_sent_again_ends_with_the_bytes_of_an_undisturbed_run(
    shards: None, make_config: MakeConfig, tiny: VideoEncoder, tmp_path: Path, ray_head: str
) -> None:
    config = make_config(runtime={"replicas": 1})  # on the CPU: auto waits for GPUs to join a cluster
    path = config_file(config, tmp_path / "c.yaml")
    command = [sys.executable, "-m", "jobs", "submit", "--on", "ray", "--address", ray_head]
    sent = subprocess.run([*command, "--detach", path], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    job = next(word for word in sent.replace("'", " ").split() if word.startswith("latentmill-"))
    wait_for(lambda: parts_of(config))
    subprocess.run([*command, "--stop", job], cwd=ROOT, check=True)
    half = len(parts_of(config))
    stopped = subprocess.run(RayJob(ray_head).status_command(job), capture_output=True, text=True, check=True)
    assert exit_code(stopped.stdout + stopped.stderr, 0) == 143
    refused = subprocess.run([*command, path, f"input.shards={tmp_path}/missing-*.tar"], cwd=ROOT, check=False)
    assert refused.returncode == 2
    followed = subprocess.run([*command, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert followed.returncode == 0, followed.stdout
    assert "6 shards done, 0 left" in followed.stdout
    assert output_files(Path(config.output.path)) == undisturbed(config, tiny, tmp_path)
    assert half < len(parts_of(config))


SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MailProg=/bin/true
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real Slurm of one machine."""
    if os.getuid() or not all(shutil.which(program) for program in SLURM_PROGRAMS):
        pytest.skip(f"needs root and {', '.join(SLURM_PROGRAMS)}")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    os.chmod(folder, 0o755)
    controller_port, node_port = free_ports(2)
    values = {"host": socket.gethostname().partition(".")[0], "folder": folder}
    text = SLURM_CONF.format(controller_port=controller_port, node_port=node_port, **values)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    os.chmod(folder / "munge.key", 0o600)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.chdir(tmp_path)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "key", "log", "seed")]
    daemons = [subprocess.Popen(["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge])]
    try:
        wait_for((folder / "munge.socket").exists, daemons[0])
        daemons += [subprocess.Popen([daemon, "-D"]) for daemon in ("slurmctld", "slurmd")]
        wait_for(lambda: "idle" in answer("sinfo", "--noheader"))
        yield
        answer("scancel", "--user=root")
        wait_for(lambda: not answer("squeue", "--noheader"))
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def ended(job: str) -> str:
    """How a Slurm job ended; empty while it has not."""
    state = answer("scontrol", "show", "job", job).partition("JobState=")[2].split()[0]
    return "" if state in ("PENDING", "RUNNING", "COMPLETING") else state


@pytest.mark.ray
def test_a_slurm_job_stopped_half_way_queues_itself_again_and_ends_with_the_bytes_of_an_undisturbed_run(
    slurm: None, shards: None, make_config: MakeConfig, tiny: VideoEncoder, tmp_path: Path
) -> None:
    config = make_config(runtime={"replicas": 1})
    path = config_file(config, tmp_path / "c.yaml")
    assert main(["submit", path, "--on", "slurm", "--cpus-per-task", "2", "--time", "10:00"]) == 0
    (job,) = answer("squeue", "--noheader", "--format=%i").split()
    wait_for(lambda: parts_of(config))
    answer("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM does before the time limit
    wait_for(lambda: "Restarts=1" in answer("scontrol", "show", "job", job))
    half = len(parts_of(config))
    wait_for(lambda: "JobState=PENDING" in answer("scontrol", "show", "job", job))
    # Slurm would let it wait for two minutes; in the second in which it was stopped it may not begin again.
    answer("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    wait_for(lambda: ended(job))
    assert ended(job) == "COMPLETED"
    said = (tmp_path / f"slurm-{job}.out").read_text()
    assert "stopped by SIGTERM" in said
    assert "6 shards done, 0 left" in said
    assert output_files(Path(config.output.path)) == undisturbed(config, tiny, tmp_path)
    assert half < len(parts_of(config))
