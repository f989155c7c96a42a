"""An export holds the rows that were asked for, goes on where it was stopped, and refuses what cannot be trained on."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import s3fs
import torch
from safetensors.torch import load_file
from support.exports import (
    ENCODERS,
    ONE,
    all_rows,
    export_row,
    exported,
    files_in,
    made_run,
    name_of,
    with_texts,
    write_shard,
)
from support.runs import MakeConfig, run_all, run_json, samples_of, write_tar
from support.text_runs import NOT_FINITE, embed_all, task_of, with_text
from support.texts import make_text_encoder

import encoder
from encoder.spec import WAN_MEAN, WAN_STD
from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from pipeline.config.load import Config
from pipeline.dataset.export.exporting import Wish, prepare_export
from pipeline.dataset.export.target import NAMES
from pipeline.dataset.loader import Latents
from pipeline.dataset.select import chosen, read_index, split_of, write_selection
from pipeline.output.paths import SUCCESS_FILE
from pipeline.storage.store import Store
from pipeline.text.load import load_text_encoder


class Died(BaseException):
    """As a signal: no code below catches it."""


class Dying(Store):
    """A store whose process dies at the second thing that it would change."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.changes = 0

    def _changing(self, changes: bool) -> None:
        self.changes += changes
        if self.changes > 1:
            raise Died

    def create(self, path: str, data: bytes) -> bool:
        self._changing(not self.exists(path))
        return super().create(path, data)

    def create_from(self, path: str, local_file: str) -> bool:
        self._changing(not self.exists(path))
        return super().create_from(path, local_file)

    def replace(self, path: str, data: bytes) -> None:
        self._changing(not self.exists(path) or self.read(path) != data)
        super().replace(path, data)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Six made-up rows of the tiny encoder with texts, which every target takes."""
    return with_texts(made_run(tmp_path_factory.mktemp("tiny"), "tiny", (ONE,) * 2))


@pytest.mark.slow
@pytest.mark.parametrize("target", NAMES)
def test_an_export_that_dies_at_every_write_ends_with_the_same_files(
    target: str, tiny_run: Config, tmp_path: Path
) -> None:
    exported(tiny_run, tmp_path / "once", target, text="wan")
    stops = 0
    while True:
        try:
            into = Dying(str(tmp_path / "stopped"))
            prepare_export(Store(tiny_run.output.path), into, Wish(target, "wan")).run(lambda done, of: None)
            break
        except Died:
            stops += 1
    once, stopped = files_in(tmp_path / "once"), files_in(tmp_path / "stopped")
    root = str(tmp_path / "once").encode(), str(tmp_path / "stopped").encode()
    assert {path: data.replace(*root) for path, data in once.items()} == stopped
    assert stops == len(stopped) - 1


def test_a_finished_export_writes_nothing_and_a_lost_file_is_made_again(tiny_run: Config, tmp_path: Path) -> None:
    exported(tiny_run, tmp_path, "musubi", text="wan")
    before = files_in(tmp_path)
    lost = next(tmp_path.rglob("*_wan.safetensors"))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors") if path != lost}
    lost.unlink()
    exported(tiny_run, tmp_path, "musubi", text="wan")
    assert files_in(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def ids_in(folder: Path) -> list[str]:
    return [row["id"] for path in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def test_a_selection_and_its_split_are_honoured(tiny_run: Config, tmp_path: Path) -> None:
    rows = chosen(read_index(Store(tiny_run.output.path)), "window_index != 1")
    splits = split_of(rows, {"val": 0.4})
    write_selection(rows, splits, str(tmp_path / "selected.parquet"))
    by_split = dict(zip(rows["id"].to_pylist(), splits.to_pylist(), strict=True))
    assert set(by_split.values()) == {"train", "val"}
    for split in (None, "train", "val"):
        into = tmp_path / str(split)
        exported(tiny_run, into, "fastvideo", text="wan", selection=str(tmp_path / "selected.parquet"), split=split)
        assert sorted(ids_in(into)) == sorted(id_ for id_, of in by_split.items() if split in (None, of))


def test_rows_come_in_the_order_of_the_loader_with_its_latents(wan: Config, tmp_path: Path) -> None:
    exported(wan, tmp_path, "finetrainers", text="wan")
    loader = Latents(wan.output.path, batch=1, step_batches=1, shuffle=False, posterior="moments", scale=None)
    for number, batch in enumerate(loader):
        latents = torch.load(tmp_path / f"finetrainers-precomputed-data/latent-{number}.pt", weights_only=True)
        assert torch.equal(latents["latents"], batch["latent"].bfloat16())
    assert number == len(all_rows((ONE,) * 4)) - 1


def test_moments_are_stored_values_and_are_never_scaled(wan: Config) -> None:
    with pytest.raises(ValueError, match="unknown scale 'footer': use one of"):
        Latents(wan.output.path, batch=1, step_batches=1, posterior="moments")


def test_rows_whose_text_was_rejected_are_left_out(tmp_path: Path) -> None:
    config = made_run(tmp_path, "tiny")
    write_shard(Store(config.output.path), "c", [export_row("c", 0, caption=NOT_FINITE)], "tiny")
    exported(with_texts(config), tmp_path / "into", "fastvideo", text="wan")
    assert sorted(ids_in(tmp_path / "into")) == sorted(row.id for _, row in all_rows((ONE,) * 4))


def test_an_export_to_s3_has_the_bytes_of_one_on_disk(
    tiny_run: Config, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ENDPOINT_URL": f"http://{s3_server}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()  # of other servers
    fsspec.filesystem("s3").mkdir("bucket-of-exports")
    exported(tiny_run, tmp_path, "fastvideo", text="wan")
    remote = Store("s3://bucket-of-exports/into")
    for _ in range(2):  # the second finds everything
        prepare_export(Store(tiny_run.output.path), remote, Wish("fastvideo", "wan")).run(lambda done, of: None)
    assert {path: remote.read(path) for path in files_in(tmp_path)} == files_in(tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(("name", "target"), [("cogvideox", "cogvideo"), ("wan", "musubi")])
def test_latents_are_scaled_by_the_published_factors_of_their_encoder(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODERS, name, encoder.spec_of(name).scaling)
    shapes = ((16, 3, 4, 6),) * 2
    config = with_texts(made_run(tmp_path, name, shapes), name)
    exported(config, tmp_path / "into", target, text=name, posterior="mean")
    shift, std = (np.reshape(values, (16, 1, 1, 1)) for values in (WAN_MEAN, WAN_STD))
    for shard, row in all_rows(shapes):
        expected = row.latent * 1.15258426 if name == "cogvideox" else (row.latent - shift) / std
        paths = [path for path in tmp_path.rglob(f"{name_of(shard, row)}*") if "_te." not in path.name]
        (latent,) = load_file(paths[0]).values()
        np.testing.assert_allclose(latent.float(), expected, rtol=2**-8)


def test_captions_of_a_table_take_the_place_of_those_of_the_rows(tmp_path: Path) -> None:
    config = made_run(tmp_path, "tiny")
    table = tmp_path / "captions.csv"
    rows = [f"{row.id},new {row.sample.index}" for _, row in all_rows((ONE,) * 4)]
    table.write_text("\n".join(["id,caption", *rows]))
    config = with_text(config, captions=str(table))
    embed_all(config, "recaptioned", task := task_of(config, "recaptioned"))
    task.store.create(SUCCESS_FILE, b'{"rejects": 0}')
    exported(config, tmp_path / "into", "cogvideo", text="recaptioned")
    prompts = (tmp_path / "into" / "prompts.txt").read_text().splitlines()
    assert prompts == [f"new {row.sample.index}" for _, row in all_rows((ONE,) * 4)]


Made = Mapping[str, str]  # what a run is made of
Refused = tuple[Made, Sequence[str], str]
REFUSED: dict[str, Refused] = {
    "no text": ({"encoder": "wan"}, ["--to", "musubi"], "musubi trains with text embeddings"),
    "unknown text": (
        {"encoder": "wan"},
        ["--to", "dfm", "--text", "x"],
        "has no such texts, it has wan",
    ),
    "text of another family": (
        {"encoder": "cogvideox"},
        ["--to", "cogvideo", "--text", "wan"],
        "was embedded by the rules of wan: models of cogvideox take those of cogvideox",
    ),
    "no model": (
        {"encoder": "cogvideox"},
        ["--to", "fastvideo", "--text", "wan"],
        "fastvideo has no model for latents of cogvideox: it trains on those of tiny, wan, wan2.2",
    ),
    "no moments": (
        {"encoder": "wan", "posterior": "mean"},
        ["--to", "finetrainers", "--text", "wan"],
        "finetrainers takes moments, and the rows hold mean: make them with output.posterior=moments",
    ),
    "no sample": (
        {"encoder": "tiny", "posterior": "mean"},
        ["--to", "cogvideo", "--text", "wan"],
        "cogvideo takes sample, and the rows hold mean: use --posterior mean",
    ),
    "a posterior of its own": (
        {"encoder": "wan"},
        ["--to", "finetrainers", "--text", "wan", "--posterior", "mean"],
        "finetrainers takes moments: leave out --posterior mean",
    ),
    "a split without a selection": (
        {"encoder": "wan"},
        ["--to", "dfm", "--text", "wan", "--split", "train"],
        "split 'train' needs the selection that has it",
    ),
    "a selection that is not there": (
        {"encoder": "wan"},
        ["--to", "dfm", "--text", "wan", "--select", "/nowhere.parquet"],
        "/nowhere.parquet",
    ),
    "not a run": ({}, ["--to", "dfm"], "is not the output of a run"),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Made], str]:
    """The root of a run with texts, or of none, which is only read."""

    @cache
    def made(*options: tuple[str, str]) -> str:
        folder = tmp_path_factory.mktemp("run")
        return with_texts(made_run(folder, **dict(options))).output.path if options else str(folder)

    return lambda options: made(*options.items())


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line(
    case: str, run_of: Callable[[Made], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, arguments, said = REFUSED[case]
    assert main(["export", run_of(made), str(tmp_path / "into"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "into").exists()


def test_a_folder_with_another_export_is_refused_with_what_differs(
    tiny_run: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tiny_run.output.path, str(tmp_path), "--text", "wan"]
    assert main(["export", "--to", "dfm", *arguments]) == 0
    assert main(["export", "--to", "dfm", *arguments, "--posterior", "sample"]) == 2
    assert 'holds another export (posterior: "mean" there, "sample" now): use a new folder' in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_run_with_a_real_text_encoder_is_exported_to_every_target(
    make_config: MakeConfig,
    tiny: VideoEncoder,
    videos: tuple[bytes, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[::2]))
    config = make_config(clip={"frames": 9, "buckets": ["32x48"]})
    run_all(config, tiny)
    Store(config.output.path).create("run.json", run_json(config, tiny))
    config = with_text(config, encoder=str(make_text_encoder(tmp_path / "t5", "t5")), preset="cogvideox")
    task = task_of(config, "t5", load_text_encoder(config.texts, "cpu"))
    embed_all(config, "t5", task)
    task.store.create(SUCCESS_FILE, b'{"rejects": 0}')
    for target in NAMES:
        assert main(["export", config.output.path, "--to", target, str(tmp_path / target), "--text", "t5"]) == 0
        assert f"4 rows, 1 shapes: {tmp_path / target}; the trainer finds them by\n" in capsys.readouterr().out
    condition = torch.load(tmp_path / "finetrainers/finetrainers-precomputed-data/condition-3.pt", weights_only=True)
    assert condition["encoder_hidden_states"].shape == (1, 226, 32)
    assert torch.isfinite(condition["encoder_hidden_states"]).all()
