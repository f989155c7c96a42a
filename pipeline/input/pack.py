"""Packs folders of videos, with the captions and JSON beside them, into WebDataset shards. Videos are not opened."""

import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.storage.store import Store

BESIDE = (".txt", ".json")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a shard: its name in the tar, and its path on disk."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Packed:
    """The shards that `pack` wrote, and how many samples they contain."""

    urls: tuple[str, ...]
    samples: int


def pack(folders: Iterable[str], out: str, extensions: Iterable[str], shard_samples: int) -> Packed:
    """Writes shards `OUT/videos-000000.tar` … of at most `shard_samples` samples, the same bytes each time.

    Raises:
        UserError: no video is found, two would have the same key, or OUT already contains shards.
    """
    samples = find_samples([Path(folder) for folder in folders], frozenset(extensions))
    store = Store(out)
    if there := [name for name in store.names("") if name.endswith(".tar")]:
        raise UserError(f"{store.url(there[0])} exists: pack into an empty folder")
    urls = []
    for number, begin in enumerate(range(0, len(samples), shard_samples)):
        name = f"videos-{number:06d}.tar"
        with tempfile.NamedTemporaryFile() as scratch:
            _write_tar(scratch, samples[begin : begin + shard_samples])
            if not store.create_from(name, scratch.name):
                raise UserError(f"{store.url(name)} exists: pack into an empty folder")
        urls.append(store.url(name))
    return Packed(tuple(urls), len(samples))


def find_samples(folders: list[Path], extensions: frozenset[str]) -> list[tuple[Member, ...]]:
    """The videos in folders (or given as files), each with the files beside it, sorted by key."""
    found = [(root, path) for root in folders for path in _videos(root, extensions)]
    if not found:
        raise UserError(f"no video in {', '.join(map(str, folders))}; looked for {', '.join(sorted(extensions))}")
    plain = Counter(_key(root, path) for root, path in found)
    keyed = [(_distinct_key(root, path, plain), path) for root, path in found]
    _refuse_shared_keys(keyed)
    return [tuple(_members(key, path)) for key, path in sorted(keyed)]


def _videos(root: Path, extensions: frozenset[str]) -> Iterator[Path]:
    if not root.exists():
        raise UserError(f"{root} does not exist")
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    return (path for path in files if path.is_file() and path.suffix.lower().lstrip(".") in extensions)


def _key(root: Path, path: Path) -> str:
    """The path below `root` without its extension; dots become underscores, as WebDataset's key ends at a dot."""
    relative = Path(path.name) if root == path else path.relative_to(root)
    return relative.with_suffix("").as_posix().replace(".", "_")


def _distinct_key(root: Path, path: Path, plain: Counter[str]) -> str:
    """The keys of `a.mp4` and `a.mkv` in one folder are `a_mp4` and `a_mkv`."""
    key = _key(root, path)
    return key if plain[key] == 1 else f"{key}_{path.suffix.lower().lstrip('.')}"


def _refuse_shared_keys(keyed: list[tuple[str, Path]]) -> None:
    seen: dict[str, Path] = {}
    for key, path in keyed:
        if key in seen:
            raise UserError(
                f"{seen[key]} and {path} would both have the key {key}: rename one, or pack them separately"
            )
        seen[key] = path


def _members(key: str, video: Path) -> Iterator[Member]:
    yield Member(f"{key}{video.suffix.lower()}", video)
    for extension in BESIDE:
        beside = video.with_suffix(extension)
        if beside.is_file():
            yield Member(f"{key}{extension}", beside)


def _write_tar(file: IO[bytes], samples: list[tuple[Member, ...]]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in (member for members in samples for member in members):
            info = tarfile.TarInfo(member.name)  # fixed owner and times: the same files give the same shard
            info.size = member.path.stat().st_size
            with open(member.path, "rb") as content:
                tar.addfile(info, content)
    file.flush()
