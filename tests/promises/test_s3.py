"""The commit protocol on a real S3 server, by itself and behind a network that fails: always the same bytes."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
import s3fs
import yaml
from support.faulty_proxy import FaultyProxy, faulty_proxy
from support.runs import MakeConfig, output_files, run_all, run_json, samples_of, write_tar
from support.stores import KilledError, MortalStore
from support.text_runs import commit_rows, embed_all, embedding_of, task_of, text_files, with_text

from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from pipeline.audit.status import read_status
from pipeline.audit.verify import Verified, verify
from pipeline.config.load import Config, parse_config
from pipeline.dataset.loader import Latents
from pipeline.errors import TransientError
from pipeline.input.listing import list_shards
from pipeline.latents.task import ShardTask
from pipeline.output.paths import done_shards
from pipeline.storage import files as storage_files
from pipeline.storage.node_cache import local_copy
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

BUCKET = "bucket-of-faults"
MULTIPART_BYTES = 100 << 20  # from here on s3fs uploads in several requests
FAULTS = {"refused": 0.06, "dropped": 0.06, "lost": 0.06, "cut": 0.06, "slow": 0.03}


@dataclass(frozen=True, slots=True)
class S3:
    """A bucket behind a proxy; `client` reaches it directly."""

    proxy: FaultyProxy
    client: Any

    def files(self, prefix: str) -> dict[str, bytes]:
        """Every part and reject file below a prefix, by relative path."""
        listing = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
        paths = [entry["Key"].removeprefix(f"{prefix}/") for entry in listing]
        return {
            path: self.client.get_object(Bucket=BUCKET, Key=f"{prefix}/{path}")["Body"].read()
            for path in paths
            if path.startswith(("latents/", "rejects/"))
        }


@pytest.fixture(scope="module")
def served(s3_server: str) -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch, faulty_proxy(s3_server) as proxy:
        settings = {"ENDPOINT_URL": proxy.url, "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
        settings |= {"DEFAULT_REGION": "us-east-1", "CONFIG_FILE": os.devnull, "MAX_ATTEMPTS": "1"}
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setattr(storage_files, "FIRST_WAIT_SECONDS", 0.01)  # this network recovers at once
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
        client.create_bucket(Bucket=BUCKET)
        yield S3(proxy, client)
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(served: S3) -> S3:
    served.proxy.reset({})
    return served


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Path:
    """Seven samples in three slices: two shapes, a page that is no video, a video cut short, a slice of rejects."""
    files = samples_of([*videos[:3], b"<html>", videos[4][:2000], b"", videos[4]])
    return write_tar(tmp_path_factory.mktemp("shard") / "a.tar", files)


@pytest.fixture(scope="module")
def calm(shard: Path, tiny: VideoEncoder) -> dict[str, bytes]:
    """The files of an undisturbed run on local disk."""
    run_all(config_of(shard, shard.parent / "calm"), tiny)
    files = output_files(shard.parent / "calm")
    assert len(files) == 4, "two parts, a reject file, a part: with the manifest, five creations"
    return files


@pytest.fixture
def config(shard: Path, tmp_path: Path) -> Config:
    return config_of(shard, f"s3://{BUCKET}/{prefix_of(tmp_path)}")


def config_of(shards: object, out: object) -> Config:
    return parse_config(
        {
            "input": {"shards": str(shards)},
            "output": {"path": str(out), "part_samples": 3},
            "clip": {"frames": 5, "buckets": ["32x48", "48x32"]},
            "encoder": {"name": "tiny", "weights": "random:0", "dtype": "float32"},
        }
    )


def prefix_of(folder: Path) -> str:
    return f"{folder.name}/out"


def problems(config: Config, tiny: VideoEncoder) -> list[str]:
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    return [f"{problem.path}: {problem.what}" for problem in verify(store, Verified())]


def test_parts_on_s3_are_the_bytes_of_those_on_disk(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path
) -> None:
    run_all(config, tiny)
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("creations", range(5))
def test_a_run_killed_at_any_write_to_s3_goes_on_to_the_same_bytes(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path, creations: int, after: bool
) -> None:
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, creations, after))
    run_all(config, tiny)
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


def writer(config: Config, tiny: VideoEncoder) -> Iterator[object]:
    """A replica that makes the shard, an event at a time."""
    (shard,) = list_shards(config.input.shards)
    return ShardTask(config, tiny, LocalDecoder(config, tiny.spec), Store(config.output.path)).run(shard)


@pytest.mark.parametrize("pause", [1, 4, 6, 9])
def test_a_zombie_that_wakes_when_its_successor_is_done_changes_nothing(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path, pause: int
) -> None:
    zombie = writer(config, tiny)
    for _ in range(pause):
        next(zombie)
    assert list(writer(config, tiny))
    assert s3.files(prefix_of(tmp_path)) == calm
    assert list(zombie), "it had not ended"
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


def test_writers_at_the_same_time_leave_each_clip_once(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path
) -> None:
    ended: list[object] = []
    threads = [Thread(target=lambda: ended.extend(list(writer(config, tiny))[-1:])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 3
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_network_leaves_the_same_bytes(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path, fault: str
) -> None:
    s3.proxy.reset({fault: 0.25}, script=["", fault])
    run_all(config, tiny)
    assert s3.proxy.met[fault]
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


def test_all_faults_of_the_network_with_kills_between_leave_the_same_bytes(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, tmp_path: Path
) -> None:
    s3.proxy.reset(FAULTS)
    for creations in (1, 0, 0):  # what others commit beside a kill may leave the manifest alone
        with pytest.raises(KilledError):
            run_all(config, tiny, MortalStore(config.output.path, creations, after=bool(creations)))
    run_all(config, tiny)
    assert s3.proxy.met.total() > 2  # a run asks storage little
    assert s3.files(prefix_of(tmp_path)) == calm
    assert problems(config, tiny) == []


def test_a_lost_acknowledgement_of_a_large_upload_is_found_out(s3: S3, tmp_path: Path) -> None:
    store = Store(f"s3://{BUCKET}/{tmp_path.name}")
    with open(tmp_path / "scratch", "wb") as scratch:
        scratch.truncate(MULTIPART_BYTES)
    s3.proxy.reset({}, "POST", script=["", "lost"])  # an upload begins with a POST and ends with one
    store.create_from("part", str(tmp_path / "scratch"))
    assert s3.proxy.met["lost"] == 1
    head = s3.client.head_object(Bucket=BUCKET, Key=f"{tmp_path.name}/part")
    assert head["ContentLength"] == MULTIPART_BYTES


def test_a_storage_that_stays_away_ends_as_an_error_that_may_pass(
    s3: S3, shard: Path, config: Config, tiny: VideoEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 2)  # more would only wait longer
    s3.proxy.reset({"refused": 1.0})
    with pytest.raises(TransientError, match="still fails after 2 attempts"):
        run_all(config, tiny)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert main(["run", str(tmp_path / "c.yaml")]) == 1


@pytest.fixture
def reading(s3: S3, videos: tuple[bytes, ...], tmp_path: Path) -> Callable[[str], Config]:
    """Configurations that read a shard from S3, long enough for several requests, and write to a folder by name."""
    tar = write_tar(tmp_path / "in.tar", [("a.bin", bytes(12 << 20)), *samples_of(videos[:4])])
    s3.client.upload_file(str(tar), BUCKET, f"{tmp_path.name}/in.tar")
    return lambda name: config_of(f"s3://{BUCKET}/{tmp_path.name}/in.tar", tmp_path / name)


@pytest.mark.parametrize("fault", ["cut", "dropped", "refused"])
def test_a_shard_that_is_read_over_a_bad_network_is_read_whole(
    s3: S3, reading: Callable[[str], Config], tiny: VideoEncoder, tmp_path: Path, fault: str
) -> None:
    run_all(reading("calm"), tiny)
    s3.proxy.reset({fault: 0.3}, "GET", script=["", fault])
    run_all(reading("out"), tiny)
    assert s3.proxy.met[fault]
    assert output_files(tmp_path / "out") == output_files(tmp_path / "calm")


@pytest.mark.parametrize("requests_answered", [0, 1, 2])
def test_a_shard_whose_connections_always_break_is_never_a_short_shard(
    s3: S3,
    reading: Callable[[str], Config],
    tiny: VideoEncoder,
    monkeypatch: pytest.MonkeyPatch,
    requests_answered: int,
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 1)  # more would only wait longer
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    config = reading("out")
    s3.proxy.reset({"cut": 1.0}, "GET", script=[""] * requests_answered)
    with pytest.raises(TransientError):
        run_all(config, tiny)
    assert not done_shards(Store(config.output.path))


def test_a_part_that_cannot_be_read_now_is_not_called_damaged(
    s3: S3, calm: dict[str, bytes], config: Config, tiny: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(config, tiny)
    assert problems(config, tiny) == []
    monkeypatch.setattr(storage_files, "ATTEMPTS", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for answered in range(8):
        s3.proxy.reset({"refused": 1.0}, "GET", script=[""] * answered)
        with pytest.raises(TransientError):
            problems(config, tiny)


def test_a_folder_of_weights_comes_whole_over_a_bad_network(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    files = {f"vae/{name}": name.encode() * 1000 for name in ("config.json", "a.safetensors", "b.safetensors")}
    for name, content in files.items():
        s3.client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{name}", Body=content)
    s3.proxy.reset({}, "GET", script=["", "", "", "cut", "", "cut"])
    folder = Path(local_copy(f"s3://{BUCKET}/{tmp_path.name}/vae"))
    assert s3.proxy.met["cut"] == 2
    assert {f"vae/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*")} == files


def test_a_shard_costs_a_listing_of_each_folder_and_a_part_one_request(
    s3: S3, config: Config, tiny: VideoEncoder
) -> None:
    run_all(config, tiny)
    parts, folders, buckets = 3, 2, 2  # latents/ and rejects/
    assert s3.proxy.requests == {
        "LIST": folders + 1,  # s3fs asks twice where latents/ is empty
        "PUT": parts + 3,  # a reject file, the index and the manifest
        "GET": parts + 1,  # the footers, for the index; what was removed
        "HEAD": parts,
    }
    s3.proxy.reset({})
    run_all(config, tiny)
    assert s3.proxy.requests["LIST"] == folders + buckets


def test_the_status_of_a_run_lists_folders_and_reads_manifests(
    s3: S3, config: Config, tiny: VideoEncoder, shard: Path
) -> None:
    run_all(config, tiny)
    values = json.loads(run_json(config, tiny)) | {"config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(values).encode())
    s3.proxy.reset({})
    (status,) = read_status(Store(config.output.path))
    assert (status.state, status.slices) == ("done", 3)
    folders, buckets, files = 3, 2, 2  # manifests/, latents/ and rejects/; run.json and one manifest
    assert s3.proxy.requests == {"LIST": folders + buckets, "GET": files}


def test_texts_beside_latents_on_s3_go_on_after_a_kill_and_are_joined_by_the_loader(
    s3: S3, make_config: MakeConfig
) -> None:
    local = with_text(make_config())
    commit_rows(local)
    config = local.replaced({"output.path": f"s3://{BUCKET}/texts"})
    store, root = Store(config.output.path), Path(local.output.path)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        store.create(str(path.relative_to(root)), path.read_bytes())
    task = task_of(config)
    with pytest.raises(KilledError):
        embed_all(config, task=replace(task, store=MortalStore(task.store.root, 2, after=False)))
    embed_all(config)
    embed_all(local)
    assert {path: store.read(f"text/wan/{path}") for path in text_files(local)} == text_files(local)
    assert list(verify(store, Verified())) == []
    store.create("text/wan/_SUCCESS.json", b'{"rejects": 0}')
    batches = list(Latents(config.output.path, batch=1, step_batches=1, scale=None, text="wan"))
    assert len(batches) == 7
    for batch in batches:
        embedding = embedding_of(batch["caption"][0])
        assert batch["text_embedding"][0, : len(embedding)].numpy().tolist() == embedding.tolist()
