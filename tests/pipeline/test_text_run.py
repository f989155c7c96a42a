"""The command `text` with real text encoders: what it refuses, and what it leaves, on Ray and beside diffusers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import LTXPipeline, WanPipeline
from support.runs import MakeConfig, configured
from support.text_runs import commit_rows, shards_of_run, text_files
from support.texts import make_text_encoder
from transformers import AutoTokenizer, T5EncoderModel, UMT5EncoderModel

from jobs.cli import main
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.storage.store import Store
from pipeline.text.load import load_text_encoder
from pipeline.text.task import text_task
from pipeline.text_run import TextOutcome, execute_texts, prepare_texts, text_config

Said = Callable[[], str]


@pytest.fixture(scope="module")
def umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_encoder(tmp_path_factory.mktemp("umt5"), "umt5")


@pytest.fixture
def out(make_config: MakeConfig) -> str:
    return commit_rows(make_config()).root


def wan(umt5: Path, **values: Any) -> list[str]:
    chosen = {"encoder": umt5, "preset": "wan", "dtype": "float32", **values}
    return [f"text.{key}={value}" for key, value in chosen.items()]


def embedded_here(config: Config, name: str) -> None:
    """The texts of a run by a real encoder in this process."""
    prepared = prepare_texts(config, name)
    task = text_task(config, name, prepared.job.identity, load_text_encoder(config.texts, "cpu"))
    task.write_uncond(config.texts)
    for shard in shards_of_run(config):
        list(task.run(shard))


def finished_here(config: Config) -> TextOutcome:
    """As the command ends, with the texts that were made in this process."""
    embedded_here(config, "wan")
    return execute_texts(prepare_texts(config), lambda *_: None, lambda _: None, lambda: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, umt5: Path) -> tuple[str, TextOutcome]:
    """A root with texts, which is only read, and how the command ended there."""
    out = commit_rows(configured(tmp_path_factory.mktemp("finished"))).root
    return out, finished_here(text_config(out, wan(umt5)))


@pytest.mark.ray
def test_the_command_embeds_as_the_pipeline_of_diffusers_does_and_resumes(
    out: str, umt5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*wan(umt5), "runtime.replicas=1", "limits.max_reject_fraction=1"]
    latents = {path: path.read_bytes() for path in Path(out, "latents").rglob("*.parquet")}
    config = text_config(out, arguments)
    embedded_here(config, "here")
    finished_here(config)
    (_, *lost) = sorted(Path(out, "text/wan/parts").iterdir())
    for file in (*lost, Path(out, "text/wan/uncond.parquet")):
        file.unlink()
    assert main(["verify", out, "--repair"]) == 1
    capsys.readouterr()
    assert main(["text", out, *arguments]) == 0
    assert "text wan: 1 shards done, 0 left: 7 captions" in capsys.readouterr().out
    assert text_files(config) == text_files(config, "here")
    pipeline = pipeline_of(umt5)
    (prompts,) = (pq.read_table(Path(out, "text/wan/uncond.parquet")).to_pylist(),)
    rows = [row for path in sorted(Path(out, "text/wan/parts").iterdir()) for row in pq.read_table(path).to_pylist()]
    for row in [*rows, *prompts]:
        with torch.inference_mode():
            theirs = pipeline.encode_prompt(row["caption"], do_classifier_free_guidance=False, max_sequence_length=512)[
                0
            ][0]
        ours = np.frombuffer(row["text_embedding_bytes"], np.float32).reshape(row["text_embedding_shape"])
        differences = np.abs(np.pad(ours, ((0, 512 - len(ours)), (0, 0))) - theirs.numpy())
        assert differences.max() <= 1e-6 * np.abs(theirs.numpy()).max()
    assert {path: path.read_bytes() for path in Path(out, "latents").rglob("*.parquet")} == latents
    assert main(["verify", out]) == 0


def test_a_pipelines_own_code_embeds_under_the_name_of_its_class(out: str, tmp_path: Path) -> None:
    folder = make_text_encoder(tmp_path / "parts", "t5")
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval(),
    }
    pipeline = LTXPipeline(**parts, vae=None, transformer=None, scheduler=None)
    pipeline.save_pretrained(tmp_path / "pipeline")
    config = text_config(out, [f"text.encoder=diffusers:{tmp_path}/pipeline", "text.dtype=float32"])
    prepared = prepare_texts(config)
    assert prepared.job.name == "LTXPipeline"
    embedded_here(config, prepared.job.name)
    for row in pq.read_table(sorted(Path(out, "text/LTXPipeline/parts").iterdir())[0]).to_pylist():
        with torch.inference_mode():
            rows, mask, *_ = pipeline.encode_prompt(row["caption"], do_classifier_free_guidance=False)
        assert row["text_embedding_bytes"] == rows[0].numpy().tobytes()
        assert row["text_mask_bytes"] == mask[0].bool().numpy().tobytes()
        assert (row["tokens"], row["truncated"]) == (int(mask.sum()), None)
    assert main(["verify", out]) == 0


def pipeline_of(folder: Path) -> Any:
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    return WanPipeline(tokenizer=tokenizer, text_encoder=model, vae=None, transformer=None, scheduler=None)


def test_status_and_report_count_captions_and_what_was_cut_off(
    finished: tuple[str, TextOutcome], capsys: pytest.CaptureFixture[str]
) -> None:
    out, outcome = finished
    assert (outcome.exit_code, outcome.totals["captions"], outcome.totals["truncated"]) == (0, 7, 0)
    assert json.loads(Store(out).read("text/wan/_SUCCESS.json")) == outcome.totals
    assert json.loads(Store(out).read("summary.json"))["texts"] == {"wan": outcome.totals}
    assert "Text embeddings wan" in Store(out).read("report.html").decode()
    assert main(["status", out]) == 0
    assert "text wan: shards done: 1, left: 0; captions: 7, truncated: 0, rejects: 0" in capsys.readouterr().out


def test_a_run_that_is_not_complete_is_embedded_as_far_as_it_is(out: str, umt5: Path) -> None:
    Path(out, "_SUCCESS.json").unlink()
    config = text_config(out, wan(umt5))
    outcome = finished_here(config)
    assert (outcome.exit_code, outcome.left, outcome.latents_left) == (1, 0, True)
    assert not Path(out, "text/wan/_SUCCESS.json").exists()


def test_a_table_that_changed_since_is_said_so(out: str, umt5: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("key,caption\nclip-000,x\n")
    config = text_config(out, wan(umt5, captions=table, key="key"))
    embedded_here(config, "wan")
    table.write_text("key,caption\nclip-000,other\n")
    outcome = execute_texts(prepare_texts(config), lambda *_: None, lambda _: None, lambda: None)
    assert outcome.of_earlier_tables == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "bfloat16"}, r'text\.dtype: "float32" there, "bfloat16" now\): use a new --name'),
        ({"negative": "[blurry]"}, r"text\.negative: \[\] there"),
        ({"preset": "cogvideox"}, "preset cogvideox needs a t5 encoder: .* holds umt5"),
        ({"encoder": "/nowhere"}, r"text: /nowhere/?.* has no config\.json"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(
    finished: tuple[str, TextOutcome], umt5: Path, changes: dict[str, Any], said: str
) -> None:
    out, _ = finished
    with pytest.raises(UserError, match=said):
        prepare_texts(text_config(out, wan(umt5, **changes)), "wan")


def test_a_missing_section_run_or_a_bad_name_is_refused(out: str, umt5: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text\.encoder is missing"):
        prepare_texts(text_config(out, []))
    with pytest.raises(UserError, match=r"has no run\.json"):
        text_config(str(tmp_path / "none"), wan(umt5))
    with pytest.raises(UserError, match="give preset: cogvideox, wan or mochi"):
        text_config(out, [f"text.encoder={umt5}"])
    with pytest.raises(UserError, match=r"--name '\.\./x'"):
        prepare_texts(text_config(out, wan(umt5)), "../x")


def test_a_file_may_name_the_run_and_its_texts(out: str, umt5: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    text = {"encoder": str(umt5), "preset": "wan", "dtype": "float32"}
    config = make_config(runtime={"replicas": 3}).replaced({"text": text})
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    assert text_config(str(file), []) == config
    recorded = text_config(out, wan(umt5))
    assert (recorded.text, recorded.output) == (config.texts, config.output)
    assert recorded.runtime.replicas == "auto", "where latents were made says nothing about where texts are"
