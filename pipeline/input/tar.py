"""WebDataset shards: the samples of a tar.

A tar must be read to a proven end: a damaged one is a ShardError, never silently shorter.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from pipeline.config.input import InputConfig
from pipeline.errors import ShardError
from pipeline.input.annotations import REPLACED_TEXT, UNUSED_FILE, captions_of, loss, mismatch, spans_of
from pipeline.input.compressed import DAMAGE, uncompressed
from pipeline.input.grouping import Group, Member, family_of, grouped
from pipeline.input.shard_errors import shard_errors
from pipeline.metadata.fields import read_json
from pipeline.metadata.text import UndecodableError, decode_text, is_printable, printable
from pipeline.records import Sample
from pipeline.storage.files import open_url

BLOCK_BYTES = 512
STREAM_BUFFER_BYTES = 1 << 20
LONGEST_EXTENSION = 12  # longer ones are part of a name


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


@dataclass(slots=True)
class _Cursor:
    """Where the walk through the tar is, and the files that it passed by and that belong to no sample."""

    offset_bytes: int
    ignored_offsets: list[int] = field(default_factory=list)
    replaced_offsets: list[int] = field(default_factory=list)  # of names that are not as they were written


def read_samples(
    url: str, rules: InputConfig, max_video_bytes: int, offset_bytes: int = 0, first_index: int = 0
) -> Iterator[Sample]:
    """Streams the samples of a tar from `offset_bytes`, where sample number `first_index` begins.

    A compressed tar is a stream: its offsets are those of what it unpacks to, and all before one is read again.

    Raises:
        ShardError: the file is missing, not a tar, damaged, cut short, or followed by other data.
    """
    with shard_errors(url, tarfile.TarError, ShardError, *DAMAGE), open_url(url) as stored:
        file = uncompressed(stored)
        file.seek(offset_bytes)
        cursor = _Cursor(offset_bytes)
        for index, group in enumerate(grouped(_walk(file, cursor, rules, max_video_bytes)), start=first_index):
            yield _sample(index, group, cursor, rules)


def _sample(index: int, group: Group, cursor: _Cursor, rules: InputConfig) -> Sample:
    end = cursor.offset_bytes if group.next_offset_bytes is None else group.next_offset_bytes
    is_last = group.next_offset_bytes is None
    metadata, captions, bad_text = _texts(group, rules)
    is_image = any(one.media == "image" for one in group.videos)
    spans, bad_spans = (None, None) if is_image else spans_of(metadata, rules)
    problem = _problem(group) or bad_text or bad_spans or mismatch(captions, spans, rules)
    replaced = _passed(cursor.replaced_offsets, end, is_last) + sum(not is_printable(text) for text in captions)
    return Sample(
        key=group.key,
        index=index,
        position=group.members[0].offset_bytes,
        next_position=end,
        last=is_last,
        ignored_files=_passed(cursor.ignored_offsets, end, is_last),
        video=b"" if problem else group.videos[0].data or b"",
        video_name=group.videos[0].name if group.videos else "",
        captions=tuple(map(printable, captions)),
        metadata=metadata,
        spans=spans,
        caption_by_span=rules.captions_of == "span" and not is_image,
        problem=problem,
        others=group.others,
        losses=_unused(group, rules) | loss(REPLACED_TEXT, replaced),
    )


def _passed(offsets: list[int], end: int, is_last: bool) -> int:
    """How many of some places lie before the end of a sample; they are not counted again."""
    passed = [offset for offset in offsets if is_last or offset < end]
    del offsets[: len(passed)]
    return len(passed)


def _texts(group: Group, rules: InputConfig) -> tuple[str, tuple[str, ...], tuple[str, str] | None]:
    """A sample's JSON, its captions, and (reason, detail) where one of them is not text."""
    files: dict[str, str] = {}
    for suffix in sorted(_text_suffixes(rules) & group.named.keys()):
        member = group.named[suffix]
        try:
            files[suffix] = decode_text(member.data or b"")
        except UndecodableError as error:
            return files.get("json", ""), (), ("bad_text", f"{member.name}: {error}")
    metadata = files.get("json", "")
    return metadata, captions_of(files, read_json(metadata), rules), None


def _text_suffixes(rules: InputConfig) -> set[str]:
    return {"json", *(source.partition(":")[0].lower() for source in rules.caption)}


def _unused(group: Group, rules: InputConfig) -> dict[str, int]:
    """How many files of a sample nobody asks for, by extension."""
    used = {group.named[suffix].name for suffix in _text_suffixes(rules) & group.named.keys()}
    used |= {one.name for one in group.videos}
    unused = [one.extension for one in group.members if one.name not in used]
    names = (f".{one}" if len(one) <= LONGEST_EXTENSION else "without extension" for one in sorted(unused))
    return dict(Counter(f"{UNUSED_FILE} {name}" for name in names))


def _problem(group: Group) -> tuple[str, str] | None:
    videos = group.videos
    names = ", ".join(member.name for member in videos)
    if group.repeated:
        return "duplicate_file", f"the sample contains {group.repeated[0]} twice"
    if not videos:
        return "no_video", "no file of the sample has an extension of input.video or input.image"
    if len(videos) > 1:
        return f"several_{videos[0].media}s", f"{names} have the same key"
    if videos[0].data is None:
        what = f"{names} is a link, or larger than limits.max_video_bytes: {videos[0].size_bytes:,}"
        return f"unreadable_{videos[0].media}", what
    return None


def _walk(file: IO[bytes], cursor: _Cursor, rules: InputConfig, max_video_bytes: int) -> Iterator[Member]:
    """Yields each file of the tar, then proves that the tar ends here.

    Ignored are hidden files, files without extension, and extensions that WebDataset reserves, such as `__bad__`.
    """
    start = cursor.offset_bytes
    suffixes = _text_suffixes(rules)
    with tarfile.open(fileobj=file, mode="r|", bufsize=STREAM_BUFFER_BYTES, tarinfo=_StrictTarInfo) as tar:
        for info in tar:
            tar.members.clear()  # type: ignore[attr-defined] # or tarfile would keep every header
            cursor.offset_bytes = offset_bytes = start + info.offset
            if info.isdir():
                continue
            name = printable(info.name)
            extension = name.rpartition(".")[2].lower()
            if not family_of(name) or not extension or extension.startswith("__"):
                cursor.ignored_offsets.append(offset_bytes)
                continue
            if name != info.name:
                cursor.replaced_offsets.append(offset_bytes)
            media = "video" if extension in rules.video else "image" if extension in rules.image else ""
            is_text = any(name.lower().endswith(f".{suffix}") for suffix in suffixes)
            read = (media and info.size <= max_video_bytes) or is_text
            yield Member(name, offset_bytes, info.size, media, _read(tar, info) if read else None)
        _prove_end(tar, start)
        cursor.offset_bytes = start + tar.offset


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
