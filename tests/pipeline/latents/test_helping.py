"""Replicas that help with a shard that another makes: the same files, whoever made them, and a manifest once."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import configured, output_files, samples_of, task_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import Config
from pipeline.input.listing import list_shards
from pipeline.latents.helping import WORKERS_PER_SHARD, helping_order
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import Event, ShardDone, SliceDone
from pipeline.records import ShardRef
from pipeline.storage.store import Store


@given(st.integers(0, 100), st.integers(1, 30))
def test_a_helper_goes_through_every_slice_once(slices: int, place: int) -> None:
    assert sorted(helping_order(slices, place)) == list(range(slices))


def test_helpers_begin_with_shares_that_do_not_meet() -> None:
    shares = [helping_order(32, place)[: 32 // WORKERS_PER_SHARD] for place in range(WORKERS_PER_SHARD)]
    assert sorted(itertools.chain(*shares)) == list(range(32))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Config:
    """One shard of five slices; a sample of two is bad, and files without an extension lie between samples."""
    folder = tmp_path_factory.mktemp("helping")
    files = [*samples_of([*videos, b"<html>", *videos[:2]])]
    files.insert(12, ("README", b"belongs to no sample"))
    write_tar(folder / "s.tar", files)
    return configured(folder, output={"part_samples": 2})


def task_and_shard(config: Config, tiny: VideoEncoder) -> tuple[ShardTask, ShardRef]:
    (shard,) = list_shards(config.input.shards)
    return task_of(config, tiny), shard


def check(config: Config, undisturbed: dict[str, bytes]) -> None:
    assert output_files(Path(config.output.path)) == undisturbed


def test_a_helper_alone_makes_the_bytes_of_a_run(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes]
) -> None:
    task, shard = task_and_shard(config, tiny)
    events = list(task.help(shard, place=3))
    made = [event.slice_index for event in events if isinstance(event, SliceDone) and not event.reused]
    assert made == helping_order(6, 3)
    assert isinstance(events[-1], ShardDone)
    check(config, undisturbed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_an_owner_and_helpers_in_any_interleaving_make_the_bytes_of_a_run(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes], seed: int
) -> None:
    tasks = [task_and_shard(config, tiny) for _ in range(3)]
    workers: list[Iterator[Event]] = [
        task.help(shard, place) if place else task.run(shard) for place, (task, shard) in enumerate(tasks)
    ]
    for turn in itertools.count(seed):
        chosen = workers[(turn * 7 + seed) % len(workers)]
        if next(chosen, None) is None:
            workers.remove(chosen)
        if not workers:
            break
    check(config, undisturbed)


def test_a_helper_finishes_the_shard_of_an_owner_that_hangs(
    config: Config, tiny: VideoEncoder, undisturbed: dict[str, bytes]
) -> None:
    (owner, shard), (helper, _) = task_and_shard(config, tiny), task_and_shard(config, tiny)
    hanging = owner.run(shard)
    next(hanging)
    assert any(isinstance(event, ShardDone) for event in helper.help(shard, place=1))
    check(config, undisturbed)
    assert Store(config.output.path).names("manifests") == [f"{shard.name}.json"]
    hanging.close()
