"""The encoder: video in, posterior of its latents out; names, shapes and chunk plans without importing torch.

It does not read videos, write latents or know Ray: that is the pipeline's work.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from encoder.spec import (
    ADAPTED,
    SIMULATED,
    ChunkPlan,
    Convolutions,
    Dtype,
    LatentSpec,
    NormScope,
    names,
    spec_of,
)
from encoder.streaming.chunks import chunk_plan

if TYPE_CHECKING:
    from encoder.video_decoder import VideoDecoder
    from encoder.video_encoder import VideoEncoder

__all__ = [
    "ChunkPlan",
    "Convolutions",
    "Dtype",
    "LatentSpec",
    "NormScope",
    "chunk_plan",
    "load",
    "load_decoder",
    "machine",
    "names",
    "set_threads",
    "spec_of",
]


def load(
    name: str,
    *,
    weights: str,
    dtype: str = "float32",
    device: str = "cpu",
    chunk_frames: int = 8,
    norm_scope: str = "chunk",
    chunk_plan: str = "diffusers",
    tiles: tuple[int, int, int, int] | None = None,
    convolutions: str | Mapping[str, str] = "auto",
) -> "VideoEncoder":
    """Returns the encoder `name` with its weights on `device`, ready to encode.

    Args:
        name: one of `names()`.
        weights: `random:SEED`, a diffusers VAE folder, a `.safetensors` file, or the original `.pt`. With the name
            `diffusers`, the folder of any of the VAEs that `encoder/diffusers_vae.py` knows. With the name `simulated`,
            `simulated:MS_PER_FRAME`: the time that its device takes for a frame, of which it makes noise.
        dtype: `float32 | bfloat16 | float16`, in which it computes; norm statistics are float32 in all of them.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where torch sees it, else the CPU.
        chunk_frames: frames that are encoded in one pass, a multiple of the encoder's temporal ratio.
        norm_scope: over which frames GroupNorm takes its statistics: `chunk` as diffusers, `clip` as the original
            training code (the clip must fit in memory whole), or `frame`, where no frame sees a later one. Wan has
            no such statistics, and gives the same latents with every scope and plan.
        chunk_plan: `diffusers` folds a clip's remainder into its first chunk, `even` keeps all chunks small.
        tiles: height, width, and their strides in pixels: larger pictures are encoded in such overlapping tiles.
        convolutions: `auto` measures on the device which way is fastest for each shape of convolution (some seconds
            for a full-size encoder); `direct`, `winograd_height`, `winograd` or, on a CPU with a C compiler,
            `winograd_c` for all; or what `auto` found before, as `identity["convolutions"]` gives it, so that the same
            bits are computed again.

    Raises:
        ValueError: an argument is not what the encoder can do; `WeightsError` where the weights are at fault.
    """
    from encoder.diffusers_vae import load_adapted  # torch takes seconds to import: only who encodes pays
    from encoder.loading import Options, load_video_encoder
    from encoder.simulated import load_simulated

    options = Options(dtype, device, chunk_frames, norm_scope, chunk_plan, tiles, convolutions)
    if name == SIMULATED:
        return load_simulated(weights, options)
    return load_adapted(weights, options) if name == ADAPTED else load_video_encoder(name, weights, options)


def load_decoder(weights: str, dtype: str = "float32", device: str = "cpu") -> "VideoDecoder":
    """Returns the decoder of a diffusers VAE folder, for looking at what latents hold.

    Raises:
        ValueError: as `load`.
    """
    from encoder.video_decoder import load_decoder as load_vae_decoder

    return load_vae_decoder(weights, dtype, device)


def set_threads(threads: int) -> None:
    """Sets how many CPU threads encoders of this process compute with.

    Latents of native encoders are the same bits for every number: what is rounded is computed in pieces that follow
    from the shape, each by one thread. Other processors, instruction sets and libraries give other last bits, and so
    may other numbers of threads where diffusers' code runs (`name="diffusers"`).
    """
    import torch

    torch.set_num_threads(threads)


def machine(device: str = "auto") -> dict[str, str]:
    """What decides how fast each algorithm is on `device`: the processor or GPU, libraries, and a C compiler if any."""
    from encoder.computed_by import computed_by
    from encoder.kernels.c_library import compilers
    from encoder.loading import device_of

    compiler = next(iter(compilers()), ["none"])
    return computed_by(device_of(device), in_c=False) | {"c_compiler": " ".join(compiler)}
