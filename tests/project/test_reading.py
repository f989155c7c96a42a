"""Every program of the page on reading runs on the output of a run, and reads all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT
from support.runs import run_all, run_json, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import parse_config
from pipeline.dataset.card import describe_dataset
from pipeline.output.manifests import read_manifests
from pipeline.output.paths import done_shards
from pipeline.output.run_file import read_run
from pipeline.storage.store import Store

PAGE = (ROOT / "docs" / "reading.md").read_text()
PROGRAMS = [
    (heading, program)
    for heading, *programs in (
        (section.partition("\n")[0], *re.findall(r"```python\n(.*?)```", section, re.DOTALL))
        for section in PAGE.split("\n## ")[1:]
    )
    for program in programs
]
LONGEST_PROGRAM = 25


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Path:
    """A finished run of eight clips in two buckets."""
    folder = tmp_path_factory.mktemp("reading")
    write_tar(folder / "s.tar", samples_of(videos))
    tree = {
        "input": {"shards": f"{folder}/*.tar"},
        "output": {"path": str(folder / "out"), "part_samples": 3},
        "clip": {"frames": 5, "buckets": ["32x48", "48x32"]},
        "encoder": {"name": "tiny", "weights": "random:0", "dtype": "float32"},
    }
    config = parse_config(tree)
    run_all(config, tiny)
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    describe_dataset(store, read_run(store), list(read_manifests(store, sorted(done_shards(store)))))
    return folder / "out"


def test_the_programs_are_short() -> None:
    assert len(PROGRAMS) == 8
    assert max(len(program.splitlines()) for _, program in PROGRAMS) <= LONGEST_PROGRAM


@pytest.mark.parametrize(
    ("heading", "program"),
    [
        pytest.param(*one, marks=[pytest.mark.ray] if one[0] == "Ray Data" else [], id=f"{number}-{one[0]}")
        for number, one in enumerate(PROGRAMS)
    ],
)
def test_a_program_reads_every_row(out: Path, tmp_path: Path, heading: str, program: str) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}
    environment["RAY_ADDRESS"] = "local"  # `ray start` leaves behind where its cluster was, and Ray would wait for it
    command = [sys.executable, "-c", program, str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    if heading.startswith("For training"):
        assert done.stdout.count("torch.Size([2, 16, 2,") == 4
    else:
        assert re.search(r"^8 s-\w+/clip-\d+ \(16, 2, \d, \d\)$", done.stdout, re.MULTILINE)
