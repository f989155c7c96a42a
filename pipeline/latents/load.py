"""The encoder that a configuration names, or a decoder, with its weights brought to this node.

encoder/weights.py has the layouts of weights, pipeline/storage/node_cache.py fetches the files.
"""

from typing import TYPE_CHECKING

import encoder
from encoder import DIRECT
from pipeline.config.latents import ClipConfig, EncoderConfig
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import ConfigError, UserError
from pipeline.output.run_file import claim_gpu
from pipeline.storage.node_cache import local_copy
from pipeline.storage.store import Store
from pipeline.storage.urls import is_remote, public_url

if TYPE_CHECKING:
    from encoder import VideoDecoder
    from encoder.video_encoder import VideoEncoder


def load_encoder(config: EncoderConfig, device: str) -> "VideoEncoder":
    """Loads the encoder onto `device`; remote weights are downloaded once per node.

    Raises:
        ConfigError: a choice that the encoder has not, or weights that are missing or do not fit.
    """
    try:
        weights = local_copy(config.weights) if is_remote(config.weights) else config.weights
        return encoder.load(config.name, weights=weights, device=device, **config.load_options())
    except FileNotFoundError:
        raise ConfigError(f"encoder.weights: nothing is at {public_url(config.weights)}") from None
    except ValueError as error:
        raise ConfigError(f"encoder: {error}") from error


def load_to_look_at(config: EncoderConfig) -> "VideoEncoder":
    """The encoder on the CPU, for what it is and what it would take: nothing about its speed is measured."""
    return load_encoder(config.model_copy(update={"convolutions": DIRECT}), device="cpu")


def load_decoder(config: EncoderConfig, vae: str | None) -> "VideoDecoder":
    """The decoder of a diffusers VAE folder: `vae`, or else the one that the encoder's weights lie in.

    Raises:
        UserError: there is no such folder, or it does not fit.
    """
    where = vae or config.weights
    if where.startswith(("random:", "simulated:")):
        kind = where.partition(":")[0]
        raise UserError(f"the run's weights are {kind} and have no decoder: give a diffusers VAE folder with --vae")
    try:
        weights = local_copy(where) if is_remote(where) else where
        return encoder.load_decoder(weights, config.dtype, device="auto")
    except FileNotFoundError:
        raise UserError(f"--vae: nothing is at {public_url(where)}") from None
    except ValueError as error:
        raise UserError(f"no decoder at {public_url(where)}: {error}") from error


def check_device(clip: ClipConfig, loaded: "VideoEncoder") -> None:
    """Refuses a GPU that computes a convolution of the buckets' sizes wrongly.

    Raises:
        ConfigError: with the error that was measured, or the memory, and what to install.
    """
    for frames, (height_px, width_px) in zip(clip.bucket_frames, clip.bucket_sizes_px, strict=True):
        try:
            loaded.self_test(frames or 1, height_px, width_px)
        except ValueError as error:
            raise ConfigError(f"encoder: {error}") from None


def check_model_of_gpu(runtime: RuntimeConfig, loaded: "VideoEncoder", store: Store) -> None:
    """Refuses a GPU of another model than the run began on, where `runtime.mixed_gpus` says so.

    Raises:
        UserError: with both models.
    """
    by = loaded.computed_by
    if runtime.mixed_gpus == "refuse" and by["device"] == "cuda":
        claim_gpu(store, by["model"])


def check_memory(clip: ClipConfig, loaded: "VideoEncoder") -> None:
    """Refuses clips of a fixed length that the encoder must see whole and its device cannot hold.

    Raises:
        ConfigError: with the memory that is needed and what there is.
    """
    for frames, (height_px, width_px) in zip(clip.bucket_frames, clip.bucket_sizes_px, strict=True):
        if frames is not None:
            try:
                loaded.check_clip(1, frames, height_px, width_px)
            except ValueError as error:
                raise ConfigError(f"clip: {error}") from None
