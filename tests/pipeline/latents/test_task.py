"""One shard in one process: accounting, the same bytes however often it is interrupted, and what it refuses."""

import io
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import MakeConfig, configured, moved, output_files, run_all, run_json, samples_of, write_tar
from support.stores import KilledError, MortalStore
from torch import Tensor

from encoder.kernels.direct import convolve
from encoder.models import layers
from encoder.video_encoder import OutOfMemoryError, VideoEncoder
from pipeline.audit.summary import summarise
from pipeline.audit.verify import Verified, verify
from pipeline.clips.plan import ClipRules
from pipeline.config.load import Config
from pipeline.errors import Reason, ShardError
from pipeline.input.listing import list_shards
from pipeline.input.tar import read_samples
from pipeline.latents.load import load_encoder
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import ConvolutionsHalved, ShardDone, SliceDone
from pipeline.output.latent_bytes import decode_latent
from pipeline.output.manifests import read_manifests
from pipeline.output.parts import read_rows
from pipeline.output.paths import done_shards
from pipeline.records import Chunk, DecodeItem, Failure, Sample
from pipeline.storage.store import Store
from pipeline.video.decode import decode_sample
from pipeline.video.decoder import LocalDecoder


class CountingDecoder(LocalDecoder):
    """Notes which samples are decoded."""

    seen: list[int]

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        self.seen.append(sample.index)
        return super().start(sample, segment)


def counting(config: Config, tiny: VideoEncoder) -> CountingDecoder:
    decoder = CountingDecoder(config, tiny.spec)
    object.__setattr__(decoder, "seen", [])
    return decoder


def write_shard(folder: Path, videos: tuple[bytes, ...]) -> Path:
    """Nine samples: good ones of two shapes, an HTML page, a video without frames enough, and one without video."""
    files = samples_of([*videos[:4], b"<html>", videos[4], videos[5][:2000], videos[6]])
    return write_tar(folder / "a.tar", [*files, ("zz.txt", b"alone")])


@pytest.fixture
def shard(tmp_path: Path, videos: tuple[bytes, ...]) -> Path:
    return write_shard(tmp_path, videos)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...], tiny: VideoEncoder) -> Config:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    write_shard(folder, videos)
    run_all(config := configured(folder), tiny)
    return config


def test_every_sample_is_a_row_or_a_reject(shard: Path, make_config: MakeConfig, tiny: VideoEncoder) -> None:
    config = make_config()
    events = run_all(config, tiny)
    done = [event for event in events if isinstance(event, ShardDone)]
    slices = [event for event in events if isinstance(event, SliceDone)]
    assert [event.samples for event in done] == [9]
    assert sum(event.rows for event in slices) == 6
    rejects = {reject.key: reject.why.reason for event in slices for reject in event.rejects}
    assert rejects == {"clip-004": "not_a_video", "clip-006": "unreadable", "zz": "no_video"}


def test_a_convolution_halved_for_lack_of_memory_is_told_and_counted_in_the_manifest(
    shard: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory = iter([True])

    def cramped(x: Tensor, *args: Any, **options: Any) -> Tensor:
        if x.ndim == 5 and next(short_of_memory, False):
            raise OutOfMemoryError
        return convolve(x, *args, **options)

    monkeypatch.setattr(layers, "convolve", cramped)
    config = make_config()
    events = run_all(config, load_encoder(config.encoder, "cpu"))
    told = [event for event in events if isinstance(event, ConvolutionsHalved)]
    store = Store(config.output.path)
    (manifest,) = read_manifests(store, done_shards(store))
    assert told == [ConvolutionsHalved(manifest["shard"]["name"], 1)]
    assert manifest["convolutions_halved"] == summarise([manifest])["convolutions_halved"] == 1


def test_the_output_verifies(shard: Path, make_config: MakeConfig, tiny: VideoEncoder) -> None:
    config = make_config()
    run_all(config, tiny)
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    seen = Verified()
    assert list(verify(store, seen)) == []
    assert (seen.shards, seen.rows, seen.samples, seen.rejects) == (1, 6, 9, 3)


def test_a_latent_is_what_the_encoder_gives_for_the_frames_of_its_row(
    shard: Path, make_config: MakeConfig, tiny: VideoEncoder
) -> None:
    config = make_config(output={"dtype": "float32"})
    run_all(config, tiny)
    path = sorted((Path(config.output.path) / "latents").rglob("*-00000.parquet"))[0]
    with open(path, "rb") as file:
        row = next(read_rows(file))
    sample = samples_in(config)[row["sample_index"]]
    items = decode_sample(sample.video, config.clip, config.limits, False, ClipRules(tiny.spec, 8))
    frames = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    posterior = tiny.encode(tiny.to_video(frames))
    assert (row["id"], row["key"]) == (f"{row['shard']}/{sample.key}", sample.key)
    stored = decode_latent(row["vae_latent_bytes"], row["vae_latent_shape"], row["vae_latent_dtype"])
    np.testing.assert_array_equal(stored, posterior.mean[0].numpy())
    stored = decode_latent(row["vae_logvar_bytes"], row["vae_logvar_shape"], row["vae_logvar_dtype"])
    np.testing.assert_array_equal(stored, posterior.logvar[0].numpy())


def samples_in(config: Config) -> list[Sample]:
    (ref,) = list_shards(config.input.shards)
    return list(read_samples(ref.url, config.input, 1 << 30))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("creations", range(6))
@pytest.mark.slow
def test_a_run_killed_at_any_write_goes_on_to_the_same_bytes(
    calm: Config, tiny: VideoEncoder, tmp_path: Path, creations: int, after: bool
) -> None:
    config = moved(calm, tmp_path / "out")
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, creations, after))
    run_all(config, tiny)
    assert output_files(Path(config.output.path)) == output_files(Path(calm.output.path))
    assert len(output_files(Path(calm.output.path))) == 5, "with the manifest, six creations: the kills reach each"


def test_what_was_committed_is_not_decoded_again(
    shard: Path, make_config: MakeConfig, tiny: VideoEncoder, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(KilledError):  # slice 0 has two parts: the first is committed, the second is not
        run_all(config, tiny, MortalStore(config.output.path, 1, after=False))
    (part,) = output_files(Path(config.output.path))
    decoder = counting(config, tiny)
    task = ShardTask(config, tiny, decoder, Store(config.output.path))
    (ref,) = list_shards(config.input.shards)
    list(task.run(ref))
    with open(Path(config.output.path) / part, "rb") as file:
        kept = {row["sample_index"] for row in read_rows(file)}
    assert kept
    assert kept.isdisjoint(decoder.seen)
    assert set(decoder.seen) | kept == set(range(8))


def test_a_finished_shard_gives_its_manifest_once(shard: Path, make_config: MakeConfig, tiny: VideoEncoder) -> None:
    config = make_config()
    run_all(config, tiny)
    manifests = {path: path.read_bytes() for path in (Path(config.output.path) / "manifests").iterdir()}
    decoder = counting(config, tiny)
    task = ShardTask(config, tiny, decoder, Store(config.output.path))
    list(task.run(list_shards(config.input.shards)[0]))
    assert decoder.seen == []
    assert {path: path.read_bytes() for path in manifests} == manifests


def test_a_truncated_shard_never_gets_a_manifest(shard: Path, make_config: MakeConfig, tiny: VideoEncoder) -> None:
    shard.write_bytes(shard.read_bytes()[: -4 * 10240])
    config = make_config()
    with pytest.raises(ShardError, match=r"a\.tar"):
        run_all(config, tiny)
    assert not done_shards(Store(config.output.path))


def test_a_missing_shard_is_named(make_config: MakeConfig, tiny: VideoEncoder) -> None:
    config = make_config(input={"shards": "/nowhere/b.tar"})
    with pytest.raises(ShardError, match=r"/nowhere/b\.tar does not exist"):
        run_all(config, tiny)


def test_parts_made_from_other_input_are_refused(
    shard: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    config = make_config()
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, 1, after=True))
    write_tar(shard, samples_of(videos))
    with pytest.raises(ShardError, match="changed input"):
        run_all(config, tiny)


def test_an_empty_shard_is_done_with_no_samples(tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder) -> None:
    write_tar(tmp_path / "empty.tar", [])
    events = run_all(make_config(), tiny)
    assert [event.samples for event in events if isinstance(event, ShardDone)] == [0]


def test_windows_of_one_video_are_rows_with_their_own_id(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "w.tar", samples_of(videos[7:]))
    config = make_config(clip={"frames": 5, "window": "slide:6", "fps": None, "buckets": ["32x48", "48x32"]})
    run_all(config, tiny)
    (part,) = (Path(config.output.path) / "latents").rglob("*.parquet")
    with open(part, "rb") as file:
        rows = list(read_rows(file))
    assert [row["id"] for row in rows] == [f"{rows[0]['shard']}/clip-000:{window}" for window in range(4)]
    assert [row["frame_indices"][0] for row in rows] == [0, 6, 12, 18]


class FailingDecoder(LocalDecoder):
    """Ends every sample with a failure after the first of its clip's two chunks."""

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        items = super().start(sample, segment)
        yield next(items)
        yield next(items)
        yield Failure(Reason("decode", "damaged", "half of it"))


@pytest.mark.usefixtures("small_objects")
def test_a_clip_that_fails_half_way_is_a_reject_with_its_window(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "half.tar", samples_of(videos[:2]))
    config = make_config(clip={"frames": 17, "buckets": ["32x48", "48x32"]})
    task = ShardTask(config, tiny, FailingDecoder(config, tiny.spec), Store(config.output.path))
    slices = [event for event in task.run(list_shards(config.input.shards)[0]) if isinstance(event, SliceDone)]
    rejects = [(reject.key, reject.window_index, reject.why.reason) for event in slices for reject in event.rejects]
    assert rejects == [("clip-000", 0, "damaged"), ("clip-001", 0, "damaged")]


def rows_of(config: Config) -> list[dict[str, Any]]:
    parts = sorted((Path(config.output.path) / "latents").rglob("*.parquet"))
    return [row for part in parts for row in read_rows(io.BytesIO(part.read_bytes()))]


def test_samples_of_the_posterior_depend_on_the_seed_and_the_clip_alone(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "s.tar", samples_of([videos[0], videos[0]]))
    drawn = {}
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        output = {"path": str(tmp_path / name), "posterior": "sample", "seed": seed, "dtype": "float32"}
        config = make_config(output=output)
        run_all(config, tiny)
        drawn[name] = [row["vae_latent_bytes"] for row in rows_of(config)]
    assert drawn["a"] == drawn["again"]
    assert len({*drawn["a"], *drawn["b"]}) == 4
    assert "vae_logvar_bytes" not in rows_of(config)[0]


@pytest.mark.parametrize(("image_latent", "latent_frames"), [("first_frame", 1), ("padded", 2)])
def test_an_image_condition_stands_in_columns_of_its_own(
    tmp_path: Path,
    make_config: MakeConfig,
    tiny: VideoEncoder,
    videos: tuple[bytes, ...],
    image_latent: str,
    latent_frames: int,
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:1]))
    config = make_config(output={"image_latent": image_latent, "dtype": "float32"})
    run_all(config, tiny)
    (row,) = rows_of(config)
    items = decode_sample(videos[0], config.clip, config.limits, False, ClipRules(tiny.spec, 8))
    frames = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    condition = tiny.to_video(frames).clone()
    condition[:, :, 1:] = 0
    expected = tiny.encode(condition[:, :, : 1 if image_latent == "first_frame" else 5]).mean[0].numpy()
    stored = decode_latent(row["image_latent_bytes"], row["image_latent_shape"], "float32")
    np.testing.assert_array_equal(stored, expected)
    assert stored.shape == (16, latent_frames, 4, 6)


def test_statistics_over_the_whole_clip_come_through_the_same_pipeline(
    tmp_path: Path, make_config: MakeConfig, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:1]))
    config = make_config(encoder={"norm_scope": "clip"}, clip={"frames": 17}, output={"dtype": "float32"})
    whole = load_encoder(config.encoder, "cpu")
    run_all(config, whole)
    (row,) = rows_of(config)
    items = decode_sample(videos[0], config.clip, config.limits, False, ClipRules(whole.spec, 8))
    frames = np.concatenate([item.frames for item in items if isinstance(item, Chunk)])
    stored = decode_latent(row["vae_latent_bytes"], row["vae_latent_shape"], "float32")
    np.testing.assert_array_equal(stored, whole.encode(whole.to_video(frames)).mean[0].numpy())
