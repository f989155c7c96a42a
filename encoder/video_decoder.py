"""Latents back to frames by the decoder of a diffusers VAE, so that people can look at them.

Only the decoder's half of the VAE is read.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from encoder.diffusers_vae import ENCODER, build_half, half_tensors, spec_of_vae, vae_config
from encoder.families import DTYPES
from encoder.loading import device_of, place
from encoder.spec import LatentSpec
from encoder.weights import assign

# Of decoders that also remove noise (LTX-Video from 0.9.1 on): how much of it they expect, as LTX's examples do
DECODE_TIMESTEP = 0.05


class VideoDecoder:
    """The decoder of one VAE on one device, loaded by `load_decoder`."""

    def __init__(self, model: nn.Module, spec: LatentSpec, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = place(model, device, dtype), device, dtype
        self.spec = spec

    @torch.inference_mode()
    def decode(self, latent: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """An unscaled latent `c t h w` to frames `t h w 3`.

        Raises:
            ValueError: the latent does not have the VAE's number of channels.
        """
        if latent.ndim != 4 or latent.shape[0] != self.spec.latent_channels:
            raise ValueError(f"the VAE decodes {self.spec.latent_channels} channels, the latent is {latent.shape}")
        z = torch.from_numpy(np.array(latent))[None].to(self._device, self._dtype)
        model: Any = self._model
        timestep = [torch.tensor([DECODE_TIMESTEP]).to(z)] if model.config.get("timestep_conditioning") else []
        video = model.decode(z, *timestep).sample[0].float()
        levels = video.clamp_(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
        frames: npt.NDArray[np.uint8] = levels.permute(1, 2, 3, 0).cpu().numpy()
        return frames


def load_decoder(weights: str, dtype: str, device: str) -> VideoDecoder:
    """Loads the decoder of a diffusers VAE folder.

    Args:
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where torch sees it, else the CPU.

    Raises:
        WeightsError: the folder is missing, its class is unknown, its weights do not fit, or diffusers is missing.
    """
    config = vae_config(weights)
    model = build_half(config, without=ENCODER)
    spec = spec_of_vae(model)
    assign(model, half_tensors(weights, without=ENCODER), weights)
    return VideoDecoder(model, spec, device_of(device), DTYPES[dtype])
