"""Spatial tiling against diffusers' tiled_encode with the same tiles."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from support.encoders import unchecked_memory

import encoder
from encoder.streaming.tiles import blend_edge


@pytest.fixture(scope="module")
def theirs_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderKLCogVideoX, str]:
    folder: Path = tmp_path_factory.mktemp("vae")
    torch.manual_seed(5)
    theirs = AutoencoderKLCogVideoX(block_out_channels=(16, 32, 32, 64), layers_per_block=1, norm_num_groups=8).eval()
    theirs.save_pretrained(folder)
    return theirs, str(folder)


def video(frames: int, height_px: int, width_px: int) -> torch.Tensor:
    return torch.rand(2, 3, frames, height_px, width_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "frames", "height_px", "width_px"),
    [
        (1, 9, 96, 160),
        (2, 1, 72, 88),
        (2, 9, 72, 88),
        (1, 17, 72, 88),
        (1, 9, 48, 88),
        (1, 9, 56, 80),
        (2, 9, 24, 40),
    ],
)
def test_tiles_equal_diffusers_tiled_encode(
    theirs_and_folder: tuple[AutoencoderKLCogVideoX, str], batch: int, frames: int, height_px: int, width_px: int
) -> None:
    theirs, folder = theirs_and_folder
    theirs.enable_tiling(48, 80, 1 / 6, 1 / 5)
    clip = video(frames, height_px, width_px)[:batch]
    with torch.no_grad():
        expected = theirs.encode(clip).latent_dist.parameters
    posterior = encoder.load("tiny", weights=folder, tiles=(48, 80, 40, 64)).encode(clip)
    error = (torch.cat([posterior.mean, posterior.logvar], 1) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


def test_tiles_are_part_of_the_identity_and_change_the_latents() -> None:
    whole, tiled = (encoder.load("tiny", weights="random:0", tiles=tiles) for tiles in (None, (32, 32, 24, 24)))
    assert whole.identity != tiled.identity
    clip = video(5, 64, 64)
    assert not torch.equal(whole.encode(clip).mean, tiled.encode(clip).mean)


def test_a_picture_no_larger_than_a_tile_is_not_cut() -> None:
    whole, tiled = (encoder.load("tiny", weights="random:0", tiles=tiles) for tiles in (None, (32, 32, 24, 24)))
    clip = video(9, 32, 32)
    assert torch.equal(whole.encode(clip).mean, tiled.encode(clip).mean)


@unchecked_memory()
@pytest.mark.parametrize("scope", ["clip", "frame"])
def test_tiles_without_overlap_are_the_latents_of_their_pieces_in_every_scope(scope: str) -> None:
    options = {"weights": "random:0", "norm_scope": scope}
    clip = video(9, 32, 64)
    pieces = [encoder.load("tiny", **options).encode(piece).mean for piece in clip.split(32, 4)]
    tiled = encoder.load("tiny", tiles=(32, 32, 32, 32), **options).encode(clip).mean
    assert torch.equal(tiled, torch.cat(pieces, 4))


def test_an_overlap_fades_from_the_tile_before_to_the_next() -> None:
    before, tile = torch.zeros(1, 1, 1, 1, 6), torch.ones(1, 1, 1, 1, 6)
    blend_edge(before, tile, 4, dim=4)
    assert tile.flatten().tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ((48, 80, 42, 64), "positive multiple of 8"),
        ((0, 80, 40, 64), "positive multiple of 8"),
        ((48, 80, 56, 64), "would leave gaps"),
    ],
)
def test_tiles_that_cannot_be_cut_are_refused_with_the_rule(tiles: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.load("tiny", weights="random:0", tiles=tiles)
