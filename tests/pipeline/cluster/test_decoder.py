"""Decoding in tasks that may die: what a crash, a hang or a retry costs, on a local Ray."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from support.decoders import crash_always, crash_once_half_way, hang, read_on_for_long
from support.runs import MakeConfig

import encoder
from pipeline.clips.plan import ClipRules
from pipeline.cluster import decoder as ray_decoder
from pipeline.cluster.decoder import RayDecoder
from pipeline.config.load import Config
from pipeline.records import Chunk, DecodeItem, Failure, Opened, Sample
from pipeline.video.decode import decode_sample
from pipeline.video.simulated import SimulatedVideo, write_simulated
from pipeline.video.synthetic.videos import make_video

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SIMULATED = {"name": "simulated", "weights": "simulated:0"}
VIDEO = write_simulated(SimulatedVideo(24, 32, 48, 8.0, 0.0))  # which workers decode without torch


@pytest.fixture
def simulated(make_config: MakeConfig) -> MakeConfig:
    """As `make_config`, for VIDEO."""
    return partial(make_config, encoder=SIMULATED)


def sample_of(video: bytes, caption: str = "") -> Sample:
    return Sample("a", 0, 0, 0, True, 0, video, "a.mp4", (caption,), "", None, None)


def decoder_of(config: Config) -> RayDecoder:
    return RayDecoder(config, ray.put(config), rules_of(config))


def rules_of(config: Config) -> ClipRules:
    return ClipRules(encoder.spec_of(config.encoder.name), 8)


def items_of(decoder: RayDecoder, sample: Sample, segment: int = 0) -> list[DecodeItem]:
    """All that comes of a sample; None only says that nothing did for a while."""
    return [item for item in decoder.start(sample, segment) if item is not None]


def put_in_place(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(function)
    monkeypatch.setattr(ray_decoder, "_decode_task", task)


def test_a_task_gives_what_decoding_in_this_process_gives(videos: tuple[bytes, ...], make_config: MakeConfig) -> None:
    config = make_config(clip={"frames": 17, "fps": None})
    items = items_of(decoder_of(config), sample_of(videos[0]))
    expected = list(decode_sample(videos[0], config.clip, config.limits, False, rules_of(config)))
    assert isinstance(items[0], Opened)
    assert items[0] == expected[0]
    for item, other in zip(items[1:], expected[1:], strict=True):
        assert isinstance(item, Chunk)
        assert isinstance(other, Chunk)
        np.testing.assert_array_equal(item.frames, other.frames)


def test_a_decoder_that_always_dies_costs_its_own_sample_only(
    monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig
) -> None:
    decoder = decoder_of(simulated())
    beside = decoder.start(sample_of(VIDEO))
    put_in_place(monkeypatch, crash_always)
    (failure,) = items_of(decoder, sample_of(VIDEO))
    assert isinstance(failure, Failure)
    assert failure.why.code == "decode/decoder_crashed"
    assert not any(isinstance(item, Failure) for item in beside)


def test_a_decoder_that_dies_half_way_is_tried_again_and_nothing_comes_twice(
    monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig, tmp_path: Path
) -> None:
    windows = {"frames": 5, "window": "uniform:3", "fps": None}
    config = simulated(clip=windows, output={"path": str(tmp_path / "mark")})
    put_in_place(monkeypatch, crash_once_half_way)
    opened, *chunks = items_of(decoder_of(config), sample_of(VIDEO))
    assert (tmp_path / "mark").exists(), "the first attempt must have died"
    assert isinstance(opened, Opened)
    assert [chunk.window_index for chunk in chunks if isinstance(chunk, Chunk)] == [0, 1, 2]


def test_a_decoder_that_hangs_is_killed_and_named(monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig) -> None:
    config = simulated(limits={"decode_timeout_seconds": 0.5})
    put_in_place(monkeypatch, hang)
    (failure,) = items_of(decoder_of(config), sample_of(VIDEO))
    assert isinstance(failure, Failure)
    assert failure.why.code == "decode/timeout"


def test_a_decoder_that_says_it_lives_may_take_longer_than_a_timeout(
    monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig
) -> None:
    config = simulated(limits={"decode_timeout_seconds": 3.0})
    put_in_place(monkeypatch, read_on_for_long)
    opened, *chunks = items_of(decoder_of(config), sample_of(VIDEO))
    assert isinstance(opened, Opened)
    assert [len(chunk.frames) for chunk in chunks if isinstance(chunk, Chunk)] == [5]
    assert len(chunks) == 1


def test_a_task_decodes_the_segment_that_it_is_asked_for(make_config: MakeConfig) -> None:
    clip = {"window": "full", "continuous": True, "segments": 2, "frames": 9, "fps": None, "buckets": ["16x16"]}
    config = make_config(clip=clip)
    tiny = encoder.load("tiny", weights="random:0")
    rules = ClipRules(tiny.spec, 8, receptive_field=tiny.receptive_field)
    decoder = RayDecoder(config, ray.put(config), rules)
    opened, *_ = items_of(decoder, sample_of(make_video(400, 25, 64, 64)), segment=1)
    assert isinstance(opened, Opened)
    (spec,) = opened.clips
    assert (spec.window_index, spec.continues, len(spec.row_frames)) == (25, True, 25)
    assert 0 < spec.frame_indices[0] == 1 + 25 * 8 - spec.warm_up_frames


def test_the_decoder_of_a_closed_sample_is_cancelled(simulated: MakeConfig) -> None:
    decoder = decoder_of(simulated(clip={"frames": 17, "fps": None}))
    for _ in range(3):  # more than there are CPUs: what is not cancelled would hold them
        items = decoder.start(sample_of(VIDEO))
        assert isinstance(next(item for item in items if item is not None), Opened)
        items.close()
    assert len(items_of(decoder, sample_of(VIDEO))) == 2


def test_the_decoder_of_a_sample_that_is_closed_unread_is_cancelled_too(
    monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig
) -> None:
    put_in_place(monkeypatch, hang)
    decoder = decoder_of(simulated())
    for _ in range(8):
        decoder.start(sample_of(VIDEO)).close()
    put_in_place(monkeypatch, ray_decoder._decode)
    assert len(items_of(decoder, sample_of(VIDEO))) == 2


def test_a_video_that_takes_too_much_memory_is_rejected_and_the_next_one_is_not(
    videos: tuple[bytes, ...], make_config: MakeConfig
) -> None:
    large = make_video(9, 8, 1920, 1080)
    starved = decoder_of(make_config(limits={"decode_memory_bytes": 4 << 20}))
    *_, failure = items_of(starved, sample_of(large))
    assert isinstance(failure, Failure)
    assert failure.why.stage == "decode"
    *_, last = items_of(decoder_of(make_config()), sample_of(videos[0]))
    assert isinstance(last, Chunk)


def test_a_retry_finds_a_cpu_though_later_samples_hold_them_all(
    monkeypatch: pytest.MonkeyPatch, simulated: MakeConfig, tmp_path: Path
) -> None:
    windows = {"frames": 5, "window": "uniform:4", "fps": None}
    config = simulated(clip=windows, output={"path": str(tmp_path / "mark")})
    decoder = decoder_of(config)
    put_in_place(monkeypatch, crash_once_half_way)
    first = decoder.start(sample_of(VIDEO))
    put_in_place(monkeypatch, ray_decoder._decode)
    later = [decoder.start(sample_of(VIDEO)) for _ in range(3)]
    assert not any(isinstance(item, Failure) for item in first)
    assert (tmp_path / "mark").exists(), "the first attempt must have died"
    assert all(len([item for item in items if item is not None]) == 5 for items in later)
