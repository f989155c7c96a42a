"""Every program of the page on reading runs on the output of a run, and reads all of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from support.paths import ROOT
from support.runs import run_all, run_json, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import parse_config
from pipeline.dataset.card import describe_dataset
from pipeline.dataset.remove import deny, finish_removals, rows_named
from pipeline.dataset.select import read_index
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
# Several programs in one process, as each would take seconds to import its library and those of others.
RUN_ALL = """
import contextlib, io, json, sys, traceback
printed = []
for program, *sys.argv[1:] in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            exec(program, {"__name__": "__main__"})
        except Exception:
            traceback.print_exc(file=out)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Path:
    """A finished run of eight clips in two buckets."""
    return finished_run(tmp_path_factory.mktemp("reading"), "s", tiny, videos)


def finished_run(folder: Path, shard: str, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Path:
    write_tar(folder / f"{shard}.tar", samples_of(videos))
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


@pytest.fixture(scope="module")
def several(
    out: Path, tmp_path_factory: pytest.TempPathFactory, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> tuple[str, str]:
    """The roots of that run and of another one, of three clips, from which one was removed."""
    other = finished_run(tmp_path_factory.mktemp("other"), "t", tiny, videos[:3])
    store = Store(str(other))
    deny(store, rows_named(read_index(store), ["clip-001"]), "asked")
    finish_removals(store)
    return str(out), str(other)


@pytest.fixture(scope="module")
def printed(several: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each program prints that needs neither Ray nor S3."""
    runs = [(program, *several) for heading, program in PROGRAMS if heading not in ("Ray Data", "S3")]
    outputs = json.loads(output_of(RUN_ALL, tmp_path_factory.mktemp("home"), read=json.dumps(runs)))
    return dict(zip((program for program, *_ in runs), outputs, strict=True))


def output_of(program: str, folder: Path, *roots: str, read: str = "") -> str:
    environment = os.environ | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}
    environment["RAY_ADDRESS"] = "local"  # `ray start` leaves behind where its cluster was, and Ray would wait for it
    command = [sys.executable, "-c", program, *roots]
    done = subprocess.run(command, cwd=ROOT, input=read, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def programs_of(*headings: str) -> list[str]:
    return [program for heading, program in PROGRAMS if heading in headings]


def is_read(printed: str) -> bool:
    """Whether a program printed the count and the first of all rows, and did not fail."""
    whole = re.search(r"^8 s-\w+/clip-\d+ \(16, 2, \d, \d\)$", printed, re.MULTILINE)
    return whole is not None and "Traceback" not in printed


def counts_in(output: str) -> dict[str, int]:
    """What each reader counted."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)$", output, re.MULTILINE)}


TABLES = programs_of("PyArrow", "pandas", "DuckDB", "Polars", "Hugging Face datasets")


def test_the_programs_are_short() -> None:
    assert len(PROGRAMS) == 10
    assert max(len(program.splitlines()) for _, program in PROGRAMS) <= LONGEST_PROGRAM


@pytest.mark.slow
@pytest.mark.parametrize("program", TABLES, ids=range(len(TABLES)))
def test_a_program_reads_every_row(printed: dict[str, str], program: str) -> None:
    assert is_read(printed[program])


@pytest.mark.ray
def test_ray_data_reads_every_row(out: Path, tmp_path: Path) -> None:
    (program,) = programs_of("Ray Data")
    assert is_read(output_of(program, tmp_path, str(out)))


@pytest.mark.slow
def test_the_loader_reads_every_row(printed: dict[str, str]) -> None:
    (program,) = programs_of("For training: the loader")
    assert printed[program].count("torch.Size([2, 16, 2,") == 4
    assert "Traceback" not in printed[program]


@pytest.mark.slow
def test_several_roots_are_read_together_and_without_a_row_that_was_removed(printed: dict[str, str]) -> None:
    (program,) = programs_of("Several roots")
    expected = dict.fromkeys(["PyArrow", "pandas", "DuckDB", "Polars", "datasets"], 8 + 2)
    assert counts_in(printed[program]) == expected, printed[program]


def test_a_run_on_s3_is_read_by_its_url(
    out: Path, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ENDPOINT_URL": f"http://{s3_server}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    settings |= {"DEFAULT_REGION": "us-east-1", "CONFIG_FILE": os.devnull, "ALLOW_HTTP": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("bucket-of-reading")
    filesystem.put(str(out), "bucket-of-reading/out", recursive=True)
    (program,) = programs_of("S3")
    printed = output_of(program, tmp_path, "s3://bucket-of-reading/out")
    assert counts_in(printed) == dict.fromkeys(["PyArrow", "pandas", "Polars", "datasets", "loader"], 8)
