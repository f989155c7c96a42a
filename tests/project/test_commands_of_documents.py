"""Commands of the documents that pack videos or look at a finished run are carried out, on small ones of that name.

Those that make latents or texts need weights, a cluster or minutes; the tests of each command carry them out.
"""

import io
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.documents import commands_of
from support.exports import made_run, with_texts
from support.runs import configured, run_all, samples_of, write_tar

from jobs import console
from jobs.cli import main
from pipeline.dataset.select import read_index
from pipeline.latents.load import load_encoder
from pipeline.run import claim_root, conclude, prepare
from pipeline.storage.store import Store

pytestmark = pytest.mark.slow

CARRIED_OUT = {
    *("pack", "status", "verify", "report", "show", "retry-rejects", "index", "card"),
    *("select", "remove", "export"),
}
SMALL = {  # what the documents say of large runs, for ours
    "s3://bucket/": "bucket/",
    "clip-02": "clip-002",
    "num_frames >= 49": "num_frames >= 5",
    "16x13x60x90": "2x3x4x6",
}
ROOTS = ("out/latents", "out/trial", "out/demo/run", "out/cogvideox-2b", "bucket/latents")
WITH_TEXTS = {"out/latents": "tiny", "out/wan": "wan", "out/cog": "cogvideox", "out/ltx": "ltx"}  # as exports want


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Path:
    """A finished run of small trained weights, whose decoder is there too."""
    folder = tmp_path_factory.mktemp("finished")
    write_tar(folder / "a.tar", samples_of(videos[:4]))
    config = configured(folder, encoder={"name": "tiny", "weights": "tiny", "dtype": "float32"})
    prepared, store = prepare(config), Store(config.output.path)
    claim_root(store, prepared)
    run_all(prepared.config, load_encoder(config.encoder, "cpu"))
    assert conclude(prepared, store, {}).exit_code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def with_captions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with text embeddings for each encoder that is exported."""
    made = {}
    for encoder in WITH_TEXTS.values():
        config = made_run(tmp_path_factory.mktemp(encoder), encoder)
        with_texts(config, "cogvideox" if encoder == "cogvideox" else "wan")
        made[encoder] = Path(config.output.path)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: tuple[bytes, ...]) -> Path:
    """An empty folder with some videos, a table of scores, and a terminal with colours."""
    (tmp_path / "my-videos").mkdir()
    for number, video in enumerate(videos[:2]):
        (tmp_path / "my-videos" / f"{number}.mp4").write_bytes(video)
        (tmp_path / "my-videos" / f"{number}.txt").write_text("a caption")
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", soft_wrap=True)
    monkeypatch.setattr(console, "console", terminal)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put_in_place(here: Path, line: str, finished: Path, with_captions: dict[str, Path]) -> None:
    """The runs and tables that a command names."""
    words = shlex.split(line)
    root = words[2]
    if words[1] == "export" or root not in ROOTS:
        shutil.copytree(with_captions[WITH_TEXTS[root]], here / root)
    else:
        shutil.copytree(finished, here / root)
    rows = read_index(Store(str(here / root)))
    pq.write_table(pa.table({"id": rows.column("id"), "aesthetic": [9.0] * len(rows)}), here / "scores.parquet")
    (here / "takedown.txt").write_text(f"{rows.column('id')[0]}\n")
    if "--select" in words:
        table = words[words.index("--select") + 1]
        splits = ["--split", "val=0.01"] if "--split" in words else []
        assert main(["select", root, *splits, "--out", table]) == 0


@pytest.mark.parametrize("line", commands_of(CARRIED_OUT))
def test_a_command_of_the_documents_does_what_it_should(
    line: str, here: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    for large, small in SMALL.items():
        line = line.replace(large, small)
    command, *arguments = shlex.split(line)[1:]
    if command != "pack":
        put_in_place(here, line, *map(request.getfixturevalue, ("finished", "with_captions")))
    code = main([command, *arguments])
    assert isinstance(console.console.file, io.StringIO)
    assert code == 0, console.console.file.getvalue() + capsys.readouterr().err


def test_commands_of_each_of_these_kinds_stand_in_the_documents() -> None:
    assert {line.split()[1] for line in commands_of(CARRIED_OUT)} == CARRIED_OUT
