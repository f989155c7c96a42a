"""Clips made again from their input, and shown: equal on this machine, and said where they are not."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from support.runs import configured, run_all, run_json, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from jobs import console as jobs_console
from jobs.cli import main
from pipeline.audit.pictures import LABEL_PX, moving_picture, picture
from pipeline.audit.reencode import frames_of, reencode
from pipeline.audit.show import find_row
from pipeline.config.load import Config
from pipeline.output.latent_bytes import latent_of
from pipeline.storage.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Config:
    return make_run(tmp_path_factory.mktemp("made"), tiny, videos)


def make_run(folder: Path, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Config:
    write_tar(folder / "a.tar", samples_of(videos[:5]))
    config = configured(folder)
    run_all(config, tiny)
    identity = json.loads(run_json(config, tiny))
    values = {**identity, "config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(values).encode())
    return config


def test_clips_encoded_again_differ_by_their_storage_alone(made: Config) -> None:
    found = list(reencode(Store(made.output.path), 3))
    assert len(found) == 3
    assert all(error < 1e-3 and problem is None for _, error, problem in found)


def test_a_clip_whose_input_changed_is_found(tiny: VideoEncoder, tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    made = make_run(tmp_path, tiny, videos)
    write_tar(tmp_path / "a.tar", samples_of(videos[2:7]))
    assert any(problem for _, _, problem in reencode(Store(made.output.path), 1))


def test_the_frames_of_a_row_of_a_later_slice_are_found(made: Config) -> None:
    store = Store(made.output.path)
    row, footer = find_row(store, "clip-004")
    assert row["sample_index"] == 4
    assert frames_of(store, row, footer).shape == (5, 32, 48, 3)


def test_a_picture_shows_a_frame_above_each_latent_frame(made: Config) -> None:
    store = Store(made.output.path)
    row, footer = find_row(store, "clip-000")
    shown = Image.open(io.BytesIO(picture(latent_of(row), frames_of(store, row, footer), 4, row["id"])))
    assert shown.size == (2 * 240, LABEL_PX + 2 * (LABEL_PX + 160))


def test_a_moving_picture_shows_each_frame_beside_its_latent_frame(made: Config) -> None:
    store = Store(made.output.path)
    row, footer = find_row(store, "clip-000")
    shown = Image.open(io.BytesIO(moving_picture(latent_of(row), frames_of(store, row, footer), 4, row["fps"])))
    assert shown.size == (2 * 240, LABEL_PX + 160)
    assert getattr(shown, "n_frames", 1) == row["num_frames"]


def test_show_prints_the_row_and_writes_the_picture(
    made: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shown.png"
    assert main(["show", made.output.path, "clip-001", "--picture", str(file)]) == 0
    output = capsys.readouterr().out
    assert "caption: caption 1" in output
    assert "vae_latent_bytes" not in output
    assert file.read_bytes().startswith(b"\x89PNG")


def test_show_draws_a_moving_picture(made: Config, tmp_path: Path) -> None:
    file = tmp_path / "shown.gif"
    assert main(["show", made.output.path, "clip-001", "--picture", str(file)]) == 0
    assert file.read_bytes().startswith(b"GIF89a")


def test_show_draws_on_a_terminal(made: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    screen: dict[str, Any] = {"width": 60, "height": 32, "color_system": "truecolor"}
    terminal = Console(file=io.StringIO(), force_terminal=True, soft_wrap=True, **screen)
    monkeypatch.setattr(jobs_console, "console", terminal)
    assert main(["show", made.output.path, "clip-000", "--picture"]) == 0
    assert isinstance(terminal.file, io.StringIO)
    drawn = [line for line in terminal.file.getvalue().splitlines() if "\u2580" in line]
    assert {line.count("\u2580") for line in drawn} == {60}
    assert len(drawn) == 20  # four pictures of 240x160, two above two, as wide as the terminal


@pytest.mark.parametrize(
    ("options", "said"), [(["--picture"], "which this is not: name a file"), (["--picture", "a.webp"], "name a .png")]
)
def test_a_picture_that_cannot_be_drawn_is_refused(
    made: Config, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["show", made.output.path, "clip-001", *options]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_clip_is_the_users_error(made: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", made.output.path, "nobody"]) == 2
    assert "no clip 'nobody'" in capsys.readouterr().err


def test_report_is_written_anew(made: Config) -> None:
    assert main(["report", made.output.path]) == 0
    summary = json.loads(Store(made.output.path).read("summary.json"))
    assert (summary["shards"], summary["samples"], summary["shards_left"]) == (1, 5, 0)
