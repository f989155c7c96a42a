"""Finds URLs that hold secrets: a job's files, its log and `ps` would show them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.config.load import Config
from pipeline.config.text import OF_PIPELINE
from pipeline.errors import UserError
from pipeline.storage.urls import is_remote, public_url

CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")  # abfs://container@account/path: that is no user
SECRET_PARAMETER = re.compile(r"sig|token|key|secret|credential|pass|pwd|auth|jwt|policy", re.IGNORECASE)
INSTEAD = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machines",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or a service account of the machines",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN",
}
SAME_SCHEME = {"gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az", "s3a": "s3"}


def refuse_secrets(config: Config) -> None:
    """Raises UserError for a URL with a user, a password or a signature, with what to use instead."""
    for key, text in _texts(config.model_dump(mode="json")):
        url = text.removeprefix("@").removeprefix(OF_PIPELINE)
        held = _secret_of(url)
        if held:
            raise UserError(
                f"{key}: {public_url(url)} holds {held}, which the job's files, its log and `ps` would show. "
                f"{_instead(url)} in the environment of the nodes (--on kuberay: --secret)"
            )


def _secret_of(url: str) -> str:
    """Which secret a URL holds, in words; empty if none."""
    if not is_remote(url):
        return ""
    parts = urlsplit(url, allow_fragments=False)
    user, at, _ = parts.netloc.rpartition("@")
    if at and (":" in user or parts.scheme not in CONTAINER_SCHEMES):
        return "a password" if ":" in user else "a user"
    secrets = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET_PARAMETER.search(name)]
    return f"a signature ({secrets[0]})" if secrets else ""


def _instead(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return "Give the store's own URL, such as s3://, gs:// or az://, and set its credentials"
    prefix = f"FSSPEC_{scheme.upper()}"
    fallback = f"what fsspec reads, such as {prefix}_USERNAME and {prefix}_PASSWORD,"
    return f"Leave it out and set {INSTEAD.get(SAME_SCHEME.get(scheme, scheme), fallback)}"


def _texts(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a tree with its dotted key."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, f"{at}.{key}" if at else str(key))
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one, at)
