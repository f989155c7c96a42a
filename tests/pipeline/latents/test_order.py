"""Nothing waits for what is slow: clips are encoded as they come, slices committed meanwhile, to the same bytes."""

import random
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.runs import configured, output_files, samples_of, write_tar
from support.stores import KilledError, MortalStore

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import Config
from pipeline.input.listing import list_shards
from pipeline.latents.pace import Pace
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import Event, ShardDone, ShardRead, SliceDone
from pipeline.records import DecodeItem, Sample
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class HeldDecoder(LocalDecoder):
    """Gives nothing of sample 0 before all others have ended."""

    others: int = 0
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        if sample.index == 0:
            for _ in range(self.others):
                assert self.ended.acquire(timeout=PATIENCE_SECONDS), "the others wait for sample 0"
        yield from LocalDecoder.start(self, sample, segment)
        self.ended.release()


@dataclass(frozen=True, slots=True)
class ErraticDecoder(LocalDecoder):
    """Takes its time before every item, more or less of it."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        for item in LocalDecoder.start(self, sample, segment):
            time.sleep(self.chance.random() / 50)
            yield item


class LateStore(Store):
    """Publishes no part before it is told to."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.may_publish = threading.Event()

    def create_from(self, path: str, local_file: str) -> bool:
        assert self.may_publish.wait(PATIENCE_SECONDS), "the encoder waits for the store"
        return super().create_from(path, local_file)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Config:
    folder = tmp_path_factory.mktemp("order")
    write_tar(folder / "a.tar", samples_of([*videos, b"<html>", *videos[:2]]))
    return configured(folder, clip={"window": "uniform:2"})


def made_by(config: Config, tiny: VideoEncoder, decoder: LocalDecoder, store: Store | None = None) -> list[Event]:
    task = ShardTask(config, tiny, decoder, store or Store(config.output.path), Pace(cpus=8))
    (shard,) = list_shards(config.input.shards)
    return list(task.run(shard))


@pytest.mark.slow
def test_a_slow_sample_at_the_head_holds_nothing_up_and_its_rows_stand_first(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder
) -> None:
    events = made_by(config, tiny, HeldDecoder(config, tiny.spec, others=10))
    assert output_files(Path(config.output.path)) == undisturbed
    done = [event.slice_index for event in events if isinstance(event, SliceDone)]
    assert sorted(done) == [0, 1, 2, 3]
    assert done[-1] == 0, "the other slices were committed before"


@pytest.mark.parametrize("creations", [None, 0, 2, 5])
@pytest.mark.slow
def test_whatever_order_samples_come_in_the_bytes_are_the_same_also_after_a_kill(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder, creations: int | None
) -> None:
    decoder = ErraticDecoder(config, tiny.spec)
    if creations is not None:
        with pytest.raises(KilledError):
            made_by(config, tiny, decoder, MortalStore(config.output.path, creations, after=False))
    events = made_by(config, tiny, decoder)
    assert output_files(Path(config.output.path)) == undisturbed
    assert [event.samples for event in events if isinstance(event, ShardDone)] == [11]


def test_slices_are_committed_while_later_ones_are_encoded(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder
) -> None:
    store = LateStore(config.output.path)
    task = ShardTask(config, tiny, LocalDecoder(config, tiny.spec), store, Pace(cpus=8))
    (shard,) = list_shards(config.input.shards)
    for event in task.run(shard):
        if isinstance(event, ShardRead):
            store.may_publish.set()
    assert output_files(Path(config.output.path)) == undisturbed


def test_that_a_shard_was_read_to_its_end_is_said_before_its_last_samples_are_made(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder
) -> None:
    events = made_by(config, tiny, HeldDecoder(config, tiny.spec, others=10))
    kinds = [type(event) for event in events]
    assert kinds.count(ShardRead) == 1
    assert kinds.index(ShardRead) < len(kinds) - 3
