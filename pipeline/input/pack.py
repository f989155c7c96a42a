"""Packs folders of videos and images, with captions and JSON beside them, into WebDataset shards. None is opened.

What operating systems and editors leave beside videos is passed over, and counted by name.
"""

import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.storage.store import Store
from pipeline.storage.urls import expanded

BESIDE = (".txt", ".json")
JUNK = {"__MACOSX", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found", "@eaDir", "#recycle"}
JUNK |= {"Trash", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a shard: its name in the tar, and its path on disk."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Packed:
    """The shards that `pack` wrote, how many samples they contain, and what of the folders they do not.

    `passed_over` counts files by the hidden or system's file or folder that they are or lie in, `unused` other files by
    extension.
    """

    urls: tuple[str, ...]
    samples: int
    without_caption: int
    passed_over: Mapping[str, int]
    unused: Mapping[str, int]


@dataclass(slots=True)
class _Folder:
    """The files below a folder or file that was given: `root` is what keys are relative to."""

    root: Path
    files: list[Path] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def pack(
    folders: Iterable[str], out: str, extensions: Iterable[str], shard_samples: int, images: Iterable[str] = ()
) -> Packed:
    """Writes shards `OUT/videos-000000.tar` … of at most `shard_samples` samples, the same bytes each time.

    Args:
        extensions: those of videos.
        images: those of images; an image beside a video of its name is left out.

    Raises:
        UserError: no video is found, two would have the same key, or OUT already contains shards.
    """
    looked = [_look(Path(expanded(folder))) for folder in folders]
    samples = find_samples(looked, frozenset(extensions), frozenset(images))
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
    passed_over = sum((folder.passed_over for folder in looked), Counter[str]())
    used = {member.path for members in samples for member in members}
    unused = Counter(path.suffix.lower() or path.name for one in looked for path in one.files if path not in used)
    captionless = sum(len(members) == 1 for members in samples)
    counts = (dict(sorted(each.items())) for each in (passed_over, unused))
    return Packed(tuple(urls), len(samples), captionless, *counts)


def _look(root: Path) -> _Folder:
    if not root.exists():
        raise UserError(f"{root} does not exist")
    if root.is_file():
        return _Folder(root, [root])
    folder = _Folder(root)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        junk = next((part for part in path.relative_to(root).parts if part.startswith(".") or part in JUNK), None)
        if junk:
            folder.passed_over["._* (AppleDouble)" if junk.startswith("._") else junk] += 1
        else:
            folder.files.append(path)
    return folder


def find_samples(
    folders: list[_Folder], extensions: frozenset[str], images: frozenset[str]
) -> list[tuple[Member, ...]]:
    """The videos and images in folders (or given as files), each with the files beside it, sorted by key."""
    found = _with_extension(folders, extensions)
    of_videos = {path.with_suffix("") for _, path in found}
    found += [one for one in _with_extension(folders, images) if one[1].with_suffix("") not in of_videos]
    if not found:
        where = ", ".join(str(one.root) for one in folders)
        kinds = "video or image" if images else "video"
        raise UserError(f"no {kinds} in {where}; looked for {', '.join(sorted(extensions | images))}")
    plain = Counter(_key(root, path) for root, path in found)
    keyed = [(_distinct_key(root, path, plain), path) for root, path in found]
    _refuse_shared_keys(keyed)
    beside = _beside({path.parent for _, path in keyed})
    return [tuple(_members(key, path, beside)) for key, path in sorted(keyed)]


def _with_extension(folders: list[_Folder], extensions: frozenset[str]) -> list[tuple[Path, Path]]:
    """(what a key is relative to, path) of the files with one of some extensions."""
    return [(one.root, path) for one in folders for path in one.files if _extension(path).lstrip(".") in extensions]


def _extension(path: Path) -> str:
    return path.suffix.lower()


def _beside(folders: Iterable[Path]) -> dict[tuple[Path, str], Path]:
    """The captions and JSON of some folders, by their path without extension and their extension in lower case."""
    files = (path for folder in folders for path in sorted(folder.iterdir(), reverse=True))
    return {
        (path.with_suffix(""), _extension(path)): path
        for path in files
        if _extension(path) in BESIDE and path.is_file()
    }


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


def _members(key: str, video: Path, beside: Mapping[tuple[Path, str], Path]) -> Iterator[Member]:
    yield Member(f"{key}{_extension(video)}", video)
    for extension in BESIDE:
        if path := beside.get((video.with_suffix(""), extension)):
            yield Member(f"{key}{extension}", path)


def _write_tar(file: IO[bytes], samples: list[tuple[Member, ...]]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in (member for members in samples for member in members):
            with open(member.path, "rb") as content:
                add_member(tar, member.name, content, member.path.stat().st_size)
    file.flush()


def add_member(tar: tarfile.TarFile, name: str, content: IO[bytes], size_bytes: int) -> None:
    """Adds a file with fixed owner and times: the same files give the same shard."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    tar.addfile(info, content)
