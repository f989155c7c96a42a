"""What tests share: small videos made once, shards made of them, a tiny encoder, a configuration that fits.

It holds no tests.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

import encoder
from encoder.replica import VideoEncoder
from pipeline.config import Config, parse_config
from pipeline.decoders import LocalDecoder
from pipeline.events import Event
from pipeline.identity import fingerprint, identity
from pipeline.listing import shards_of
from pipeline.store import Store
from pipeline.synthetic import make_video
from pipeline.task import ShardTask

settings.register_profile("latentmill", deadline=None)  # a busy machine is no fault of ours
settings.load_profile("latentmill")

MARKED_BY_FIXTURE = {"full_size": "full_size", "s3_server": "s3"}  # whoever takes the fixture, directly or not
SHARED_VIDEOS = Path(__file__).parent.parent.parent / "shared" / "videos"

Files = Iterable[tuple[str, bytes]]
MakeConfig = Callable[..., Config]
LoadFullSize = Callable[..., VideoEncoder]


def pytest_configure(config: pytest.Config) -> None:
    """Test processes beside each other share the cores: threads that wait for a core spin, and slow all down."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


@pytest.hookimpl(tryfirst=True)  # before -m looks at markers, and before xdist looks at groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, and sets which tests go to one process together, the longest groups first.

    All that start Ray form one group, as two clusters on two cores run into time-outs. The others are grouped by file,
    which keeps the fixtures of a module in one process, and within it by how long they take.
    """
    for item in items:
        for fixture in MARKED_BY_FIXTURE.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(MARKED_BY_FIXTURE[fixture])
        group = "ray" if _has(item, "ray") else f"{item.path.stem}, {'long' if _is_long(item) else 'short'}"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (not _has(item, "ray"), not _is_long(item)))


def _has(item: pytest.Item, *markers: str) -> bool:
    return any(item.get_closest_marker(marker) for marker in markers)


def _is_long(item: pytest.Item) -> bool:
    return _has(item, "full_size", "s3", "slow", "soak")


@pytest.fixture(scope="session")
def full_size() -> LoadFullSize:
    """`encoder.load` for encoders of full size with random weights; marks the tests that take it."""
    return partial(encoder.load, weights="random:0")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """HOST:PORT of a real S3 server in this process, one for all tests: each module makes a bucket of its own."""
    from moto.server import ThreadedMotoServer  # slow to import, and few need it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def videos() -> tuple[bytes, ...]:
    """Eight small videos of 20 to 27 frames, 96x64 and 64x96 pixels in turn."""
    sizes = ((96, 64), (64, 96))
    return tuple(make_video(20 + number, 8, *sizes[number % 2], seed=number) for number in range(8))


@pytest.fixture(scope="session")
def tiny() -> VideoEncoder:
    return encoder.load("tiny", weights="random:0")


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


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """Builds a configuration for the tiny encoder that reads `*.tar` and writes `out` in the test's folder."""

    def make(**sections: dict[str, Any]) -> Config:
        tree: dict[str, dict[str, Any]] = {
            "input": {"shards": f"{tmp_path}/*.tar"},
            "output": {"path": str(tmp_path / "out"), "part_samples": 3},
            "clip": {"frames": 5, "buckets": ["32x48", "48x32"]},
            "encoder": {"name": "tiny", "weights": "random:0", "dtype": "float32"},
            "limits": {"max_reject_fraction": 1.0},
        }
        return parse_config({name: tree.get(name, {}) | sections.get(name, {}) for name in tree | sections})

    return make


def output_files(root: Path) -> dict[str, bytes]:
    """Every part and reject file below a root, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("latents", "rejects")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def cuda() -> str:
    """The device of the GPU lane: skips where there is none, and fails there if LATENTMILL_REQUIRE_CUDA=1."""
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("LATENTMILL_REQUIRE_CUDA") == "1":
        pytest.fail("LATENTMILL_REQUIRE_CUDA=1, but torch sees no CUDA device")
    pytest.skip("no CUDA device")


def run_all(config: Config, tiny: VideoEncoder, store: Store | None = None) -> list[Event]:
    """Makes every shard in this process."""
    task = ShardTask(config, tiny, LocalDecoder(config, tiny.spec), store or Store(config.output.path))
    return [event for shard in shards_of(config.input) for event in task.run(shard)]


def run_json(config: Config, tiny: VideoEncoder) -> bytes:
    """What verify needs of run.json."""
    values = identity(config, tiny.weights_sha256)
    return json.dumps({"identity": values, "fingerprint": fingerprint(values)}).encode()
