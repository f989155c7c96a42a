"""Groups of tests stay in one process of pytest-xdist, so that each has one Ray at a time."""

import pytest


def test_the_groups_of_the_conftest_reach_the_scheduler(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("tests are not divided by groups, as `make test` divides them")
    assert request.node.nodeid.endswith("@test_groups, short"), "this pytest and pytest-xdist do not fit together"
