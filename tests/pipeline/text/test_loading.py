"""The loader joins the text of each row, as its model sees it, also where captions are several, dropped or missing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from support.paths import ROOT
from support.runs import MakeConfig, moved
from support.text_runs import (
    IDENTITY,
    MOST_TOKENS,
    WIDTH,
    commit_rows,
    embed_all,
    embedding_of,
    finish_texts,
    task_of,
    with_text,
)
from torch.utils.data import DataLoader

from encoder import TextEncoder
from encoder.text.preset_encoder import EncodedText
from pipeline.config.load import Config
from pipeline.dataset.loader import Latents
from pipeline.output.paths import SUCCESS_FILE


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    config = make_config()
    commit_rows(config)
    return with_text(config)


def finish(config: Config, name: str = "wan", **values: Any) -> str:
    """Embeds everything with other values in the section text."""
    return finish_texts(config.replaced({f"text.{key}": value for key, value in values.items()}), name)


def batches_of(root: str, **options: Any) -> list[dict[str, Any]]:
    return list(Latents(root, batch=1, step_batches=1, scale=None, **({"text": "wan"} | options)))


def expected(caption: str) -> torch.Tensor:
    rows = torch.from_numpy(embedding_of(caption))
    return torch.nn.functional.pad(rows, (0, 0, 0, MOST_TOKENS - len(rows)))


def test_every_row_has_its_own_text_padded_to_the_length_of_the_preset(config: Config) -> None:
    root = finish(config)
    batches = batches_of(root)
    found = {batch["id"][0]: batch["caption"][0] for batch in batches}
    assert found["videos/clip-000:1"] == found["videos/clip-000:0"] == "a cat"
    assert found["videos/clip-001:1"] == "the moon"
    assert len(found) == 7
    for batch in batches:
        assert torch.equal(batch["text_embedding"][0], expected(batch["caption"][0]))
        assert int(batch["text_mask"].sum()) == len(embedding_of(batch["caption"][0]))


def test_texts_are_stacked_and_workers_give_the_same(config: Config) -> None:
    root = finish(config)
    latents = Latents(root, batch=7, step_batches=1, scale=None, text="wan")
    (batch,) = DataLoader(latents, batch_size=None, num_workers=1)
    assert batch["text_embedding"].shape == (7, MOST_TOKENS, WIDTH)
    assert batch["text_mask"].dtype == torch.bool
    assert torch.equal(batch["text_embedding"], torch.stack([expected(caption) for caption in batch["caption"]]))


def test_one_of_several_captions_is_drawn_with_its_own_embedding(config: Config) -> None:
    root = finish(config)
    drawn: Counter[str] = Counter()
    latents = Latents(root, batch=1, step_batches=1, scale=None, text="wan", caption="random")
    for _ in range(8):
        for batch in latents:
            if batch["id"][0].startswith("videos/clip-000"):
                drawn[batch["caption"][0]] += 1
            assert torch.equal(batch["text_embedding"][0], expected(batch["caption"][0]))
    assert set(drawn) == {"a cat", "two dogs run"}


@pytest.mark.parametrize("uncond", ["empty", "zeros"])
def test_a_dropped_caption_is_the_empty_prompt_or_zeros(config: Config, uncond: str) -> None:
    root = finish(config)
    batches = batches_of(root, caption_dropout=0.5, uncond=uncond)
    dropped = [batch for batch in batches if batch["caption"] == [""] and batch["id"] != ["videos/clip-003:0"]]
    assert 0 < len(dropped) < 7
    for batch in dropped:
        embedding = expected("") if uncond == "empty" else torch.zeros(MOST_TOKENS, WIDTH)
        assert torch.equal(batch["text_embedding"][0], embedding)
    assert [batch["caption"] for batch in batches] == [
        batch["caption"] for batch in batches_of(root, caption_dropout=0.5, uncond=uncond)
    ]


def test_rows_without_a_text_are_left_out(config: Config, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("id,caption\nvideos/clip-000:0,x\nvideos/clip-000:1,y\nvideos/clip-002:0,z\n")
    root = finish(config, captions=str(table))
    assert sorted(batch["caption"][0] for batch in batches_of(root)) == ["x", "y", "z"]
    assert len(batches_of(root, text=None)) == 7


def test_stored_masks_and_other_arrays_come_as_they_are(config: Config) -> None:
    def encode(captions: Sequence[str]) -> list[EncodedText]:
        rows = [embedding_of(caption) for caption in captions]
        arrays = [{"text_embedding": one, "text_mask": one[:, 0] > 99, "pooled_embedding": one[0]} for one in rows]
        return [EncodedText(of_one, None, None) for of_one in arrays]

    task = task_of(config, encoder=TextEncoder(encode, IDENTITY, {}))
    embed_all(config, task=task)
    task.store.create(SUCCESS_FILE, b'{"rejects": 0}')
    for batch in batches_of(config.output.path):
        rows = torch.from_numpy(embedding_of(batch["caption"][0]))
        assert torch.equal(batch["text_mask"][0], rows[:, 0] > 99)
        assert torch.equal(batch["pooled_embedding"][0], rows[0])


def test_texts_that_are_missing_or_incomplete_are_refused_with_what_to_run(config: Config) -> None:
    embed_all(config)
    for name in ("wan", "other"):
        with pytest.raises(ValueError, match=f"text/{name} is not complete .*run latentmill text"):
            batches_of(config.output.path, text=name)
    finish(config)
    (Path(config.output.path) / "text/wan/parts/videos-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="videos-00001"):
        batches_of(config.output.path)


def test_the_programs_of_the_page_on_text_join_what_a_run_wrote(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "text.md").read_text()
    root = finish(config)
    monkeypatch.setattr("sys.argv", ["program", root])
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert f"torch.Size([1, {MOST_TOKENS}, {WIDTH}])" in capsys.readouterr().out
    query = page.split("```sql\n")[1].split("```")[0].replace("out/latents/", f"{root}/")
    found = duckdb.sql(query).fetchall()
    assert len(found) == 9, "a text for each caption of each row: two rows share the two of their sample"
    assert ("videos/clip-001:1", "the moon", embedding_of("the moon").tobytes()) in found


def test_roots_whose_texts_were_made_otherwise_do_not_mix(config: Config, tmp_path: Path) -> None:
    finish(config)
    other = moved(config, tmp_path / "other")
    commit_rows(other)
    finish(other, negative=["blurry"])
    with pytest.raises(ValueError, match="several configurations"):
        Latents([config.output.path, other.output.path], text="wan")
