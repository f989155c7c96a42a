"""Continuous rows: joined along time they are what one stream gives, to the bit, and each has its own account."""

import io
import json
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.clips import RULES, SPEC, clip_of, header_of
from support.continuous import BUCKETS, CONTINUOUS, stored
from support.runs import MakeConfig, configured, run_all, run_json, samples_of, write_tar
from torch import Tensor

import encoder
from encoder.video_encoder import OutOfMemoryError, Posterior, VideoEncoder
from pipeline.audit.pictures import picture
from pipeline.audit.reencode import frames_of, reencode
from pipeline.audit.show import find_row
from pipeline.audit.verify import Verified, verify
from pipeline.clips.continuous import rows_of
from pipeline.clips.plan import ClipRules, check_clip_config, plan_clips, plan_spans
from pipeline.config.latents import ClipConfig
from pipeline.config.load import Config, parse_config
from pipeline.errors import ConfigError, Reason, SampleError, ShardError
from pipeline.input.listing import list_shards
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import SliceDone
from pipeline.output.latent_bytes import latent_of
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, FloatLatent, Sample, Span
from pipeline.storage.store import Store
from pipeline.video.decode import decode_sample
from pipeline.video.decoder import LocalDecoder
from pipeline.video.synthetic.videos import make_video


def continuous(frames: int = 9, **values: Any) -> ClipConfig:
    return clip_of(frames=frames, **CONTINUOUS, **values)


def rows_in(clip: ClipSpec) -> list[ClipSpec]:
    return [row for row, _ in rows_of(clip)]


@given(st.integers(1, 300), st.integers(1, 12), st.sampled_from(["trim", "drop"]), st.none() | st.just(8.0))
def test_rows_tile_the_video_and_all_but_the_last_are_full(
    available: int, steps: int, tail: str, fps: float | None
) -> None:
    length = 1 + 4 * steps
    config = continuous(length, tail=tail).model_copy(update={"fps": fps})
    header = header_of(available)
    (whole,) = plan_clips(header, config.model_copy(update={"continuous": False, "tail": "trim"}), RULES)
    if tail == "drop" and whole.frames < length:
        with pytest.raises(SampleError, match="too_short"):
            plan_clips(header, config, RULES)
        return
    (clip,) = plan_clips(header, config, RULES)
    rows = rows_in(clip)
    joined = [index for row in rows for index in row.frame_indices]
    assert joined == list(clip.frame_indices) == list(whole.frame_indices)[: len(joined)]
    assert [row.window_index for row in rows] == list(range(len(rows)))
    assert [row.continues for row in rows] == [False] + [True] * (len(rows) - 1)
    *full, last = (row.frames + row.continues for row in rows)
    assert set(full) <= {length}
    assert last == length if tail == "drop" else last in range(1, length + 1, 4)
    assert whole.frames - len(joined) < (length - 1 if tail == "drop" else 1)


def test_the_tail_may_also_be_an_error() -> None:
    with pytest.raises(ShardError, match="75 frames"):
        plan_clips(header_of(75), continuous(tail="error"), RULES)
    (clip,) = plan_clips(header_of(73), continuous(tail="error"), RULES)
    assert clip.frames == 73


def test_each_span_is_a_stream_of_its_own() -> None:
    spans = (Span(0, 12, "frames"), Span(12.1, 12.5, "frames"), Span(20, 40, "frames"))
    clips, refused = plan_spans(header_of(100), continuous(), ClipRules(SPEC, 8, spans))
    rows = [row for clip in clips for row in rows_in(clip)]
    assert [(row.window_index, row.frame_indices[0], row.frames, row.continues) for row in rows] == [
        (0, 0, 9, False),
        (2, 20, 9, False),
        (3, 29, 8, True),
    ]
    assert [(one.window_index, one.why.reason) for one in refused] == [(1, "empty_span")]


@pytest.mark.parametrize("clip", [{"frames": "full"}, {"window": "head"}, {"frames": 1}])
def test_rows_without_a_length_are_refused_with_what_to_write(clip: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs window: full, and frames: a number"):
        clip_of(**{"frames": 9, **CONTINUOUS, **clip})


def test_a_length_that_the_encoder_cannot_take_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"clip\.frames: 48 does not fit .* use 45 or 49"):
        check_clip_config(continuous(48), SPEC)


def test_the_first_frame_alone_is_refused_since_later_rows_have_none() -> None:
    tree = {
        "input": {"shards": "a"},
        "output": {"path": "o", "image_latent": "first_frame"},
        "encoder": {"weights": "random:0"},
    }
    with pytest.raises(ConfigError, match=r"configuration: output\.image_latent: .* set output\.image_latent: none"):
        parse_config(tree | {"clip": {"continuous": True, "window": "full"}})


def one_stream(config: Config, loaded: VideoEncoder, video: bytes) -> FloatLatent:
    """The latent of the whole video encoded as one clip."""
    clip = config.clip.model_copy(update={"continuous": False})
    items = decode_sample(video, clip, config.limits, False, ClipRules(loaded.spec, 8))
    frames = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    return loaded.encode(loaded.to_video(frames)).mean[0].numpy()


@pytest.fixture(scope="module")
def long_and_short() -> tuple[bytes, bytes]:
    return make_video(47, 8, 96, 64), make_video(4, 8, 96, 64)


SCOPES = [("tiny", "frame"), ("tiny", "chunk"), ("tiny", "clip"), ("wan", "chunk")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scope"), SCOPES)
@pytest.mark.parametrize("length", [5, 17])
def test_rows_joined_are_the_bits_of_one_stream(
    tmp_path: Path,
    make_config: MakeConfig,
    small_wan: None,
    long_and_short: tuple[bytes, bytes],
    name: str,
    scope: str,
    length: int,
) -> None:
    write_tar(tmp_path / "a.tar", samples_of(long_and_short))
    config = make_config(
        clip={**CONTINUOUS, "frames": length, "buckets": BUCKETS},
        encoder={"name": name, "norm_scope": scope},
        output={"dtype": "float32"},
    )
    loaded = encoder.load(name, weights="random:0", norm_scope=scope)
    run_all(config, loaded)
    rows = stored(config)
    for number, video in enumerate(long_and_short):
        own = [row for row in rows if row["sample_index"] == number]
        joined = np.concatenate([latent_of(row) for row in own], axis=1)
        np.testing.assert_array_equal(joined, one_stream(config, loaded, video))
    names = [f"clip-000:{len(rows) - 2}", "clip-001:0"]
    assert [row["id"] for row in rows[-2:]] == [f"{rows[0]['shard']}/{name}" for name in names]
    assert [row["continues"] for row in rows] == [False] + [True] * (len(rows) - 2) + [False]
    assert [row["num_frames"] for row in rows][:2] == [length, length - 1]
    assert rows[1]["frame_indices"] == list(range(length, 2 * length - 1))
    times = [seconds for row in rows[:-1] for seconds in row["pts_seconds"]]
    assert times == pytest.approx([index / 8 for index in range(45)], abs=0.001)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Config:
    """Four videos of 20 to 23 frames in rows of nine and eight; 23 frames are cut to 21."""
    folder = tmp_path_factory.mktemp("made")
    write_tar(folder / "a.tar", samples_of(videos[:4]))
    config = configured(folder, clip={**CONTINUOUS, "frames": 9, "buckets": BUCKETS})
    run_all(config, tiny)
    values = json.loads(run_json(config, tiny)) | {"config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(values).encode())
    return config


@pytest.mark.slow
def test_the_output_verifies_and_its_rows_are_found_again(made: Config) -> None:
    store, seen = Store(made.output.path), Verified()
    assert list(verify(store, seen)) == []
    assert seen.samples == 4
    assert [row["num_frames"] for row in stored(made)[:3]] == [9, 8, 9]
    again = list(reencode(store, 99))
    assert len(again) == seen.parts
    assert all(error < 1e-3 and problem is None for _, error, problem in again)


def test_a_row_is_shown_with_its_own_frames(made: Config, videos: tuple[bytes, ...]) -> None:
    store = Store(made.output.path)
    row, footer = find_row(store, "clip-001:1")
    frames = frames_of(store, row, footer)
    clip = made.clip.model_copy(update={"continuous": False})
    items = decode_sample(videos[1], clip, made.limits, False, ClipRules(SPEC, 8))
    whole = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    np.testing.assert_array_equal(frames, whole[9:17])
    shown = Image.open(io.BytesIO(picture(latent_of(row), frames, 4, "")))
    assert shown.size[0] == 2 * 160 * 32 // 48 + 1  # two latents, each below the frame that begins it


class FailingDecoder(LocalDecoder):
    """Ends every sample with a failure after the first 17 frames."""

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        frames = 0
        for item in super().start(sample, segment):
            if frames >= 17:
                yield Failure(Reason("decode", "damaged", "half of it"))
                return
            frames += len(item.frames) if isinstance(item, Chunk) else 0
            yield item


@pytest.mark.usefixtures("small_objects")
def test_rows_that_came_whole_before_a_failure_are_rows_and_the_others_rejects(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    write_tar(tmp_path / "a.tar", samples_of([make_video(41, 8, 96, 64)]))
    config = make_config(clip={**CONTINUOUS, "frames": 9, "buckets": BUCKETS})
    task = ShardTask(config, tiny, FailingDecoder(config, tiny.spec), Store(config.output.path))
    slices = [event for event in task.run(list_shards(config.input.shards)[0]) if isinstance(event, SliceDone)]
    assert [row["window_index"] for row in stored(config)] == [0, 1]
    rejects = [(reject.window_index, reject.why.reason) for event in slices for reject in event.rejects]
    assert rejects == [(window, "damaged") for window in (2, 3, 4)]


def test_rows_before_memory_ran_out_are_rows_and_the_others_rejects(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", samples_of([make_video(41, 8, 96, 64)]))
    config = make_config(clip={**CONTINUOUS, "frames": 5, "buckets": BUCKETS}, output={"posterior": "sample"})
    drawn: list[str] = []

    def starved(posterior: Posterior, *seeds: str) -> Tensor:
        drawn.extend(seeds)
        if len(drawn) == 4:  # the second of two rows that one chunk completes
            raise OutOfMemoryError("no memory left on the device")
        return posterior.mean

    monkeypatch.setattr(Posterior, "sample", starved)
    tiny = encoder.load("tiny", weights="random:0")
    events = run_all(config, tiny)
    assert [row["window_index"] for row in stored(config)] == [0, 1, 2]
    rejects = [reject for event in events if isinstance(event, SliceDone) for reject in event.rejects]
    assert [(one.window_index, one.why.reason) for one in rejects] == [(row, "out_of_memory") for row in range(3, 10)]


def test_samples_of_the_posterior_differ_from_row_to_row(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    write_tar(tmp_path / "a.tar", samples_of([make_video(33, 8, 96, 64)]))
    clip = {**CONTINUOUS, "frames": 9, "buckets": BUCKETS}
    config = make_config(clip=clip, output={"posterior": "sample", "dtype": "float32"})
    run_all(config, tiny)
    still = make_config(clip=clip, output={"posterior": "mean", "dtype": "float32", "path": str(tmp_path / "mean")})
    run_all(still, tiny)
    noise = [latent_of(drawn) - latent_of(mean) for drawn, mean in zip(stored(config), stored(still), strict=True)]
    assert all(not np.array_equal(one, other) for one, other in pairwise(noise[1:]))
