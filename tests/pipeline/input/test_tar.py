"""A shard gives every sample it holds, from any sample on, or it is an error: never fewer in silence."""

import bz2
import copy
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import Files, MakeConfig, write_tar

from pipeline.config.input import InputConfig
from pipeline.errors import ShardError
from pipeline.input.grouping import SeenKeys
from pipeline.input.listing import list_shards
from pipeline.input.samples import samples_of
from pipeline.input.tar import read_samples
from pipeline.records import Sample
from pipeline.storage.store import Store

MAX_VIDEO_BYTES = 10_000
HEADER_BYTES = 512


def rules_of(**values: object) -> InputConfig:
    return InputConfig.model_validate({"shards": "unused", **values})


def tar_bytes(*files: tuple[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        for name, content in files:
            add(tar, name, content)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Sample]]:
    """Reads a tar of some files."""

    def read_files(*files: tuple[str, bytes], **rules: object) -> list[Sample]:
        path = write_tar(tmp_path / "a.tar", files)
        return list(read_samples(str(path), rules_of(**rules), MAX_VIDEO_BYTES))

    return read_files


Read = Callable[..., list[Sample]]


def test_files_that_share_a_key_are_a_sample(read: Read) -> None:
    files = [("clips/a.mp4", b"A"), ("clips/a.txt", b"caption"), ("clips/a.json", b"{}"), ("b.mp4", b"B")]
    first, second = read(*files)
    assert (first.key, first.index, first.last) == ("clips/a", 0, False)
    assert (first.video, first.video_name, first.caption, first.metadata) == (b"A", "clips/a.mp4", "caption", "{}")
    assert (second.key, second.index, second.last) == ("b", 1, True)
    assert (second.video, second.caption, second.metadata, second.problem) == (b"B", "", "", None)


def test_samples_lie_one_after_the_other(read: Read) -> None:
    samples = read(("a.mp4", b"x" * 600), ("a.txt", b""), ("b.mp4", b""), ("c.mp4", b"x"))
    assert [sample.position for sample in samples] == [0, 2048, 2560]
    assert samples[-1].next_position == 3584
    for before, after in pairwise(samples):
        assert before.next_position == after.position


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (["txt", "json:caption"], "of the text"),
        (["json:caption", "txt"], "of the json"),
        (["json:info.texts", "txt"], "x"),
        (["json:info.number", "txt"], "1.5"),
        (["json:nothing", "cap", "json:info.nothing", "json:caption.deeper", "json:none", "txt"], "of the text"),
        (["cap"], ""),
        (["long.txt"], "of the long text"),
        (["json"], '{"caption": "of the json", "none": null, "info": {"texts": ["x"], "number": 1.5}}'),
    ],
)
def test_the_caption_is_the_first_that_exists(read: Read, caption: list[str], expected: str) -> None:
    metadata = b'{"caption": "of the json", "none": null, "info": {"texts": ["x"], "number": 1.5}}'
    texts = [("a.txt", b"of the text"), ("a.long.txt", b"of the long text"), ("a.json", metadata)]
    (sample,) = read(("a.mp4", b"A"), *texts, caption=caption)
    assert sample.caption == expected
    assert sample.metadata == metadata.decode()


@pytest.mark.parametrize("metadata", [b"no json", b"[1]", b"[" * 100_000, b""])
def test_metadata_that_is_not_an_object_gives_no_caption_and_no_error(read: Read, metadata: bytes) -> None:
    (sample,) = read(("a.mp4", b"A"), ("a.json", metadata))
    assert (sample.caption, sample.video) == ("", b"A")
    assert sample.metadata == metadata.decode(errors="replace")


def test_every_text_can_be_written_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        add(tar, "é.mp4", b"A")
        add(tar, "é.json", b'{"caption": "\\ud800"}')
        add(tar, "è.mp4", b"B")
    first, second = read_samples(str(path), rules_of(), MAX_VIDEO_BYTES)
    for sample in (first, second):
        for text in (sample.key, sample.video_name, sample.caption, sample.metadata):
            text.encode()
    assert first.key != second.key
    assert first.caption == "\\ud800"
    assert (first.losses, second.losses) == ({"replaced_text": 3}, {"replaced_text": 1}), "two names and a caption"


def test_extensions_count_in_any_case_and_after_any_dot(read: Read) -> None:
    (sample,) = read(("a.720p.MP4", b"A"), ("a.TXT", b"caption"), ("a.jpg", b"thumbnail"))
    assert (sample.key, sample.video, sample.caption, sample.problem) == ("a", b"A", "caption", None)


def test_only_the_extensions_asked_for_hold_the_video(read: Read) -> None:
    (sample,) = read(("a.mp4", b"A"), ("a.webm", b"B"), video=["webm"])
    assert (sample.video, sample.video_name) == (b"B", "a.webm")


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ([("a.txt", b"")], "no_video", "input.video"),
        ([("a.mp4", b"A"), ("a.webm", b"B")], "several_videos", "a.mp4, a.webm"),
        ([("a.mp4", b"A"), ("a.txt", b"caf\xe9")], "bad_text", "a.txt: byte 3 (0xe9) is not UTF-8 text"),
        ([("a.mp4", b"A"), ("a.json", b'{"x": "\xff"}')], "bad_text", "a.json: byte 7 (0xff)"),
        ([("a.mp4", b"A"), ("a.mp4", b"B")], "duplicate_file", "a.mp4 twice"),
        ([("a.mp4", b"A"), ("a.MP4", b"B")], "duplicate_file", "a.MP4 twice"),
        ([("a.mp4", b"A"), ("a.txt", b""), ("a.txt", b"")], "duplicate_file", "a.txt twice"),
        ([("a.mp4", bytes(MAX_VIDEO_BYTES + 1))], "unreadable_video", "10,001"),
    ],
)
def test_a_sample_without_one_video_is_a_problem_and_those_around_it_are_not(
    read: Read, files: Files, reason: str, words: str
) -> None:
    before, sample, after = read(("0.mp4", b"0"), *files, ("1.mp4", b"1"))
    assert sample.problem is not None
    assert sample.problem[0] == reason
    assert words in sample.problem[1]
    assert sample.video == b""
    assert (before.problem, before.video, after.problem, after.video) == (None, b"0", None, b"1")


def taken(samples: list[Sample]) -> list[tuple[str, bytes, str, str]]:
    return [(sample.key, sample.video, sample.caption, sample.metadata) for sample in samples]


def test_files_belong_to_the_video_whose_name_they_have_whatever_dots_it_has(read: Read) -> None:
    files = [(f"clip_0.{s}s.{name}", b"%d" % s) for s in (5, 7) for name in ("json", "mp4", "txt")]
    assert taken(read(*files)) == [("clip_0.5s", b"5", "5", "5"), ("clip_0.7s", b"7", "7", "7")]
    assert taken(read(*files[1:3], *files[4:])) == [("clip_0.5s", b"5", "5", ""), ("clip_0.7s", b"7", "7", "")]
    files = [("a.b.mp4", b"1"), ("a.b.txt", b"of b"), ("a.json", b"{}"), ("a.mp4", b"2"), ("a.txt", b"of a")]
    assert taken(read(*files)) == [("a.b", b"1", "of b", ""), ("a", b"2", "of a", "{}")]


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (["a.mp4", "b.mp4", "a.txt", "b.txt"], ["", "", "files_apart", "files_apart"]),
        (["a.txt", "b.txt", "a.mp4", "b.mp4"], ["no_video", "no_video", "duplicate_key", "duplicate_key"]),
        (["a.mp4", "b.mp4", "a.mp4"], ["", "", "duplicate_key"]),
        (["a.5.mp4", "a.7.mp4", "a.5.txt", "a.7.txt"], ["", "files_apart"]),
        (["a.480p.mp4", "a.720p.mp4", "a.txt"], ["", "several_videos"]),
        (["a.mp4", "A.mp4", "a.b.mp4"], ["", "", ""]),
    ],
)
def test_files_of_a_sample_that_stand_apart_are_said_from_wherever_the_shard_is_read(
    names: list[str], problems: list[str], tmp_path: Path, make_config: MakeConfig
) -> None:
    write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    config = make_config()
    (shard,) = list_shards(config.input.shards)
    samples = list(samples_of(shard, config))
    assert [sample.problem[0] if sample.problem else "" for sample in samples] == problems
    assert all("together" in sample.problem[1] for sample in samples if sample.problem and "apart" in sample.problem[0])
    seen = SeenKeys()
    for sample in samples:
        assert (
            list(samples_of(shard, config, sample.position, sample.index, copy.deepcopy(seen)))
            == samples[sample.index :]
        )
        seen.add(sample.key, sample.index)


def test_files_that_nobody_asks_for_are_counted_by_extension(read: Read) -> None:
    (sample,) = read(("a.mp4", b"A"), ("a.srt", b""), ("a.JPG", b""), ("a.x.jpg", b""), ("a.b c d e f g h i", b""))
    assert sample.losses == {"unused_file .jpg": 2, "unused_file .srt": 1, "unused_file without extension": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_texts_are_read_in_the_encoding_that_they_have(read: Read, encoding: str) -> None:
    caption, metadata = "Ein Café am Abend 🌆", '{"caption": "au café, le soir"}'
    (sample,) = read(
        ("a.mp4", b"A"), ("a.txt", f"{caption}\r\n".encode(encoding)), ("a.json", metadata.encode(encoding))
    )
    assert (sample.caption, sample.metadata, sample.problem) == (caption, metadata, None)


@pytest.mark.parametrize("compress", [gzip.compress, lambda tar: bytes(pa.compress(tar, "zstd", asbytes=True))])
def test_a_compressed_tar_is_read_as_the_tar_is_from_every_sample_on(compress: Any, tmp_path: Path) -> None:
    files = [(f"{number}.{name}", bytes([number]) * 700) for number in range(4) for name in ("mp4", "txt")]
    plain = write_tar(tmp_path / "plain.tar", files)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(compress(plain.read_bytes()))
    samples = list(read_samples(str(plain), rules_of(), MAX_VIDEO_BYTES))
    for sample in samples:
        found = read_samples(str(packed), rules_of(), MAX_VIDEO_BYTES, sample.position, sample.index)
        assert list(found) == samples[sample.index :]


@pytest.mark.parametrize(("compress", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_a_tar_that_is_packed_otherwise_is_an_error_that_says_so(compress: Any, name: str, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    packed.write_bytes(compress(write_tar(tmp_path / "plain.tar", [("a.mp4", b"A")]).read_bytes()))
    with pytest.raises(ShardError, match=f"it is packed by {name}: use a plain tar, or one packed by gzip or zstd"):
        list(read_samples(str(packed), rules_of(), MAX_VIDEO_BYTES))


def test_a_video_of_the_largest_size_is_read(read: Read) -> None:
    (sample,) = read(("a.mp4", bytes(MAX_VIDEO_BYTES)))
    assert (len(sample.video), sample.problem) == (MAX_VIDEO_BYTES, None)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_video_that_is_not_a_regular_file_is_a_problem(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
        add(tar, "b.mp4", b"B")
    first, second = read_samples(str(tmp_path / "a.tar"), rules_of(), MAX_VIDEO_BYTES)
    assert first.problem is not None
    assert first.problem[0] == "unreadable_video"
    assert second.video == b"B"


def test_files_that_belong_to_no_sample_are_counted_once(read: Read) -> None:
    ignored = [(name, b"1") for name in ("README", ".hidden", "clips/._a.mp4", "a.__bad__", "a.__key__")]
    of_a, of_b = [("a.mp4", b"A"), *ignored[1:], ("a.txt", b"words")], [("b.mp4", b"B"), ("LICENSE", b"")]
    first, second = read(ignored[0], *of_a, *of_b)
    assert (first.video, first.caption, second.video) == (b"A", "words", b"B")
    assert (first.ignored_files, second.ignored_files) == (5, 1)


def test_folders_belong_to_no_sample(tmp_path: Path) -> None:
    (tmp_path / "clips.d").mkdir()
    (tmp_path / "clips.d" / "a.mp4").write_bytes(b"A")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "clips.d", "clips.d")
    (sample,) = read_samples(str(tmp_path / "a.tar"), rules_of(), MAX_VIDEO_BYTES)
    assert (sample.key, sample.ignored_files) == ("clips.d/a", 0)


def test_a_shard_without_files_has_no_samples(tmp_path: Path) -> None:
    for zeros in (HEADER_BYTES, 10_240):
        (tmp_path / "a.tar").write_bytes(bytes(zeros))
        assert list(read_samples(str(tmp_path / "a.tar"), rules_of(), MAX_VIDEO_BYTES)) == []


MARKS = ("README", ".hidden", "d/.hidden", "a.__bad__")
names = st.text(st.sampled_from("abcé日"), min_size=1, max_size=4)
folders = st.sampled_from(["", "x/", "long/" * 40, "é" * 120 + "/"])
suffixes = st.sampled_from(["mp4", "txt", "json", "webm", "seg1.mp4"])
members = st.builds("{}{}.{}".format, folders, names, suffixes) | st.sampled_from(MARKS)
contents = st.integers(0, 1500).map(lambda size_bytes: b"x" * size_bytes)


def fits_ustar(name: str) -> bool:
    try:
        tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@given(
    st.lists(st.tuples(members, contents), max_size=8),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
)
def test_from_every_sample_on_the_rest_is_the_same(files: list[tuple[str, bytes]], format_: int) -> None:
    if format_ == tarfile.USTAR_FORMAT:
        files = [member for member in files if fits_ustar(member[0])]
    store = Store("memory://resumed")
    store.replace("a.tar", tar_bytes(*files, format_=format_))

    def read_from(offset_bytes: int, index: int) -> list[Sample]:
        return list(read_samples(store.url("a.tar"), rules_of(), MAX_VIDEO_BYTES, offset_bytes, index))

    samples = read_from(0, 0)
    assert [sample.last for sample in samples] == [False] * (len(samples) - 1) + [True] * bool(samples)
    assert not samples or sum(sample.ignored_files for sample in samples) == sum(name in MARKS for name, _ in files)
    for position, sample in enumerate(samples):
        if not sample.last:
            assert read_from(sample.next_position, position + 1) == samples[position + 1 :]


WHOLE = tar_bytes(("a.mp4", b"A" * 700), ("a.txt", b"caption"), ("b.mp4", b"B" * 10))
END = 512 + 1024 + 512 + 512 + 512 + 512  # of its last file


def with_bytes(at: int, new: bytes) -> bytes:
    return WHOLE[:at] + new + WHOLE[at + len(new) :]


DAMAGED = {
    "empty": b"",
    "a few zeros": bytes(100),
    "cut inside a header": WHOLE[: END - 700],
    "cut inside a video": WHOLE[:900],
    "cut inside a file that is not read": tar_bytes(("a.mp4", b"A"), ("a.jpg", b"x" * 5000))[:4000],
    "cut inside the padding of a file": WHOLE[: END - 100],
    "cut after the first sample": WHOLE[: 512 + 1024 + 512 + 512],
    "without its end": WHOLE[:END],
    "cut inside its end": WHOLE[: END + 100],
    "wrong checksum in the first header": with_bytes(148, b"0000000\0"),
    "wrong checksum in a later header": with_bytes(END - 1024 + 148, b"0000000\0"),
    "a header overwritten with zeros": with_bytes(END - 1024, bytes(512)),
    "a header overwritten with noise": with_bytes(END - 1024, b"\xa5" * 512),
    "a negative size": with_bytes(124, b"\xff" * 12),
    "two tars, one after the other": WHOLE + WHOLE,
    "something after its end": WHOLE + b"x",
    "a page of HTML": b"<!doctype html><html><head><title>404 Not Found</title></head></html>" * 50,
    "compressed and cut": gzip.compress(WHOLE)[:-20],
    "compressed and damaged": gzip.compress(WHOLE, 0)[:600] + b"x" + gzip.compress(WHOLE, 0)[601:],
    "compressed and followed by something": gzip.compress(WHOLE) + b"x",
    "another compressed after it": gzip.compress(WHOLE) + gzip.compress(WHOLE),
    "zstd and cut": bytes(pa.compress(WHOLE, "zstd"))[:-20],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=rf"^{tmp_path}/a\.tar: ."):
        list(read_samples(str(tmp_path / "a.tar"), rules_of(), MAX_VIDEO_BYTES))


@given(st.integers(0, END + HEADER_BYTES - 1))
def test_wherever_a_shard_is_cut_that_is_an_error(length: int) -> None:
    store = Store("memory://cut")
    store.replace("a.tar", WHOLE[:length])
    with pytest.raises(ShardError):
        list(read_samples(store.url("a.tar"), rules_of(), MAX_VIDEO_BYTES))


@pytest.mark.parametrize(("name", "words"), [("nothing.tar", "does not exist"), ("", "is a folder")])
def test_a_shard_that_is_not_a_file_is_an_error(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ShardError, match=rf"{tmp_path}/?{name} {words}"):
        list(read_samples(f"{tmp_path}/{name}", rules_of(), MAX_VIDEO_BYTES))


def test_an_error_names_the_shard_without_its_secrets() -> None:
    with pytest.raises(ShardError, match=r"^memory://host/nothing\.tar does not exist$"):
        list(read_samples("memory://user:secret@host/nothing.tar", rules_of(), MAX_VIDEO_BYTES))


IMAGES = {"image": ["jpg", "png"]}


def test_an_image_is_a_sample_where_input_image_lists_its_extension(read: Read) -> None:
    files = (("a.jpg", b"A"), ("a.txt", b"of a"), ("b.PNG", b"B"), ("c.mp4", b"C"), ("d.webp", b"D"))
    samples = read(*files, **IMAGES)
    assert [sample.video for sample in samples] == [b"A", b"B", b"C", b""]
    assert [sample.video_name for sample in samples] == ["a.jpg", "b.PNG", "c.mp4", ""]
    assert samples[0].caption == "of a"
    assert [dict(sample.losses) for sample in samples] == [{}, {}, {}, {"unused_file .webp": 1}]
    assert samples[3].problem == ("no_video", "no file of the sample has an extension of input.video or input.image")
    assert [sample.problem is None for sample in read(*files)] == [False, False, True, False]


@pytest.mark.parametrize("rules", [{}, IMAGES])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_an_image_beside_a_video_stays_a_picture_of_it(read: Read, rules: dict[str, Any], order: Any) -> None:
    files = [("a.jpg", b"thumbnail"), ("a.mp4", b"A"), ("a.thumb.png", b"thumbnail"), ("a.txt", b"caption")]
    (sample,) = read(*(files[place] for place in order), **rules)
    assert (sample.key, sample.video, sample.caption, sample.problem) == ("a", b"A", "caption", None)
    assert sample.losses == {"unused_file .jpg": 1, "unused_file .png": 1}


def test_images_whose_names_have_dots_are_told_apart_as_videos_are(read: Read) -> None:
    files = [(f"clip_0.{s}s.{name}", b"%d" % s) for s in (5, 7) for name in ("jpg", "json", "txt")]
    assert taken(read(*files, **IMAGES)) == [("clip_0.5s", b"5", "5", "5"), ("clip_0.7s", b"7", "7", "7")]
    files = [files[place] for place in (1, 2, 0, 4, 5, 3)]
    assert taken(read(*files, **IMAGES)) == [("clip_0.5s", b"5", "5", "5"), ("clip_0.7s", b"7", "7", "7")]


def test_two_images_and_an_image_that_is_too_large_are_problems_by_name(read: Read) -> None:
    (two,) = read(("a.jpg", b"A"), ("a.png", b"B"), **IMAGES)
    assert two.problem == ("several_images", "a.jpg, a.png have the same key")
    (large,) = read(("a.jpg", bytes(MAX_VIDEO_BYTES + 1)), **IMAGES)
    assert large.problem is not None
    assert (large.problem[0], large.video) == ("unreadable_image", b"")


def test_an_image_has_no_spans(read: Read) -> None:
    files = (("a.jpg", b"A"), ("a.txt", b"of a"), ("b.mp4", b"B"), ("b.json", b'{"spans": [[0, 1]], "c": ["of b"]}'))
    image, video = read(*files, **IMAGES, spans="json:spans", captions_of="span", caption=["txt", "json:c[]"])
    assert (image.problem, image.spans, image.captions, image.caption_by_span) == (None, None, ("of a",), False)
    assert (video.problem, video.captions, video.caption_by_span) == (None, ("of b",), True)
