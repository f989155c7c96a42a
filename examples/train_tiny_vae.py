"""Trains the VAE that ships as `encoder.weights: tiny`: on one CPU core, on clips that the project draws itself.

`python examples/train_tiny_vae.py OUT [--minutes 10]` goes on from the checkpoint in OUT, and at the end writes the
folder OUT/vae, as diffusers' VAEs have it, with an encoder and its decoder. It needs the extra `diffusers`.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor
from torch.nn import functional as F

from pipeline.video.synthetic.scenes import draw_scene
from pipeline.video.synthetic.videos import draw_frame

# Narrower than the encoder `tiny` with random weights: both halves have less than 2 MB in float16, and steps are short
ARCHITECTURE = {
    "block_out_channels": (8, 32, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "latent_channels": 16,
}
DECAYS = ((0, 2000, 1.0), (2000, 3200, 0.5))  # of the learning rates: from and to which step, and from which share on
STEPS, WARM_UP = DECAYS[-1][1], 40
LEARNING_RATES, MOMENTUM, EMA = {"kernels": 0.01, "others": 1e-3}, 0.95, 0.99
KL_WEIGHT, FIRST_LOGVAR = 1e-6, -6.0
SIZES = ((0, 4, 9, 32), (1200, 2, 9, 64))  # from which step on: clips, frames, pixels of a side
PICTURES_PX = (96, 225)  # least and largest side of the pictures that clips are pieces of
NUMBERED = 0.15  # of clips
FIRST_SEED = 1000  # of training; those below are held out
SAVE_SECONDS = 60.0
PARTS = ("vae", "average", "kernels", "others")  # of a checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, to go on later")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    training = Training(chosen.out / "checkpoint.pt")
    training.go_on(time.monotonic() + 60 * chosen.minutes)
    if training.step == STEPS:
        save_vae(training.average, chosen.out / "vae")


class Training:
    """A VAE, the average of its weights over the last steps, and its optimizers, as of a step; kept in one file."""

    def __init__(self, checkpoint: Path) -> None:
        torch.manual_seed(0)
        self.checkpoint, self.step, self.vae = checkpoint, 0, new_vae()
        self.average = copy.deepcopy(self.vae).requires_grad_(False)
        parameters = [parameter for parameter in self.vae.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.vae.parameters() if parameter.ndim == 1]
        self.kernels = Muon(parameters, LEARNING_RATES["kernels"])
        self.others = torch.optim.AdamW(others, LEARNING_RATES["others"], betas=(0.9, 0.99), weight_decay=0)
        if checkpoint.exists():
            state = torch.load(checkpoint)
            self.step = state["step"]
            for name in PARTS:
                getattr(self, name).load_state_dict(state[name])

    def save(self) -> None:
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        torch.save({"step": self.step, **parts}, new := self.checkpoint.with_suffix(".new"))
        new.replace(self.checkpoint)

    def go_on(self, until: float) -> None:
        save_at = time.monotonic() + SAVE_SECONDS
        while self.step < STEPS and time.monotonic() < until:
            squared = self.learn()
            if self.step % 10 == 0:
                print(f"step {self.step}, PSNR of the batch {-10 * math.log10(squared / 4):.2f} dB", flush=True)
            if time.monotonic() > save_at or self.step == STEPS:
                self.save()
                save_at = time.monotonic() + SAVE_SECONDS
        self.save()

    def learn(self) -> float:
        """One step; the mean square error before it."""
        for name, rate in LEARNING_RATES.items():
            getattr(self, name).param_groups[0]["lr"] = rate * share_of_rate(self.step)
        video = batch_of(self.step)
        torch.manual_seed(self.step)  # of the posterior's noise
        posterior = self.vae.encode(video).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        squared = F.mse_loss(decoded, video)
        loss = F.l1_loss(decoded, video) + squared + KL_WEIGHT * posterior.kl().mean()
        self.vae.zero_grad()
        loss.backward()
        self.kernels.step()
        self.others.step()
        self.step += 1
        with torch.no_grad():
            decay = min(EMA, self.step / (self.step + 10))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.vae.parameters()), 1 - decay)
        return squared.item()


def new_vae() -> Any:
    """A VAE with random weights, whose posteriors are narrow from the start."""
    vae = AutoencoderKLCogVideoX(**ARCHITECTURE)
    moments, channels = vae.encoder.conv_out.conv, ARCHITECTURE["latent_channels"]
    moments.weight.data[:channels] *= 3
    moments.weight.data[channels:] *= 0.1
    moments.bias.data[channels:] = FIRST_LOGVAR
    return vae


class Muon(torch.optim.Optimizer):
    """For matrices and kernels (arXiv:2502.16982): steps whose singular values are all about 1, from momentum."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(MOMENTUM).add_(parameter.grad)
                towards = (parameter.grad + MOMENTUM * momentum).flatten(1)
                size = max(1, towards.shape[0] / towards.shape[1]) ** 0.5
                parameter.sub_(orthogonal(towards).view_as(parameter), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values near 1, by five steps of a Newton-Schulz iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x


def share_of_rate(step: int) -> float:
    first, end, share = next(decay for decay in DECAYS if step < decay[1])
    return min(1, (step + 1) / WARM_UP) * share * 0.5 * (1 + math.cos(math.pi * (step - first) / (end - first)))


def batch_of(step: int) -> Tensor:
    """`b c t h w` in [-1, 1]: what is learned from at a step, the same each time."""
    clips, frames, side_px = next(size for first, *size in reversed(SIZES) if step >= first)
    rng = np.random.default_rng((1, step))
    return to_video(np.stack([draw_clip(rng, frames, side_px) for _ in range(clips)]))


def draw_clip(rng: np.random.Generator, frames: int, side_px: int) -> Any:
    """`t h w c`: a square piece of some frames of a scene, or of a numbered video, at some speed."""
    seed, first, pace = (int(rng.integers(*bounds)) for bounds in ((FIRST_SEED, 1 << 30), (0, 40), (1, 4)))
    width_px, height_px = (int(side) for side in rng.integers(*PICTURES_PX, 2))
    left, top = int(rng.integers(width_px - side_px + 1)), int(rng.integers(height_px - side_px + 1))
    piece = np.s_[top : top + side_px, left : left + side_px]
    numbers = range(first, first + frames * pace, pace)
    if rng.random() < NUMBERED:
        return np.stack([draw_frame(number, width_px, height_px, seed)[piece] for number in numbers])
    return np.stack([draw_scene(number, width_px, height_px, seed, piece) for number in numbers])


def to_video(clips: Any) -> Tensor:
    """`b t h w c` of bytes to `b c t h w` in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def held_out() -> Tensor:
    """`b c t h w`: what the demo's videos show, without their compression."""
    return to_video(np.stack([[draw_scene(2 * n, 192, 128, seed) for n in range(17)] for seed in range(12)]))


@torch.no_grad()
def save_vae(vae: Any, folder: Path) -> None:
    """Writes the weights in half precision, with the factor that gives latents a deviation of 1; prints the PSNR."""
    vae.half().float()
    means, errors = [], []
    for video in held_out().split(1):
        means.append(vae.encode(video).latent_dist.mean)
        errors.append(F.mse_loss(vae.decode(means[-1]).sample.clamp(-1, 1), video) / 4)
    vae.register_to_config(scaling_factor=round(float(1 / torch.cat(means).std()), 4))
    vae.half().save_pretrained(folder)
    decibels = [-10 * math.log10(error) for error in errors]
    print(f"PSNR on held-out scenes: mean {np.mean(decibels):.2f} dB, least {min(decibels):.2f} dB; see {folder}")


if __name__ == "__main__":
    main()
