"""From frames to the file of a trainer: what diffusers' own VAE and the scaling of its pipelines make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.encoders import TINY, pair_of
from support.exports import exported, with_texts
from support.runs import MakeConfig, run_all, run_json, samples_of, write_tar
from torch import Tensor

from encoder.video_encoder import VideoEncoder
from pipeline.config.load import Config
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of as samples_in
from pipeline.output.paths import SUCCESS_FILE
from pipeline.records import Chunk
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

Load = Callable[[Path, int], Tensor]  # the latent of a row, `c t h w`, by the number of its video


def by_cogvideox(vae: Any, mean: Tensor) -> Tensor:
    """As diffusers' pipelines of CogVideoX scale latents."""
    return mean * vae.config.scaling_factor


def by_wan(vae: Any, mean: Tensor) -> Tensor:
    """As diffusers' pipelines of Wan scale latents."""
    shift, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (mean - shift) / std


def of_cogvideo(folder: Path, number: int) -> Tensor:
    (path,) = folder.rglob(f"*-{number:06d}-000.safetensors")
    return load_file(path)["encoded_video"]


def of_musubi(folder: Path, number: int) -> Tensor:
    (path,) = folder.rglob(f"*-{number:06d}-000_*_wan.safetensors")
    (latent,) = load_file(path).values()
    return latent


def of_automodel(folder: Path, number: int) -> Tensor:
    (path,) = folder.rglob(f"*-{number:06d}-000*.meta")
    latent: Tensor = torch.load(path, weights_only=True)["video_latents"][0]
    return latent


CASES = [
    ("cogvideox", "AutoencoderKLCogVideoX", by_cogvideox, {"cogvideo": of_cogvideo}),
    ("wan", "AutoencoderKLWan", by_wan, {"musubi": of_musubi, "automodel": of_automodel}),
]


@pytest.mark.parametrize(("name", "class_name", "scaled", "targets"), CASES, ids=[case[0] for case in CASES])
def test_a_trainer_finds_what_diffusers_gives(
    name: str,
    class_name: str,
    scaled: Callable[[Any, Tensor], Tensor],
    targets: dict[str, Load],
    make_config: MakeConfig,
    videos: tuple[bytes, ...],
    tmp_path: Path,
) -> None:
    vae, ours = pair_of(getattr(diffusers, class_name), TINY[class_name], name, tmp_path / "vae")
    write_tar(tmp_path / "s.tar", samples_of(videos[::4]))
    weights = {"name": name, "weights": str(tmp_path / "vae")}
    config = make_config(encoder=weights, clip={"frames": 9, "buckets": ["32x48"]}, output={"dtype": "float32"})
    finished(config, ours, name)
    for number, frames in enumerate(frames_of(config, ours)):
        with torch.no_grad():
            expected = scaled(vae, vae.encode(frames).latent_dist.mean)[0]
        for target, latent_of in targets.items():
            if number == 0:
                exported(config, tmp_path / target, target, text=name, posterior="mean")
            found = latent_of(tmp_path / target, number).float()
            np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-4, err_msg=target)


def finished(config: Config, ours: VideoEncoder, preset: str) -> None:
    """A run with texts, made in this process."""
    run_all(config, ours)
    store = Store(config.output.path)
    store.create("run.json", run_json(config, ours))
    store.create(SUCCESS_FILE, b'{"shards": 1}')
    with_texts(config, preset)


def frames_of(config: Config, ours: VideoEncoder) -> list[Tensor]:
    """What each video gives the encoder, `1 3 t h w` in [-1, 1]."""
    (shard,) = shards_of(config.input)
    decoder = LocalDecoder(config, ours.spec)
    clips = []
    for sample in samples_in(shard, config):
        chunks = [item.frames for item in decoder.start(sample) if isinstance(item, Chunk)]
        clips.append(torch.from_numpy(np.concatenate(chunks)).permute(3, 0, 1, 2)[None] / 127.5 - 1)
    assert clips
    return clips
