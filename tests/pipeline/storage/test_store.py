"""Storage keeps the first file under a name, sees what other processes wrote, and hides no error."""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import TransientError, UserError
from pipeline.storage import files as storage_files
from pipeline.storage.files import glob_urls, open_url, read_url, stat_url
from pipeline.storage.store import Store

BUCKET = "bucket-of-tests"
MULTIPART_BYTES = 100 << 20  # from here on s3fs uploads in several requests


@pytest.fixture(scope="module")
def s3(s3_server: str) -> Iterator[str]:
    """A bucket of a real S3 server."""
    settings = {"ENDPOINT_URL": f"http://{s3_server}", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (settings | {"DEFAULT_REGION": "us-east-1", "CONFIG_FILE": os.devnull}).items():
            patch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "file", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on each kind of storage."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}{tmp_path}"
    return {"local": "", "file": "file://", "memory": "memory://"}[request.param] + f"{tmp_path}/root"


@pytest.fixture
def store(root: str) -> Store:
    return Store(root)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


def files_below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


def test_of_two_creators_the_first_wins_and_its_content_stays(root: str) -> None:
    assert Store(root).create("a/b.json", b"first")
    assert not Store(root).create("a/b.json", b"second")
    assert Store(root).read("a/b.json") == b"first"


def test_a_local_file_is_created_under_the_same_rule(store: Store, tmp_path: Path) -> None:
    for number, content in enumerate((b"first", b"second")):
        (tmp_path / "scratch").write_bytes(content)
        assert store.create_from("a/b.parquet", str(tmp_path / "scratch")) == (number == 0)
    assert store.read("a/b.parquet") == b"first"


def test_a_name_is_listed_once_it_is_created_and_a_missing_folder_is_empty(store: Store) -> None:
    assert store.names("a") == store.names("") == []
    assert not store.exists("a/x")
    for name in ("y", "x", "deeper/z"):
        store.create(f"a/{name}", b"")
    assert store.names("a") == ["deeper", "x", "y"]
    assert store.names("") == ["a"]
    assert store.exists("a/x")
    assert not store.exists("a/z")


def test_what_is_not_there_cannot_be_read(store: Store) -> None:
    for read in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    for read_at in (read_url, open_url, stat_url):
        with pytest.raises(FileNotFoundError):
            read_at(store.url("nothing"))


def test_a_file_is_read_from_any_place(store: Store) -> None:
    store.create("x", b"0123456789")
    with store.open("x") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"789"
        file.seek(0)
        assert file.read(2) == b"01"


def test_a_file_is_read_by_its_url(store: Store) -> None:
    store.create("a/x", b"content")
    assert read_url(store.url("a/x")) == b"content"
    with open_url(store.url("a/x")) as file:
        assert (file.read(3), file.read()) == (b"con", b"tent")
    assert stat_url(store.url("a/x")).size_bytes == 7


def test_a_summary_is_written_anew(store: Store) -> None:
    for content in (b"first", b"second"):
        store.replace("summary.json", content)
        assert store.read("summary.json") == content
    assert store.names("") == ["summary.json"]


def test_a_file_is_set_aside(store: Store) -> None:
    store.create("latents/x", b"bad")
    store.move("latents/x", "aside/deep/x")
    assert not store.exists("latents/x")
    assert store.read("aside/deep/x") == b"bad"


def test_a_glob_gives_sorted_urls_of_the_same_kind(store: Store) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        store.create(name, b"")
    assert glob_urls(store.url("*.tar")) == [store.url("a.tar"), store.url("b.tar")]
    assert glob_urls(store.url("*.zip")) == []


def test_a_store_goes_to_another_process(store: Store) -> None:
    store.create("x", b"content")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"content"


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("out")
    monkeypatch.chdir("/")
    store.create("x", b"")
    assert files_below(tmp_path) == ["out/x"]


def test_of_many_threads_one_creates(local: Store) -> None:
    made: list[bytes] = []
    start = threading.Barrier(16)

    def create(content: bytes) -> None:
        start.wait()
        if local.create("x", content):
            made.append(content)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [local.read("x")] == made


def test_nothing_but_the_file_is_left(local: Store, tmp_path: Path) -> None:
    local.create("a/x", b"first")
    local.create("a/x", b"second")
    local.replace("a/y", b"third")
    with pytest.raises(FileNotFoundError):
        local.create_from("a/z", str(tmp_path / "nothing"))
    assert files_below(Path(local.root)) == ["a/x", "a/y"]


def test_a_half_written_file_of_a_killed_writer_is_not_listed(local: Store) -> None:
    local.create("a/.tmp-x-123", b"half")
    local.create("a/x", b"whole")
    assert local.names("a") == ["x"]


def test_a_file_in_place_of_a_folder_is_an_error_and_not_a_lost_race(local: Store) -> None:
    local.create("a", b"")
    with pytest.raises(OSError, match="a"):
        local.create("a/x", b"")


def test_the_tag_of_a_local_file_changes_with_its_time(local: Store) -> None:
    local.create("x", b"content")
    tags = set()
    for seconds in (1_000_000_000, 1_000_000_001):
        os.utime(Path(local.root) / "x", (seconds, seconds))
        tags.add(stat_url(local.url("x")).etag)
    assert len(tags) == 2


def test_a_large_file_on_s3_is_created_once(s3: str, tmp_path: Path) -> None:
    store = Store(f"{s3}/large")
    with open(tmp_path / "scratch", "wb") as scratch:
        scratch.truncate(MULTIPART_BYTES)
    assert store.create_from("part", str(tmp_path / "scratch"))
    assert not store.create_from("part", str(tmp_path / "scratch"))
    info = stat_url(store.url("part"))
    assert info.size_bytes == MULTIPART_BYTES
    assert "-" in info.etag, "S3 marks what came in several requests"


def test_what_another_process_writes_to_s3_is_seen_at_once(s3: str) -> None:
    store = Store(f"{s3}/others")
    looks: dict[str, Callable[[str], object]] = {
        "exists": store.exists,
        "read": store.read,
        "open": lambda path: store.open(path).read(),
        "stat": lambda path: stat_url(store.url(path)).size_bytes,
        "glob": lambda path: glob_urls(store.url(path[:-1] + "?")),
        "create": lambda path: not store.create(path, b"other"),
    }
    store.create("a/ours", b"")
    for number, (name, look) in enumerate(looks.items()):
        assert len(store.names("a")) == number + 1  # s3fs remembers this listing
        boto3.client("s3").put_object(Bucket=BUCKET, Key=f"others/a/{name}", Body=b"content")
        assert look(f"a/{name}"), name


class StorageError(Exception):
    """As storage libraries define their own beside OSError."""


class Flaky(MemoryFileSystem):
    """Storage that fails with what `faults` holds, one a call, before it works."""

    cachable = False
    faults: list[Exception]

    def cat_file(self, path: str, **options: Any) -> bytes:
        if self.faults:
            raise self.faults.pop(0)
        return bytes(super().cat_file(path, **options))


def flaky_store(tmp_path: Path, *faults: Exception) -> Store:
    store = Store(f"memory://{tmp_path}")
    store.create("x", b"content")
    store.fs = Flaky()
    store.fs.faults = list(faults)
    return store


ERRORS = (ConnectionResetError("reset"), TimeoutError("slow"), OSError(5, "I/O"), StorageError("no endpoint"))


@pytest.mark.parametrize("fault", ERRORS)
def test_a_storage_error_that_passes_is_retried(tmp_path: Path, fault: Exception) -> None:
    assert flaky_store(tmp_path, fault).read("x") == b"content"


@pytest.mark.parametrize("fault", ERRORS)
def test_a_storage_error_that_lasts_is_transient(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 2)  # more would only wait longer
    store = flaky_store(tmp_path, fault, fault)
    with pytest.raises(TransientError, match=f"still fails after 2 attempts: .*{fault.args[-1]}"):
        store.read("x")


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, IsADirectoryError, TypeError])
def test_an_error_that_will_not_pass_is_raised_at_once(tmp_path: Path, kind: type[Exception]) -> None:
    store = flaky_store(tmp_path, kind("x"))
    with pytest.raises(kind, match="x"):
        store.read("x")
    assert store.read("x") == b"content"


def test_an_unknown_protocol_is_named_without_its_secrets() -> None:
    with pytest.raises(UserError, match=r"^nope://host/x cannot be opened: .*nope$"):
        Store("nope://user:secret@host/x?token=secret")


def test_a_missing_library_is_named() -> None:
    fsspec.register_implementation("missing-library", "no_such_library.FileSystem", clobber=True)
    with pytest.raises(UserError, match="missing-library://x/y needs a library that is not installed"):
        Store("missing-library://x/y")
