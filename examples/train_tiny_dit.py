"""Trains a small diffusion transformer on the latents and captions of a run, stops, and goes on with other ranks.

`python examples/train_tiny_dit.py ROOT OUT --steps 150` trains in one process and keeps its state in OUT, and
`torchrun --nproc-per-node 2 examples/train_tiny_dit.py ROOT OUT --steps 300` goes on in two: to the same weights.
`make example` runs all of it on the demo's output.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.dataset.loader import Latents

BATCH, STEP_BATCHES = 2, 2  # samples a batch, and batches that all ranks together learn from in a step
WIDTH, DEPTH, HEADS, PATCH = 128, 4, 4, 2
TIME_WAVES = 32
LEARNING_RATE, WARM_UP = 2e-3, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="output of a run, with texts")
    parser.add_argument("out", type=Path, help="folder of the state and the losses")
    parser.add_argument("--text", default="mochi", help="name of the texts")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--compare", type=Path, help="losses.json of an undisturbed run, which these have to repeat")
    chosen = parser.parse_args()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)  # so that any number of ranks compute the same bits
    if world > 1:
        dist.init_process_group("gloo")
    losses = train(chosen.root, chosen.out, chosen.text, chosen.steps, rank, world)
    if rank == 0 and chosen.compare:
        compare(losses, json.loads(chosen.compare.read_text()))
    if world > 1:
        dist.destroy_process_group()


class Transformer(nn.Module):
    """Predicts noise minus latent from their mixture, its time, and the embedding of a caption."""

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        patch = (1, PATCH, PATCH)
        self.patches = nn.Conv3d(channels, WIDTH, patch, patch)
        self.places = nn.ParameterList(nn.Parameter(0.02 * torch.randn(longest, WIDTH)) for longest in (16, 32, 32))
        self.text, self.no_text = nn.Linear(text_width, WIDTH), nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.time = nn.Sequential(nn.Linear(2 * TIME_WAVES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, channels * PATCH**2)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """`b c t h w`, `b` in 0 to 1, `b n d` and `b n -> b c t h w`"""
        tokens = self.patches(x).permute(0, 2, 3, 4, 1)
        frames, rows, columns = tokens.shape[1:4]
        in_time, down, across = self.places
        tokens = tokens + in_time[:frames, None, None] + down[:rows, None] + across[:columns]
        text = torch.cat([self.no_text.expand(len(x), -1, -1), self.text(text)], 1)  # never nothing to attend to
        mask = F.pad(mask, (1, 0), value=True)[:, None, None]
        angles = time[:, None] * torch.exp(torch.linspace(0, 6, TIME_WAVES))
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        tokens = tokens.flatten(1, 3)
        for block in self.blocks:
            tokens = block(tokens, embedded, text, mask)
        made = self.last(self.norm(tokens)).view(len(x), frames, rows, columns, -1, PATCH, PATCH)
        return made.permute(0, 4, 1, 2, 5, 3, 6).reshape(x.shape)


class Block(nn.Module):
    """Attention among the patches, to the caption, and a perceptron; the time scales and shifts what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(3))
        self.by_time = nn.Linear(WIDTH, 6 * WIDTH)
        self.among, self.to_text = Attention(), Attention()
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """`b n d`, `b d`, `b m d`, `b 1 1 m -> b n d`"""
        scales = self.by_time(time)[:, None].chunk(6, -1)
        normed = [lambda x, i=i: self.norms[i](x) * (1 + scales[2 * i]) + scales[2 * i + 1] for i in range(3)]
        x = x + self.among(y := normed[0](x), y)
        x = x + self.to_text(normed[1](x), text, mask)
        return x + self.perceptron(normed[2](x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.keys_values = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, of: Tensor, mask: Tensor | None = None) -> Tensor:
        """`b n d`, `b m d`, `b 1 1 m -> b n d`"""
        parts = (self.query(x), *self.keys_values(of).chunk(2, -1))
        query, keys, values = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(query, keys, values, mask).transpose(1, 2).flatten(2))


def train(root: str, out: Path, text: str, steps: int, rank: int = 0, world: int = 1) -> list[float]:
    """Trains to so many steps, from the state in `out` if there is one; all losses, which are also in losses.json."""
    latents = Latents(root, BATCH, STEP_BATCHES, rank, world, text=text, caption_dropout=0.1)
    batches, losses = endless(latents), []
    torch.manual_seed(0)
    model = Transformer(*widths(root, text))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    if (file := out / "state.pt").exists():
        state = torch.load(file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        latents.load_state_dict(state["loader"])
        losses = state["losses"]
    loader_state = latents.state_dict()
    while (step := len(losses)) < steps:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for _ in range(STEP_BATCHES // world):
            batch = next(batches)
            of_batch = loss_of(model, batch, step) / STEP_BATCHES
            of_batch.backward()
            loss += of_batch.detach()
            loader_state = batch["state"]
        for shared in [loss, *(parameter.grad for parameter in model.parameters())] if world > 1 else []:
            dist.all_reduce(shared)
        optimizer.step()
        losses.append(float(loss))
        if rank == 0 and step % 10 == 0:
            print(f"step {step}, world {world}, loss {losses[-1]:.4f}", flush=True)
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**parts, "loader": loader_state, "losses": losses}, file)
        (out / "losses.json").write_text(json.dumps(losses))
    return losses


def compare(losses: list[float], undisturbed: list[float]) -> None:
    first, last = (sum(part) / 10 for part in (losses[:10], losses[-10:]))
    differs = max(abs(one - other) for one, other in zip(losses, undisturbed, strict=True))
    print(f"loss of the first ten steps {first:.4f}, of the last ten {last:.4f}: {last / first:.2f} of it")
    print(f"largest difference from the undisturbed run: {differs:.2g}")
    if differs > 1e-5 or last > first / 2:
        raise SystemExit("the losses differ by more than 1e-5, or did not fall to a half")


def endless(latents: Latents) -> Iterator[dict[str, Any]]:
    """Epoch after epoch."""
    while True:
        yield from latents


def widths(root: str, text: str) -> tuple[int, int]:
    """Channels of the latents, and the width of the texts."""
    batch = next(iter(Latents(root, 1, 1, text=text)))
    return batch["latent"].shape[1], batch["text_embedding"].shape[2]


def loss_of(model: nn.Module, batch: dict[str, Any], step: int) -> Tensor:
    """Mean square error on latents mixed with noise, which depends on the step and each sample's id alone."""
    latent = batch["latent"]
    generators = [torch.Generator().manual_seed(number(step, clip)) for clip in batch["id"]]
    noise = torch.stack([torch.randn(latent.shape[1:], generator=generator) for generator in generators])
    time = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    share = time.view(-1, 1, 1, 1, 1)
    made = model((1 - share) * latent + share * noise, time, batch["text_embedding"], batch["text_mask"])
    return F.mse_loss(made, noise - latent)


def number(*words: object) -> int:
    """A seed that follows from some words."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:7], "big")


if __name__ == "__main__":
    main()
