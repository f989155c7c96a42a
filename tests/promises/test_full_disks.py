"""No room left and writers that die: nothing half-written is seen, and a later run ends with the same bytes."""

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from pyarrow.parquet import ParquetFile
from support.paths import ROOT
from support.runs import MakeConfig, configured, output_files, run_all, run_json, samples_of, write_tar
from support.stores import KilledError, MortalStore

from encoder.video_encoder import OutOfMemoryError, Stream, VideoEncoder
from pipeline.audit.repair import repair
from pipeline.audit.verify import Problem, Verified, verify
from pipeline.config.load import Config
from pipeline.errors import ShardError, TransientError
from pipeline.input.listing import list_shards
from pipeline.latents.task import ShardTask
from pipeline.output.manifests import read_manifests
from pipeline.output.parts import read_rows
from pipeline.output.paths import done_shards, manifest_path
from pipeline.records import DecodeItem, Sample
from pipeline.storage import store as store_module
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Config:
    """A shard of two shapes in one slice and a slice of rejects alone."""
    folder = tmp_path_factory.mktemp("disks")
    write_tar(folder / "a.tar", samples_of([*videos[:3], b"<html>"]))
    return configured(folder)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Within it the system lets no file of this process grow beyond a size, as a full disk would not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def problems(config: Config, tiny: VideoEncoder) -> list[Problem]:
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    return list(verify(store, Verified()))


@pytest.mark.parametrize("size_bytes", [0, 1000, 12_000])
def test_where_no_file_can_grow_the_attempt_fails_and_nothing_half_written_is_seen(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder, size_bytes: int
) -> None:
    root = Path(config.output.path)
    with largest_file(size_bytes), pytest.raises((OSError, TransientError), match="File too large"):
        run_all(config, tiny)
    assert output_files(root).items() <= undisturbed.items()
    assert len(output_files(root)) < len(undisturbed)
    run_all(config, tiny)
    assert output_files(root) == undisturbed
    assert problems(config, tiny) == []


@pytest.mark.parametrize("writes_before", [0, 1])
def test_a_disk_that_is_full_in_the_middle_of_a_part_is_named_with_the_path(
    config: Config,
    undisturbed: dict[str, bytes],
    tiny: VideoEncoder,
    monkeypatch: pytest.MonkeyPatch,
    writes_before: int,
) -> None:
    root, left, whole = Path(config.output.path), [writes_before], store_module.copy_into

    def half(local_file: str, handle: object) -> None:
        left[0] -= 1
        if left[0] >= 0:
            return whole(local_file, handle)
        handle.write(Path(local_file).read_bytes()[:999])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "copy_into", half)
        with pytest.raises(TransientError, match=r"no room to write .*/out/latents/bucket=.*: No space left on device"):
            run_all(config, tiny)
    assert output_files(root).items() <= undisturbed.items(), "whole files only; some may be committed beside"
    run_all(config, tiny)
    assert output_files(root) == undisturbed


WRITER = """
import sys
from pipeline.storage.store import Store
Store(sys.argv[1]).create_from("latents/bucket=1/x", sys.argv[2])
"""


def test_what_a_killed_writer_left_is_found_after_an_hour_and_removed(
    config: Config, tiny: VideoEncoder, tmp_path: Path
) -> None:
    run_all(config, tiny)
    root, before = Path(config.output.path), output_files(Path(config.output.path))
    os.mkfifo(tmp_path / "endless")
    command = [sys.executable, "-c", WRITER, str(root), str(tmp_path / "endless")]
    with subprocess.Popen(command, cwd=ROOT) as process, open(tmp_path / "endless", "wb") as endless:
        endless.write(b"half")
        endless.flush()
        process.kill()
    (half,) = root.rglob(".tmp-*")
    assert problems(config, tiny) == [], "it may still be written"
    os.utime(half, (0, 0))
    found = problems(config, tiny)
    assert [problem.path for problem in found] == [str(half.relative_to(root))]
    assert repair(Store(str(root)), found) == []
    assert not half.exists()
    assert output_files(root) == before


def flip_a_bit(content: bytes) -> bytes:
    """Of a part in its first latent, of other files in the middle."""
    place = len(content) // 2
    if content.startswith(b"PAR1"):
        group = ParquetFile(io.BytesIO(content)).metadata.row_group(0)
        columns = (group.column(number) for number in range(group.num_columns))
        latents = next(column for column in columns if column.path_in_schema == "vae_latent_bytes")
        place = latents.data_page_offset + latents.total_compressed_size // 2
    return content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:-9], flip_a_bit], ids=["cut", "flipped"])
@pytest.mark.parametrize("which", ["*.parquet", "*.rejects.json"])
def test_a_damaged_file_of_an_unfinished_shard_stops_it_until_it_is_repaired(
    config: Config, undisturbed: dict[str, bytes], tiny: VideoEncoder, which: str, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, 3, after=False))
    root = Path(config.output.path)
    assert output_files(root) == undisturbed, "all but the manifest"
    victim = sorted(root.rglob(which))[0]
    victim.write_bytes(damage(victim.read_bytes()))
    found = problems(config, tiny)
    assert [problem.path for problem in found] == [str(victim.relative_to(root))]
    repair(Store(str(root)), found)
    run_all(config, tiny)
    assert output_files(root) == undisturbed
    assert problems(config, tiny) == []


def test_a_run_names_the_damaged_file_that_stops_it(config: Config, tiny: VideoEncoder) -> None:
    with pytest.raises(KilledError):
        run_all(config, tiny, MortalStore(config.output.path, 3, after=False))
    for victim in (*Path(config.output.path).rglob("*.json"), *Path(config.output.path).rglob("*.parquet")):
        victim.write_bytes(victim.read_bytes()[:-9])
        with pytest.raises(ShardError, match=f"{victim.name} is damaged .* verify --repair"):
            run_all(config, tiny)
        victim.unlink()


def test_a_damaged_manifest_is_named_by_whoever_reads_it(config: Config, tiny: VideoEncoder) -> None:
    run_all(config, tiny)
    store = Store(config.output.path)
    (shard,) = done_shards(store)
    path = Path(config.output.path) / manifest_path(shard)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ShardError, match=f"{path.name} is damaged .* verify --repair"):
        list(read_manifests(store, [shard]))


class Meddling(LocalDecoder):
    """Somebody replaces the shard while its videos are decoded."""

    def start(self, sample: Sample, segment: int = 0) -> Generator[DecodeItem, None, None]:
        (shard,) = list_shards(self.config.input.shards)
        os.utime(shard.url, (1, 1))
        return super().start(sample, segment)


def test_a_shard_that_changes_while_it_is_read_is_not_finished(config: Config, tiny: VideoEncoder) -> None:
    store, (shard,) = Store(config.output.path), list_shards(config.input.shards)
    with pytest.raises(ShardError, match=r"a\.tar changed while it was read"):
        list(ShardTask(config, tiny, Meddling(config, tiny.spec), store).run(shard))
    assert not done_shards(store)


class Cramped:
    """An encoder whose device has no memory left in the second chunk of one of its clips."""

    def __init__(self, encoder: VideoEncoder, clip: int) -> None:
        self._encoder, self._clips = encoder, iter([False] * clip + [True])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def stream(self, *clip: Any) -> Stream:
        stream = self._encoder.stream(*clip)
        if next(self._clips, False):
            pushes = iter([stream.push, no_memory])
            stream.push = lambda video: next(pushes)(video)  # type: ignore[method-assign]
        return stream


def no_memory(video: object) -> NoReturn:
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")


def test_a_clip_for_which_the_device_has_no_memory_is_a_reject_and_the_others_are_what_they_are(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "a.tar", samples_of(videos[:3]))
    config = make_config(clip={"frames": 17, "fps": None, "buckets": ["32x48", "48x32"]})
    run_all(config, cast(VideoEncoder, Cramped(tiny, clip=1)))
    assert problems(config, tiny) == []
    (manifest,) = (Path(config.output.path) / "manifests").iterdir()
    (reject,) = json.loads(manifest.read_text())["rejects"]
    assert (reject["key"], reject["window_index"], reject["stage"], reject["reason"], reject["detail"]) == (
        "clip-001",
        0,
        "encode",
        "out_of_memory",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
    )
    with_memory = make_config(
        clip={"frames": 17, "fps": None, "buckets": ["32x48", "48x32"]}, output={"path": str(tmp_path / "undisturbed")}
    )
    run_all(with_memory, tiny)
    wide = "latents/bucket=16x5x4x6"
    assert latents(tmp_path / "out" / wide) == latents(tmp_path / "undisturbed" / wide)


def latents(folder: Path) -> list[bytes]:
    (part,) = folder.iterdir()
    return [row["vae_latent_bytes"] for row in read_rows(io.BytesIO(part.read_bytes()))]
