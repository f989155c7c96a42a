"""A URL that holds a secret is refused by `submit`, which would write it where others can read it."""

from pathlib import Path
from typing import Any

import pytest
from support.jobs import config_file
from support.runs import MakeConfig

from jobs.cli import main
from jobs.submit.credentials import refuse_secrets
from pipeline.errors import UserError

SIGNED = "https://store/x.tar?X-Amz-Expires=60&X-Amz-Signature=5EC2E7"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"output.path": "s3://user:5EC2E7@bucket/x"}, "output.path: s3://bucket/x holds a password"),
        ({"output.path": "sftp://5EC2E7@host/x"}, "output.path: sftp://host/x holds a user"),
        ({"input.shards": ["s3://b/a.tar", SIGNED]}, "input.shards: https://store/x.tar holds a signature (X-Amz-Sig"),
        ({"input.shards": ["@https://u:5EC2E7@host/list.txt"]}, "input.shards: https://host/list.txt holds a password"),
        ({"input.shards": ["az://c/x.tar?sv=1&sig=5EC2E7"]}, "holds a signature (sig)"),
        ({"input.shards": ["abfs://c:5EC2E7@account/x.tar"]}, "holds a password"),
        ({"encoder.weights": "https://hub/w?token=5EC2E7"}, "encoder.weights: https://hub/w holds a signature (token)"),
    ],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(
    make_config: MakeConfig, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as refused:
        refuse_secrets(make_config().replaced(values))
    assert said in str(refused.value)
    assert "5EC2E7" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("s3://k:s@b/x", "set AWS_ACCESS_KEY_ID"),
        ("gcs://k@b/x", "set GOOGLE_APPLICATION_CREDENTIALS"),
        ("https://k@b/x", "Give the store's own URL, such as s3://"),
        ("sftp://k@b/x", "FSSPEC_SFTP_USERNAME and FSSPEC_SFTP_PASSWORD"),
    ],
)
def test_the_refusal_says_what_to_use_instead(make_config: MakeConfig, url: str, instead: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse_secrets(make_config().replaced({"output.path": url}))
    assert instead in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "/data/a@b",
        "s3://b/x?versionId=3",
        "hf://u/m@v1/w",
    ],
)
def test_a_url_without_a_secret_is_taken(make_config: MakeConfig, url: str) -> None:
    refuse_secrets(make_config().replaced({"output.path": url}))


@pytest.mark.parametrize("target", [["--on", "ray"], ["--on", "slurm"], ["--on", "kuberay", "--image", "x"]])
def test_every_target_refuses_a_secret_in_the_file_or_on_the_command_line(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: list[str]
) -> None:
    path = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["submit", path, *target, f"input.shards={SIGNED}", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "holds a signature" in said.err
    assert "5EC2E7" not in said.out + said.err
