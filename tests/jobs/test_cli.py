"""The commands as a user runs them: exit codes, what stands afterwards, stops and resumes."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.jobs import config_file, parts_of, undisturbed
from support.paths import ROOT, SHARED_VIDEOS
from support.runs import MakeConfig, configured, published_files, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from jobs.cli import build_parser, main
from pipeline.audit.verify import Verified, verify
from pipeline.config.identity import run_name
from pipeline.storage.store import Store


def latentmill(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def commands() -> list[str]:
    actions = build_parser()._subparsers
    assert actions is not None
    return [name for action in actions._group_actions for name in (action.choices or ())]


def reading_example() -> str:
    """The code that the README gives for reading latents."""
    return (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]


def write_shards(folder: Path, videos: tuple[bytes, ...]) -> None:
    """Three shards, good and bad samples in each."""
    for number in range(3):
        chosen = [*videos[number : number + 4], b"<html>", videos[number][:1500], videos[number]]
        write_tar(folder / f"s{number}.tar", samples_of(chosen))


@pytest.fixture
def shards(tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    write_shards(tmp_path, videos)


@dataclass(frozen=True)
class Runs:
    """What two runs of one output root ended with, and where it is.

    The first is stopped and writes for people, the second ends by itself and writes for machines.
    """

    folder: Path
    stopped: subprocess.CompletedProcess[str]
    ended: subprocess.CompletedProcess[str]

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...], one_cpu: None) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    write_shards(folder, videos)
    config = configured(folder, runtime={"replicas": 2, "logs": str(folder / "logs")})
    path = config_file(config, folder / "c.yaml")
    process = latentmill("run", path, "runtime.replicas=1")
    while not parts_of(config) and process.poll() is None:
        time.sleep(0.05)  # until the run waits for replicas that are at work
    process.send_signal(signal.SIGINT)
    return Runs(folder, finish(process), finish(latentmill("run", path, "runtime.log=json")))


@pytest.mark.ray
def test_ctrl_c_ends_a_run_with_its_code(runs: Runs) -> None:
    """SIGTERM does so too: test_submit.py sends it."""
    assert runs.stopped.returncode == 130, runs.stopped.stderr
    assert "stopped by SIGINT" in runs.stopped.stderr


@pytest.mark.ray
def test_a_run_that_goes_on_ends_with_everything_that_the_contract_names(runs: Runs) -> None:
    assert runs.ended.returncode == 0, runs.ended.stderr
    expected = {"run.json", "latents", "manifests", "_SUCCESS.json", "summary.json", "report.html"}
    assert expected <= {entry.name for entry in runs.out.iterdir()}
    summary = json.loads((runs.out / "summary.json").read_text())
    assert (summary["shards"], summary["samples"], summary["rows"], summary["samples_rejected"]) == (3, 21, 15, 6)
    seen = Verified()
    assert list(verify(Store(str(runs.out)), seen)) == []
    assert (seen.samples, seen.rows, seen.rejects) == (21, 15, 6)
    printed = subprocess.run([sys.executable, "-c", reading_example(), str(runs.out)], capture_output=True, check=True)
    assert b"(16, 2, " in printed.stdout


@pytest.mark.ray
def test_more_replicas_of_a_run_that_was_stopped_write_the_bytes_of_a_run_in_this_process(
    runs: Runs, tiny: VideoEncoder, tmp_path: Path
) -> None:
    assert published_files(runs.out) == undisturbed(configured(runs.folder), tiny, tmp_path)


@pytest.mark.ray
def test_a_run_with_a_log_for_machines_writes_nothing_else(runs: Runs) -> None:
    assert runs.ended.stdout == ""
    lines = [json.loads(line) for line in runs.ended.stderr.splitlines()]
    kinds = [line["event"] for line in lines]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_ended")
    told = {"replica_joined", "shard_begun", "slice_committed", "reject", "shard_done"}
    assert told <= set(kinds[1:-1]) <= {*told, "slice_found"}
    fingerprint = json.loads((runs.out / "run.json").read_text())["fingerprint"]
    assert {line["run"] for line in lines} == {run_name(fingerprint, str(runs.out))}
    of_shard = [line["event"] for line in lines if line.get("shard") == lines[kinds.index("shard_done")]["shard"]]
    assert (of_shard[0], of_shard[-1]) == ("shard_begun", "shard_done")
    rejects = {(line["sample"], line["stage"]) for line in lines if line["event"] == "reject"}
    assert rejects == {("clip-004", "probe"), ("clip-005", "probe")}
    assert (lines[-1]["exit_code"], lines[-1]["rows"], lines[-1]["samples_rejected"]) == (0, 15, 6)


@pytest.mark.ray
def test_the_logs_of_a_run_lie_in_a_folder_of_its_name(runs: Runs) -> None:
    logs = list((runs.folder / "logs").glob("*/replica-*.err"))
    (name,) = {log.parent.name for log in logs}
    assert name in runs.ended.stderr
    assert any(": ended" in log.read_text() for log in logs)


def test_another_configuration_is_refused_with_the_fields_that_differ(
    shards: None, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = {"fingerprint": "0", "identity": {"clip": {"fps": 16.0}}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps(begun))
    assert main(["run", config_file(make_config(), tmp_path / "c.yaml")]) == 2
    assert "clip.fps: 16.0 there, 8.0 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("clip.frame=9", "unknown key clip.frame, did you mean frames?"),
        ("clip.frames=8", "8 does not fit tiny"),
        ("encoder.name=tinny", "did you mean tiny?"),
        ("encoder.weights=/nowhere", "/nowhere"),
        ("input.shards=/nowhere/*.tar", "nothing matches /nowhere/*.tar"),
        ("output.path=nofs://bucket", "nofs://bucket"),
        ("output.path=/dev/null/out", "/dev/null/out cannot be written: Not a directory"),
    ],
)
def test_wrong_input_is_reported_in_one_line_with_exit_code_2(
    shards: None, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    assert main(["run", config_file(make_config(), tmp_path / "c.yaml"), override]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_plan_says_what_is_left_before_anything_runs(
    shards: None, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", config_file(make_config(), tmp_path / "c.yaml")]) == 0
    output = capsys.readouterr().out
    assert "shards: 3, done: 0, left: 3" in output
    assert "16x2x4x6" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("CONFIG", "clip.frames=9", "runtime.replicas=1", "--on", "slurm", "--dry-run"),
        ("--on", "slurm", "CONFIG", "clip.frames=9", "--dry-run", "runtime.replicas=1"),
        ("clip.frames=9", "--dry-run", "runtime.replicas=1", "--on", "slurm", "CONFIG"),
        ("--dry-run", "clip.frames=9", "CONFIG", "--on", "slurm", "runtime.replicas=1"),
    ],
)
def test_overrides_may_stand_anywhere(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", *(path if word == "CONFIG" else word for word in given)]) == 0
    assert f"run {path} clip.frames=9 runtime.replicas=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "CONFIG", "--proble", "3"], "unrecognized arguments: --proble 3"),
        (["plan", "CONFIG", "--probe", "0"], "argument --probe: 0 is less than 1"),
        (["show", "out", "key", "clip.fps=16"], "unrecognized arguments: clip.fps=16"),
    ],
)
def test_an_argument_that_no_command_knows_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run", "clip.fps=16"], ["submit", "--on", "slurm"]])
def test_a_command_without_its_configuration_asks_for_one(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    assert "name a configuration, such as configs/" in capsys.readouterr().err


def test_the_status_of_a_folder_that_is_not_an_output_is_a_user_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "not the output of a run" in capsys.readouterr().err


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert commands()
    for command in commands():
        assert f"latentmill {command}" in readme
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
@pytest.mark.skipif(not SHARED_VIDEOS.exists(), reason="the shared videos are not beside this clone")
def test_every_shared_video_good_or_hostile_is_a_row_or_a_reject(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(SHARED_VIDEOS / kind) for kind in ("good", "bad")]
    assert main(["pack", *folders, str(tmp_path), "--shard-samples", "30"]) == 0
    config = make_config(clip={"fps": None}, output={"part_samples": 16})
    assert main(["run", config_file(config, tmp_path / "c.yaml")]) == 0, capsys.readouterr().out
    store, seen = Store(config.output.path), Verified()
    assert list(verify(store, seen)) == []
    summary = json.loads(store.read("summary.json"))
    packed = sum(1 for folder in folders for file in Path(folder).iterdir() if file.suffix[1:] in config.input.video)
    assert summary["samples"] == packed
    assert summary["samples"] == summary["samples_with_clips"] + summary["samples_rejected"]
    assert summary["rejects_by_reason"]["probe/not_a_video"] == 8
