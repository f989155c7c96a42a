"""Fixtures: small videos made once, a tiny encoder, a configuration that fits."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

# Read when Triton is imported, which torch may do: without a GPU its kernels are interpreted.
if not Path("/proc/driver/nvidia/version").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings
from support.remembering import remembering
from support.runs import LoadFullSize, MakeConfig, configured, moved, output_files, run_all

import encoder
from encoder.models import wan
from encoder.models.wan import WanParams
from encoder.video_encoder import VideoEncoder
from jobs.commands.bench_simulated import logical_cpus
from pipeline.clips import objects
from pipeline.config.load import Config
from pipeline.video.synthetic.videos import make_video

# A busy machine is no fault of ours; and a change is judged by the same examples each time, soaks by new ones.
settings.register_profile("latentmill", deadline=None, derandomize="LATENTMILL_SOAK" not in os.environ)
settings.load_profile("latentmill")

MARKED_BY_FIXTURE = {"full_size": "full_size", "s3_server": "s3"}  # whoever takes the fixture, directly or not


def pytest_configure(config: pytest.Config) -> None:
    """Test processes beside each other share the cores: threads that wait for a core spin, and slow all down."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start


@pytest.hookimpl(tryfirst=True)  # before -m looks at markers, and before xdist looks at groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, and sets which tests go to one process together, the longest groups first.

    Those that start Ray form two groups, as more clusters at once run into time-outs. The others are grouped by file,
    which keeps the fixtures of a module in one process, and within it by how long they take.
    """
    for item in items:
        for fixture in MARKED_BY_FIXTURE.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(MARKED_BY_FIXTURE[fixture])
        is_promise = item.path.parent.name == "promises"
        if is_promise:
            item.add_marker("slow")  # whole runs
        if _has(item, "ray"):
            group = "ray, promises" if is_promise else "ray"
        else:
            group = f"{item.path.stem}, {'long' if _is_long(item) else 'short'}"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (not _has(item, "ray"), not _is_long(item)))


def _has(item: pytest.Item, *markers: str) -> bool:
    return any(item.get_closest_marker(marker) for marker in markers)


def _is_long(item: pytest.Item) -> bool:
    return _has(item, "full_size", "s3", "slow", "soak")


@pytest.fixture(scope="session", autouse=True)
def ray_folder_of_process() -> Iterator[None]:
    """Ray notes in its folder which cluster of this machine a submitted job joins: test processes must not share it."""
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Commands set torch's threads for the whole process: the next test has its share of the cores again."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


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


@pytest.fixture(scope="module")
def one_cpu() -> Iterator[None]:
    """A local Ray believes in one CPU, and so starts one decoder: each takes seconds until it has loaded torch."""
    with logical_cpus(1):
        yield


@pytest.fixture(scope="session")
def videos() -> tuple[bytes, ...]:
    """Eight small videos of 20 to 27 frames, 96x64 and 64x96 pixels in turn."""
    sizes = ((96, 64), (64, 96))
    return tuple(make_video(20 + number, 8, *sizes[number % 2], seed=number) for number in range(8))


@pytest.fixture(scope="session")
def tiny() -> VideoEncoder:
    return encoder.load("tiny", weights="random:0")


@pytest.fixture(scope="session")
def remembering_tiny() -> VideoEncoder:
    """The same, for tests of runs that make the same clips again and again: each clip is encoded once."""
    return remembering(encoder.load("tiny", weights="random:0"))


@pytest.fixture
def config(written: Config, tmp_path: Path) -> Config:
    """The run of a module's fixture `written`, which has a folder of its own for all tests, in a root of this test."""
    return moved(written, tmp_path / "out")


@pytest.fixture(scope="module")
def undisturbed(written: Config, tiny: VideoEncoder) -> dict[str, bytes]:
    """The files of that run, where nothing disturbs it and one sample is decoded after the other."""
    run_all(written, tiny)
    return output_files(Path(written.output.path))


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """Builds a configuration for the tiny encoder that reads `*.tar` and writes `out` in the test's folder."""

    return partial(configured, tmp_path)


@pytest.fixture
def cuda() -> str:
    """The device of the GPU tests: skips where there is none, and fails there if LATENTMILL_REQUIRE_CUDA=1."""
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("LATENTMILL_REQUIRE_CUDA") == "1":
        pytest.fail("LATENTMILL_REQUIRE_CUDA=1, but torch sees no CUDA device")
    pytest.skip("no CUDA device")


@pytest.fixture
def small_wan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `wan` an encoder of few channels."""
    monkeypatch.setitem(wan.PRESETS, "wan", WanParams(channels=(8, 16, 32, 32)))


@pytest.fixture
def wide_wan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `wan` an encoder of few layers, which have as many channels as algorithms are chosen for."""
    monkeypatch.setitem(wan.PRESETS, "wan", WanParams(channels=(96, 192, 192, 192), blocks_per_level=1))


@pytest.fixture
def small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames travel chunk by chunk, as those of long clips do."""
    monkeypatch.setattr(objects, "OBJECT_BYTES", 1)
