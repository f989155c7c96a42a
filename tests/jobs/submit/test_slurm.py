"""What `latentmill submit --on slurm` sends: options, the batch script with stand-ins for Slurm and Ray, and a real
Slurm of two nodes that runs it, cancelled and requeued half way."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.jobs import config_file, free_ports, parts_of, undisturbed, wait_for
from support.runs import MakeConfig, published_files

import encoder
from jobs.cli import main
from jobs.submit.options import parse_options
from jobs.submit.slurm import SlurmJob, SlurmState, ray_status_command, seconds_of
from pipeline.config.load import Config
from pipeline.errors import UserError

SLURM_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")


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


def test_a_slurm_script_runs_the_configuration_from_any_folder() -> None:
    script = script_of(SlurmJob(), "clip.buckets=[64x64, 32x32]")
    (run,) = (line for line in script.splitlines() if "jobs run" in line)
    words = shlex.split(run)
    assert words[:4] == ["python", "-m", "jobs", "run"]
    assert words[4] == os.path.abspath("configs/demo.yaml")
    assert words[5] == "clip.buckets=[64x64, 32x32]"


def test_a_slurm_script_is_one_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n"], input=script_of(SlurmJob(nodes=2), "a.b='c d'"), text=True, check=True)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("5", 300), ("10:30", 630), ("1:02:03", 3723), ("2-0", 172800), ("1-2:30", 95400), ("1-0:0:5", 86405)],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit: str, seconds: int) -> None:
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": "0"}, "--nodes 0: input should be greater than or equal to 1"),
        ({"nodes": "two"}, "--nodes two: input should be a valid integer"),
        ({"gpus_per_node": "-1"}, "--gpus-per-node -1: input should be greater"),
        ({"time": "banana"}, "--time banana: write minutes, hours:minutes:seconds"),
        ({"time": "1:2:3:4"}, "--time 1:2:3:4: write minutes"),
        ({"time": "2"}, "--time 2: the run is told to stop 120 to 180 s before its limit: ask for more"),
        ({"time": "3:00"}, "--time 3:00: the run is told to stop"),
        ({"partition": "a b"}, "--partition a b: write the name of a partition"),
        ({"directive": ["ntasks-per-node=4"]}, "--directive: ntasks-per-node is set by submit"),
        ({"directive": ["time=5"]}, "--directive: use --time for 'time=5'"),
        ({"directive": ["--account=a"]}, "--directive: cannot read '--account=a'"),
        ({"directive": ["a=b\nrm"]}, "--directive: cannot read 'a=b\\nrm'"),
        ({"metrics_port": "70000"}, "--metrics-port 70000: input should be less"),
    ],
)
def test_options_that_slurm_would_refuse_are_refused_here(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_options(SlurmJob, options)
    assert said in str(refused.value)


@pytest.mark.parametrize("limit", ["3:01", "4", "unlimited", "1-0"])
def test_time_limits_that_leave_time_to_stop_are_taken(limit: str) -> None:
    assert SlurmJob(time=limit).time == limit


def test_a_signal_ends_the_following_and_not_the_job(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, make_config: MakeConfig, tmp_path: Path
) -> None:
    stand_in(tmp_path / "sbatch", "#!/bin/bash\necho '7;cluster'\n")
    signalling = "sleep 0.5; kill -INT $PPID"  # Python has noted by then that there is a process to wait for
    stand_in(tmp_path / "scontrol", f"#!/bin/bash\n{signalling}\necho JobState=RUNNING StdOut=/nowhere/slurm-7.out\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert main(["submit", config_file(make_config(), tmp_path / "c.yaml"), "--on", "slurm"]) == 130
    said = capfd.readouterr().out.splitlines()
    assert said[-1].startswith("a job that was submitted goes on: `latentmill submit --on slurm --status 7` asks")


SHOWN = "JobId=7 JobState=RUNNING Reason=None Requeue=1 Restarts=2 ExitCode=0:0 BatchHost=n1 StdOut=/home/a/slurm-7.out"


def test_what_slurm_says_of_a_job_is_read() -> None:
    state = SlurmState.parse(SHOWN)
    assert state == SlurmState("RUNNING", "None", 0, 2, "/home/a/slurm-7.out", "n1")
    assert (str(state), state.ended) == ("RUNNING", False)
    waiting = SlurmState.parse("JobState=PENDING Reason=Resources")
    assert str(waiting) == "PENDING (Resources)"


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ("JobState=COMPLETED ExitCode=0:0", 0),
        ("JobState=FAILED ExitCode=2:0", 2),
        ("JobState=FAILED ExitCode=0:9", 137),
        ("JobState=CANCELLED ExitCode=0:15", 143),
        ("JobState=PREEMPTED ExitCode=0:0", 143),
        ("JobState=NODE_FAIL ExitCode=0:0", 1),
    ],
)
def test_a_followed_slurm_job_ends_with_the_exit_code_of_its_run(shown: str, code: int) -> None:
    state = SlurmState.parse(shown)
    assert state.ended
    assert state.run_exit_code == code


def test_ray_is_asked_on_the_node_of_its_head_beside_the_run() -> None:
    command = ray_status_command("7", "n1")
    assert command[:6] == ["srun", "--jobid=7", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n1"]
    assert command[-1] == ". /tmp/latentmill-7/environment && ray status"


# --- the batch script, with stand-ins for Slurm and Ray

# As srun 22.05: what is not given as an option comes from the job's environment, but for the CPUs of a task.
SRUN = """#!{python}
import os, subprocess, sys
own = sys.argv[1 : sys.argv.index("ray")]
options = dict(word[2:].partition("=")[::2] for word in own)
nodes = [node for node in os.environ["SLURM_JOB_NODELIST"].split(",") if node != options.get("exclude")]
nodes = nodes[: int(options.get("nodes", os.environ["SLURM_NNODES"]))]
tasks = int(options.get("ntasks", os.environ["SLURM_NTASKS"]))
cpus = options.get("cpus-per-task", "1")
command = sys.argv[sys.argv.index("ray"):]
for number in range(tasks):
    node = nodes[number % len(nodes)]
    subprocess.run(command, env=os.environ | {{"SLURMD_NODENAME": node, "TASK_CPUS": cpus}})
"""
RAY = """#!/bin/bash
if [ "$1" = start ]; then
  echo "$SLURMD_NODENAME ${{TASK_CPUS:-$SLURM_CPUS_PER_TASK}} $*" >> {record}
  case "$*" in *--head*) exec sleep 600;; esac
fi
"""


@dataclass(frozen=True)
class Raylet:
    node: str
    bound_cpus: int
    told: frozenset[str]


def stand_in(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def script_with_stand_ins(folder: Path, nodes: int, cpus: int, run: str) -> str:
    """A batch script that finds a `ray` which notes what it starts, and a run that is a line of bash."""
    folder.mkdir()
    stand_in(folder / "ray", RAY.format(record=folder / "raylets"))
    stand_in(folder / "python", f"#!/bin/bash\n{run}\n")
    script = script_of(SlurmJob(nodes=nodes, gpus_per_node=8, cpus_per_task=cpus, metrics_port=9090))
    return script.replace(f"PATH={shlex.quote(str(Path(sys.executable).parent))}", f"PATH={folder}")


def raylets_in(folder: Path) -> list[Raylet]:
    lines = (folder / "raylets").read_text().splitlines() if (folder / "raylets").exists() else []
    return [Raylet(node, int(bound), frozenset(words)) for node, bound, *words in (line.split() for line in lines)]


def run_script(
    tmp_path: Path, nodes: int, cpus: int, run_exits: int, state: str = "RUNNING"
) -> tuple[int, list[Raylet], str]:
    """Runs a batch script as the first of its nodes; gives its exit code, the raylets it starts, and its requeues."""
    folder = tmp_path / "bin"
    others_start = f"for _ in $(seq 500); do [ $(wc -l < {folder}/raylets) -ge {nodes} ] && break; sleep 0.02; done"
    script = script_with_stand_ins(folder, nodes, cpus, f"{others_start}; sleep 0.2; exit {run_exits}")
    stand_in(folder / "srun", SRUN.format(python=sys.executable))
    stand_in(folder / "squeue", f"#!/bin/bash\necho {state}\n")
    stand_in(folder / "scontrol", '#!/bin/bash\necho "$*" >> "$REQUEUES"\n')
    names = [f"n{number}" for number in range(nodes)]
    job = {"SLURM_JOB_ID": str(10_000_000 + os.getpid()), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NNODES": str(nodes)}
    job |= {"SLURM_NTASKS": str(nodes), "SLURM_CPUS_PER_TASK": str(cpus), "SLURMD_NODENAME": "n0"}
    job |= {"SLURM_JOB_NODELIST": ",".join(names), "REQUEUES": str(tmp_path / "requeues")}
    ran = subprocess.run(["bash"], input=script, env=os.environ | job, text=True, timeout=60, check=False)
    requeues = tmp_path / "requeues"
    return ran.returncode, raylets_in(folder), requeues.read_text() if requeues.exists() else ""


@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_one_raylet_starts_on_each_node_with_the_cpus_that_it_advertises(tmp_path: Path, nodes: int) -> None:
    code, raylets, _ = run_script(tmp_path, nodes, cpus=96, run_exits=0)
    assert code == 0
    assert sorted(raylet.node for raylet in raylets) == [f"n{number}" for number in range(nodes)]
    for raylet in raylets:
        assert raylet.bound_cpus == 96
        assert {"--num-cpus=96", "--num-gpus=8", "--metrics-export-port=9090"} <= raylet.told


@pytest.mark.parametrize(
    ("run_exits", "state", "requeued"),
    [(143, "RUNNING", True), (143, "COMPLETING", False), (0, "RUNNING", False), (2, "RUNNING", False)],
)
def test_a_job_queues_itself_again_when_it_was_told_to_stop_and_not_when_it_was_cancelled(
    tmp_path: Path, run_exits: int, state: str, requeued: bool
) -> None:
    code, _, requeues = run_script(tmp_path, 1, cpus=2, run_exits=run_exits, state=state)
    assert code == run_exits
    assert requeues.startswith("requeue ") is requeued


# --- a real Slurm

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MailProg=/bin/true
NodeName=one NodeHostname={host} Port={first_port} CPUs=2 State=UNKNOWN
NodeName=two NodeHostname={host} Port={second_port} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real Slurm whose two nodes are on this machine."""
    if os.getuid() or not all(shutil.which(program) for program in SLURM_PROGRAMS):
        pytest.skip(f"needs root and {', '.join(SLURM_PROGRAMS)}")
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    os.chmod(folder, 0o755)
    ports = dict(zip(("controller_port", "first_port", "second_port"), free_ports(3), strict=True))
    text = SLURM_CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, **ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(128))
    os.chmod(folder / "munge.key", 0o600)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.chdir(tmp_path)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "key", "log", "seed")]
    daemons = [subprocess.Popen(["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge])]
    try:
        wait_for((folder / "munge.socket").exists, daemons[0])
        commands = (["slurmctld", "-D"], ["slurmd", "-D", "-N", "one"], ["slurmd", "-D", "-N", "two"])
        daemons += [subprocess.Popen(command) for command in commands]
        wait_for(lambda: answer("sinfo", "--noheader", "--Node").count("idle") == 2)
        yield
        answer("scancel", "--user=root")
        wait_for(lambda: not answer("squeue", "--noheader"))
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def answer(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def state_of(job: str) -> SlurmState:
    return SlurmState.parse(answer("scontrol", "show", "job", job))


def send_with_stand_ins(folder: Path, nodes: int, run: str) -> str:
    """Submits a script whose Ray and run are stand-ins to the real Slurm, which has no GPUs; gives the job's number."""
    script = script_with_stand_ins(folder, nodes, 2, run).replace("#SBATCH --gpus-per-node=8\n", "")
    return subprocess.run(
        ["sbatch", "--parsable"], input=script, text=True, stdout=subprocess.PIPE, check=True
    ).stdout.strip()


@pytest.mark.slow
def test_a_real_slurm_starts_one_raylet_on_each_node_with_the_cpus_that_it_advertises(
    slurm: None, tmp_path: Path
) -> None:
    job = send_with_stand_ins(tmp_path / "bin", 2, "sleep 4")
    wait_for(lambda: state_of(job).ended)
    assert state_of(job).state == "COMPLETED"
    raylets = raylets_in(tmp_path / "bin")
    assert sorted(raylet.node for raylet in raylets) == ["one", "two"]
    assert {raylet.bound_cpus for raylet in raylets} == {2}


@pytest.mark.slow
def test_a_job_told_to_stop_by_a_real_slurm_is_queued_again_and_a_cancelled_one_is_not(
    slurm: None, tmp_path: Path
) -> None:
    run = f"trap 'exit 143' TERM; touch {tmp_path}/runs; sleep 600 & wait"
    job = send_with_stand_ins(tmp_path / "bin", 1, run)
    wait_for((tmp_path / "runs").exists)
    answer("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM does before the time limit
    wait_for(lambda: state_of(job).restarts == 1)
    answer("scancel", job)
    (tmp_path / "runs").unlink()
    other = send_with_stand_ins(tmp_path / "other", 1, run)
    wait_for((tmp_path / "runs").exists)
    assert main(["submit", "--on", "slurm", "--stop", other]) == 0
    wait_for(lambda: state_of(other).ended)
    wait_for(lambda: answer("sinfo", "--noheader", "--Node").count("idle") == 2)
    assert (state_of(other).state, state_of(other).restarts) == ("CANCELLED", 0)


@pytest.mark.ray
def test_a_slurm_job_stopped_half_way_queues_itself_again_and_ends_with_the_bytes_of_an_undisturbed_run(
    slurm: None, slow_run: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = config_file(slow_run, tmp_path / "c.yaml")
    options = ["--cpus-per-task", "2", "--time", "10:00", "--detach"]
    assert main(["submit", path, "--on", "slurm", *options]) == 0
    (job,) = answer("squeue", "--noheader", "--format=%i").split()
    assert f"job {job}: its log is {tmp_path}/slurm-{job}.out" in capfd.readouterr().out
    wait_for(lambda: parts_of(slow_run))
    answer("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM does before the time limit
    wait_for(lambda: state_of(job).restarts == 1)
    half = len(parts_of(slow_run))
    wait_for(lambda: state_of(job).state == "PENDING")
    # Slurm would let it wait for two minutes; in the second in which it was stopped it may not begin again.
    answer("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    wait_for(lambda: state_of(job).ended)
    assert state_of(job).state == "COMPLETED"
    said = (tmp_path / f"slurm-{job}.out").read_text()
    assert "stopped by SIGTERM" in said
    assert "6 shards done, 0 left" in said
    assert published_files(Path(slow_run.output.path)) == undisturbed(
        slow_run, encoder.load("simulated", weights="simulated:0"), tmp_path
    )
    assert half < len(parts_of(slow_run))


@pytest.mark.slow
def test_a_job_that_slurm_does_not_have_is_named(slurm: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--on", "slurm", "--stop", "999"]) == 2
    assert "latentmill: scontrol: slurm_load_jobs error: Invalid job id specified" in capfd.readouterr().err
