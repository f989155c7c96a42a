"""Runs with texts that the tests of all targets export, made once."""

import pytest
from support.exports import ONE, TURNED, made_run, with_texts

from pipeline.config.load import Config


@pytest.fixture(scope="package")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Ten rows in two shards, of two shapes, with texts of Wan's rules."""
    return with_texts(made_run(tmp_path_factory.mktemp("wan"), "wan", (ONE, ONE, ONE, TURNED)))


@pytest.fixture(scope="package")
def cogvideox(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Ten rows of one shape, with texts of CogVideoX's rules."""
    return with_texts(made_run(tmp_path_factory.mktemp("cogvideox"), "cogvideox"), "cogvideox")
