"""The encoder: video in, posterior of its latents out.

Code outside of this package imports this module, which loads no torch, and encoder.video_encoder, which does.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from encoder.device.simulated import ServiceRecord, read_service_records
from encoder.spec import (
    AUTO,
    DIFFUSERS,
    DIRECT,
    SHIPPED_WEIGHTS,
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
from encoder.streaming.receptive_field import ReceptiveField, plan_from
from encoder.text.files import text_identity
from encoder.text.presets import TextPresetName

if TYPE_CHECKING:
    from encoder.text.preset_encoder import TextEncoder
    from encoder.video_decoder import VideoDecoder
    from encoder.video_encoder import VideoEncoder

__all__ = [
    "AUTO",
    "DIRECT",
    "SHIPPED_WEIGHTS",
    "SIMULATED",
    "ChunkPlan",
    "Convolutions",
    "Dtype",
    "LatentSpec",
    "NormScope",
    "ReceptiveField",
    "ServiceRecord",
    "TextEncoder",
    "TextPresetName",
    "VideoDecoder",
    "check_cuda",
    "chunk_plan",
    "load",
    "load_decoder",
    "load_text",
    "machine",
    "names",
    "plan_from",
    "read_service_records",
    "set_threads",
    "spec_of",
    "text_identity",
]

# Imported on first use
NEED_TORCH = {"TextEncoder": "encoder.text.preset_encoder", "VideoDecoder": "encoder.video_decoder"}


def __getattr__(name: str) -> Any:
    if name in NEED_TORCH:
        return getattr(importlib.import_module(NEED_TORCH[name]), name)
    raise AttributeError(f"module 'encoder' has no attribute {name!r}")


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
    scaling_factor: float | None = None,
) -> "VideoEncoder":
    """Returns the encoder `name` with its weights on `device`, ready to encode.

    Args:
        name: one of `names()`.
        weights: `random:SEED`, a diffusers VAE folder, a `.safetensors` file, the original `.pt`, or `tiny`, small
            trained weights of the encoder `tiny` that come with this package. With the name `diffusers`, the folder of
            a VAE whose class is in `encoder.diffusers_vae.CLASSES`. With the name `simulated`,
            `simulated:MS_PER_FRAME`: the time that the simulated device takes for a frame.
        dtype: `float32 | bfloat16 | float16`, the precision of the computation; norm statistics are always float32.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where torch sees it, else the CPU.
        chunk_frames: frames encoded in one pass, a multiple of the encoder's temporal ratio.
        norm_scope: the frames over which GroupNorm takes its statistics: `chunk` as in diffusers, `clip` as in the
            original training code (the whole clip must fit in memory), or `frame`, which makes the encoder causal.
            Wan has no such statistics, and gives the same latents with every scope and plan.
        chunk_plan: `diffusers` folds a clip's remainder into its first chunk, `even` keeps all chunks small.
        tiles: height, width and their strides in pixels; larger pictures are encoded in overlapping tiles of this size.
        convolutions: `auto` measures on the device which algorithm is fastest for each shape of convolution (some
            seconds for a full-size encoder); `direct`, `winograd_height`, `winograd` or, on a CPU with a C compiler,
            `winograd_c` for all; or an earlier result of `auto`, taken from `identity["convolutions"]`, to compute the
            same bits again.
        scaling_factor: what the latents are multiplied by before training, where the weights do not say: a single
            file of CogVideoX. It is recorded and changes no latent.

    Raises:
        ValueError: an argument is invalid, or the encoder does not support it; `WeightsError` if the weights are bad.
    """
    from encoder.diffusers_vae import load_diffusers  # lazily: torch takes seconds to import
    from encoder.families import Options
    from encoder.loading import load_video_encoder
    from encoder.simulated import load_simulated

    options = Options(dtype, device, chunk_frames, norm_scope, chunk_plan, tiles, convolutions, scaling_factor)
    if name == SIMULATED:
        return load_simulated(weights, options)
    return load_diffusers(weights, options) if name == DIFFUSERS else load_video_encoder(name, weights, options)


def load_decoder(weights: str, dtype: str = "float32", device: str = "cpu") -> "VideoDecoder":
    """Returns the decoder of a diffusers VAE folder, or of the weights `tiny`, to turn latents back into frames.

    Raises:
        ValueError: as `load`.
    """
    from encoder.video_decoder import load_decoder as load_vae_decoder

    return load_vae_decoder(weights, dtype, device)


def load_text(preset: str | None, *, weights: str, dtype: str = "float32", device: str = "cpu") -> "TextEncoder":
    """Returns the text encoder of a family of video models, whose `encode` takes captions.

    Args:
        preset: `cogvideox | wan | mochi`: how prompts are cleaned, padded and masked. None: as a diffusers pipeline's
            own `encode_prompt` does it, whichever pipeline it is.
        weights: a diffusers pipeline's folder, or for a preset one that has the encoder and its tokenizer.

    Raises:
        ValueError: an argument is invalid, the folder does not fit, or a library is not installed.
    """
    if preset is None:
        from encoder.text.pipeline_encoder import load_pipeline  # lazily: torch and transformers take seconds to import

        return load_pipeline(weights, dtype, device)
    from encoder.text.preset_encoder import load_preset

    return load_preset(preset, weights, dtype, device)


def set_threads(threads: int) -> None:
    """Sets how many CPU threads encoders use in the calling thread, and in those that begin later.

    Where several threads encode, each should call it: one that uses torch for the first time while another computes
    may otherwise find a single thread, and keep it.

    The latents of native encoders are the same bits for any number of threads: the work is cut into pieces by the shape
    alone, and each piece is computed by one thread. Other processors, instruction sets and libraries change the last
    bits, and so may the number of threads where diffusers' code runs (`name="diffusers"`).
    """
    import torch

    torch.get_num_threads()  # which begins with torch's default, in a thread that has none yet: that is overridden here
    torch.set_num_threads(threads)


def check_cuda(dtype: str) -> tuple[dict[str, str], str | None, str | None]:
    """What there is of CUDA here, by name; why it cannot be used; what is known to be wrong with it.

    Args:
        dtype: the precision that an encoder would compute in.
    """
    from encoder.device.cuda import cuda_setup, found, known_bad, missing

    setup = cuda_setup()
    return found(setup), missing(setup), known_bad(setup, dtype)


def machine(device: str = "auto") -> dict[str, str]:
    """What decides how fast each algorithm is on `device`: the processor or GPU, libraries, and a C compiler if any."""
    from encoder.computed_by import computed_by
    from encoder.kernels.c_library import compilers
    from encoder.loading import device_of

    compiler = next(iter(compilers()), ["none"])
    return computed_by(device_of(device), in_c=False) | {"c_compiler": " ".join(compiler)}
