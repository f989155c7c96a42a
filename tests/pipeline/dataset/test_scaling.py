"""What the loader does with the footer's rule is what each family's own pipeline does to the latents of its VAE."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5_image2video import (
    HunyuanVideo15ImageToVideoPipeline,
)
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
from support.encoders import save
from torch import Tensor

import encoder
from pipeline.dataset.loader import _factors, _scaled

Prepare = Callable[[Any, Tensor], Tensor]


class Vae(SimpleNamespace):
    """A VAE of this config whose encoder returns `latents`."""

    dtype, device = torch.float32, torch.device("cpu")

    def encode(self, _: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=self.latents)

    def modules(self) -> Any:
        return iter([torch.nn.Linear(1, 1)])


def pipeline_of(vae: Any, z: Tensor, **values: Any) -> SimpleNamespace:
    """What the methods of a pipeline read of it."""
    ratios = {"vae_scale_factor_temporal": 4, "vae_scale_factor_spatial": 8, "vae_scale_factor": 8}
    return SimpleNamespace(vae=Vae(config=vae.config, latents=z), **ratios, **values)


def wan(vae: Any, z: Tensor) -> Tensor:
    pipe = pipeline_of(vae, z, config=SimpleNamespace(expand_timesteps=True))
    prepare = diffusers.WanImageToVideoPipeline.prepare_latents
    result: Tensor = prepare(pipe, torch.zeros(1, 3, 16, 16), 1, dtype=z.dtype, device=z.device, num_frames=9)[1]
    return result


def qwen(vae: Any, z: Tensor) -> Tensor:
    pipe = pipeline_of(vae, z, latent_channels=vae.config.z_dim)
    result: Tensor = diffusers.QwenImageEditPipeline._encode_vae_image(pipe, z, torch.Generator())
    return result


def cogvideox(vae: Any, z: Tensor) -> Tensor:
    """Of the image: the latent of a video is multiplied in training code alone."""
    factor, transformer = vae.config.scaling_factor, SimpleNamespace(config=SimpleNamespace(patch_size_t=None))
    scheduler = SimpleNamespace(init_noise_sigma=1.0)
    pipe = pipeline_of(vae, z[:, :, :1], vae_scaling_factor_image=factor, transformer=transformer, scheduler=scheduler)
    prepare = diffusers.CogVideoXImageToVideoPipeline.prepare_latents
    size = {"height": 8 * z.shape[3], "width": 8 * z.shape[4], "num_frames": 1, "num_channels_latents": z.shape[1]}
    result: Tensor = prepare(pipe, torch.zeros(1, 3, 16, 16), 1, dtype=z.dtype, device=z.device, **size)[1]
    return result.permute(0, 2, 1, 3, 4)


def hunyuan(vae: Any, z: Tensor) -> Tensor:
    pipe = pipeline_of(vae, z[:, :, :1], vae_scaling_factor=vae.config.scaling_factor)
    prepare = diffusers.HunyuanVideoImageToVideoPipeline.prepare_latents
    size = {"height": 8 * z.shape[3], "width": 8 * z.shape[4], "num_frames": 1, "num_channels_latents": z.shape[1]}
    result: Tensor = prepare(pipe, torch.zeros(1, 3, 16, 16), 1, dtype=z.dtype, device=z.device, **size)[1]
    return result


def hunyuan15(vae: Any, z: Tensor) -> Tensor:
    processor = SimpleNamespace(preprocess=lambda image, height, width: torch.zeros(1, 3, 16, 16))
    stub = Vae(config=vae.config, latents=z)
    get = HunyuanVideo15ImageToVideoPipeline._get_image_latents
    result: Tensor = get(stub, processor, None, 16, 16, torch.device("cpu"))  # type: ignore[arg-type]
    return result


def ltx(vae: Any, z: Tensor) -> Tensor:
    result: Tensor = LTX2Pipeline._normalize_latents(z, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    return result


def mochi(vae: Any, z: Tensor) -> Tensor:
    """The inverse of what `MochiPipeline.__call__` does before it decodes, which no method of it holds."""
    config = vae.config
    mean, std = (torch.tensor(each).view(1, 12, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    return (z - mean) * config.scaling_factor / std


def cosmos(vae: Any, z: Tensor) -> Tensor:
    scheduler = diffusers.EDMEulerScheduler()
    pipe = pipeline_of(vae, z, scheduler=scheduler)
    size = {"height": 8 * z.shape[3], "width": 8 * z.shape[4], "num_channels_latents": z.shape[1]}
    prepare = diffusers.CosmosVideoToWorldPipeline.prepare_latents
    video = torch.zeros(1, 3, 9, 16, 16)
    result: Tensor = prepare(pipe, video, 1, dtype=z.dtype, device=z.device, num_frames=9, **size)[1]
    return result


FAMILIES: dict[str, Prepare] = {
    "AutoencoderKLWan": wan,
    "AutoencoderKLQwenImage": qwen,
    "AutoencoderKLCogVideoX": cogvideox,
    "AutoencoderKLHunyuanVideo": hunyuan,
    "AutoencoderKLHunyuanVideo15": hunyuan15,
    "AutoencoderKLLTXVideo": ltx,
    "AutoencoderKLLTX2Video": ltx,
    "AutoencoderKLMochi": mochi,
    "AutoencoderKLCosmos": cosmos,
}


def loaded(identity: dict[str, Any], z: Tensor, key: str = "scale") -> Tensor:
    return _scaled(z[0], _factors("footer", key, "mean", {"encoder": identity}, ()))


@pytest.mark.parametrize("class_name", FAMILIES)
def test_the_loader_scales_as_the_familys_pipeline(class_name: str, tmp_path: Path) -> None:
    vae = save(class_name, tmp_path)
    spec = encoder.load("diffusers", weights=str(tmp_path))
    z = torch.randn(1, *spec.spec.latent_shape(1 + spec.spec.temporal_ratio, 64, 64)) + 0.3
    expected = FAMILIES[class_name](vae, z)[0]
    torch.testing.assert_close(loaded(spec.identity, z)[:, : expected.shape[1]], expected, rtol=1e-5, atol=1e-6)


def test_the_image_latent_of_cogvideox_1_5_is_divided_where_its_video_is_multiplied(tmp_path: Path) -> None:
    vae = save("AutoencoderKLCogVideoX", tmp_path, invert_scale_latents=True, scaling_factor=0.7)
    identity = encoder.load("cogvideox", weights=str(tmp_path)).identity
    z = torch.randn(1, 16, 1, 8, 8)
    torch.testing.assert_close(loaded(identity, z, "image_scale"), cogvideox(vae, z)[0])
    torch.testing.assert_close(loaded(identity, z), z[0] * 0.7)
