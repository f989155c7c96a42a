"""Tests that start Ray stay in one process of pytest-xdist: two clusters on two cores run into time-outs."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process")
def test_the_groups_of_the_conftest_reach_the_scheduler(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@test_groups, short"), "this pytest and pytest-xdist do not fit together"
