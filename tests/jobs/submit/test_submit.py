"""What `latentmill submit --on ray` sends, what every target refuses, and a real Ray cluster that runs a job."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from support.jobs import config_file, free_ports, parts_of, undisturbed, wait_for
from support.runs import MakeConfig, published_files

import encoder
from jobs.cli import main
from jobs.submit import submit
from jobs.submit.dashboard import authorization, check_cluster
from jobs.submit.rayjob import RayJob, exit_code, new_job_id, stage, status_command, stop_command
from pipeline.config.load import Config, load_config, parse_config
from pipeline.errors import UserError

URL = "http://head:8265"


# --- ray


def test_a_ray_job_ships_our_packages_and_the_configuration_and_no_data(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    stage(tmp_path, "a: 1\n")
    assert {entry.name for entry in tmp_path.iterdir()} == {"encoder", "pipeline", "jobs", "configs", "submitted.yaml"}
    assert (tmp_path / "jobs" / "templates" / "slurm.sbatch").exists()
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_ray_job_is_sent_with_its_address_folder_and_entrypoint() -> None:
    command = RayJob().submit_command(URL, "/staged", "latentmill-1")
    options = ["submit", "--address=http://head:8265", "--submission-id=latentmill-1", "--working-dir=/staged", "--"]
    assert command[3:] == ["job", *options, "python", "-m", "jobs", "run", "submitted.yaml"]
    assert "--no-wait" in RayJob(detach=True).submit_command(URL, "/staged", "latentmill-1")
    assert stop_command(URL, "latentmill-1")[-3:] == ["stop", f"--address={URL}", "latentmill-1"]
    assert status_command(URL, "latentmill-1")[-3:] == ["status", f"--address={URL}", "latentmill-1"]
    assert new_job_id() != new_job_id()


def test_no_other_user_can_read_what_a_ray_job_ships(tmp_path: Path) -> None:
    stage(tmp_path, "a: 1\n")
    staged = list(tmp_path.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in staged if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in staged if path.is_dir()} == {0o700}


@pytest.mark.parametrize(
    ("address", "environment", "url"),
    [
        ("", {}, "http://127.0.0.1:8265"),
        (f"{URL}/", {"RAY_ADDRESS": "http://other:8265"}, URL),
        ("", {"RAY_ADDRESS": URL}, URL),
        ("", {"RAY_ADDRESS": "head:6379", "RAY_API_SERVER_ADDRESS": URL}, URL),
    ],
)
def test_a_job_goes_to_the_dashboard_that_is_named(address: str, environment: dict[str, str], url: str) -> None:
    assert RayJob(address=address).url(environment) == url


def test_an_address_of_the_environment_that_is_no_dashboard_is_refused() -> None:
    with pytest.raises(UserError, match="RAY_ADDRESS=head:6379 is not a dashboard: give --address"):
        RayJob().url({"RAY_ADDRESS": "head:6379"})


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
        ("ConnectionError: no cluster, as it went down after a stop", 0, 1),
    ],
)
def test_a_followed_ray_job_ends_with_the_exit_code_of_its_run(status: str, submitted: int, code: int) -> None:
    assert exit_code(status, submitted) == code


def test_a_job_whose_cluster_went_down_after_a_stop_does_not_end_well(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = subprocess.CompletedProcess([], 1, "", "ConnectionError")
    monkeypatch.setattr(submit.dashboard, "check_cluster", lambda *_: None)
    monkeypatch.setattr(submit, "send", lambda *_, **__: 0)  # as `ray job submit` ends where the job was stopped
    monkeypatch.setattr(submit, "answer_of", lambda *_, **__: silent)
    assert main(["submit", config_file(make_config(), tmp_path / "c.yaml"), "--on", "ray"]) == 1
    assert "submitted again, the run goes on" in capsys.readouterr().out


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


@pytest.mark.parametrize("options", [["ray"], ["slurm"], ["kuberay", "--image", "x"]], ids=lambda options: options[0])
def test_texts_are_sent_by_their_name_with_the_same_configuration(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    text = ["text.encoder=/models/wan", "text.preset=wan", "--text", "recaptioned"]
    assert main(["submit", path, *text, "--dry-run", "--on", *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"python -m jobs text \S+\.yaml --name recaptioned", printed)
    assert "jobs run" not in printed
    assert "/models/wan" in printed
    assert main(["submit", path, "--text", "recaptioned", "--dry-run", "--on", *options]) == 2
    assert "--text recaptioned needs text.encoder" in capsys.readouterr().err


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "slurm", "--image", "x"], "--image is not an option of --on slurm: use --detach"),
        (["--on", "kuberay"], "--on kuberay needs --image"),
        (["--on", "slurm", "--nodes", "0"], "--nodes 0: input should be greater than or equal to 1"),
        (["--on", "kuberay", "--image", "x", "--gpu-workers", "0"], "--gpu-workers 0: at least one pod must encode"),
        (["--on", "ray", "--address", "127.0.0.1:6379"], "--address 127.0.0.1:6379: give the cluster's dashboard"),
        (["--on", "ray", "--address", "http://u:p@head:8265"], "without a user"),
        (["--on", "slurm", "--stop", "7", "--dry-run"], "--dry-run is for submitting"),
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
        (["text.encoder=wan", "text.preset=wan", "--on", "ray"], "text.encoder: wan is relative"),
        (
            ["text.encoder=diffusers:s3://user:pw@b/wan", "--on", "slurm"],
            "text.encoder: s3://b/wan holds a password",
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


@pytest.fixture(scope="module")
def token() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "only-for-these-tests-" + "0" * 32)
        yield


@pytest.fixture(scope="module")
def ray_head(token: None) -> Iterator[str]:
    """A Ray cluster of one node on loopback; gives the address that jobs are sent to."""
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
            url = f"http://127.0.0.1:{ports['dashboard-port']}"
            wait_for(lambda: _answers(url), head)
            yield url
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _answers(url: str) -> bool:
    try:
        check_cluster(url, os.environ)
    except UserError:
        return False
    return True


@pytest.mark.ray
def test_a_wrong_token_and_an_unknown_job_are_a_line_each(
    make_config: MakeConfig,
    tmp_path: Path,
    ray_head: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    command = ["submit", "--on", "ray", "--address", ray_head]
    for option in ("--stop", "--status"):
        assert main([*command, option, "latentmill-none"]) == 2
        assert capsys.readouterr().err.startswith(f"latentmill: {ray_head} has no job latentmill-none: `ray job list")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert main([*command, path]) == 2
    assert capsys.readouterr().err.startswith(f"latentmill: {ray_head} does not take this token")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main([*command, path]) == 2
    assert capsys.readouterr().err.startswith(f"latentmill: {ray_head} asks for a token")


def log_of(head: str, job: str) -> str:
    """What a job has printed."""
    log = Request(f"{head}/api/jobs/{job}/logs", headers=authorization(os.environ, Path.home()))
    with urlopen(log, timeout=60) as answer:
        return str(json.load(answer)["logs"])


@pytest.mark.ray
def test_a_ray_job_stopped_half_way_and_sent_again_ends_with_the_bytes_of_an_undisturbed_run(
    slow_run: Config, tmp_path: Path, ray_head: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = config_file(slow_run, tmp_path / "c.yaml")
    command = ["submit", "--on", "ray", "--address", ray_head]
    assert main([*command, "--detach", path]) == 0
    sent = capfd.readouterr().out
    job = next(word for word in sent.replace("'", " ").split() if word.startswith("latentmill-"))
    wait_for(lambda: parts_of(slow_run))
    assert main([*command, "--stop", job]) == 0
    half = len(parts_of(slow_run))
    capfd.readouterr()
    assert main([*command, "--status", job]) == 0
    stopped = capfd.readouterr()
    assert exit_code(stopped.out + stopped.err, 0) == 143
    assert "stopped by SIGTERM" in log_of(ray_head, job)
    assert main([*command, path, f"input.shards={tmp_path}/missing-*.tar"]) == 2
    capfd.readouterr()
    assert main([*command, path]) == 0, capfd.readouterr().out
    assert "6 shards done, 0 left" in capfd.readouterr().out
    assert published_files(Path(slow_run.output.path)) == undisturbed(
        slow_run, encoder.load("simulated", weights="simulated:0"), tmp_path
    )
    assert half < len(parts_of(slow_run))
