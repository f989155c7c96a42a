"""CogVideo's trainer finds latents by the stem of a video's name and texts by the sha256 of their prompt."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.exports import (
    FACTOR,
    ONE,
    TURNED,
    Padded,
    all_rows,
    export_row,
    exported,
    made_run,
    prepared,
    with_texts,
    write_shard,
)
from support.makers import commit_run
from support.runs import configured

from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.storage.store import Store


def lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text("utf-8").split("\n") if line.strip()]


def test_every_video_has_its_latent_and_every_prompt_its_text(cogvideox: Config, tmp_path: Path) -> None:
    """As of THUDM/CogVideo: finetune/datasets/t2v_dataset.py at 1789f0725645
    (`cache/video_latent/MODEL/FxHxW/STEM.safetensors` with `encoded_video` of `c f h w`,
    `cache/prompt_embeddings/SHA.safetensors` with `prompt_embedding` of `n d`; every video must be a file, and there
    are as many prompts), datasets/utils.py at 1789f0725645 (stripped lines, empty ones dropped; videos beside their
    list), schemas/args.py at 1789f0725645 (frames are 8k + 1) and models/cogvideox_t2v/lora_trainer.py at
    1534bf33ebff (a sample times `scaling_factor`).
    """
    export = exported(cogvideox, tmp_path, "cogvideo", text="cogvideox", posterior="mean")
    (arguments,) = export.target.arguments(export.shapes, 10)
    assert arguments == (
        f"--data_root {tmp_path} --caption_column prompts.txt --video_column videos.txt "
        "--train_resolution 9x32x48 --model_name cogvideox-t2v --model_type t2v"
    )
    videos, prompts = (lines(tmp_path / name) for name in ("videos.txt", "prompts.txt"))
    made = all_rows((ONE,) * 4)
    assert len(videos) == len(prompts) == len(made) == len(set(videos))
    for video, prompt, (_, row) in zip(videos, prompts, made, strict=True):
        assert (tmp_path / video).is_file()
        stem = (tmp_path / video).stem
        latent = load_file(tmp_path / f"cache/video_latent/cogvideox-t2v/9x32x48/{stem}.safetensors")["encoded_video"]
        assert latent.dtype == torch.bfloat16
        np.testing.assert_allclose(latent.float(), row.latent * FACTOR, rtol=2**-8)
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        text = load_file(tmp_path / f"cache/prompt_embeddings/{digest}.safetensors")["prompt_embedding"]
        (encoded,) = Padded()(row.captions[:1])
        np.testing.assert_array_equal(text.float(), encoded.arrays["text_embedding"])


def test_it_takes_a_sample_of_each_posterior(cogvideox: Config, tmp_path: Path) -> None:
    exported(cogvideox, tmp_path, "cogvideo", text="cogvideox")
    stored = [load_file(path)["encoded_video"] for path in sorted(tmp_path.rglob("*-*.safetensors"))]
    made = [row for _, row in sorted(all_rows((ONE,) * 4), key=lambda one: (one[0], one[1].id))]
    noise = [
        (latent.float().numpy() / FACTOR - row.latent) / np.exp(0.5 * row.logvar)
        for latent, row in zip(stored, made, strict=True)
    ]
    assert abs(np.mean(noise)) < 0.1
    assert 0.9 < np.std(noise) < 1.1


def test_several_shapes_are_refused_with_what_chooses_one(tmp_path: Path) -> None:
    several = with_texts(made_run(tmp_path / "several", "cogvideox", (ONE, ONE, ONE, TURNED)), "cogvideox")
    with pytest.raises(UserError, match=r"one shape, of 2x3x4x6, 2x3x6x4: .*--where \"bucket == '2x3x4x6'\""):
        prepared(several, tmp_path / "into", "cogvideo", text="cogvideox")
    assert not (tmp_path / "into").exists()


def test_lengths_that_its_models_do_not_take_are_refused(tmp_path: Path) -> None:
    config = configured(tmp_path)
    store = commit_run(Path(config.output.path), ["/data/*.tar"])
    write_shard(store, "a", [export_row("a", 0, shape=(2, 2, 4, 6), frames=5)], "cogvideox")
    with pytest.raises(UserError, match=r"clips of 8k \+ 1 frames, and these have 5: use another clip\.frames"):
        prepared(with_texts(config, "cogvideox"), tmp_path / "into", "cogvideo", text="cogvideox")


def test_rows_without_a_caption_are_refused_as_they_would_be_dropped(tmp_path: Path) -> None:
    config = made_run(tmp_path, "cogvideox")
    write_shard(Store(config.output.path), "c", [export_row("c", 0, caption=" ")], "cogvideox")
    with pytest.raises(UserError, match="1 rows have no caption, such as c/clip-000:0"):
        prepared(with_texts(config, "cogvideox"), tmp_path / "into", "cogvideo", text="cogvideox")
