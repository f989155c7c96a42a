"""Segments of one video: each row in exactly one, with the bits of one stream, whoever makes them, killed or not."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip_of, header_of
from support.continuous import BUCKETS, CONTINUOUS, stored
from support.encoders import ENCODERS
from support.runs import MakeConfig, configured, output_files, run_all, run_json, samples_of, task_of, write_tar
from support.stores import KilledError, MortalStore

import encoder
from encoder import spec_of
from encoder.streaming.receptive_field import LayerField, ReceptiveField
from encoder.video_encoder import VideoEncoder
from pipeline.audit.reencode import frames_of, reencode
from pipeline.audit.repair import retry_rejects
from pipeline.audit.show import find_row
from pipeline.audit.summary import summarise
from pipeline.audit.verify import Verified, verify
from pipeline.clips.continuous import rows_of, windows_of_segment
from pipeline.clips.plan import ClipRules, check_segments, plan_spans
from pipeline.cluster.fleet import ReplicaCount
from pipeline.config.load import Config, parse_config
from pipeline.errors import ConfigError
from pipeline.input.listing import list_shards
from pipeline.latents.helping import SharedClaims
from pipeline.monitor.events import Event, ShardDone, SliceDone
from pipeline.output.latent_bytes import latent_of
from pipeline.output.manifests import read_manifests
from pipeline.output.paths import done_shards
from pipeline.records import Span
from pipeline.storage.store import Store
from pipeline.video.synthetic.videos import make_video

RECEPTIVE_FIELD = ReceptiveField(
    (LayerField(1, 2, False), LayerField(1, 9, True), LayerField(4, 7, True)), 4, True, 8, "diffusers"
)


@given(st.integers(1, 40), st.integers(1, 400))
def test_every_window_is_in_one_segment_and_segments_are_even(segments: int, windows: int) -> None:
    shares = [windows_of_segment(segment, segments, windows) for segment in range(segments)]
    assert list(itertools.chain(*shares)) == list(range(windows))
    assert all(window * segments // windows == number for number, share in enumerate(shares) for window in share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 500), st.integers(1, 6), st.integers(2, 7), st.booleans(), st.none() | st.just(8.0))
def test_rows_of_all_segments_are_those_of_the_video_with_the_same_frames(
    available: int, steps: int, segments: int, in_spans: bool, fps: float | None
) -> None:
    spans = (Span(0, available / 3, "frames"), Span(available / 3, available, "frames")) if in_spans else None
    config = clip_of(frames=1 + 4 * steps, **CONTINUOUS | {"fps": fps})
    divided = config.model_copy(update={"segments": segments})
    whole, refused = plan_spans(header_of(available), config, ClipRules(spec_of("tiny"), 8, spans))
    assert (whole, refused) == plan_spans(header_of(available), divided, ClipRules(spec_of("tiny"), 8, spans))
    rows, also_refused = [], []
    for segment in range(segments):
        rules = ClipRules(spec_of("tiny"), 8, spans, segment, RECEPTIVE_FIELD)
        clips, not_these = plan_spans(header_of(available), divided, rules)
        rows += [row for clip in clips for row, _ in rows_of(clip)]
        also_refused += not_these
        for clip in clips:
            assert sum(clip.plan_frames) == sum(clip.chunk_frames) == clip.frames
            assert clip.warm_up_frames + sum(clip.row_frames) <= clip.frames
            assert clip.warm_up_frames % 4 == (1 if clip.continues else 0)
    expected = [row for clip in whole for row, _ in rows_of(clip)]
    assert [(row.window_index, list(row.frame_indices), row.continues) for row in rows] == [
        (row.window_index, list(row.frame_indices), row.continues) for row in expected
    ]
    assert tuple(also_refused) == refused


@pytest.mark.parametrize(("name", "options"), [pair for pair in ENCODERS if "tiles" not in pair[1]])
def test_segments_are_the_bits_of_one_stream(
    tmp_path: Path, make_config: MakeConfig, small_wan: None, name: str, options: dict[str, Any]
) -> None:
    write_tar(tmp_path / "a.tar", samples_of([make_video(158, 25, 64, 64), make_video(6, 25, 64, 64)]))
    loaded = encoder.load(name, weights="random:0", **options)
    rows = {}
    for segments in (1, 3):
        config = make_config(
            clip={**CONTINUOUS, "frames": 9, "buckets": ["16x24"], "segments": segments},
            encoder={"name": name, **options},
            output={"dtype": "float32", "path": str(tmp_path / f"out{segments}")},
        )
        run_all(config, loaded)
        rows[segments] = stored(config)
    assert len(rows[1]) == len(rows[3]) == 20 + 1
    for one, other in zip(rows[1], rows[3], strict=True):
        np.testing.assert_array_equal(latent_of(one), latent_of(other))
        assert {key: value for key, value in one.items() if "bytes" not in key} == {
            key: value for key, value in other.items() if "bytes" not in key
        }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Config:
    """Five samples in ranges of two, three segments: a long video, one of a single row, a page, and two of two rows."""
    folder = tmp_path_factory.mktemp("segments")
    long, single = make_video(60, 8, 96, 64), make_video(5, 8, 96, 64)
    files = [*samples_of([long, single, b"<html>", videos[0], videos[1]])]
    files.insert(4, ("README", b"belongs to no sample"))
    write_tar(folder / "s.tar", files)
    clip = {**CONTINUOUS, "frames": 13, "buckets": BUCKETS, "segments": 3}
    return configured(folder, clip=clip, output={"part_samples": 2})


def claim(config: Config, tiny: VideoEncoder) -> Store:
    store = Store(config.output.path)
    values = json.loads(run_json(config, tiny)) | {"config": config.model_dump(mode="json")}
    store.create("run.json", json.dumps(values).encode())
    return store


def test_the_account_is_that_of_samples_however_many_segments_there_are(config: Config, tiny: VideoEncoder) -> None:
    events = run_all(config, tiny)
    store, seen = claim(config, tiny), Verified()
    assert list(verify(store, seen)) == []
    assert (seen.samples, seen.rows, seen.rejects) == (5, 5 + 1 + 2 + 2, 1)
    (manifest,) = read_manifests(store, sorted(done_shards(store)))
    summary = summarise([manifest])
    assert (summary["samples_with_clips"], summary["samples_rejected"], summary["ignored_files"]) == (4, 1, 1)
    assert [(reject["sample_index"], reject["reason"]) for reject in manifest["rejects"]] == [(2, "not_a_video")]
    slices = [event for event in events if isinstance(event, SliceDone)]
    assert [event.slice_index for event in slices] == list(range(9))
    assert [event.samples for event in slices] == [2, 0, 0, 2, 0, 0, 1, 0, 0]
    assert [event.rows for event in slices] == [3, 2, 1, 1, 1, 0, 1, 1, 0]
    assert sum(len(event.rejects) for event in slices) == 1
    assert len(store.names("rejects")) == 2, "slices without rows"


def test_rows_of_segments_are_found_and_made_again(config: Config, tiny: VideoEncoder) -> None:
    run_all(config, tiny)
    store = claim(config, tiny)
    again = list(reencode(store, 99))
    assert len(again) == len([path for path in output_files(Path(config.output.path)) if "parquet" in path])
    assert all(error < 1e-3 and problem is None for _, error, problem in again)
    row, footer = find_row(store, "clip-004:1")
    assert frames_of(store, row, footer).shape == (8, 48, 32, 3)


@pytest.mark.parametrize(("creations", "after"), [(0, True), (2, False), (5, True), (8, False), (11, True)], ids=str)
def test_a_run_killed_between_segments_goes_on_to_the_same_bytes(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes], creations: int, after: bool
) -> None:
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, creations, after))
    run_all(config, tiny)
    assert output_files(Path(config.output.path)) == undisturbed


@pytest.mark.parametrize("seed", range(2))
def test_an_owner_and_helpers_in_any_interleaving_make_the_bytes_of_a_run(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes], seed: int
) -> None:
    (shard,) = list_shards(config.input.shards)
    tasks = [task_of(config, tiny) for _ in range(3)]
    workers: list[Iterator[Event]] = [
        task.help(shard, place) if place else task.run(shard) for place, task in enumerate(tasks)
    ]
    for turn in itertools.count(seed):
        chosen = workers[(turn * 7 + seed) % len(workers)]
        if next(chosen, None) is None:
            workers.remove(chosen)
        if not workers:
            break
    assert output_files(Path(config.output.path)) == undisturbed


def test_what_a_helper_committed_since_the_owner_began_is_not_encoded_again(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes]
) -> None:
    (shard,) = list_shards(config.input.shards)
    claims = SharedClaims(least_patience_seconds=0.2)
    owner, helper = (replace(task_of(config, tiny), claims=claims) for _ in range(2))
    running = owner.run(shard)
    first = next(running)  # it is at the next slice by now
    assert not isinstance(first, SliceDone)
    claims.release(shard.name, 0)  # as if the owner hung
    assert any(isinstance(event, ShardDone) for event in helper.help(shard, place=1))
    made = [event for event in running if isinstance(event, SliceDone)]
    assert sorted(event.slice_index for event in made) == list(range(9))
    assert sum(event.reused for event in made) >= 5, "all but the few that were under way"
    assert output_files(Path(config.output.path)) == undisturbed


def test_rejects_of_a_divided_video_are_tried_again_in_all_segments(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes]
) -> None:
    run_all(config, tiny)
    store = claim(config, tiny)
    rejects, moved_paths = retry_rejects(store, None, "not_a_video")
    assert rejects == 1
    numbers = {path[-13:-8] for path in moved_paths if path.startswith("latents/")}
    assert numbers == {"00003", "00004"}
    run_all(config, tiny)
    assert {path: undisturbed[path] for path in output_files(Path(config.output.path))} == undisturbed


def test_segments_of_what_must_be_encoded_whole_are_refused() -> None:
    clip = clip_of(frames=9, segments=2, **CONTINUOUS)
    whole = encoder.load("tiny", weights="random:0", norm_scope="clip")
    with pytest.raises(ConfigError, match=r"clip\.segments: 2 replicas .*norm_scope: chunk or frame"):
        check_segments(clip, whole.receptive_field)
    check_segments(clip, RECEPTIVE_FIELD)
    check_segments(clip_of(frames=9), None)


def test_segments_need_continuous_rows() -> None:
    tree = {"input": {"shards": "a"}, "output": {"path": "o"}, "encoder": {"weights": "random:0"}}
    with pytest.raises(ConfigError, match=r"clip: segments: 2 .* needs continuous: true"):
        parse_config(tree | {"clip": {"segments": 2}})


def test_replicas_are_as_many_as_find_work_in_the_segments_of_a_shard() -> None:
    assert ReplicaCount(1, 99, per_shard=4).wanted(gpus=16, shards=1) == 4
    assert ReplicaCount(1, 99, per_shard=4).wanted(gpus=16, shards=5) == 16
