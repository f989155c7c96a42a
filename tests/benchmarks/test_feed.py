"""The cases of the feed: commands that the parser takes, and a store that is as slow as it says."""

import time

import fsspec
import pytest

from benchmarks.feed import CASES, SLOW_STORE
from benchmarks.s3_server import s3_server
from jobs.cli import build_parser


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_a_command_that_the_parser_takes(name: str) -> None:
    chosen = build_parser().parse_args(["bench", "pipeline", *CASES[name]])
    assert chosen.simulate is not None
    assert SLOW_STORE in CASES


@pytest.mark.s3
def test_a_slow_store_takes_its_time_for_each_file_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # to be put back after the test
    with s3_server(0.3) as url:
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        began = time.monotonic()
        files.pipe_file(f"{url}/a", b"1")
        assert time.monotonic() - began >= 0.3
        assert files.cat_file(f"{url}/a") == b"1"
