"""The encoder alone, in a process of its own: it makes the clips of a run, and its failures reach the user."""

import os
from pathlib import Path

import pytest
from support.runs import MakeConfig, run_all, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.errors import ConfigError, UserError
from pipeline.estimate import ceiling
from pipeline.estimate.ceiling import encode_alone, encoder_alone
from pipeline.input.listing import shards_of
from pipeline.monitor.events import SliceDone


@pytest.mark.slow
def test_the_encoder_alone_makes_the_clips_of_a_run_without_its_first_shard(
    make_config: MakeConfig,
    tiny: VideoEncoder,
    videos: tuple[bytes, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # it would take them all, and others are at work
    write_tar(tmp_path / "s0.tar", samples_of(videos[:4]))
    write_tar(tmp_path / "s1.tar", samples_of([*videos[:3], b"<html>"]))
    config = make_config(clip={"window": "uniform:2"})
    events = run_all(config, tiny)
    last = shards_of(config.input)[-1].name
    rows = sum(event.rows for event in events if isinstance(event, SliceDone) and event.shard == last)
    measured = encode_alone(config, shards_of(config.input))
    assert (measured.clips, measured.frames) == (rows, 5 * rows) == (6, 30)
    assert measured.seconds > 0
    assert measured.machine.keys() == {"device", "threads", "torch"}


def die(*_: object) -> None:
    os._exit(1)


@pytest.mark.slow
def test_a_process_that_dies_or_fails_is_told_apart(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no weights at /nowhere"):
        encoder_alone(make_config(encoder={"weights": "/nowhere"}), ())
    monkeypatch.setattr(ceiling, "_send_limit", die)
    with pytest.raises(UserError, match="has died"):
        encoder_alone(make_config(), ())
