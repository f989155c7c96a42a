"""Jobs of clusters in tests: free ports, waiting, and what a run that nobody disturbed writes."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import Config
from pipeline.run import with_convolutions
from support.runs import moved, output_files, run_all

WAIT_SECONDS = 240


def config_file(config: Config, path: Path) -> str:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(path)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def wait_for(what: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it does not happen"
        assert process is None or process.poll() is None, "the process ended"
        time.sleep(0.2)


def parts_of(config: Config) -> list[Path]:
    return list((Path(config.output.path) / "latents").rglob("*.parquet"))


def undisturbed(config: Config, tiny: VideoEncoder, tmp_path: Path) -> dict[str, bytes]:
    """The files of a run in this process, with the same configuration elsewhere."""
    config = with_convolutions(config, {})  # as a run notes it, where the encoder has nothing to choose
    run_all(moved(config, tmp_path / "undisturbed"), tiny)
    return output_files(tmp_path / "undisturbed")
