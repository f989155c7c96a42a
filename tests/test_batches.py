"""Clips that are encoded together are what they are alone, but for the last bits, whoever their neighbours are."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeConfig, output_files, run_all, samples_of, write_tar
from test_task import KilledError, MortalStore

from encoder.replica import OutOfMemoryError, Stream, VideoEncoder
from pipeline.config import Config, parse_config
from pipeline.decoders import LocalDecoder
from pipeline.encode import Stopwatch, encode_sample
from pipeline.errors import ConfigError
from pipeline.events import SliceDone
from pipeline.identity import fingerprint, identity
from pipeline.listing import shards_of
from pipeline.parts import decode_latent, read_rows
from pipeline.records import Reject
from pipeline.samples import samples_of as samples_in

LATENTS = ("vae_latent", "vae_logvar", "first_frame_latent")


@pytest.fixture
def shard(tmp_path: Path, videos: tuple[bytes, ...]) -> Path:
    """Ten samples of two shapes, of which one is cut within its frames and one is no video."""
    return write_tar(tmp_path / "a.tar", samples_of([*videos, b"<html>", videos[0]]))


@pytest.fixture
def config_of(make_config: MakeConfig, tmp_path: Path) -> Any:
    def make(batch_clips: int, out: str = "out", **output: Any) -> Config:
        values = {"path": str(tmp_path / out), "part_samples": 5, "dtype": "float32", "first_frame": True}
        encoder = {"name": "tiny", "weights": "random:0", "dtype": "float32", "batch_clips": batch_clips}
        return make_config(clip={"window": "uniform:2", "frames": 17}, output=values | output, encoder=encoder)

    return make


def rows_by_part(config: Config) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part, in their order."""
    root, found = Path(config.output.path), {}
    for path in sorted((root / "latents").rglob("*.parquet")):
        with open(path, "rb") as file:
            found[str(path.relative_to(root))] = list(read_rows(file))
    return found


def rejects_of(events: list[Any]) -> list[Reject]:
    return [reject for event in events if isinstance(event, SliceDone) for reject in event.rejects]


@pytest.mark.parametrize("posterior", ["moments", "sample"])
def test_batches_give_the_rows_of_clips_encoded_alone_in_the_same_order(
    posterior: str, shard: Path, config_of: Any, tiny: VideoEncoder
) -> None:
    alone, together = (config_of(size, f"out-{size}", posterior=posterior) for size in (1, 3))
    rejects = [rejects_of(run_all(config, tiny)) for config in (alone, together)]
    assert rejects[0] == rejects[1]
    assert [reject.reason for reject in rejects[0]] == ["not_a_video"]
    ours, theirs = rows_by_part(together), rows_by_part(alone)
    assert ours.keys() == theirs.keys()
    assert sum(map(len, ours.values())) == 18
    for path, rows in ours.items():
        for row, other in zip(rows, theirs[path], strict=True):
            for latent in (name for name in LATENTS if f"{name}_bytes" in row):
                values = [
                    decode_latent(one.pop(f"{latent}_bytes"), row[f"{latent}_shape"], "float32") for one in (row, other)
                ]
                np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)
            assert row == other


def test_a_clip_does_not_depend_on_its_neighbours_or_its_place(
    tmp_path: Path, config_of: Any, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    found = []
    for out, inputs in (("some", videos[:3]), ("others", (videos[4][:2000], b"", videos[2]))):
        write_tar(tmp_path / "a.tar", samples_of(inputs))
        config = config_of(4, out)
        run_all(config, tiny)
        rows = [row for part in rows_by_part(config).values() for row in part if row["sample_index"] == 2]
        found.append([(row["id"], *(row[f"{name}_bytes"] for name in LATENTS)) for row in rows])
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("creations", range(4))
def test_a_run_in_batches_that_was_killed_goes_on_to_the_same_bytes(
    shard: Path, config_of: Any, tiny: VideoEncoder, creations: int
) -> None:
    calm, config = config_of(3, "calm"), config_of(3)
    run_all(calm, tiny)
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, creations, after=True))
    run_all(config, tiny)
    assert output_files(Path(config.output.path)) == output_files(Path(calm.output.path))


def test_a_decode_that_fails_half_way_costs_its_own_clip(
    shard: Path, config_of: Any, tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, config = config_of(3, "calm"), config_of(3)
    run_all(calm, tiny)
    start = LocalDecoder.start

    def failing(self: LocalDecoder, sample: Any) -> Any:
        items = start(self, sample)
        yield from items if sample.index != 2 else [next(items), next(items)]

    monkeypatch.setattr(LocalDecoder, "start", failing)
    rejects = rejects_of(run_all(config, tiny))
    assert [(reject.sample_index, reject.reason) for reject in rejects] == [
        (2, "incomplete"),
        (2, "incomplete"),
        (8, "not_a_video"),
    ]
    whole, left = ([row for part in rows_by_part(one).values() for row in part] for one in (calm, config))
    assert left == [row for row in whole if row["sample_index"] != 2]


def test_a_device_without_memory_for_a_batch_encodes_its_clips_alone(
    shard: Path, config_of: Any, tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, refused, failed = Stream.push, [], []

    def small(self: Stream, video: torch.Tensor) -> Any:
        assert all(one() is None for one in failed), "what failed is still in memory"
        if len(video) > 1 and video.shape[2] > 1:
            refused.append((len(video), *video.shape[3:]))
            failed.append(weakref.ref(video))
            raise OutOfMemoryError("out of memory")
        return push(self, video)

    config, alone = config_of(4), config_of(1, "alone")
    run_all(alone, tiny)
    monkeypatch.setattr(Stream, "push", small)
    assert [reject.reason for reject in rejects_of(run_all(config, tiny))] == ["not_a_video"]
    assert sorted(refused) == [(2, 32, 48), (2, 48, 32), (4, 32, 48), (4, 48, 32)]  # none is tried twice
    ours, theirs = rows_by_part(config), rows_by_part(alone)
    assert [row["vae_latent_bytes"] for part in ours.values() for row in part] == [
        row["vae_latent_bytes"] for part in theirs.values() for row in part
    ]
    monkeypatch.setattr(Stream, "push", lambda self, video: (_ for _ in ()).throw(OutOfMemoryError("none at all")))
    rejects = rejects_of(run_all(config_of(3, "none"), tiny))
    assert {reject.reason for reject in rejects} == {"out_of_memory", "not_a_video"}
    assert len(rejects) == 19


def test_batches_belong_to_the_fingerprint_and_one_clip_at_a_time_is_what_it_was(config_of: Any) -> None:
    one, three = config_of(1), config_of(3)
    assert "batch_clips" not in identity(one, "0")["encoder"]
    assert identity(three, "0")["encoder"]["batch_clips"] == 3
    assert fingerprint(identity(one, "0")) != fingerprint(identity(three, "0"))


def test_whole_videos_are_not_batched(config_of: Any) -> None:
    tree = config_of(3).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"encoder\.batch_clips: clips of whole videos differ in length"):
        parse_config(tree | {"clip": {"frames": "full"}})


def test_the_clips_of_a_sample_are_those_of_encode_sample(shard: Path, config_of: Any, tiny: VideoEncoder) -> None:
    config = config_of(2, "pairs")
    run_all(config, tiny)
    rows = [row for part in rows_by_part(config).values() for row in part]
    sample = next(samples_in(shards_of(config.input)[0], config))
    items = LocalDecoder(config, tiny.spec).start(sample)
    made = list(encode_sample(sample, items, tiny, config.output, Stopwatch()))
    assert [row["id"] for row in rows if row["sample_index"] == 0] == [
        one.id for one in made if not isinstance(one, tuple)
    ]
