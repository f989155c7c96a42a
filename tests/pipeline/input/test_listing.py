"""Every shard that the user names is found once, under a name of its own, or the error says why not."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.input.listing import list_shards, shard_name
from pipeline.records import TarShard


def urls(*patterns: str) -> list[str]:
    return [shard.url for shard in list_shards(patterns)]


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_braces_are_expanded_in_order() -> None:
    assert urls("s3://bucket/{a,b}-{08..11}.tar") == [
        f"s3://bucket/{letter}-{number}.tar" for letter in "ab" for number in ("08", "09", "10", "11")
    ]


def test_a_glob_gives_what_is_there_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar", "a.tar", "c.zip")
    assert urls(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert urls(f"{tmp_path}/[a]?tar") == [f"{tmp_path}/a.tar"]
    assert urls(f"file://{tmp_path}/*.tar") == [f"file://{tmp_path}/a.tar", f"file://{tmp_path}/b.tar"]


def test_braces_may_hold_globs(tmp_path: Path) -> None:
    a, b, _ = touch(tmp_path, "a1.tar", "b1.tar", "c1.tar")
    assert urls(f"{tmp_path}/{{b,a}}*.tar") == [b, a]


def test_several_patterns_keep_the_order_given() -> None:
    assert urls("z.tar", "a.tar") == ["z.tar", "a.tar"]


def test_a_list_holds_a_pattern_a_line_and_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n# first the old ones\n  old-{0..1}.tar \n\ns3://bucket/new.tar\n")
    assert urls(f"@{tmp_path}/list", "last.tar") == ["old-0.tar", "old-1.tar", "s3://bucket/new.tar", "last.tar"]


def test_the_query_of_a_url_is_not_a_glob() -> None:
    assert urls("https://host/a.tar?signature=x*y") == ["https://host/a.tar?signature=x*y"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{folder}/*.tar", "nothing matches {folder}/*.tar"),
        ("@{folder}/nothing", "the list @{folder}/nothing does not exist"),
        ("@{folder}", "the list @{folder} does not exist"),
        ("@{folder}/empty", "the list of files is empty"),
        ("@{folder}/binary", "the list @{folder}/binary is not UTF-8 text"),
        ("{folder}/{{1..3.tar", "has unbalanced braces"),
        ("nope://bucket/*.tar", "nope://bucket/*.tar cannot be opened"),
    ],
)
def test_a_pattern_without_a_shard_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "empty").write_text("# nothing yet\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError) as caught:
        urls(pattern.format(folder=tmp_path))
    assert message.format(folder=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.tar", "./a.tar"),
        ("s3://bucket/a.tar", "s3://user:secret@bucket/a.tar"),
        ("https://host/a.tar?token=1", "https://host/a.tar?token=2"),
    ],
)
def test_a_shard_named_twice_is_refused_without_its_secrets(first: str, second: str) -> None:
    with pytest.raises(UserError, match=r"a\.tar twice") as caught:
        urls(first, second)
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_shards_of_one_base_name_have_names_of_their_own() -> None:
    shards = list_shards(["s3://bucket/{one,two}/clips-000.tar"])
    first, second = (shard.name for shard in shards)
    assert first != second
    assert first.startswith("clips-000-")
    assert second.startswith("clips-000-")
    assert shards == tuple(TarShard(shard_name(shard.url), shard.url) for shard in shards)


def test_a_name_does_not_change_with_what_else_a_run_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shard_name("a.tar") == shard_name(f"{tmp_path}/a.tar") == list_shards(["b.tar", "a.tar"])[1].name


@pytest.mark.parametrize(
    "url",
    ["a b/ü (1).tar", "s3://bucket/.tar", "s3://bucket/a.b.c", "s3://bucket/" + "x" * 300, "clip#1.tar", "日本.tar"],
)
def test_a_name_is_safe_as_a_file_name(url: str) -> None:
    name = shard_name(url)
    assert name.isascii()
    assert name.replace("-", "").replace("_", "").isalnum()
    assert 9 < len(name) < 100
    assert not name.startswith("-")


def test_urls_that_differ_only_in_characters_unfit_for_file_names_have_different_names() -> None:
    assert len({shard_name(f"s3://bucket/clip{mark}1.tar") for mark in ("#", ".", " ", "-", "+")}) == 5
