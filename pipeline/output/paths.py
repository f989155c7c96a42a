"""The names of all files below an output root, and how they are listed."""

import re
from collections.abc import Iterator

from pipeline.storage.store import Store

RUN_FILE = "run.json"
SUCCESS_FILE = "_SUCCESS.json"
SUMMARY_FILE = "summary.json"
GPU_FILE = "gpu.json"
STATISTICS_FILE = "statistics.json"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"
MANIFESTS = "manifests"
INDEX = "index"
REMOVED = "removed"
HISTORY = "history"
TEXT = "text"
TEXT_PARTS = "parts"
UNCOND_FILE = "uncond.parquet"
LATENTS = "latents"
REJECTS = "rejects"
SET_ASIDE = "set-aside"
BUCKET_PREFIX = "bucket="
TEXT_FOLDERS = ("", f"/{TEXT_PARTS}", f"/{MANIFESTS}")
SLICE_FILE = re.compile(r"(.+)-(\d{5,})\.(parquet|rejects\.json)")


def text_path(name: str) -> str:
    """The root of the text embeddings of this name."""
    return f"{TEXT}/{name}"


def text_names(store: Store) -> list[str]:
    """The names of the text embeddings that were begun."""
    return [name for name in store.names(TEXT) if store.exists(f"{text_path(name)}/{RUN_FILE}")]


def text_root(path: str) -> str:
    """What the path of a file begins with where it belongs to text embeddings, "" where it does not."""
    folder, name, *_ = [*path.split("/"), ""]
    return f"{text_path(name)}/" if folder == TEXT else ""


def text_part_path(shard: str, slice_index: int) -> str:
    """A part of text embeddings, below their root; its name is that of the part with the latents."""
    return f"{TEXT_PARTS}/{shard}-{slice_index:05d}.parquet"


def bucket_path(bucket: str) -> str:
    return f"{LATENTS}/{BUCKET_PREFIX}{bucket}"


def part_path(shard: str, slice_index: int, bucket: str) -> str:
    return f"{bucket_path(bucket)}/{shard}-{slice_index:05d}.parquet"


def rejects_path(shard: str, slice_index: int) -> str:
    return f"{REJECTS}/{shard}-{slice_index:05d}.rejects.json"


def manifest_path(shard: str) -> str:
    return f"{MANIFESTS}/{shard}.json"


def index_path(shard: str) -> str:
    return f"{INDEX}/{shard}.parquet"


def file_name(path: str) -> str:
    return path.rpartition("/")[2]


def slice_of_file(path: str) -> tuple[str, int] | None:
    """(shard, slice index) of a part or reject file; None where the name is of neither."""
    match = SLICE_FILE.fullmatch(file_name(path))
    return (match[1], int(match[2])) if match else None


def done_shards(store: Store) -> frozenset[str]:
    """Names of the shards that have a manifest, by one listing."""
    return frozenset(name.removesuffix(".json") for name in store.names(MANIFESTS) if name.endswith(".json"))


def bucket_names(store: Store) -> list[str]:
    folders = store.names(LATENTS)
    return [name.removeprefix(BUCKET_PREFIX) for name in folders if name.startswith(BUCKET_PREFIX)]


def shard_files(store: Store, shard: str) -> frozenset[str]:
    """Paths of all parts and reject files of a shard, by one listing of each folder."""
    folders = (*map(bucket_path, bucket_names(store)), REJECTS)
    return frozenset(f"{folder}/{name}" for folder in folders for name in store.names_from(folder, f"{shard}-"))


def latent_files(store: Store) -> Iterator[str]:
    """Paths of all files in the folders of buckets, by bucket, then name: parts, and whatever else lies there."""
    for folder in map(bucket_path, bucket_names(store)):
        yield from (f"{folder}/{name}" for name in store.names(folder))


def reject_files(store: Store) -> Iterator[str]:
    return (f"{REJECTS}/{name}" for name in store.names(REJECTS))


def written_folders(store: Store) -> list[str]:
    """Every folder in which a run, or its text embeddings, create files, "" for the root."""
    texts = [f"{text_path(name)}{folder}" for name in text_names(store) for folder in TEXT_FOLDERS]
    return ["", MANIFESTS, INDEX, REJECTS, HISTORY, *map(bucket_path, bucket_names(store)), *texts]
