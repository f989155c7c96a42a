"""The posterior of an encoder, unscaled, and sampling a latent from it."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.device.threads import single_threaded

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Mean and log-variance of a clip or some of its chunks: `b z t' h' w'` each, float32, unscaled.

    `logvar` is unclamped: clamp it to [-30, 20] before taking its exponential, as `sample` does. An encoder without
    variance returns -30 everywhere.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, *seeds: str) -> Tensor:
        """`b z t' h' w'`: mean + exp(logvar / 2) * noise, where the noise depends only on the shape and the seed.

        Args:
            seeds: one string for each clip of the batch, such as a run's seed and the clip's key.
        """
        if len(seeds) != len(self.mean):
            raise ValueError(f"got {len(seeds)} seeds for {len(self.mean)} clips: give one for each clip")
        noise = torch.stack([_noise(seed, self.mean.shape[1:]) for seed in seeds])
        with single_threaded(self.logvar.device):
            spread = (self.logvar.clamp(LOGVAR_MIN, LOGVAR_MAX) / 2).exp()
        return self.mean + spread * noise.to(self.mean.device)


def from_moments(moments: Tensor, latent_channels: int) -> Posterior:
    """The posterior of `b 2z t' h' w'` (mean, log-variance), or of `b z t' h' w'` (mean only)."""
    mean, logvar = moments[:, :latent_channels].float(), moments[:, latent_channels:].float()
    return Posterior(mean, logvar if logvar.shape[1] else torch.full_like(mean, LOGVAR_MIN))


def joined(parts: list[Posterior]) -> Posterior:
    """Posteriors of consecutive chunks as one, along time."""
    return Posterior(torch.cat([part.mean for part in parts], 2), torch.cat([part.logvar for part in parts], 2))


def _noise(seed: str, shape: torch.Size) -> Tensor:
    """Standard normal noise, drawn on the CPU so that it is the same for every device."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))
