"""Stored latents decoded again, and compared with the frames that the encoder was given.

Which PSNR is good enough depends on the VAE, so none is demanded here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.audit.reencode import frames_of, rows_of_parts
from pipeline.config.load import recorded_config
from pipeline.errors import UserError
from pipeline.latents.load import load_decoder
from pipeline.output.latent_bytes import latent_of
from pipeline.output.run_file import read_run
from pipeline.records import Uint8Frames
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip: its frames `t h w c`, and those that its latent decodes to."""

    id: str
    frames: Uint8Frames
    decoded: Uint8Frames
    temporal_ratio: int

    @property
    def psnr_db(self) -> float:
        return psnr_db(self.frames, self.decoded)


def redecode(store: Store, count: int, vae: str | None) -> Iterator[Decoded]:
    """Decodes `count` clips, evenly spread over the parts, without those that continue another clip.

    Args:
        vae: a diffusers VAE folder, None for that of the run's weights.

    Raises:
        UserError: there is no decoder, or it is of another VAE; or inputs of the run can no longer be read.
        ShardError: an input has changed.
    """
    decoder = load_decoder(recorded_config(read_run(store)).encoder, vae)
    for _, row, footer in rows_of_parts(store, count):
        if row.get("continues"):
            continue
        frames = frames_of(store, row, footer)
        try:
            decoded = decoder.decode(latent_of(row))
        except ValueError as error:
            raise UserError(f"{row['id']} cannot be decoded: {error}") from None
        yield Decoded(row["id"], frames, aligned(decoded, frames), footer["encoder"]["temporal_ratio"])


def aligned(decoded: Uint8Frames, frames: Uint8Frames) -> Uint8Frames:
    """As many frames as were encoded: CogVideoX decodes the first of an even number of latent frames to four frames."""
    extra = len(decoded) - len(frames)
    if extra < 0 or decoded.shape[1:] != frames.shape[1:]:
        raise UserError(f"the VAE decodes frames of shape {frames.shape} to {decoded.shape}: it is not the run's VAE")
    return decoded[extra:]


def psnr_db(frames: Uint8Frames, decoded: Uint8Frames) -> float:
    """Peak signal-to-noise ratio over all frames; infinite where they are equal."""
    squared = float(np.mean((frames.astype(np.float64) - decoded) ** 2))
    return 10 * math.log10(255**2 / squared) if squared else math.inf
