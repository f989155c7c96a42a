"""Folders of videos into WebDataset shards, with the captions and JSON that lie beside them.

It does not open the videos: a run judges them.
"""

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
    """One file of a shard: its name there, and where it lies."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Packed:
    """What `pack` made: URLs of the shards, and how many samples they hold."""

    urls: tuple[str, ...]
    samples: int


def pack(folders: Iterable[str], out: str, extensions: Iterable[str], shard_samples: int) -> Packed:
    """Writes shards `OUT/videos-000000.tar` … of at most `shard_samples` samples, the same bytes each time.

    Raises:
        UserError: no video is found, two would share a key, or OUT holds shards already.
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
    """The videos below some folders (or named themselves), each with what lies beside it, sorted by key."""
    found = [(root, path) for root in folders for path in _videos(root, extensions)]
    if not found:
        raise UserError(f"no video below {', '.join(map(str, folders))}; looked for {', '.join(sorted(extensions))}")
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
    """Where `a.mp4` and `a.mkv` lie together, their keys are `a_mp4` and `a_mkv`."""
    key = _key(root, path)
    return key if plain[key] == 1 else f"{key}_{path.suffix.lower().lstrip('.')}"


def _refuse_shared_keys(keyed: list[tuple[str, Path]]) -> None:
    seen: dict[str, Path] = {}
    for key, path in keyed:
        if key in seen:
            raise UserError(f"{seen[key]} and {path} would share the key {key}: rename one, or pack them apart")
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
