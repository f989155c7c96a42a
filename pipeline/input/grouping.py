"""Which files of a tar make a sample, whatever dots their names have.

`clip_0.5s.mp4`, `clip_0.5s.txt` and `clip_0.5s.json` are a sample with the key `clip_0.5s`. As WebDataset has it,
`a.txt` and `a.720p.mp4` are one with the key `a`: names agree up to the first dot, and there is one video. An image
beside a video is a picture of it; where there is no video, what holds of videos holds of images.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from webdataset.tariterators import base_plus_ext

from pipeline.records import Sample


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a tar: where its header begins, and its content where that is wanted.

    `media` is video | image, "" for what is neither.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    media: str
    data: bytes | None

    @property
    def family(self) -> str:
        """The name up to the first dot, which all files of a sample share."""
        return family_of(self.name)

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return self.name.rpartition(".")[0]

    @property
    def extension(self) -> str:
        return self.name.rpartition(".")[2].lower()

    def suffix(self, key: str) -> str:
        """What follows a key in the name, in lower case; "" where the name does not begin with the key."""
        return self.name[len(key) + 1 :].lower() if self.name.startswith(f"{key}.") else ""


@dataclass(frozen=True, slots=True)
class Group:
    """The files of one sample, and where the next one begins: None at the end of the tar."""

    members: tuple[Member, ...]
    next_offset_bytes: int | None

    @property
    def videos(self) -> list[Member]:
        """Its videos or, where it has none, its images."""
        return _of("video", self.members) or _of("image", self.members)

    @property
    def key(self) -> str:
        """The name that all files share: that of the video or image, or up to the first dot if only that is shared."""
        stems = {member.stem for member in (self.videos or self.members)}
        family = self.members[0].family
        if len(stems) > 1 or any(member.stem == family for member in self.members):
            return family
        return stems.pop()

    @property
    def named(self) -> dict[str, Member]:
        """Files by what follows the key, or else the own name of the video or image."""
        keys = [self.members[0].family, self.key, *(video.stem for video in self.videos)]
        return {suffix: member for key in keys for member in self.members if (suffix := member.suffix(key))}

    @property
    def repeated(self) -> list[str]:
        """Names that are there twice."""
        counts: Counter[str] = Counter()
        names = []
        for member in self.members:
            name = f"{member.stem}.{member.extension}"
            counts[name] += 1
            names += [member.name] if counts[name] == 2 else []
        return names

    @property
    def others(self) -> tuple[str, ...]:
        """Names, without extension, of files that share only the beginning of the key."""
        own = {self.members[0].family, *(video.stem for video in self.videos)} if self.videos else {self.key}
        return tuple(sorted({member.stem for member in self.members} - own))


def family_of(name: str) -> str:
    """A name up to its first dot; "" where it has no extension or is hidden, and so belongs to no sample."""
    family, _ = base_plus_ext(name)
    return family if family and not family.endswith("/") else ""


def grouped(files: Iterable[Member]) -> Iterator[Group]:
    """The samples of a tar, each as soon as the first file of the next one has been read."""
    group: list[Member] = []
    for file in files:
        if group and file.family != group[0].family:
            yield Group(tuple(group), file.offset_bytes)
            group = []
        elif _is_of_another(file, group):
            begin = _begin_of(file, group)
            yield Group(tuple(group[:begin]), (*group[begin:], file)[0].offset_bytes)
            group = group[begin:]
        group.append(file)
    if group:
        yield Group(tuple(group), None)


def _of(media: str, members: Iterable[Member]) -> list[Member]:
    return [member for member in members if member.media == media]


def _is_of_another(file: Member, group: Sequence[Member]) -> bool:
    """Whether a video, or an image where there is no video, has another name than one before it in its family."""
    if not file.media or (file.media == "image" and _of("video", group)):
        return False
    return any(one.stem != file.stem for one in _of(file.media, group))


def _begin_of(file: Member, group: Sequence[Member]) -> int:
    """Where the files begin that stand right before a video and have its name rather than that of the one before."""
    stems = [file.stem, *(member.stem for member in _of(file.media, group))]
    begin = len(group)
    while group[begin - 1].media != file.media and _owner(group[begin - 1].stem, stems) == file.stem:
        begin -= 1
    return begin


def _owner(name: str, stems: Sequence[str]) -> str:
    """The longest of some names that a name begins with; "" where it begins with none."""
    return max((stem for stem in stems if f"{name}.".startswith(f"{stem}.")), key=len, default="")


class SeenKeys:
    """The keys of the samples of a shard so far: those that come again are told apart from new ones."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._dotted: dict[str, tuple[int, str]] = {}  # the first key with dots of each family

    def add(self, key: str, index: int) -> None:
        self._first.setdefault(key, index)
        family = family_of(f"{key}.")
        if family != key:
            self._dotted.setdefault(family, (index, key))

    def problem(self, sample: Sample) -> tuple[str, str] | None:
        """(reason, detail) where other files of the sample, or of one that it has files of, stand elsewhere."""
        first = self._first.get(sample.key, sample.index)
        if first < sample.index:
            return "duplicate_key" if sample.video_name else "files_apart", _apart(sample.key, first)
        for other in sample.others:
            if (first := self._first.get(other, sample.index)) < sample.index:
                return "files_apart", _apart(other, first)
        index, dotted = self._dotted.get(sample.key, (sample.index, ""))
        if index < sample.index and sample.video_name.rpartition(".")[0] not in ("", sample.key):
            return "several_videos", f"{dotted} and {sample.video_name} both begin with {sample.key}, as other files do"
        return None


def _apart(key: str, first: int) -> str:
    return (
        f"sample {first} of the shard has the key {key} too: the files of a sample must stand together, and keys must "
        "differ; write the tar again with its files sorted by name (tar --sort=name)"
    )
