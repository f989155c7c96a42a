"""What comes from outside stays data: secrets are not repeated, names are no paths, files run no code."""

import json
import os
import pickle
import re
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.jobs import config_file
from support.runs import MakeConfig, run_all, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from pipeline.output.parts import read_rows
from pipeline.storage import files as storage_files

SECRETS = ("u5er", "pa55w@rd", "s1gnature", "acce55key")
SCRIPT = "<script>alert(1)</script>"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL, with a user and a password, of a server of the folder `served`."""
    (tmp_path / "served").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://{SECRETS[0]}:{SECRETS[1]}@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray may write: a short path, as that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def assert_no_secrets(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
def test_no_secret_is_in_any_file_or_line_of_a_run_that_fails(
    served: str,
    tmp_path: Path,
    ray_folder: Path,
    make_config: MakeConfig,
    videos: list[bytes],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [*samples_of(videos[:2]), (f"{SCRIPT[:8]}.mp4", b"<html>"), (f"{SCRIPT[:8]}.txt", SCRIPT.encode())]
    write_tar(tmp_path / "served" / "good.tar", files)
    (tmp_path / "served" / f"{SCRIPT[:8]}.tar").write_bytes(b"no tar")
    urls = [f"{served}/{name}.tar?token={SECRETS[2]}" for name in ("good", SCRIPT[:8], "missing")]
    config = make_config(input={"shards": urls}, limits={"max_reject_fraction": 1.0, "max_attempts": 1})
    file = config_file(config, tmp_path / "c.yaml")
    monkeypatch.setenv("RAY_TMPDIR", str(ray_folder))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[3])
    code, said = main(["run", file]), capfd.readouterr()
    assert code == 1, said
    assert said.out.count("given up") == 4, "two shards, in the progress and at the end"
    assert_no_secrets(said.out + said.err)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"run.json", "summary.json", "report.html"} <= {path.name for path in written}
    for path in (*written, *(path for path in ray_folder.rglob("*") if path.is_file())):
        assert_no_secrets(path.read_bytes().decode("latin-1"))
    assert "<script" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("key", ["input.shards", "output.path", "encoder.weights"])
@pytest.mark.parametrize("url", ["http://{0}:{1}@127.0.0.1:1/x?sig={2}", "nofs://{0}:{1}@host/x?{2}"])
def test_no_secret_is_in_what_is_said_of_a_url_that_does_not_answer(
    key: str,
    url: str,
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 1)  # more would only wait longer
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_tar(tmp_path / "a.tar", [])
    file = config_file(make_config(), tmp_path / "c.yaml")
    url = url.format(*SECRETS) if key != "input.shards" else f"@{url.format(*SECRETS)}"
    assert main(["run", file, f"{key}={url}"]) in (1, 2)
    said = capsys.readouterr()
    assert "127.0.0.1" in said.err or "nofs" in said.err
    assert_no_secrets(said.out + said.err)


def test_a_root_that_another_configuration_began_is_named_without_its_secrets(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"memory://{SECRETS[0]}:{SECRETS[1]}@{tmp_path}?{SECRETS[2]}"
    assert main(["status", root]) == 2
    assert_no_secrets(capsys.readouterr().err)


HOSTILE_KEYS = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/../../b",
    "k" * 3000,
    "ключ-鍵-🔑",
    "a\nb",
    SCRIPT,
    "C:\\x",
    "a b;$(x)",
)


def test_keys_of_a_shard_are_values_and_never_paths(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: list[bytes]
) -> None:
    work = tmp_path / "deep" / "deeper" / "work"
    work.mkdir(parents=True)
    shard = write_tar(work / "$(x) ..é<b>.tar", [(f"{key}.mp4", videos[0]) for key in HOSTILE_KEYS])
    before = set(tmp_path.rglob("*"))
    config = make_config(input={"shards": str(shard)}, output={"path": str(work / "out"), "part_samples": 100})
    run_all(config, tiny)
    out = work / "out"
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(out in path.parents for path in made)
    (part,) = (out / "latents").rglob("*.parquet")
    assert re.fullmatch(r"x-b-[0-9a-f]{8}-00000\.parquet", part.name)
    with open(part, "rb") as file:
        rows = [row["key"] for row in read_rows(file)]
    (manifest,) = (json.loads(path.read_text()) for path in (out / "manifests").iterdir())
    rejected = [reject["key"] for reject in manifest["rejects"]]
    assert len(rows) + len(rejected) == manifest["samples"]
    assert {"/etc/passwd", "k" * 3000, "ключ-鍵-🔑", SCRIPT} <= {*rows, *rejected}


def test_a_configuration_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "c.yaml").write_text(f"input: !!python/object/apply:os.system ['touch {canary}']\n")
    assert main(["run", str(tmp_path / "c.yaml")]) == 2
    assert "c.yaml" in capsys.readouterr().err
    assert not canary.exists()


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_weights_run_no_code(make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary, weights = tmp_path / "canary", tmp_path / "weights.pt"
    write_tar(tmp_path / "a.tar", [])
    weights.write_bytes(pickle.dumps({"state_dict": Touch(str(canary))}, protocol=2))
    file = config_file(make_config(), tmp_path / "c.yaml")
    assert main(["run", file, f"encoder.weights={weights}"]) == 2
    assert "weights.pt" in capsys.readouterr().err
    assert not canary.exists()
