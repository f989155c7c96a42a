"""The limit of a run: its encoder alone, in one process, on the same clips, which lie decoded in memory.

It does not run the pipeline, and compares nothing.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import encoder
from encoder.bench import machine
from encoder.video_encoder import VideoEncoder
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.input.samples import samples_of
from pipeline.latents.encode import Made, Stopwatch, encode_sample
from pipeline.latents.load import check_memory, load_encoder
from pipeline.metadata.filters import without_decoding
from pipeline.records import DecodeItem, Row, Sample, ShardRef
from pipeline.video.decoder import LocalDecoder


@dataclass(frozen=True, slots=True)
class Limit:
    """What the encoder does alone. `machine` is what it was measured on, `convolutions` how it computed."""

    machine: dict[str, Any]
    convolutions: dict[str, str]
    clips: int
    frames: int
    seconds: float


def encoder_alone(config: Config, shards: Sequence[ShardRef]) -> Limit:
    """Encodes all clips of the shards in a new process, as a replica is one; the first shard is not counted.

    Raises:
        UserError: the encoder cannot be loaded, or a video killed the process.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, config, tuple(shards)), daemon=True)
    process.start()
    sender.close()
    try:
        said: Limit | Exception = receiver.recv()
    except EOFError:
        raise UserError("the process that encodes alone has died: a video may have killed its decoder") from None
    finally:
        process.terminate()
        process.join()
    if isinstance(said, Exception):
        raise said
    return said


def _tell(sender: Connection, config: Config, shards: Sequence[ShardRef]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who waits for this process ends it
    try:
        sender.send(encode_alone(config, shards))
    except Exception as error:  # raised again by who waits
        sender.send(error)


def encode_alone(config: Config, shards: Sequence[ShardRef]) -> Limit:
    """As `encoder_alone`, in this process."""
    threads = os.cpu_count() or 1
    encoder.set_threads(threads)
    loaded = load_encoder(config.encoder, device="auto")
    check_memory(config.clip, loaded)
    made, watch = 0, Stopwatch()
    for number, shard in enumerate(shards):
        if number == 1:  # the first sets things up
            made, watch = 0, Stopwatch()
        made += sum(isinstance(one, Row) for one in _made(config, loaded, shard, watch))
    convolutions = loaded.identity["convolutions"] if loaded.is_tunable else {}
    seconds = watch.seconds.get("encode", 0.0)
    return Limit(machine(loaded.device, threads), convolutions, made, watch.frames, seconds)


def _made(config: Config, loaded: VideoEncoder, shard: ShardRef, watch: Stopwatch) -> Iterator[Made]:
    for sample, items in _decoded(config, loaded, shard):
        yield from encode_sample(sample, iter(items), loaded, config.output, watch)


def _decoded(config: Config, loaded: VideoEncoder, shard: ShardRef) -> Iterator[tuple[Sample, list[DecodeItem]]]:
    """Every sample of a shard, for each segment of it, with its frames in memory."""
    decoder = LocalDecoder(config, loaded.spec, loaded.recall)
    for sample in samples_of(shard, config):
        if without_decoding(config.filter.where, sample) is None:
            for segment in range(config.clip.segments):
                yield sample, list(decoder.start(sample, segment))
