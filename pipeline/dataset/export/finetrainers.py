"""finetrainers: numbered files of moments, which it samples while it trains, and of texts padded to full length."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pipeline.dataset.export.target import TINY, Clip, Create, Row, Shape, Target

FOLDER = "finetrainers-precomputed-data"


class Finetrainers(Target):
    encoders = frozenset({"cogvideox", "wan", TINY})
    posteriors = ("moments",)
    scale = None

    def path(self, row: Row) -> str:
        return f"{FOLDER}/latent-{row.number}.pt"

    def write(self, path: str, clips: Iterator[Clip], create: Create) -> None:
        for clip in clips:
            with create(f"{FOLDER}/condition-{clip.row.number}.pt") as file:
                torch.save({"encoder_hidden_states": clip.text[None].bfloat16()}, file)
            with create(path) as file:
                torch.save(self._latents(clip), file)

    def _latents(self, clip: Clip) -> dict[str, Any]:
        """`1 2c f h w` with the factors for Wan, whose `latents_std` is what it multiplies by; `1 f 2c h w` for others.

        CogVideoX's own factor is in the model's configuration.
        """
        moments = clip.latent.bfloat16()
        if self.encoder["name"] != "wan":
            return {"latents": moments.movedim(0, 1)[None].contiguous()}
        mean, inverse_std = (torch.tensor(self.encoder["scaling"][name]) for name in ("shift", "scale"))
        return {"latents": moments[None], "latents_mean": mean, "latents_std": inverse_std}

    def arguments(self, shapes: Sequence[Shape], rows: int) -> list[str]:
        return [
            f"--precomputation_dir {self.root} --enable_precomputation --precomputation_once --precomputation_reuse "
            f"--precomputation_items {rows}"
        ]
