"""What `status` and `verify` cost on large roots: 2,000 shards on S3 and 20,000 on a local disk.

    python -m benchmarks.audit

The roots hold one shard that was really made (by the simulated encoder), and copies of it under other names. S3 is
moto's server in a process of its own, whose log counts the requests. Writes benchmarks/results/audit.json.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import fsspec
import pyarrow.parquet as pq

import encoder
from pipeline.config.identity import fingerprint, identity
from pipeline.config.load import Config, parse_config
from pipeline.input.listing import list_shards
from pipeline.latents.task import ShardTask
from pipeline.output.parts import FOOTER_KEY
from pipeline.output.paths import manifest_path, part_path
from pipeline.records import ShardRef
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder
from pipeline.video.simulated import SimulatedVideo, write_simulated

RESULTS = Path(__file__).parent / "results" / "audit.json"
FRAMES, SIDE_PX, FPS = 17, 64, 8
PART_SAMPLES = 2
BUCKET = "audit"
START_SECONDS = 60.0
REQUEST = re.compile(r'"(?:\x1b\[[0-9;]*m)*(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP')


def config_of(shards: str, root: Path) -> Config:
    return parse_config(
        {
            "input": {"shards": shards, "video": ["simulated"]},
            "output": {"path": str(root), "part_samples": PART_SAMPLES},
            "clip": {"frames": FRAMES, "fps": FPS, "buckets": [f"{SIDE_PX}x{SIDE_PX}"]},
            "encoder": {"name": "simulated", "weights": "simulated:0"},
        }
    )


def make_root(folder: Path, shards: int, parts: int) -> Path:
    """An output root of so many shards, each of so many parts."""
    root, first = folder / "out", folder / "s-000000.tar"
    video = write_simulated(SimulatedVideo(FRAMES, SIDE_PX, SIDE_PX, FPS, 0.0))
    with tarfile.open(first, "w") as tar:
        for number in range(parts * PART_SAMPLES):
            member = tarfile.TarInfo(f"clip-{number:03d}.simulated")
            member.size = len(video)
            tar.addfile(member, io.BytesIO(video))
    pattern = f"{folder}/s-{{000000..{shards - 1:06d}}}.tar"
    config, loaded = config_of(pattern, root), encoder.load("simulated", weights="simulated:0")
    made, *others = list_shards((pattern,))
    store = Store(str(root))
    list(ShardTask(config, loaded, LocalDecoder(config, loaded.spec), store).run(made))
    values = identity(config, loaded.weights_sha256)
    run = {"identity": values, "fingerprint": fingerprint(values), "config": config.model_dump(mode="json")}
    store.create("run.json", json.dumps(run).encode())
    manifest = json.loads(store.read(manifest_path(made.name)))
    for other in others:
        copy_shard(root, manifest, other)
    return root


def copy_shard(root: Path, manifest: dict[str, Any], other: ShardRef) -> None:
    """Writes a shard's parts and manifest as another shard's."""
    shard = manifest["shard"] | {"name": other.name, "url": other.url}
    parts = [copy_part(root, part, shard) for part in manifest["parts"]]
    (root / manifest_path(other.name)).write_text(json.dumps(manifest | {"shard": shard, "parts": parts}))


def copy_part(root: Path, part: dict[str, Any], shard: dict[str, Any]) -> dict[str, Any]:
    made = pq.ParquetFile(root / part["path"], memory_map=False)
    table, footer = made.read(), json.loads(made.metadata.metadata[FOOTER_KEY]) | {"shard": shard}
    made.close()
    path, file = part_path(shard["name"], part["slice_index"], part["bucket"]), io.BytesIO()
    pq.write_table(table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer)}), file, row_group_size=1)
    content = file.getvalue()
    (root / path).write_bytes(content)
    return part | {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[None]:
    """moto's server, which writes a line for each request to `log`; s3fs and boto3 talk to it inside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    os.environ |= {f"AWS_{name}": value for name, value in (settings | {"DEFAULT_REGION": "us-east-1"}).items()}
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as server:
        try:
            until = time.monotonic() + START_SECONDS
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.2)
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield
        finally:
            server.terminate()


def requests_in(log: str) -> Counter[str]:
    """How many requests of each kind the lines of moto's log tell of."""
    kinds = ((method, "list-type=2" in path) for method, path in REQUEST.findall(log))
    return Counter("LIST" if lists else method for method, lists in kinds)


def timed(command: str, root: str) -> dict[str, Any]:
    """The seconds of a command as a user gives it, the start of Python included; it must find nothing wrong."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "jobs", command, root], stdout=subprocess.DEVNULL, check=True)
    return {"seconds": round(time.monotonic() - began, 1)}


def on_disk(shards: int, parts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = make_root(Path(folder), shards, parts)
        return {"shards": shards, "parts": shards * parts} | {
            command: timed(command, str(root)) for command in ("status", "verify")
        }


def on_s3(shards: int, parts: int) -> dict[str, Any]:
    found: dict[str, Any] = {"shards": shards, "parts": shards * parts}
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "requests.log"):
        fsspec.filesystem("s3").put(f"{make_root(Path(folder), shards, parts)}/", f"{BUCKET}/out/", recursive=True)
        with (Path(folder) / "requests.log").open() as log:
            for command in ("status", "verify"):
                log.seek(0, os.SEEK_END)
                found[command] = timed(command, f"s3://{BUCKET}/out")
                found[command] |= {"requests": dict(sorted(requests_in(log.read()).items()))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3-shards", type=int, default=2000)
    parser.add_argument("--disk-shards", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=4, help="of each shard on S3; on disk each has one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    found = {"s3": on_s3(chosen.s3_shards, chosen.parts), "disk": on_disk(chosen.disk_shards, 1)}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    print(chosen.out.read_text(), end="")


if __name__ == "__main__":
    main()
