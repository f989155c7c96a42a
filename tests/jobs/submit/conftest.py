"""Fixtures of the tests that send jobs to real clusters."""

from pathlib import Path

import pytest
from support.runs import simulated_run, simulated_samples, write_tar

from pipeline.config.load import Config


@pytest.fixture
def slow_run(tmp_path: Path) -> Config:
    """Six shards of eight samples, which take ten seconds, so that a run is stopped half way; on one CPU replica."""
    for number in range(6):
        write_tar(tmp_path / f"s{number}.tar", simulated_samples(8))
    return simulated_run(tmp_path, 40, runtime={"replicas": 1})  # on the CPU: auto waits for GPUs to join a cluster
