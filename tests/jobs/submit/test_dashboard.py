"""A cluster that cannot take a job is named in a line before anything is sent, whatever is wrong with it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support.jobs import config_file, free_ports
from support.paths import ROOT
from support.runs import MakeConfig

from jobs.cli import main
from jobs.submit import dashboard
from jobs.submit.dashboard import OLDEST_PYTHON, authorization, refuse_versions
from pipeline.errors import UserError

RAY = metadata.version("ray")


@contextmanager
def cluster(answers: dict[str, tuple[int, Any]]) -> Iterator[str]:
    """A server that answers as a dashboard would, with a status and a body for each path."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Keeps the test's output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def versions(ray: str = RAY, python: str = "3.12.1") -> dict[str, tuple[int, Any]]:
    told = {"result": True, "data": {"rayVersion": ray, "pythonVersion": python}}
    return {"/api/version": (200, {"ray_version": ray}), "/api/v0/cluster_metadata": (200, told)}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (versions(ray="2.9.0"), f"runs Ray 2.9.0, this machine {RAY}: install ray==2.9.0 here"),
        (versions(python="3.8.10"), "runs Python 3.8.10, which is too old: Latentmill needs 3.10 or later"),
        ({"/api/version": (401, {})}, "asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        ({"/api/version": (403, {})}, "does not take this token"),
        ({"/api/version": (200, b"<html>a wiki</html>")}, "no Ray cluster answers at http://127.0.0.1"),
        ({"/api/version": (200, {"name": "a wiki"})}, "/api/v0/cluster_metadata answered 404"),
        ({}, "/api/version answered 404: give the dashboard of a Ray cluster"),
    ],
)
def test_a_cluster_that_cannot_run_the_job_is_told_in_a_line(
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answers: dict[str, tuple[int, Any]],
    said: str,
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    with cluster(answers) as url:
        assert main(["submit", path, "--on", "ray", "--address", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_address_where_nothing_listens_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main(["submit", "--on", "ray", "--address", f"http://127.0.0.1:{port}", "--stop", "latentmill-1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"latentmill: no Ray cluster answers at http://127.0.0.1:{port} (")


def test_a_cluster_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "ANSWER_SECONDS", 0.2)
    gate = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gate.wait(60)

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            dashboard.check_cluster(f"http://127.0.0.1:{server.server_port}", {})
        gate.set()
        server.shutdown()


def test_a_job_that_the_cluster_does_not_have_is_named() -> None:
    with cluster(versions()) as url, pytest.raises(UserError, match="has no job latentmill-1: `ray job list"):
        dashboard.check_job(url, "latentmill-1", {})


def test_versions_that_can_run_a_job_are_taken() -> None:
    refuse_versions("http://head:8265", RAY, "3.13.0")
    refuse_versions("http://head:8265", RAY, "")


def test_the_oldest_python_is_that_of_the_package() -> None:
    oldest = ".".join(str(part) for part in OLDEST_PYTHON)
    assert f'requires-python = ">={oldest},' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a"}, {"Authorization": "Bearer a"}),
        ({"RAY_AUTH_TOKEN": "a"}, {"Authorization": "Bearer a"}),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "a"}, {}),
        ({}, {"Authorization": "Bearer of home"}),
    ],
)
def test_the_token_is_found_where_ray_finds_it(
    tmp_path: Path, environment: dict[str, str], sent: dict[str, str]
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of home\n")
    assert authorization(environment, tmp_path) == sent
