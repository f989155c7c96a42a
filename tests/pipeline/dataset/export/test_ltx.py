"""The LTX-2 trainer pairs latents with conditions by their path below `.precomputed`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exports import ONE, TURNED, all_rows, exported, made_run, name_of, prepared, scaled_by_hand, with_texts
from support.text_runs import embedding_of

from pipeline.errors import UserError

SHAPES = (ONE, ONE, ONE, TURNED)


def test_latents_are_scaled_and_captions_are_left_to_the_trainers_script(tmp_path: Path) -> None:
    """As of Lightricks/LTX-2: packages/ltx-trainer/src/ltx_trainer/datasets.py at 639e2c9540b1 (`latents/**/*.pt`, the
    same path below `conditions/`, but for names that begin with `latent_`; `prompt_attention_mask` padded on the left
    to 1024 with the embeddings), scripts/process_videos.py at 29aff0b6d780 (`latents` of `c f h w`, `num_frames`,
    `height`, `width` of the latent, `fps`; its VAE normalises) and scripts/process_captions.py at 5b3fda32d5cf (a
    JSON Lines file of `caption` and `media_path`, whose extension becomes .pt; `video_prompt_embeds` behind the
    checkpoint's feature extractor).
    """
    export = exported(made_run(tmp_path / "run", "ltx", SHAPES), tmp_path / "into", "ltx")
    latents = tmp_path / "into" / ".precomputed" / "latents"
    lines = [json.loads(line) for line in (tmp_path / "into" / "captions.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == [row.captions[0] for _, row in all_rows(SHAPES)]
    assert len(list(latents.rglob("*.pt"))) == len(lines)
    for line, (_, row) in zip(lines, all_rows(SHAPES), strict=True):
        path = (latents / line["media_path"]).with_suffix(".pt")
        assert not path.name.startswith("latent_")
        found = torch.load(path, weights_only=True)
        assert found["latents"].dtype == torch.bfloat16
        np.testing.assert_allclose(found["latents"].float(), scaled_by_hand(row), rtol=2**-8)
        sizes = [found[name] for name in ("num_frames", "height", "width", "fps")]
        assert sizes == [*row.latent.shape[1:], 8.0]
    script, root, batch = export.target.arguments(export.shapes, len(lines))
    assert script.startswith(f"python scripts/process_captions.py {tmp_path}/into/captions.jsonl --output-dir")
    assert root == f"data.preprocessed_data_root: {tmp_path}/into"
    assert batch.startswith("optimization.batch_size: 1")


def test_texts_of_ours_are_refused_as_its_models_take_others(tmp_path: Path) -> None:
    config = with_texts(made_run(tmp_path / "run", "ltx"))
    with pytest.raises(UserError, match=r"ltx embeds captions by a script of its own, .*: leave out --text"):
        prepared(config, tmp_path / "into", "ltx", text="wan")


def test_a_rehearsal_has_conditions_of_the_tokens_alone(tmp_path: Path) -> None:
    config = with_texts(made_run(tmp_path / "run", "tiny"))
    export = exported(config, tmp_path / "into", "ltx", text="wan")
    root = tmp_path / "into" / ".precomputed"
    paths = [
        {path.relative_to(root / name) for path in (root / name).rglob("*.pt")} for name in ("latents", "conditions")
    ]
    assert paths[0] == paths[1]
    for shard, row in all_rows((ONE,) * 4):
        folder, _, file = name_of(shard, row).rpartition(f"-{row.sample.index:06d}")
        found = torch.load(root / "conditions" / folder / f"{row.sample.index:06d}{file}.pt", weights_only=True)
        np.testing.assert_array_equal(found["video_prompt_embeds"].float(), embedding_of(row.captions[0]))
        assert found["prompt_attention_mask"].dtype == torch.bool
        assert int(found["prompt_attention_mask"].sum()) == len(found["video_prompt_embeds"])
    assert export.target.arguments(export.shapes, 10) == [f"data.preprocessed_data_root: {tmp_path}/into"]
