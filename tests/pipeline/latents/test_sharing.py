"""Several who share a shard make hardly any part twice, and ask storage little; what is there is the same."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.runs import MakeConfig, moved, output_files, run_all, samples_of, write_tar

import encoder
from pipeline.config.load import Config
from pipeline.errors import TransientError
from pipeline.input.listing import list_shards
from pipeline.latents.helping import LEAST_PATIENCE_SECONDS, PATIENCE, SharedClaims
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import SliceDone
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

PARTS = 24
FAST = "simulated:5"


class CountingStore(Store):
    """Counts listings, questions and parts that another had made before."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.counts: Counter[str] = Counter()

    def names(self, folder: str) -> list[str]:
        self.counts["listings"] += 1
        return super().names(folder)

    def exists(self, path: str) -> bool:
        self.counts["questions"] += 1
        return super().exists(path)

    def create_from(self, path: str, local_file: str) -> bool:
        made = super().create_from(path, local_file)
        self.counts["written" if made else "refused"] += 1
        return made


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...]) -> Config:
    """One shard of 24 parts."""
    write_tar(tmp_path / "s.tar", samples_of([*videos, *videos, *videos]))
    return make_config(encoder={"name": "simulated", "weights": FAST}, output={"part_samples": 1})


def share(config: Config, replicas: int) -> tuple[Counter[str], list[SliceDone]]:
    """Makes the shard with several replicas, each in a thread, as a run on an empty root would."""
    store, claims, lock, done = CountingStore(config.output.path), SharedClaims(), threading.Lock(), list[SliceDone]()
    (shard,) = list_shards(config.input.shards)

    class LockedClaims(SharedClaims):
        def take(self, shard: str, place: int, slice_index: int):  # type: ignore[no-untyped-def]
            with lock:
                return claims.take(shard, place, slice_index)

        def made(self, shard: str, slice_index: int) -> None:
            with lock:
                claims.made(shard, slice_index)

    def work(place: int) -> None:
        loaded = encoder.load("simulated", weights=FAST)
        task = ShardTask(config, loaded, LocalDecoder(config, loaded.spec), store, claims=LockedClaims())
        events = task.help(shard, place) if place else task.run(shard)
        done.extend(event for event in events if isinstance(event, SliceDone))

    with ThreadPoolExecutor(replicas) as pool:
        list(pool.map(work, range(replicas)))
    return store.counts, done


@pytest.mark.slow
def test_four_replicas_on_an_empty_root_make_hardly_any_part_twice(config: Config, tmp_path: Path) -> None:
    counts, done = share(config, replicas=4)
    assert counts["written"] == PARTS
    assert counts["refused"] <= PARTS * 0.1
    assert {event.slice_index for event in done} == set(range(PARTS))
    alone = moved(config, tmp_path / "alone")
    run_all(alone, encoder.load("simulated", weights=FAST))
    assert output_files(tmp_path / "out") == output_files(tmp_path / "alone")


@pytest.mark.slow
def test_a_shard_that_one_replica_makes_is_listed_once_however_many_parts_it_has(config: Config) -> None:
    counts, _ = share(config, replicas=1)
    folders = 2  # latents and rejects: there is no bucket yet
    assert (counts["listings"], counts["questions"], counts["refused"]) == (folders, 0, 0)
    again, done = share(config, replicas=1)
    buckets = len(list((Path(config.output.path) / "latents").iterdir()))
    assert (again["listings"], again["questions"]) == (folders + buckets, 0)
    assert all(event.reused for event in done)


def claims_at(now: list[float]) -> SharedClaims:
    return SharedClaims(now_seconds=lambda: now[0])


def test_a_slice_is_one_s_until_it_is_made() -> None:
    claims = claims_at([0.0])
    assert [claims.take("a", 0, 7), claims.take("a", 1, 7), claims.take("a", 0, 7)] == ["mine", "taken", "mine"]
    assert claims.take("b", 1, 7) == "mine", "of another shard"
    claims.made("a", 7)
    assert [claims.take("a", 0, 7), claims.take("a", 1, 7)] == ["made", "made"]


def test_what_was_claimed_by_one_that_is_gone_is_free() -> None:
    claims = claims_at([0.0])
    claims.take("a", 1, 7)
    claims.take("a", 2, 8)
    claims.release("a", 1)
    assert [claims.take("a", 0, 7), claims.take("a", 0, 8)] == ["mine", "taken"]
    claims.forget("a")
    assert claims.take("a", 0, 8) == "mine"


def test_a_straggler_is_waited_for_some_times_as_long_as_the_longest_slice() -> None:
    now = [0.0]
    claims = claims_at(now)
    claims.take("a", 1, 7)
    now[0] = LEAST_PATIENCE_SECONDS
    claims.made("a", 7)
    claims.take("a", 1, 8)
    now[0] += PATIENCE * LEAST_PATIENCE_SECONDS - 1
    assert claims.take("a", 2, 8) == "taken"
    now[0] += 1
    assert claims.take("a", 2, 8) == "mine"


def test_a_task_that_is_drained_commits_whole_slices_and_no_manifest(config: Config, tmp_path: Path) -> None:
    (shard,) = list_shards(config.input.shards)
    loaded = encoder.load("simulated", weights=FAST)
    task = ShardTask(config, loaded, LocalDecoder(config, loaded.spec), Store(config.output.path))
    events = task.run(shard)
    first = next(event for event in events if isinstance(event, SliceDone))
    task.draining.set()
    with pytest.raises(TransientError, match="drained"):
        list(events)
    assert not first.reused
    assert 0 < len(output_files(tmp_path / "out")) < PARTS
    assert not (tmp_path / "out" / "manifests").exists()
