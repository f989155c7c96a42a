"""Folders of videos become shards that WebDataset reads back, the same bytes each time, or nothing is written."""

import json
from pathlib import Path

import pytest

from pipeline.config.input import InputConfig
from pipeline.errors import UserError
from pipeline.input.pack import pack
from pipeline.input.tar import read_samples
from pipeline.records import Sample

RULES = InputConfig(shards=("unused",))


def put(root: Path, *names: str) -> Path:
    """Files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def packed(out: Path, *folders: Path, shard_samples: int = 100) -> list[Sample]:
    made = pack([str(folder) for folder in folders], str(out), RULES.video, shard_samples)
    samples = [sample for url in made.urls for sample in read_samples(url, RULES, 1 << 20)]
    assert len(samples) == made.samples
    assert all(sample.problem is None for sample in samples)
    return samples


def keys(samples: list[Sample]) -> list[str]:
    return [sample.key for sample in samples]


def test_videos_are_packed_with_what_lies_beside_them(tmp_path: Path) -> None:
    put(tmp_path / "in", "b.mp4", "b.txt", "a.mp4", "a.json", "c.txt", "notes.md")
    (tmp_path / "in" / "a.json").write_text(json.dumps({"caption": "from the JSON"}))
    first, second = packed(tmp_path / "out", tmp_path / "in")
    assert (first.key, first.video, first.caption) == ("a", b"a.mp4", "from the JSON")
    assert (second.key, second.video, second.caption, second.metadata) == ("b", b"b.mp4", "b.txt", "")


def test_folders_below_are_part_of_the_key(tmp_path: Path) -> None:
    put(tmp_path / "in", "x/a.mp4", "x/a.txt", "y/z/a.mp4")
    assert keys(packed(tmp_path / "out", tmp_path / "in")) == ["x/a", "y/z/a"]


def test_several_folders_are_one_set_sorted_by_key(tmp_path: Path) -> None:
    put(tmp_path, "one/a.mp4", "one/c.mp4", "two/b.mp4")
    assert keys(packed(tmp_path / "out", tmp_path / "two", tmp_path / "one")) == ["a", "b", "c"]


def test_dots_in_names_do_not_cut_the_key(tmp_path: Path) -> None:
    put(tmp_path / "in", "clip_0.5s.mp4", "clip_0.5s.txt", "clip_0.7s.mp4", "v1.0/a.mp4")
    samples = packed(tmp_path / "out", tmp_path / "in")
    assert keys(samples) == ["clip_0_5s", "clip_0_7s", "v1_0/a"]
    assert samples[0].caption == "clip_0.5s.txt"


def test_videos_that_differ_only_in_their_extension_have_keys_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.mp4", "a.mkv", "a.txt", "b.mp4")
    samples = packed(tmp_path / "out", tmp_path / "in")
    assert keys(samples) == ["a_mkv", "a_mp4", "b"]
    assert [sample.caption for sample in samples] == ["a.txt", "a.txt", ""]


def test_extensions_count_in_any_case(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.MP4")
    assert keys(packed(tmp_path / "out", tmp_path / "in")) == ["a"]


def test_a_video_may_be_named_itself(tmp_path: Path) -> None:
    put(tmp_path / "in", "x/a.mp4", "x/a.txt", "b.mp4")
    samples = packed(tmp_path / "out", tmp_path / "in" / "x" / "a.mp4")
    assert [(sample.key, sample.caption) for sample in samples] == [("a", "x/a.txt")]


def test_shards_hold_as_many_samples_as_asked(tmp_path: Path) -> None:
    put(tmp_path / "in", *(f"{number}.mp4" for number in range(5)))
    made = pack([str(tmp_path / "in")], str(tmp_path / "out"), ("mp4",), 2)
    assert made.urls == tuple(f"{tmp_path}/out/videos-{number:06d}.tar" for number in range(3))
    assert [len(list(read_samples(url, RULES, 1 << 20))) for url in made.urls] == [2, 2, 1]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    names = ["b.mp4", "a.mp4", "a.txt", "x/a.mp4"]
    tars = []
    for run, order in (("1", names), ("2", names[::-1])):
        put(tmp_path / run, *order)
        packed(tmp_path / f"out{run}", tmp_path / run)
        tars.append((tmp_path / f"out{run}" / "videos-000000.tar").read_bytes())
    assert tars[0] == tars[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("one/a.mp4", "two/a.mp4"), r"one/a\.mp4 and .*two/a\.mp4 would both have the key a"),
        (("one/a.b.mp4", "one/a_b.mp4"), "would both have the key a_b_mp4"),
        (("one/a.mp4", "one/a.mkv", "one/a_mkv.mp4"), "would both have the key a_mkv"),
    ],
)
def test_videos_that_would_share_a_key_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    put(tmp_path, *names, "two/other.mp4")
    with pytest.raises(UserError, match=message):
        packed(tmp_path / "out", tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "out").exists()


def test_what_systems_and_editors_leave_behind_is_passed_over_and_counted_by_name(tmp_path: Path) -> None:
    junk = ["._a.mp4", ".hidden.mp4", "__MACOSX/a.mp4", "__MACOSX/._a.mp4", ".ipynb_checkpoints/a-checkpoint.mp4"]
    junk += [".Trash-1000/files/old.mp4", "$RECYCLE.BIN/old.mp4", "x/.DS_Store", "@eaDir/a.mp4/SYNOVIDEO.mp4"]
    put(tmp_path / ".videos", "a.mp4", "x/b.mp4", "x/b.txt", *junk)
    made = pack([str(tmp_path / ".videos")], str(tmp_path / "out"), RULES.video, 100)
    assert (made.samples, made.without_caption, sum(made.passed_over.values())) == (2, 1, len(junk))
    assert made.passed_over == {
        "._* (AppleDouble)": 1,
        ".hidden.mp4": 1,
        "__MACOSX": 2,
        ".ipynb_checkpoints": 1,
        ".Trash-1000": 1,
        "$RECYCLE.BIN": 1,
        ".DS_Store": 1,
        "@eaDir": 1,
    }


def test_captions_count_in_any_case_and_what_lies_unused_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.MP4", "a.TXT", "b.mp4", "b.Json", "c.txt", "a.srt", "b.SRT", "README")
    samples = packed(tmp_path / "out", tmp_path / "in")
    assert [(sample.caption, sample.metadata) for sample in samples] == [("a.TXT", ""), ("", "b.Json")]
    made = pack([str(tmp_path / "in")], str(tmp_path / "again"), RULES.video, 100)
    assert made.unused == {".srt": 2, ".txt": 1, "README": 1}


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.txt", "mp4")
    with pytest.raises(UserError, match=r"no video in .*in; looked for .*mp4"):
        packed(tmp_path / "out", tmp_path / "in")
    with pytest.raises(UserError, match="nothing does not exist"):
        packed(tmp_path / "out", tmp_path / "nothing")


def test_shards_are_not_added_to_those_of_another_time(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.mp4")
    put(tmp_path / "out", "videos-000007.tar")
    with pytest.raises(UserError, match=r"videos-000007\.tar exists: pack into an empty folder"):
        packed(tmp_path / "out", tmp_path / "in")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["videos-000007.tar"]


def test_images_are_packed_where_they_are_asked_for_but_for_pictures_of_videos(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", "a.mp4", "a.jpg", "a.txt", "b.JPG", "b.txt", "c.png", "c.webp", "d.gif")
    made = pack([str(folder)], str(tmp_path / "out"), RULES.video, 100, images=("jpg", "png", "webp"))
    rules = RULES.model_copy(update={"image": ("jpg", "png", "webp")})
    samples = list(read_samples(made.urls[0], rules, 1 << 20))
    assert [(sample.key, sample.video_name, sample.caption) for sample in samples] == [
        ("a", "a.mp4", "a.txt"),
        ("b", "b.jpg", "b.txt"),
        ("c_png", "c_png.png", ""),
        ("c_webp", "c_webp.webp", ""),
        ("d", "d.gif", ""),
    ]
    assert (made.unused, made.without_caption) == ({".jpg": 1}, 3)
    (tmp_path / "only").mkdir()
    with pytest.raises(UserError, match=r"no video or image in .*; looked for jpg, mp4"):
        pack([str(tmp_path / "only")], str(tmp_path / "none"), ("mp4",), 100, images=("jpg",))
