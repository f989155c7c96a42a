"""Fixtures of the tests that send jobs to real clusters."""

from pathlib import Path

import pytest
from support.runs import samples_of, write_tar


@pytest.fixture
def shards(tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    """Six shards of eight samples."""
    for number in range(6):
        write_tar(tmp_path / f"s{number}.tar", samples_of([*videos[1:], videos[number % 8]]))
