"""A removed row is gone for good: accounts add up, reruns do not bring it back, and a kill at any step is finished."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.runs import MakeConfig, run_all, run_json, samples_of, write_tar
from support.text_runs import embed_all, with_text

from encoder.video_encoder import VideoEncoder
from jobs.cli import main
from pipeline.audit.repair import repair
from pipeline.audit.summary import write_report
from pipeline.audit.verify import Problem, Verified, verify
from pipeline.config.load import Config
from pipeline.dataset.remove import deny, finish_removals, rows_named
from pipeline.dataset.select import read_index
from pipeline.output.manifests import read_manifest
from pipeline.output.paths import done_shards
from pipeline.output.run_file import create_success, read_run
from pipeline.storage.store import Store
from pipeline.text.manifests import read_text_manifest

GONE = ("clip-001", "clip-003", "clip-004")  # one of two rows of a part, and all of another slice's


@pytest.fixture
def made(tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Config:
    write_tar(tmp_path / "s.tar", samples_of(videos[:5]))
    config = make_config()
    run_all(config, tiny)
    run = json.loads(run_json(config, tiny)) | {"config": config.model_dump(mode="json"), "versions": {}}
    Store(config.output.path).create("run.json", json.dumps(run).encode())
    return config


def problems_of(store: Store) -> list[Problem]:
    return list(verify(store, Verified()))


def everything(store: Store) -> dict[str, bytes]:
    root = Path(store.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def add_texts(made: Config) -> str:
    """The text embeddings of every row; the path of those of the first slice."""
    embed_all(with_text(made))
    (shard,) = done_shards(Store(made.output.path))
    return f"text/wan/parts/{shard}-00000.parquet"


def test_a_removal_leaves_accounts_that_add_up(made: Config) -> None:
    store = Store(made.output.path)
    text = add_texts(made)
    deny(store, rows_named(read_index(store), GONE), "asked by the owner")
    assert any("run latentmill remove" in problem.what for problem in problems_of(store))
    assert repair(store, problems_of(store)) == []
    (shard,) = finish_removals(store)
    assert problems_of(store) == []
    assert finish_removals(store) == []
    manifest = read_manifest(store, shard)
    assert (manifest["samples"], manifest["samples_with_clips"], manifest["samples_removed"]) == (5, 2, 3)
    assert {reject["detail"] for reject in manifest["rejects"]} == {"asked by the owner"}
    assert read_index(store)["key"].to_pylist() == ["clip-000", "clip-002"]
    assert store.exists(f"rejects/{shard}-00001.rejects.json")
    with store.open(text) as file:
        assert pq.read_table(file)["sample_index"].to_pylist() == [0, 2]
    assert store.names("text/wan/parts") == [f"{shard}-00000.parquet"], "no row of the other slice is left"
    assert read_text_manifest(Store(store.url("text/wan")), shard)["captions"] == 2


def test_a_rerun_does_not_bring_removed_rows_back(made: Config, tiny: VideoEncoder) -> None:
    store = Store(made.output.path)
    deny(store, rows_named(read_index(store), GONE), "no")
    finish_removals(store)
    before = everything(store)
    part = next(path for path in before if path.startswith("latents/"))
    (Path(store.root) / part).write_bytes(b"damaged")
    repair(store, problems_of(store))
    run_all(made, tiny)
    assert problems_of(store) == []
    after = everything(store)
    assert after[part] == before[part]
    assert read_index(store)["key"].to_pylist() == ["clip-000", "clip-002"]


def test_the_command_removes_what_a_file_names_and_writes_report_and_card_again(
    made: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(Store(made.output.path), read_run(Store(made.output.path)), [], 0, {})
    create_success(Store(made.output.path), json.loads(Store(made.output.path).read("summary.json")))
    keys = tmp_path / "keys.txt"
    keys.write_text("\n".join(GONE))
    assert main(["remove", made.output.path, "--keys", str(keys)]) == 2
    assert "--reason is missing" in capsys.readouterr().err
    assert main(["remove", made.output.path, "--keys", str(keys), "--reason", "asked"]) == 0
    assert "3 rows are removed" in capsys.readouterr().out
    summary = json.loads((Path(made.output.path) / "summary.json").read_text())
    assert (summary["rows"], summary["samples_rejected"], summary["rejects"]) == (2, 0, 0)
    assert json.loads((Path(made.output.path) / "_SUCCESS.json").read_text()) == summary


class KilledError(Exception):
    """The process ended here."""


class DyingStore(Store):
    """A store whose process is killed at its `steps`-th write."""

    def __init__(self, root: str, steps: int) -> None:
        super().__init__(root)
        self.steps = steps

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise KilledError

    def replace(self, path: str, data: bytes) -> None:
        self._step()
        super().replace(path, data)

    def create(self, path: str, data: bytes) -> bool:
        self._step()
        return super().create(path, data)

    def delete(self, path: str) -> None:
        self._step()
        super().delete(path)


@pytest.mark.slow
def test_a_removal_that_is_killed_at_any_step_is_finished_to_the_same_bytes(made: Config, tmp_path: Path) -> None:
    first = Path(made.output.path)
    add_texts(made)
    outcomes = []
    for steps in range(100):
        root = tmp_path / f"copy-{steps}"
        shutil.copytree(first, root)
        dying = DyingStore(str(root), steps)
        killed = False
        try:
            deny(dying, rows_named(read_index(dying), GONE), "no")
            finish_removals(dying)
        except KilledError:
            killed = True
        store = Store(str(root))
        deny(store, rows_named(read_index(store), GONE), "no")
        finish_removals(store)
        assert problems_of(store) == []
        outcomes.append(everything(store))
        if not killed:
            break
    assert len(outcomes) > 6
    assert all(outcome == outcomes[-1] for outcome in outcomes)
    assert json.loads(outcomes[-1]["run.json"])
