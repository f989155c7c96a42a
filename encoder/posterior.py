"""The posterior that an encoder gives, and drawing a latent from it.

It does not scale latents: the spec says how a reader does.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.device.threads import alone

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What the encoder says of a clip or some of its chunks: `b z t' h' w'` each, float32, unscaled.

    `logvar` is unclamped: clamp it to [-30, 20] before taking its exponential, as `sample` does. An encoder without
    variance gives -30 everywhere.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, *seeds: str) -> Tensor:
        """`b z t' h' w'`: mean + exp(logvar / 2) * noise, whose noise depends on nothing but the shape and the seed.

        Args:
            seeds: one text for each clip of the batch, such as a run's seed with the clip's key.
        """
        if len(seeds) != len(self.mean):
            raise ValueError(f"{len(seeds)} seeds for {len(self.mean)} clips: each needs one of its own")
        noise = torch.stack([_noise(seed, self.mean.shape[1:]) for seed in seeds])
        with alone(self.logvar.device):
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
    """Standard normal noise, drawn on the CPU so that every device gets the same."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))
