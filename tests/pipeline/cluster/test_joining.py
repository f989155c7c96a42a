"""An address at which no cluster can be joined is said in one line, with what to do, and in time."""

import socket
import subprocess
from typing import Any

import pytest

from pipeline.cluster import joining
from pipeline.cluster.joining import connected
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import UserError


def said(address: str) -> str:
    with pytest.raises(UserError) as caught, connected(RuntimeConfig(address=address)):
        pass
    assert "\n" not in str(caught.value)
    assert address in str(caught.value)
    return str(caught.value)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_the_address_of_a_dashboard_is_told_from_that_of_a_cluster() -> None:
    assert "give HOST:PORT" in said("http://127.0.0.1:8265")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_with_nobody_there_is_said(scheme: str) -> None:
    assert "nobody answers" in said(f"{scheme}127.0.0.1:{free_port()}")


def test_a_text_that_is_no_address_is_said() -> None:
    assert "nonsense" in said("nonsense")


def test_a_port_on_which_something_else_listens_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert "no Ray cluster answers" in said(f"127.0.0.1:{listening.getsockname()[1]}")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("W: InvalidAuthToken: Authentication token is missing\nConnectionError: Failed to connect", "RAY_AUTH_TOKEN"),
        ("RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.40.0", "another Ray or Python"),
        ("Traceback\n\nConnectionError: Could not find any running Ray instance. Please specify", "give HOST:PORT"),
        ("Traceback\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("", "without saying why"),
    ],
)
def test_what_ray_says_becomes_what_to_do(stderr: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(joining.subprocess, "run", failed)
    assert words in said("auto")
