"""WebDataset shards: the samples of a tar, as WebDataset groups its files.

A tar must be read to a proven end: a damaged one is a ShardError, never silently shorter.
"""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from pipeline.config.input import InputConfig
from pipeline.errors import ShardError
from pipeline.input.annotations import captions_of, spans_of
from pipeline.input.shard_errors import shard_errors
from pipeline.metadata.fields import printable
from pipeline.records import Sample
from pipeline.storage.files import open_url

BLOCK_BYTES = 512
STREAM_BUFFER_BYTES = 1 << 20


class _StrictTarInfo(tarfile.TarInfo):
    """Turns every damaged header into an error, where tarfile takes most of them for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # a block of zeros, as a tar ends
                raise
            raise ShardError(f"damaged tar header at byte {tarfile_.offset:,}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    data: bytes | None
    size_bytes: int


@dataclass(slots=True)
class _Cursor:
    """What is known while walking the tar and lost in WebDataset's grouping."""

    offset_bytes: int
    at_end: bool = False
    ignored_files: int = 0
    duplicates: list[str] = field(default_factory=list)
    first_offsets: list[int] = field(default_factory=list)


def read_samples(
    url: str, rules: InputConfig, max_video_bytes: int, offset_bytes: int = 0, first_index: int = 0
) -> Iterator[Sample]:
    """Streams the samples of a tar from `offset_bytes`, where sample number `first_index` begins.

    Raises:
        ShardError: the file is missing, not a tar, damaged, cut short, or followed by other data.
    """
    with shard_errors(url, tarfile.TarError, ShardError), open_url(url) as file:
        file.seek(offset_bytes)
        cursor = _Cursor(offset_bytes)
        files = _walk(file, cursor, rules, max_video_bytes)
        yield from _numbered(group_by_keys(files, handler=_remember(cursor)), cursor, rules, first_index)


def _numbered(groups: Iterator[dict[str, Any]], cursor: _Cursor, rules: InputConfig, first: int) -> Iterator[Sample]:
    # A group is complete when the first file of the next one, or the tar's end, has been read: the cursor is there.
    for index, group in enumerate(groups, start=first):
        yield _sample(index, group, cursor, rules)
        cursor.ignored_files = 0
        cursor.duplicates.clear()


def _sample(index: int, group: dict[str, Any], cursor: _Cursor, rules: InputConfig) -> Sample:
    members = {suffix: value for suffix, value in group.items() if isinstance(value, _Member)}
    videos = [member for suffix, member in members.items() if _is_video(suffix, rules)]
    metadata = _text(members.get("json"))
    spans, bad_spans = spans_of(metadata, rules)
    problem = _problem(videos, cursor.duplicates) or bad_spans
    return Sample(
        key=group["__key__"],
        index=index,
        position=cursor.first_offsets.pop(0),
        next_position=cursor.offset_bytes,
        last=cursor.at_end,
        ignored_files=cursor.ignored_files,
        video=b"" if problem else videos[0].data or b"",
        video_name=videos[0].name if videos else "",
        captions=captions_of(_texts(members, rules), rules),
        metadata=metadata,
        spans=spans,
        problem=problem,
    )


def _problem(videos: list[_Member], duplicates: list[str]) -> tuple[str, str] | None:
    names = ", ".join(member.name for member in videos)
    if duplicates:
        return "duplicate_file", f"the sample contains {duplicates[0]} twice"
    if not videos:
        return "no_video", "no file of the sample has an extension that input.video lists"
    if len(videos) > 1:
        return "several_videos", f"{names} have the same key, as WebDataset's key ends at the first dot of the name"
    if videos[0].data is None:
        return "unreadable_video", f"{names} is a link, or larger than limits.max_video_bytes: {videos[0].size_bytes:,}"
    return None


def _texts(members: Mapping[str, _Member], rules: InputConfig) -> dict[str, str]:
    suffixes = {source.partition(":")[0] for source in rules.caption}
    return {suffix: _text(member) for suffix, member in members.items() if suffix in suffixes}


def _text(member: _Member | None) -> str:
    return (member.data or b"").decode("utf-8", errors="replace") if member else ""


def _is_video(suffix: str, rules: InputConfig) -> bool:
    return suffix.rpartition(".")[2] in rules.video


def _remember(cursor: _Cursor) -> Any:
    """WebDataset's handler for a duplicate name in a sample: note it and read on; the sample is rejected later."""

    def handler(error: Exception) -> bool:
        if not isinstance(error, ValueError):
            raise error
        cursor.duplicates.append(str(error.args[0]).partition(":")[0])
        return True

    return handler


def _walk(file: IO[bytes], cursor: _Cursor, rules: InputConfig, max_video_bytes: int) -> Iterator[dict[str, Any]]:
    """Yields `{fname, data, __url__}` for each file of the tar, then proves that the tar ends here.

    Ignored are hidden files, files without extension, and the suffixes that WebDataset reserves: `__bad__` would make
    it drop the sample.
    """
    start = cursor.offset_bytes
    wanted = {"json", *(source.partition(":")[0] for source in rules.caption)}
    group: str | None = None
    with tarfile.open(fileobj=file, mode="r|", bufsize=STREAM_BUFFER_BYTES, tarinfo=_StrictTarInfo) as tar:
        for info in tar:
            tar.members.clear()  # type: ignore[attr-defined] # or tarfile would keep every header
            cursor.offset_bytes = start + info.offset
            if info.isdir():
                continue
            name = printable(info.name)
            key, suffix = base_plus_ext(name)
            if key is None or key.endswith("/") or suffix.startswith("__"):
                cursor.ignored_files += 1
                continue
            is_video = _is_video(suffix.lower(), rules)
            if key != group:
                group = key
                cursor.first_offsets.append(cursor.offset_bytes)
            read = (is_video and info.size <= max_video_bytes) or suffix.lower() in wanted
            data = _read(tar, info) if read else None
            yield {"fname": name, "data": _Member(name, data, info.size), "__url__": ""}
        _prove_end(tar, start)
        cursor.offset_bytes = start + tar.offset
    cursor.at_end = True


def _read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | None:
    if not info.isreg():
        return None
    content = tar.extractfile(info)
    assert content is not None, "a regular file has content"
    data = content.read()
    if len(data) != info.size:
        raise ShardError(f"cut short inside {info.name}: it has {len(data):,} of {info.size:,} bytes")
    return data


def _prove_end(tar: tarfile.TarFile, start: int) -> None:
    """After its last file a tar has a block of zeros, and nothing but zeros may follow."""
    stream: Any = tar.fileobj
    while block := stream.read(STREAM_BUFFER_BYTES):
        if block.strip(b"\0"):
            end = start + tar.offset
            raise ShardError(f"other data follows the end of the tar at byte {end:,}: were several tars concatenated?")
