"""The upper limit of a run's speed: its encoder alone, in one process, on the same clips decoded into memory."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import encoder
from encoder.video_encoder import VideoEncoder, machine
from pipeline.config.load import Config
from pipeline.errors import Reason, UserError
from pipeline.input.samples import samples_of
from pipeline.latents.encode import encode_sample
from pipeline.latents.load import check_memory, load_encoder
from pipeline.latents.stopwatch import Stopwatch
from pipeline.metadata.filters import without_decoding
from pipeline.monitor.stages import ENCODE
from pipeline.records import DecodeItem, Row, Sample, ShardRef
from pipeline.video.decoder import LocalDecoder


@dataclass(frozen=True, slots=True)
class Limit:
    """The speed of the encoder alone, with the machine and the convolution algorithms that it was measured with."""

    machine: dict[str, Any]
    convolutions: dict[str, str]
    clips: int
    frames: int
    seconds: float


def encoder_alone(config: Config, shards: Sequence[ShardRef]) -> Limit:
    """Encodes all clips of the shards in a process of its own, as a replica does; the first shard is a warm-up.

    Raises:
        UserError: the encoder cannot be loaded, or a video killed the process.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_limit, args=(sender, config, tuple(shards)), daemon=True)
    process.start()
    sender.close()
    try:
        result: Limit | Exception = receiver.recv()
    except EOFError:
        raise UserError("the process that encodes alone has died: a video may have crashed its decoder") from None
    finally:
        process.terminate()
        process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _send_limit(sender: Connection, config: Config, shards: Sequence[ShardRef]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    try:
        sender.send(encode_alone(config, shards))
    except Exception as error:  # raised again in the parent process
        sender.send(error)


def encode_alone(config: Config, shards: Sequence[ShardRef]) -> Limit:
    """As `encoder_alone`, in this process."""
    threads = os.cpu_count() or 1
    encoder.set_threads(threads)
    loaded = load_encoder(config.encoder, device="auto")
    check_memory(config.clip, loaded)
    clips, watch = 0, Stopwatch()
    for number, shard in enumerate(shards):
        if number == 1:  # the first was a warm-up
            clips, watch = 0, Stopwatch()
        clips += sum(isinstance(one, Row) for one in _encoded(config, loaded, shard, watch))
    convolutions = loaded.identity["convolutions"] if loaded.tunable else {}
    seconds = watch.seconds.get(ENCODE, 0.0)
    return Limit(machine(loaded.device, threads), convolutions, clips, watch.frames, seconds)


def _encoded(
    config: Config, loaded: VideoEncoder, shard: ShardRef, watch: Stopwatch
) -> Iterator[Row | tuple[int, Reason]]:
    for sample, items in _decoded(config, loaded, shard):
        yield from encode_sample(sample, iter(items), loaded, config.output, watch)


def _decoded(config: Config, loaded: VideoEncoder, shard: ShardRef) -> Iterator[tuple[Sample, list[DecodeItem]]]:
    """Every sample of a shard, once for each segment of its video, with its frames in memory."""
    decoder = LocalDecoder(config, loaded.spec, loaded.receptive_field)
    for sample in samples_of(shard, config):
        if without_decoding(config.filter.where, sample) is None:
            for segment in range(config.clip.segments):
                yield sample, list(decoder.start(sample, segment))
