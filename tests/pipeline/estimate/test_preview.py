"""A few samples are previewed by the run's own rules, and a plan predicts what the run then makes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import MakeConfig, run_all, write_tar

import encoder
from encoder.video_encoder import ClipMemoryError, VideoEncoder
from jobs.cli import main
from pipeline import run as run_module
from pipeline.audit.summary import summarise
from pipeline.config.load import Config
from pipeline.estimate import preview as preview_module
from pipeline.estimate.preview import Preview, free_bytes, preview, stored_bytes, time_encoder
from pipeline.input.listing import shards_of
from pipeline.latents.task import ShardTask
from pipeline.output.parts import read_rows
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder


@pytest.fixture(scope="module")
def tiny() -> VideoEncoder:
    """One that computes each time, as it is timed."""
    return encoder.load("tiny", weights="random:0")


@pytest.fixture
def shards(tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    """Three shards of eight good samples, a filtered one, a page of HTML and a sample without video."""
    good = [
        file
        for number, video in enumerate(videos)
        for file in ((f"clip-{number}.mp4", video), (f"clip-{number}.json", b'{"nsfw": false}'))
    ]
    write_tar(tmp_path / "a.tar", good[:6])
    write_tar(tmp_path / "b.tar", good[6:12])
    hidden = [("x.mp4", videos[0]), ("x.json", b'{"nsfw": true}'), ("y.mp4", b"<html>"), ("z.txt", b"alone")]
    write_tar(tmp_path / "c.tar", good[12:] + hidden)


@pytest.fixture
def config(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(preview_module, "TIMING_SECONDS", 0.02)
    return make_config(
        clip={"window": "uniform:2"}, filter={"where": "not nsfw"}, output={"image_latent": "first_frame"}
    )


def look(config: Config, tiny: VideoEncoder, count: int) -> Preview:
    return preview(config, shards_of(config.input), tiny, count)


@pytest.mark.slow
def test_a_preview_of_every_sample_predicts_exactly_what_the_run_makes(
    shards: None, config: Config, tiny: VideoEncoder
) -> None:
    run_all(config, tiny)
    store = Store(config.output.path)
    made = summarise(json.loads(store.read(f"manifests/{name}")) for name in store.names("manifests"))
    expected = look(config, tiny, 100).estimate
    assert (expected.samples, expected.samples_are_counted, expected.previewed) == (11, True, 11)
    assert (expected.clips.value, expected.clips.error) == (made["rows"], 0.0) == (16, 0.0)
    assert expected.left_out == made["rejects_by_reason"] | made["filtered_by_reason"]
    counts = {
        "x".join(map(str, tiny.spec.latent_shape(*shape))): clips.value for shape, clips in expected.buckets.items()
    }
    assert counts == made["rows_by_bucket"]


def test_a_few_samples_are_spread_over_the_shards_and_say_how_sure_they_are(
    shards: None, config: Config, tiny: VideoEncoder
) -> None:
    seen = look(config, tiny, 4)
    assert seen.estimate.previewed == 4
    assert not seen.estimate.samples_are_counted
    assert 6 < seen.estimate.samples < 20
    again = look(config, tiny, 4)
    assert seen.device == again.device
    assert seen.estimate.clips == again.estimate.clips, "the same samples each time"
    assert seen.estimate.clips.value > 0
    assert len(seen.timings) > 0
    for timing in seen.timings.values():
        assert 0 < timing.least <= timing.median <= timing.most


def test_a_shard_that_cannot_be_read_is_named_and_the_others_count(
    shards: None, config: Config, tiny: VideoEncoder, tmp_path: Path
) -> None:
    (tmp_path / "b.tar").write_bytes(b"no tar")
    seen = look(config, tiny, 6)
    assert len(seen.unreadable) == 1
    assert "b.tar" in seen.unreadable[0]
    assert seen.estimate.previewed == 4


@pytest.mark.slow
def test_every_row_of_a_continuous_clip_is_counted_in_all_its_segments(
    shards: None, make_config: MakeConfig, tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "TIMING_SECONDS", 0.02)
    clip = {"window": "full", "frames": 9, "continuous": True, "segments": 2}
    config = make_config(clip=clip, filter={"where": "not nsfw"})
    store = Store(config.output.path)
    task = ShardTask(config, tiny, LocalDecoder(config, tiny.spec, tiny.receptive_field), store)
    for shard in shards_of(config.input):
        list(task.run(shard))
    made = summarise(json.loads(store.read(f"manifests/{name}")) for name in store.names("manifests"))
    expected = look(config, tiny, 100).estimate
    assert expected.clips.value == made["rows"] > 16
    stored = 0
    for part in (Path(config.output.path) / "latents").rglob("*.parquet"):
        with open(part, "rb") as file:
            stored += sum(len(row["vae_latent_bytes"]) + len(row["vae_logvar_bytes"]) for row in read_rows(file))
    assert expected.size_bytes.value == stored


def test_rows_of_a_table_are_counted(
    make_config: MakeConfig, tiny: VideoEncoder, tmp_path: Path, videos: tuple[bytes, ...]
) -> None:
    (tmp_path / "v.mp4").write_bytes(videos[0])
    (tmp_path / "t.csv").write_text("url\n" + "v.mp4\n" * 50)
    config = make_config(input={"shards": None, "table": {"files": f"{tmp_path}/t.csv", "video": "url"}})
    expected = look(config, tiny, 2).estimate
    assert (expected.samples, expected.samples_are_counted) == (50, True)
    assert (expected.clips.value, expected.clips.error) == (50, 0)


def test_what_is_stored_of_a_clip_is_its_latents(make_config: MakeConfig, tiny: VideoEncoder) -> None:
    values = 16 * 2 * 4 * 6
    sizes: list[tuple[dict[str, Any], int]] = [
        ({}, 2 * 2 * values),
        ({"posterior": "mean", "dtype": "float32"}, 4 * values),
        ({"posterior": "sample", "image_latent": "first_frame"}, 2 * (values + values // 2)),
    ]
    for output, size_bytes in sizes:
        config = make_config(output={"path": "out", **output})
        assert stored_bytes(config.output, tiny.spec, (5, 32, 48)) == size_bytes


@pytest.mark.slow
def test_a_clip_that_takes_too_long_is_timed_by_a_smaller_one(tiny: VideoEncoder) -> None:
    small, whole = (time_encoder(tiny, (25, 32, 40), seconds) for seconds in (0.0, 100.0))
    assert small is not None
    assert whole is not None
    assert small.size == (9, 8, 8)
    assert whole.size == (25, 32, 40)


def test_time_is_scaled_from_the_size_that_was_timed(tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_module, "_encode_blank", lambda _, size: math.prod(size) * 1e-6)
    for seconds, size in ((0.0, (9, 8, 8)), (0.05, (9, 24, 40)), (100.0, (49, 96, 160))):
        timing = time_encoder(tiny, (49, 96, 160), seconds)
        assert timing is not None
        assert timing.size == size
        assert 49 * timing.median == pytest.approx(math.prod((49, 96, 160)) * 1e-6)


def test_a_device_without_enough_memory_is_not_timed(tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ClipMemoryError("too large")

    monkeypatch.setattr(VideoEncoder, "encode", refuse)
    assert time_encoder(tiny, (5, 32, 48), 1.0) is None


def test_free_space_is_that_of_the_disk_of_the_output(tmp_path: Path) -> None:
    assert (free_bytes(str(tmp_path / "not" / "yet")) or 0) > 0
    assert free_bytes("s3://bucket/out") is None


def test_plan_prints_estimates_with_where_they_come_from(
    shards: None,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    monkeypatch.setattr(VideoEncoder, "encode_bytes", lambda *_: 0)  # which says nothing of samples and takes longest
    assert main(["plan", str(tmp_path / "c.yaml"), "--probe", "50"]) == 0
    said = capsys.readouterr().out
    for words in ("looked at 11 samples", "11 (counted)", "1 x filter/where", "5x32x48", "timed on this machine's"):
        assert words in said, said
    assert "enough" in said
    monkeypatch.setattr(preview_module, "free_bytes", lambda path: 10)
    assert main(["plan", str(tmp_path / "c.yaml"), "--probe", "1"]) == 0
    assert "more may be needed" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_plan_loads_the_encoder_once(
    shards: None, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: VideoEncoder
) -> None:
    loaded = []

    def load(*_: object, **__: object) -> VideoEncoder:
        loaded.append(1)
        return tiny

    monkeypatch.setattr(run_module, "load_encoder", load)
    monkeypatch.setattr(VideoEncoder, "encode_bytes", lambda *_: 0)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["plan", str(tmp_path / "c.yaml"), "--probe", "2"]) == 0
    assert loaded == [1]
