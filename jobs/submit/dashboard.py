"""Asks the dashboard of a Ray cluster before Ray's own commands do, which answer what is wrong with a traceback."""

import json
from collections.abc import Mapping
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from pipeline.errors import UserError

ANSWER_SECONDS = 20
OLDEST_PYTHON = (3, 10)  # as in pyproject.toml
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


def check_cluster(url: str, environment: Mapping[str, str]) -> None:
    """Raises UserError for an address without Ray, for a token that it does not take, and for other versions."""
    ray = _get(url, "/api/version", environment).get("ray_version", "of an unknown version")
    told = _get(url, "/api/v0/cluster_metadata", environment).get("data", {})
    refuse_versions(url, str(ray), str(told.get("pythonVersion", "")))


def check_job(url: str, job_id: str, environment: Mapping[str, str]) -> None:
    """Raises UserError as `check_cluster`, whatever the versions, and for a job that the cluster does not have."""
    _get(url, "/api/version", environment)
    _get(url, f"/api/jobs/{quote(job_id, safe='')}", environment)


def refuse_versions(url: str, ray: str, python: str) -> None:
    """Raises UserError for a cluster whose versions cannot run a job of this machine."""
    ours = metadata.version("ray")
    if ray != ours:
        raise UserError(f"{url} runs Ray {ray}, this machine {ours}: install ray=={ray} here, or {ours} on the cluster")
    if python and tuple(int(part) for part in python.split(".")[:2]) < OLDEST_PYTHON:
        least = ".".join(str(part) for part in OLDEST_PYTHON)
        raise UserError(f"{url} runs Python {python}, which is too old: Latentmill needs {least} or later")


def authorization(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The header with the token that Ray's own commands would send; empty where they send none."""
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token = environment.get("RAY_AUTH_TOKEN", "")
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if not token and file.is_file():
        token = file.read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def explain_status(url: str, path: str, status: int) -> str:
    """What an HTTP status that is not 200 means here, and what to do."""
    if status == UNAUTHORIZED:
        return f"{url} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as the cluster has them"
    if status == FORBIDDEN:
        return f"{url} does not take this token: RAY_AUTH_TOKEN must be the one that the cluster was started with"
    if status == NOT_FOUND and path.startswith("/api/jobs/"):
        name = path.rpartition("/")[2]
        return f"{url} has no job {name}: `ray job list --address {url}` lists the jobs that it has"
    return f"{url}{path} answered {status}: give the dashboard of a Ray cluster, such as http://head:8265"


def _get(url: str, path: str, environment: Mapping[str, str]) -> dict[str, Any]:
    request = Request(url + path, headers=authorization(environment, Path.home()))
    try:
        with urlopen(request, timeout=ANSWER_SECONDS) as answer:
            told = json.load(answer)
    except HTTPError as error:
        raise UserError(explain_status(url, path, error.code)) from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"no Ray cluster answers at {url} ({reason}): give its dashboard, such as http://head:8265"
        ) from None
    return told if isinstance(told, dict) else {}
