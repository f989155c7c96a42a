"""What may be shown of a URL."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage.urls import expanded, own_name, public_url, without_secrets


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("/data/a.tar", "/data/a.tar"),
        ("/data/../b/a.tar", "/b/a.tar"),
        ("s3://bucket/a.tar", "s3://bucket/a.tar"),
        ("https://user:secret@host:8080/a.tar?signature=secret", "https://host:8080/a.tar"),
        ("https://user:p@ss@host/a.tar", "https://host/a.tar"),
        ("s3://bucket/clip#1.tar", "s3://bucket/clip#1.tar"),
        ("https://host/a.tar?signature=secret#there", "https://host/a.tar"),
        ("s3://bucket/{000..999}.tar", "s3://bucket/{000..999}.tar"),
    ],
)
def test_a_public_url_names_the_file_and_no_secret(url: str, public: str) -> None:
    assert public_url(url) == public


def test_a_public_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_url("a.tar") == f"{tmp_path}/a.tar"


def test_a_message_is_shown_without_the_secrets_of_the_urls_in_it() -> None:
    message = "cannot read https://user:secret@host/a.tar?signature=secret or s3://key@bucket/a.tar"
    assert without_secrets(message) == "cannot read https://host/a.tar or s3://bucket/a.tar"


@pytest.mark.parametrize(
    "url", ["https://host/a/b.safetensors?download=true", "/data/b.safetensors", "s3://x/b.safetensors/"]
)
def test_a_file_is_named_by_the_last_part_of_its_path(url: str) -> None:
    assert own_name(url) == "b.safetensors"


ENVIRONMENT = {"HOME": "/home/me", "OUT": "/data", "BUCKET": "b", "EMPTY": ""}


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        *(("~", "/home/me"), ("~/x", "/home/me/x"), ("@~/list", "@/home/me/list"), ("file://~/x", "file:///home/me/x")),
        *(("${OUT}/x", "/data/x"), ("s3://${BUCKET}/{0..3}.tar", "s3://b/{0..3}.tar"), ("@${OUT}/l", "@/data/l")),
        *(("a~/~b", "a~/~b"), ("./~", "./~"), ("$OUT/x", "$OUT/x"), ("random:0", "random:0"), ("hf://a/b", "hf://a/b")),
    ],
)
def test_home_and_variables_are_replaced_in_a_path(path: str, meant: str) -> None:
    assert expanded(path, ENVIRONMENT) == meant


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("${NOTHING}/x", r"uses \$\{NOTHING\}, which is not set"),
        ("${EMPTY}/x", r"uses \$\{EMPTY\}, which is not set"),
        ("s3://b/${}", r"uses \$\{\}"),
        ("~nobody-of-this-name/x", "there is no home folder ~nobody-of-this-name"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        expanded(path, ENVIRONMENT)
