"""The CogVideoX encoder against diffusers' AutoencoderKLCogVideoX with the same random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from support.encoders import Pair, relative_error
from torch import Tensor

import encoder

TINY: dict[str, Any] = {"block_out_channels": (16, 32, 32, 64), "layers_per_block": 1, "norm_num_groups": 8}


def make_pair(name: str, config: dict[str, Any], folder: Path, **options: Any) -> Pair:
    """A diffusers VAE of random weights, norms included, and our encoder read from its folder."""
    torch.manual_seed(7)
    theirs = AutoencoderKLCogVideoX(**config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    theirs.decoder = torch.nn.Identity()  # which is not saved: of the full size it takes seconds
    theirs.save_pretrained(folder)
    return theirs, encoder.load(name, weights=str(folder), **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair("tiny", TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair("cogvideox", {}, tmp_path_factory.mktemp("full"), convolutions="winograd")


def video(batch: int, frames: int, height_px: int, width_px: int) -> Tensor:
    return torch.rand(batch, 3, frames, height_px, width_px, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frames", [1, 5, 9, 17, 33, 49])
def test_the_tiny_encoder_equals_diffusers(tiny: Pair, frames: int, batch: int) -> None:
    assert relative_error(tiny, video(batch, frames, 32, 48)) < 1e-4


@pytest.mark.full_size
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 5), (1, 9)])
def test_the_full_size_encoder_equals_diffusers(full: Pair, frames: int, batch: int) -> None:
    assert relative_error(full, video(batch, frames, 16, 24)) < 1e-4


@pytest.mark.full_size
@pytest.mark.parametrize(("batch", "frames"), [(2, 17), (2, 33), (1, 49)])
def test_the_full_size_encoder_equals_diffusers_on_long_clips(full: Pair, frames: int, batch: int) -> None:
    assert relative_error(full, video(batch, frames, 8, 16)) < 1e-4


@pytest.mark.parametrize("frames", range(1, 51, 4))
def test_every_legal_frame_count_equals_diffusers(tiny: Pair, frames: int) -> None:
    assert relative_error(tiny, video(1, frames, 8, 24)) < 1e-4


@pytest.mark.parametrize("frames", [n for n in range(2, 51) if n % 4 != 1])
def test_every_illegal_frame_count_is_refused_with_the_rule(tiny: Pair, frames: int) -> None:
    with pytest.raises(ValueError, match=r"a legal count is 1 \+ 4k"):
        tiny[1].encode(video(1, frames, 8, 8))


@pytest.mark.parametrize("batch", [1, 3])
def test_frames_that_hardly_vary_around_a_large_mean_equal_diffusers(tiny: Pair, batch: int) -> None:
    assert relative_error(tiny, 0.9 + video(batch, 9, 32, 32) * 0.01) < 1e-4


def test_the_latent_has_the_shape_that_the_spec_says(tiny: Pair) -> None:
    posterior = tiny[1].encode(video(2, 9, 40, 56))
    shape = tiny[1].spec.latent_shape(9, 40, 56)
    assert posterior.mean.shape == posterior.logvar.shape == (2, *shape)
    assert posterior.mean.dtype == posterior.logvar.dtype == torch.float32


def test_clips_of_a_batch_do_not_see_each_other(tiny: Pair) -> None:
    clips = video(3, 9, 16, 24)
    together = tiny[1].encode(clips).mean
    alone = torch.cat([tiny[1].encode(clip[None]).mean for clip in clips])
    assert (together - alone).abs().max() < 1e-5
