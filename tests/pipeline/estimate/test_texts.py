"""What texts are expected to take: the bytes that they do take, once every caption was looked at."""

from pathlib import Path

import pytest
from support.runs import MakeConfig, samples_of, write_tar
from support.text_runs import commit_rows, with_text
from support.texts import make_text_encoder

from jobs.cli import main
from pipeline.config.load import Config
from pipeline.estimate import preview
from pipeline.estimate.extrapolate import SamplePreview
from pipeline.estimate.texts import preview_texts
from pipeline.monitor.words import size
from pipeline.text.load import load_text_encoder

PREVIEWED = [SamplePreview((), (), ("a cat", "two dogs")), SamplePreview((), ("clip/too_short",), ())]


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_encoder(tmp_path_factory.mktemp("umt5"), "umt5")


@pytest.fixture
def config(make_config: MakeConfig, umt5: Path) -> Config:
    return with_text(make_config(clip={"frames": 5, "buckets": ["32x48"]}), encoder=str(umt5), dtype="bfloat16")


def embedded_bytes(config: Config, captions: list[str]) -> int:
    encoded = load_text_encoder(config.texts, "cpu").encode(captions)
    return sum(2 * one.arrays["text_embedding"].size for one in encoded)


def test_finished_rows_and_samples_that_are_left_are_both_counted(config: Config) -> None:
    commit_rows(config)
    done = ["a cat", "two dogs run", "the sun", "the moon", "one two three four five six seven eight", "", "schön 🐈"]
    found = preview_texts(config, PREVIEWED, 2.0, count=100)
    assert (found.captions.value, found.captions.error) == (len(done) + 2, 0.0)
    assert found.size_bytes.value == embedded_bytes(config, [*done, "a cat", "two dogs"])
    assert found.device_hours.value > 0
    assert found.timed == found.previewed == 8, "one caption occurs twice"


def test_what_was_not_looked_at_is_extrapolated(config: Config) -> None:
    found = preview_texts(config, PREVIEWED, 20.0, count=2)
    assert found.captions.value == 20
    assert found.captions.error > 0
    assert found.size_bytes.value == 10 * embedded_bytes(config, ["a cat", "two dogs"])


def test_plan_prints_bytes_and_device_hours_of_texts(
    config: Config,
    tmp_path: Path,
    videos: tuple[bytes, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preview, "TIMING_SECONDS", 0.02)
    write_tar(tmp_path / "s.tar", samples_of(videos[:2]))
    file = tmp_path / "c.yaml"
    file.write_text(config.model_dump_json())
    assert main(["plan", str(file), "--probe", "2"]) == 0
    said = capsys.readouterr().out
    assert f"2 ± 0 captions; before compression: {size(embedded_bytes(config, ['caption 0', 'caption 1']))}" in said
    assert "device-hours of texts: " in said
