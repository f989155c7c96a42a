"""Input shards, and whole runs in this process."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from encoder.video_encoder import VideoEncoder
from pipeline.config.identity import fingerprint, identity
from pipeline.config.load import Config, parse_config
from pipeline.input.listing import shards_of
from pipeline.latents.task import ShardTask
from pipeline.monitor.events import Event
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder
from pipeline.video.simulated import SimulatedVideo, write_simulated

Files = Iterable[tuple[str, bytes]]
MakeConfig = Callable[..., Config]
LoadFullSize = Callable[..., VideoEncoder]


def configured(folder: Path, **sections: dict[str, Any]) -> Config:
    """A configuration for the tiny encoder that reads `*.tar` of a folder and writes its `out`."""
    tree: dict[str, dict[str, Any]] = {
        "input": {"shards": f"{folder}/*.tar"},
        "output": {"path": str(folder / "out"), "part_samples": 3},
        "clip": {"frames": 5, "buckets": ["32x48", "48x32"]},
        "encoder": {"name": "tiny", "weights": "random:0", "dtype": "float32"},
        "limits": {"max_reject_fraction": 1.0},
    }
    return parse_config({name: tree.get(name, {}) | sections.get(name, {}) for name in tree | sections})


def simulated_run(folder: Path, ms_per_frame: float, **sections: dict[str, Any]) -> Config:
    """The same for the simulated encoder, and videos of `simulated_samples`."""
    encoder = {"name": "simulated", "weights": f"simulated:{ms_per_frame:g}"}
    return configured(folder, input={"video": ["simulated"]}, encoder=encoder, **sections)


def moved(config: Config, root: Path) -> Config:
    """The same run in another output root. Where the input stays, so do the bytes of every file."""
    return config.replaced({"output.path": str(root)})


def write_tar(path: Path, files: Files, format_: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of named contents, the same bytes each time."""
    with tarfile.open(path, "w", format=format_) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples_of(videos: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Files `clip-000.mp4`, `clip-000.txt` … of a shard."""
    return [
        member
        for number, video in enumerate(videos)
        for member in ((f"clip-{number:03d}.mp4", video), (f"clip-{number:03d}.txt", b"caption %d" % number))
    ]


def simulated_samples(count: int, ms_per_frame: float = 0.0) -> list[tuple[str, bytes]]:
    """Files of a shard whose decoding takes a set time and no torch: for runs with the simulated encoder."""
    video = write_simulated(SimulatedVideo(5, 32, 48, 8.0, ms_per_frame))
    return [(f"clip-{number:03d}.simulated", video) for number in range(count)]


def output_files(root: Path) -> dict[str, bytes]:
    """Every part and reject file below a root, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("latents", "rejects")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def published_files(root: Path) -> dict[str, bytes]:
    """The same without temporary files, which a writer that was killed leaves behind for `verify --repair`."""
    return {path: data for path, data in output_files(root).items() if "/.tmp-" not in path}


def task_of(config: Config, loaded: VideoEncoder, store: Store | None = None) -> ShardTask:
    """What makes shards in this process."""
    decoder = LocalDecoder(config, loaded.spec, loaded.receptive_field)
    return ShardTask(config, loaded, decoder, store or Store(config.output.path))


def run_all(config: Config, loaded: VideoEncoder, store: Store | None = None) -> list[Event]:
    """Makes every shard in this process."""
    task = task_of(config, loaded, store)
    return [event for shard in shards_of(config.input) for event in task.run(shard)]


def run_json(config: Config, tiny: VideoEncoder) -> bytes:
    """What verify needs of run.json."""
    values = identity(config, tiny.weights_sha256)
    return json.dumps({"identity": values, "fingerprint": fingerprint(values)}).encode()
