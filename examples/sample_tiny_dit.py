"""Draws a GIF: above clips of a run, decoded from their latents, below what the transformer makes of their captions.

`python examples/sample_tiny_dit.py ROOT OUT` writes OUT/samples.gif from the state that train_tiny_dit.py left in OUT.
It needs the extra `diffusers`, which has the decoder.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from train_tiny_dit import Transformer, number, widths

import encoder
from pipeline.dataset.loader import Latents

STEPS, GUIDANCE = 40, 2.0
FRAME_MILLISECONDS = 125


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="output of a run, with texts")
    parser.add_argument("out", type=Path, help="folder of the state")
    parser.add_argument("--text", default="mochi", help="name of the texts")
    parser.add_argument("--weights", default="tiny", help="the VAE that made the latents")
    chosen = parser.parse_args()
    model = Transformer(*widths(chosen.root, chosen.text))
    model.load_state_dict(torch.load(chosen.out / "state.pt")["model"])
    decoder = encoder.load_decoder(chosen.weights)
    batch, empty = (first_batch(chosen.root, chosen.text, caption_dropout=dropout) for dropout in (0.0, 1.0))
    print(*batch["caption"], sep="\n")
    rows = [frames_of(decoder, latents) for latents in (batch["latent"], sampled(model, batch, empty))]
    write_gif(chosen.out / "samples.gif", np.concatenate(rows, axis=1))


def first_batch(root: str, text: str, **options: Any) -> dict[str, Any]:
    return next(iter(Latents(root, 4, 1, shuffle=False, text=text, **options)))


@torch.no_grad()
def sampled(model: nn.Module, batch: dict[str, Any], empty: dict[str, Any]) -> Tensor:
    """`b c t h w`: latents for the captions of a batch, from noise, in steps of equal length."""
    generator = torch.Generator().manual_seed(number("samples"))
    x = torch.randn(batch["latent"].shape, generator=generator)
    for step in range(STEPS):
        time = torch.full((len(x),), 1 - step / STEPS)
        towards, without = (model(x, time, of["text_embedding"], of["text_mask"]) for of in (batch, empty))
        x = x - (without + GUIDANCE * (towards - without)) / STEPS
    return x


def frames_of(decoder: Any, latents: Iterable[Tensor]) -> Any:
    """`t h w c`: the decoded clips side by side."""
    scaling = decoder.spec.scaling
    clips = [decoder.decode((latent / scaling["scale"][0] + scaling["shift"][0]).numpy()) for latent in latents]
    return np.concatenate(clips, axis=2)


def write_gif(path: Path, frames: Any) -> None:
    first, *others = [Image.fromarray(frame).quantize(64) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
