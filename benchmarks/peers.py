"""What `bench pipeline --simulate` runs beside ours: a plain Ray Data script, and a serial loop, over the same shards.

Decoder function and encoder are ours. Latents are brought to the driver and not written, in favour of the peers.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from encoder import LatentSpec, spec_of
from pipeline.clips.plan import rules_of
from pipeline.cluster.decoder import load_all
from pipeline.cluster.metrics import object_store_used_bytes
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.records import Chunk, FloatLatent, Uint8Frames
from pipeline.video.decode import decode_sample
from pipeline.video.simulated import SIGNATURE

if TYPE_CHECKING:
    from encoder.video_encoder import VideoEncoder

Row = dict[str, Any]


class Ended(NamedTuple):
    """When a peer had its last latent, by time.monotonic(), and how full the object store was at most."""

    ended: float
    object_store_peak_bytes: int


def run_ray_data(config: Config, cpus: int, replicas: int) -> Ended:
    """Decodes in tasks, encodes in actors; Ray Data decides what runs when."""
    try:
        import ray.data
    except ImportError as error:
        raise UserError(f"--peers ray-data needs Ray Data ({error}): pip install 'ray[data]'") from None
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"video": video} for video in _videos(config)]
        load_all(cpus, resizes=not rows[0]["video"].startswith(SIGNATURE))
        clips = ray.data.from_items(rows, override_num_blocks=len(rows)).map(Decode(config))
        pool = ray.data.ActorPoolStrategy(size=replicas)
        latents = clips.map_batches(Encode, fn_constructor_args=(config,), batch_size=1, compute=pool, num_cpus=0)
        peak_bytes = max(object_store_used_bytes() for _ in latents.iter_batches(batch_size=1, batch_format="numpy"))
        return Ended(time.monotonic(), peak_bytes)
    finally:
        ray.shutdown()


def run_serial(config: Config, cpus: int, replicas: int) -> Ended:
    """One clip after the other in this process."""
    from pipeline.latents.load import load_encoder

    encoder = load_encoder(config.encoder, device="auto")
    for video in _videos(config):
        encoded(encoder, decoded(video, config, encoder.spec))
    return Ended(time.monotonic(), 0)


class Decode:
    """`map`: the bytes of a video to its clip."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, row: Row) -> Row:
        return {"frames": decoded(row["video"], self._config, spec_of(self._config.encoder.name))}


class Encode:
    """`map_batches`: a batch of one clip to its latent."""

    def __init__(self, config: Config) -> None:
        from pipeline.latents.load import load_encoder  # here, as torch would slow down the start of decoding tasks

        self._encoder = load_encoder(config.encoder, device="auto")

    def __call__(self, batch: Row) -> Row:
        return {"latent": encoded(self._encoder, batch["frames"][0])[None]}


def decoded(video: bytes, config: Config, spec: LatentSpec) -> Uint8Frames:
    """The frames `t h w c` of a video's clip."""
    items = decode_sample(video, config.clip, config.limits, config.input.strict, rules_of(config, spec), config.filter)
    return np.concatenate([item.frames for item in items if isinstance(item, Chunk)])


def encoded(encoder: "VideoEncoder", frames: Uint8Frames) -> FloatLatent:
    """The latent `c t h w` of a clip `t h w c`."""
    latent: FloatLatent = encoder.encode(encoder.to_video(frames)).mean[0].cpu().numpy()
    return latent


def _videos(config: Config) -> Iterator[bytes]:
    from pipeline.input.listing import shards_of
    from pipeline.input.samples import samples_of  # WebDataset brings torch along, as load_encoder does

    return (sample.video for shard in shards_of(config.input) for sample in samples_of(shard, config))
