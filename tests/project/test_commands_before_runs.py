"""Commands of the documents that begin a run are carried out up to where a GPU or a cluster would do it.

`run` is examined as by `plan`, with the same configuration and overrides; `submit` shows what it would send. Weights
are small ones of random values, in the folders that the commands name.
"""

import shlex
from pathlib import Path

import pytest
import yaml
from support.documents import commands_of
from support.encoders import save
from support.paths import ROOT
from support.runs import samples_of, write_tar

from jobs.cli import main
from pipeline.estimate import preview

pytestmark = pytest.mark.slow

BEGINNERS = ("plan", "run", "doctor", "submit")
NOT_HERE = ("doctor configs/", "--stop")  # start Ray to look at its nodes, or ask a cluster
WEIGHTS = {  # by the folder that a configuration or an override names
    "path/to/CogVideoX-2b/vae": "AutoencoderKLCogVideoX",
    "checkpoints/CogVideoX-2b/vae": "AutoencoderKLCogVideoX",
    "CogVideoX-2b/vae": "AutoencoderKLCogVideoX",
    "checkpoints/Wan2.1-T2V-1.3B-Diffusers/vae": "AutoencoderKLWan",
    "Wan2.1/vae": "AutoencoderKLWan",
    "LTX-2/vae": "AutoencoderKLLTX2Video",
}
SHORT = ["clip.frames=9", "clip.fps=null", "clip.buckets=[64x96]"]  # clips that take no time


def lines() -> list[str]:
    return [line for line in commands_of(BEGINNERS) if not any(text in line for text in NOT_HERE)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Path:
    """A folder with the configurations, small weights, and shards where the commands look for them."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(ROOT / "configs")
    for shards in ("shards", "bucket/shards"):
        (folder / shards).mkdir(parents=True)
        write_tar(folder / shards / "clips-000000.tar", samples_of(videos[:2]))
    for place, kind in WEIGHTS.items():
        save(kind, folder / place)
    return folder


@pytest.mark.parametrize("line", lines())
def test_a_command_that_begins_a_run_finds_nothing_to_refuse(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setattr(preview, "TIMING_SECONDS", 0.0)  # the smallest clip is timed, whatever it takes
    command, *arguments = shlex.split(line)[1:]
    if command == "submit":
        arguments.append("--dry-run")
    elif arguments:  # `doctor` alone names no configuration
        arguments = [word.replace("s3://bucket/", "bucket/") for word in arguments] + SHORT
    code = main(["plan" if command == "run" else command, *arguments])
    said = "".join(capsys.readouterr())
    assert code == 0, said
    if command == "submit" and "kuberay" in arguments:
        assert list(yaml.safe_load_all(said))


def test_commands_of_each_of_these_kinds_stand_in_the_documents() -> None:
    assert {line.split()[1] for line in lines()} == set(BEGINNERS)
